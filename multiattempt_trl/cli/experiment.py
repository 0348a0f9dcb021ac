"""`multiattempt experiment`: the cells of an experiment over seeds, what is missing of them, and their comparison.

It only calls the other commands, one process for each run.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from transformers import HfArgumentParser

from multiattempt_trl.cli import quiet_end
from multiattempt_trl.cli.experiment_cost import say_cost
from multiattempt_trl.cli.experiment_file import Experiment
from multiattempt_trl.cli.experiment_plan import CellPlan, Key, done_runs, plan_cells
from multiattempt_trl.cli.experiment_results import FIGURE_FILE, print_results, write_results
from multiattempt_trl.cli.runs import Run, Runner
from multiattempt_trl.training.planning.layout import Layout


@dataclass
class ExperimentArguments:
    """What is run."""

    config: str = field(metadata={"help": "The experiment, as recipes/experiments/credit.yaml."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Default: outputs/experiments/<name>, with --recipes <name>-<their folder>."}
    )
    recipes: str | None = field(
        default=None,
        metadata={
            "help": "A folder whose ppo/ and grpo/ have recipes of the same names, to be taken instead of those that "
            "the experiment names: recipes/qwen2.5-math-1.5b."
        },
    )
    seeds: list[int] | None = field(default=None, metadata={"help": "Default: those of the experiment."})
    jobs: int | None = field(
        default=None, metadata={"help": "Runs at the same time. Default: 2, or 1 with --accelerate."}
    )
    accelerate: str | None = field(
        default=None, metadata={"help": "Launch each run by accelerate with this configuration, as on several GPUs."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Say what it will cost, and run nothing."})

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")
        if self.accelerate is not None and not Path(self.accelerate).is_file():
            raise ValueError(f"there is no accelerate configuration {self.accelerate!r}")
        if self.recipes is not None and not Path(self.recipes).is_dir():
            raise ValueError(f"recipes must be a folder with recipes in ppo/ and grpo/, got {self.recipes!r}")

    @property
    def runs_at_once(self) -> int:
        return self.jobs or (1 if self.accelerate else min(2, os.cpu_count() or 1))


def main(argv: list[str]) -> None:
    """Runs what is missing, writes `results.json` and the figure, and prints the table."""
    parser = HfArgumentParser(ExperimentArguments, prog="multiattempt experiment")  # type: ignore[arg-type]
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    seeds = tuple(arguments.seeds) if arguments.seeds else None
    recipes = Path(arguments.recipes) if arguments.recipes else None
    experiment = Experiment.read(Path(arguments.config), seeds, recipes)
    layout = Layout.read(arguments.accelerate) if arguments.accelerate else Layout()
    plans = plan_cells(experiment, layout.processes)
    output = Path(arguments.output_dir or f"outputs/experiments/{experiment.name}")
    console = Console(stderr=True)
    say_cost(experiment, plans, output, jobs=arguments.runs_at_once, console=console)
    if arguments.dry_run:
        return
    launcher = ["-m"]
    if arguments.accelerate:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", arguments.accelerate, "-m"]
    runner = Runner(console, launcher)
    with quiet_end():
        runs = run_cells(plans, experiment.seeds, output, runner, arguments.runs_at_once)
    cells = [(plan, runs[plan.cell.name]) for plan in plans]
    results = write_results(experiment, cells, output)
    print_results(results)
    console.print(f"Figure: {output / FIGURE_FILE}", markup=False, highlight=False)


def run_cells(
    plans: list[CellPlan], seeds: tuple[int, ...], output: Path, runner: Runner, jobs: int
) -> dict[str, dict[int, Run]]:
    """Cell -> seed -> the run, which is done.

    Raises `ValueError` once nothing more can be run, with every run that failed and its log.
    """
    done_runs(plans, seeds, output)  # whose settings are others is found before anything is run
    begun: dict[Key, Future[Run]] = {}

    def one(plan: CellPlan, seed: int) -> Run:
        for name in plan.cell.follows:
            begun[name, seed].result()  # it was given to the pool before this one, so it has begun
        run = plan.run(seed, output)
        runner.run(run)
        return run

    with runner.ended_with_us(), ThreadPoolExecutor(jobs) as pool:
        try:
            for plan in plans:
                for seed in seeds:
                    begun[plan.cell.name, seed] = pool.submit(one, plan, seed)
            failed = list(dict.fromkeys(str(error) for each in begun.values() if (error := _error(each))))
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise ValueError("; ".join(failed))
    return {plan.cell.name: {seed: begun[plan.cell.name, seed].result() for seed in seeds} for plan in plans}


def _error(future: Future[Run]) -> BaseException | None:
    """What a user can mend; anything else is raised."""
    error = future.exception()
    if error is not None and not isinstance(error, ValueError):
        raise error
    return error

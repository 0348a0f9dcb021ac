"""`multiattempt reproduce`: warm start, single-turn RL and multi-attempt RL side by side, at equal sampled tokens.

It is an experiment of three cells with a figure of its own. The multi-attempt arm goes before the single-turn one,
since its tokens say how long that may train.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from trl import TrlParser

from multiattempt_trl.cli import quiet_end
from multiattempt_trl.cli.evaluator import NO_BASE
from multiattempt_trl.cli.experiment import run_cells
from multiattempt_trl.cli.experiment_file import Cell, Experiment
from multiattempt_trl.cli.experiment_plan import plan_cells
from multiattempt_trl.cli.runs import Runner, sampled_tokens
from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.numbers.statistics import SeedBlocks, over_seeds
from multiattempt_trl.evaluation.pages.figures import Series, draw_accuracy_by_attempt
from multiattempt_trl.evaluation.pages.report import print_table

ARMS = {
    "warm_start": "Warm start",
    "single_turn": "Single-turn RL",
    "multi_attempt": "Multi-attempt RL",
}


@dataclass
class ReproduceArguments:
    """What is run."""

    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds, each a warm start of its own."}
    )
    algorithm: str = field(default="ppo", metadata={"help": "ppo or grpo.", "choices": ["ppo", "grpo"]})
    output_dir: str = field(default="outputs/reproduce", metadata={"help": "Where everything goes."})
    benchmark: str = field(
        default="arithmetic", metadata={"help": "arithmetic (the test split) or arithmetic-validation."}
    )
    budget: int = field(default=7, metadata={"help": "Accuracy is reported at 1 to this many attempts."})
    max_steps: int | None = field(default=None, metadata={"help": "Of the multi-attempt arm. Default: the recipe's."})
    jobs: int = field(default_factory=lambda: min(2, os.cpu_count() or 1), metadata={"help": "Runs at the same time."})


def main(argv: list[str]) -> None:
    """Runs all arms of all seeds, writes `summary.json` and `accuracy_by_attempt.png`, and prints the table."""
    (arguments,) = TrlParser((ReproduceArguments,), prog="multiattempt reproduce").parse_args_and_config(argv)
    experiment, console = to_experiment(arguments), Console(stderr=True)
    folder = Path(arguments.output_dir)
    plans = plan_cells(experiment, reuse=False)  # its own trainings, whatever stands beside
    with quiet_end():
        runs = run_cells(plans, experiment.seeds, folder, Runner(console), max(arguments.jobs, 1))
    arms = {arm: over_seeds({str(seed): run.block() for seed, run in runs[arm].items()}) for arm in ARMS}
    draw_accuracy_by_attempt(picture(arms), folder / "accuracy_by_attempt.png")
    tokens = {
        str(seed): {arm: sampled_tokens(runs[arm][seed].folder) for arm in list(ARMS)[1:]} for seed in experiment.seeds
    }
    write_json(folder / "summary.json", {**arms, "sampled_tokens": tokens, "algorithm": arguments.algorithm})
    print_table({ARMS[arm]: arms[arm]["mean"] for arm in ARMS}, title=f"Mean of {len(experiment.seeds)} seeds")
    console.print(f"Picture: {folder / 'accuracy_by_attempt.png'}")


def to_experiment(arguments: ReproduceArguments) -> Experiment:
    """The three arms as cells; raises `ValueError` where the recipes are not here."""
    names = ("multi_attempt", "single_attempt")
    recipes = {name: f"recipes/arithmetic/{arguments.algorithm}/{name}.yaml" for name in names}
    for recipe in recipes.values():
        if not Path(recipe).is_file():
            raise ValueError(f"{recipe} is not here: run this from the root of the repository")
    # The warm start is an arm of its own, so that none needs it beside it.
    common = {"benchmarks": arguments.benchmark, "budget": arguments.budget, "base_model": NO_BASE}
    common["credit"] = "terminal"  # the paper's, whatever the recipe has
    steps = {} if arguments.max_steps is None else {"max_steps": arguments.max_steps}
    cells = (
        Cell(name="warm_start", recipe=recipes["multi_attempt"], common=common, train=False),
        Cell(name="multi_attempt", recipe=recipes["multi_attempt"], common=common, own=steps),
        Cell(name="single_turn", recipe=recipes["single_attempt"], common=common, tokens_of="multi_attempt"),
    )
    return Experiment(name="reproduce", seeds=tuple(arguments.seeds), cells=cells)


def picture(arms: dict[str, SeedBlocks]) -> list[Series]:
    """A curve for each arm with its interval, a thin line for each seed, and the warm start's pass@k."""
    hues = dict(zip(ARMS, (0, 2, 1), strict=True))
    lines: list[Series] = []
    for arm, label in ARMS.items():
        mean: Any = arms[arm]["mean"]
        lines.append(Series(label=label, accuracy=mean["accuracy"], ci95=mean["ci95"], hue=hues[arm]))
        lines += [
            Series(label="", accuracy=block["accuracy"], style="thin", hue=hues[arm])
            for block in arms[arm]["seeds"].values()
            if len(arms[arm]["seeds"]) > 1
        ]
    control = arms["warm_start"]["mean"]["pass_at_k"]
    lines.append(Series(label="Warm start, independent samples (pass@k)", accuracy=control, style="dashed"))
    return lines

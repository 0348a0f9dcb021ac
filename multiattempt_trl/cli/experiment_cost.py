"""What an experiment will cost: steps, dialogues, tokens, and the time by what its finished runs took."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from multiattempt_trl.cli.experiment_file import Experiment
from multiattempt_trl.cli.experiment_plan import CellPlan, Key, done_runs
from multiattempt_trl.cli.runs import Run


def say_cost(experiment: Experiment, plans: Sequence[CellPlan], output: Path, *, jobs: int, console: Console) -> None:
    """Prints what every cell takes in training, what is done of it, and how long the rest may take."""
    done, seeds = done_runs(plans, experiment.seeds, output), len(experiment.seeds)
    table = Table(
        title=f"{experiment.name}: {len(plans)} cells x {seeds} seed{'s' if seeds > 1 else ''}", title_justify="left"
    )
    table.add_column("cell")
    for heading in ("done", "steps", "dialogues", "sampled tokens"):
        table.add_column(heading, justify="right")
    left: list[CellPlan] = []
    for plan in plans:
        of_it = sum(name == plan.cell.name for name, _ in done)
        left += [plan] * (seeds - of_it)
        schedule, about = plan.schedule, "~" if plan.cell.tokens_of else ""
        trained = (f"{about}{schedule.steps:,}", f"{about}{schedule.episodes:,}", f"~{schedule.expected_tokens:,}")
        cells = trained if plan.cell.train else ("evaluation only", "", "")
        table.add_row(Text(plan.cell.name), f"{of_it} of {seeds}", *cells)
    console.print(table)
    todo = [plan.schedule for plan in left if plan.cell.train]
    counts = (sum(each.steps for each in todo), sum(each.episodes for each in todo), _tokens(left))
    console.print(
        "{} of {} runs are left; in training {:,} steps, {:,} dialogues and about {:,} sampled tokens, as if every "
        "attempt failed at half its cap; each is evaluated at its end.".format(len(left), seeds * len(plans), *counts),
        highlight=False,
    )
    if left:
        console.print(_time(seconds_left(plans, done, left), jobs), highlight=False)


def seconds_left(plans: Sequence[CellPlan], done: Mapping[Key, Run], left: Sequence[CellPlan]) -> float | None:
    """What is left will take, one run at a time, by the seconds that finished ones took for a planned token.

    None where no training of this experiment has run from beginning to end without a break.
    """
    planned = {plan.cell.name: plan.schedule.expected_tokens for plan in plans if plan.cell.train}
    took = [(planned[name], run.seconds()) for (name, _), run in done.items() if name in planned]
    known = [(tokens, seconds) for tokens, seconds in took if seconds is not None]
    if not known:
        return None
    return sum(seconds for _, seconds in known) / sum(tokens for tokens, _ in known) * _tokens(left)


def _tokens(plans: Sequence[CellPlan]) -> int:
    return sum(plan.schedule.expected_tokens for plan in plans if plan.cell.train)


def _time(seconds: float | None, jobs: int) -> str:
    at_once = f"{jobs} at a time" if jobs > 1 else "one at a time"
    if seconds is None:
        return f"Time: no run of this experiment has ended that would tell; {at_once}."
    minutes = max(round(seconds / jobs / 60), 1)
    told = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"Time: about {told}, {at_once}, by the runs that are done."

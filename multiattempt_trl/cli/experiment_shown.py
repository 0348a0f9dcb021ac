"""Further numbers that an experiment's file asks for by name: of the evaluation, or of the training's log."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multiattempt_trl.cli.runs import Run, rollouts
from multiattempt_trl.evaluation.numbers.blocks import Block
from multiattempt_trl.evaluation.numbers.seeds import over_seeds_interval

Shown = dict[str, Any]
"""Name -> mean and 95 % interval over seeds, and each seed's number."""
BySeed = Mapping[int, Mapping[str, float]]


def numbers(run: Run, names: Sequence[str]) -> dict[str, float]:
    """What the run has under these names, in their order.

    `refinement.shares` is all numbers below that field of the evaluation's block, `refinement.shares.chance` one of
    them. A name that is no field of a block is a logged key, such as `advantage/std`: its mean over the second half
    of the training's rollouts, of those where it is a finite number. Intervals are left out.
    """
    block = dict(_leaves(run.block()))
    lines = rollouts(run.folder)
    found: dict[str, float] = {}
    for name in names:
        if name.split(".")[0] in Block.__annotations__:
            found |= {key: value for key, value in block.items() if f"{key}.".startswith(f"{name}.")}
        elif values := [line[name] for line in lines[len(lines) // 2 :] if _is_number(line.get(name))]:
            found[name] = fmean(values)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _leaves(part: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif _is_number(value):
            yield above + name, value


def over_seeds(by_seed: BySeed) -> Shown:
    """The numbers that all seeds have."""
    first, *others = by_seed.values()
    return {
        name: asdict(over_seeds_interval([each[name] for each in by_seed.values()]))
        | {"seeds": {str(seed): each[name] for seed, each in by_seed.items()}}
        for name in first
        if all(name in each for each in others)
    }


def minus(first: BySeed, other: BySeed) -> Shown:
    """Other minus first, each seed paired with itself."""

    def difference(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
        return {name: b[name] - a[name] for name in b if name in a}

    return over_seeds({seed: difference(first[seed], each) for seed, each in other.items()})


def print_shown(results: Mapping[str, Any], console: Console) -> None:
    """Prints each number that was asked for: the cells that have it, beside it the differences to the references."""
    cells, differences = results["cells"], results["differences"]
    names = list(dict.fromkeys(name for cell in cells.values() for name in cell["shown"]))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("mean over seeds", overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for reference in differences:
        table.add_column(Text(f"- {reference}"), justify="right")
    for name in names:
        table.add_row(Text(name), style="bold")
        for label, cell in cells.items():
            if name in cell["shown"]:
                minus_each = [of.get(label, {"shown": {}})["shown"].get(name) for of in differences.values()]
                written = [_written(difference, "+") for difference in minus_each]
                table.add_row(Text(f"  {label}"), _written(cell["shown"][name]), *written)
    if names:
        console.print(table)
    for name in results["show"]:
        if not any(f"{key}.".startswith(f"{name}.") for key in names):
            console.print(f"No cell has a number {name!r} for every seed.", markup=False, highlight=False)


def _written(number: Mapping[str, Any] | None, sign: str = "") -> str:
    if number is None:
        return ""
    digits = 3 if abs(number["mean"]) < 10 else 1
    half = "" if number["ci95"] is None else f" ±{number['ci95'][1] - number['mean']:,.{digits}f}"
    return f"{number['mean']:{sign},.{digits}f}{half}"

"""What an experiment leaves: `results.json`, the figure, and the table in the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multiattempt_trl.cli.experiment_file import Experiment
from multiattempt_trl.cli.experiment_plan import CellPlan
from multiattempt_trl.cli.experiment_shown import minus, numbers, over_seeds, print_shown
from multiattempt_trl.cli.runs import Run, sampled_tokens
from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.numbers.bootstrap import Difference, paired_difference
from multiattempt_trl.evaluation.numbers.seeds import over_both, over_seeds_interval
from multiattempt_trl.evaluation.numbers.shares import Shares, main_by_attempts, solved_shares
from multiattempt_trl.evaluation.numbers.statistics import Block
from multiattempt_trl.evaluation.pages.figures import Series, draw_accuracy_by_attempt
from multiattempt_trl.evaluation.pages.report import versions
from multiattempt_trl.evaluation.results import Saved

MOST_COLUMNS = 4
"""Attempts that the table in the terminal has, the last among them: more leave 80 characters no room for names."""
RESULTS_FILE, FIGURE_FILE = "results.json", "accuracy_by_attempt.png"

ByK = dict[str, Any]
SharesByK = dict[str, dict[str, Shares]]
Runs = Mapping[int, Run]
"""Seed -> run, of one cell."""


def write_results(experiment: Experiment, cells: Sequence[tuple[CellPlan, Runs]], folder: Path) -> dict[str, Any]:
    """Writes `results.json` and the figure; returns what stands in the former.

    All cells have all seeds, and their runs are done.
    """
    runs_of = {plan.cell.name: runs for plan, runs in cells}
    shown = {
        name: {seed: numbers(run, experiment.show) for seed, run in runs.items()} for name, runs in runs_of.items()
    }
    shares = {name: _shares(runs) for name, runs in runs_of.items()}
    results = {
        "experiment": experiment.name,
        "versions": versions(),
        "seeds": list(experiment.seeds),
        "show": list(experiment.show),
        "cells": {
            plan.cell.name: _cell(plan, runs) | {"shown": over_seeds(shown[plan.cell.name])} for plan, runs in cells
        },
        "differences": {
            reference: {
                name: _differences(_by_seed(runs_of[reference], runs), _by_question(shares[reference], shares[name]))
                | {"shown": minus(shown[reference], shown[name])}
                for name, runs in runs_of.items()
                if name != reference
            }
            for reference in experiment.references
        },
    }
    write_json(folder / RESULTS_FILE, results)
    seeds = len(results["seeds"])
    reach = f"mean of {seeds} seeds, 95 % interval over seeds" if seeds > 1 else "one seed"
    draw_accuracy_by_attempt(_series(results), folder / FIGURE_FILE, title=f"{experiment.name}: {reach}")
    return results


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints accuracy by attempt in percent, under it the differences to the references, all with ± over seeds."""
    seeds = len(results["seeds"])
    title = f"{results['experiment']}: solved, %, mean of {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("within k =", overflow="fold", min_width=16)
    ks = max((list(cell["accuracy"]) for cell in results["cells"].values()), key=len)
    if len(ks) > MOST_COLUMNS:
        ks = [*ks[: MOST_COLUMNS - 1], ks[-1]]
    for k in ks:
        table.add_column(k, justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    for name, cell in results["cells"].items():
        tokens = [count for count in cell["sampled_tokens"].values() if count is not None]
        sampled = f"{fmean(tokens) / 1000:,.0f}k" if tokens else ""
        # As Text: a name may hold brackets.
        table.add_row(Text(name), *(_shown(cell["accuracy"].get(k)) for k in ks), sampled, style="bold")
        for reference, of in results["differences"].items():
            if name in of:
                over = of[name]["over_seeds"]
                table.add_row(Text(f" - {reference}"), *(_shown(over.get(k), sign="+") for k in ks), style="dim")
    console = console or Console()
    console.print(table)
    print_shown(results, console)
    if seeds > 1:
        console.print("±: 95 % interval over seeds, Student's t. Differences are paired by seed.", style="dim")


def _shown(number: Mapping[str, Any] | None, sign: str = "") -> str:
    if number is None:
        return ""
    half = "" if number["ci95"] is None else f" ±{100 * (number['ci95'][1] - number['mean']):.1f}"
    return f"{100 * number['mean']:{sign}.1f}{half}"


def _cell(plan: CellPlan, runs: Runs) -> dict[str, Any]:
    blocks = {str(seed): run.block() for seed, run in runs.items()}
    return {
        "recipe": plan.cell.recipe,
        "settings": {**plan.cell.options, **plan.shortened},
        "commands": {str(seed): run.command for seed, run in runs.items()},
        "sampled_tokens": {str(seed): sampled_tokens(run.folder) for seed, run in runs.items()},
        "seconds": {str(seed): run.seconds() for seed, run in runs.items()},
        "accuracy": _curve([block["accuracy"] for block in blocks.values()]),
        "seeds": blocks,
    }


def _curve(curves: Sequence[Mapping[str, float]]) -> ByK:
    """Attempts -> the mean over seeds with its interval, at each k that all seeds have."""
    ks = [k for k in curves[0] if all(k in curve for curve in curves)]
    return {k: asdict(over_seeds_interval([curve[k] for curve in curves])) for k in ks}


def _differences(by_seed: Mapping[int, Mapping[str, float]], questions: Mapping[str, Difference]) -> dict[str, ByK]:
    """By attempts, with the interval over seeds, over questions, and over both."""
    seeds = {k: over_seeds_interval([of[k] for of in by_seed.values()]) for k in questions}
    return {
        "over_seeds": {
            k: asdict(mean) | {"seeds": {str(seed): of[k] for seed, of in by_seed.items()}}
            for k, mean in seeds.items()
        },
        "over_questions": {k: asdict(difference) for k, difference in questions.items()},
        "over_both": {k: over_both(seeds[k], difference) for k, difference in questions.items()},
    }


def _by_seed(reference: Runs, other: Runs) -> dict[int, dict[str, float]]:
    """Other minus reference by attempts, each seed paired with itself."""
    pairs = {seed: (reference[seed].block()["accuracy"], run.block()["accuracy"]) for seed, run in other.items()}
    return {seed: {k: b[k] - a[k] for k in b if k in a} for seed, (a, b) in pairs.items()}


def _by_question(reference: SharesByK, other: SharesByK) -> dict[str, Difference]:
    """Other minus reference by attempts, each question with its mean over seeds paired with itself."""
    return {k: paired_difference(reference[k], other[k]) for k in other if k in reference}


def _shares(runs: Runs) -> SharesByK:
    """Attempts -> benchmark -> question -> the share of its dialogues solved within them, averaged over seeds."""
    of_seeds: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs.values():
        saved = Saved.read(run.folder)
        for benchmark, played in saved.episodes.items():
            for k, episodes in main_by_attempts(played, saved.summary["budget"]).items():
                of_k = of_seeds.setdefault(str(k), {}).setdefault(benchmark, {})
                for question, share in solved_shares(episodes, k).items():
                    of_k.setdefault(question, []).append(share)
    return {
        k: {name: {question: fmean(each) for question, each in of.items()} for name, of in benchmarks.items()}
        for k, benchmarks in of_seeds.items()
    }


def _series(results: Mapping[str, Any]) -> list[Series]:
    """A curve for each cell with its interval over seeds, and a thin line for each seed."""
    lines: list[Series] = []
    for hue, (name, cell) in enumerate(results["cells"].items()):
        curve = cell["accuracy"]
        ci95 = {k: [max(0.0, at["ci95"][0]), min(1.0, at["ci95"][1])] for k, at in curve.items() if at["ci95"]}
        mean = {k: at["mean"] for k, at in curve.items()}
        lines.append(Series(label=name, accuracy=mean, ci95=ci95 or None, hue=hue))
        blocks: dict[str, Block] = cell["seeds"]
        if len(blocks) > 1:
            lines += [Series(label="", accuracy=of["accuracy"], style="thin", hue=hue) for of in blocks.values()]
    return lines

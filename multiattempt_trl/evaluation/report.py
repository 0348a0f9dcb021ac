"""What an evaluation leaves in its folder: numbers, a report to read, a picture, and every dialogue."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from platform import python_version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import multiattempt_trl
from multiattempt_trl.evaluation import markdown
from multiattempt_trl.evaluation.examples import choose_examples
from multiattempt_trl.evaluation.figures import Series, draw_accuracy_by_attempt
from multiattempt_trl.evaluation.files import write_episodes, write_json, write_text
from multiattempt_trl.evaluation.run import Evaluation
from multiattempt_trl.evaluation.statistics import Block

REPORTED_PACKAGES = ("torch", "transformers", "trl", "math-verify")
"""Packages whose version can change a number."""


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes `episodes.jsonl`, `episodes_independent.jsonl`, `accuracy_by_attempt.png`, `report.md`, `summary.json`.

    Each file appears whole or not at all, the summary last. A file of an earlier evaluation that this one does not
    have (the independent samples, where that control was not played) is removed, so that the folder tells one story.
    """
    write_episodes(folder / "episodes.jsonl", chain.from_iterable(evaluation.episodes.values()))
    independent = folder / "episodes_independent.jsonl"
    if evaluation.independent:
        write_episodes(independent, chain.from_iterable(evaluation.independent.values()))
    else:
        independent.unlink(missing_ok=True)
    draw_accuracy_by_attempt(series(evaluation), folder / "accuracy_by_attempt.png")
    write_text(folder / "report.md", report(evaluation))
    write_json(folder / "summary.json", summary(evaluation))


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The content of `summary.json`."""
    plan = evaluation.plan
    return {
        "model": plan.model,
        "protocol": plan.protocol,
        "seed": plan.seed,
        "budget": plan.budget,
        "versions": versions(),
        "benchmarks": evaluation.blocks,
        "average": evaluation.average,
    }


def versions() -> dict[str, str]:
    """Python's version, ours, and those of `REPORTED_PACKAGES` that are installed."""
    found = {"python": python_version(), "multiattempt_trl": multiattempt_trl.__version__}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def series(evaluation: Evaluation) -> list[Series]:
    """The average with its interval, pass@k dashed, and a thin line for each of several benchmarks."""
    blocks, average = evaluation.blocks, evaluation.average
    of = next(iter(blocks)) if len(blocks) == 1 else f"Average of {len(blocks)} benchmarks"
    lines = [Series(label=f"{of}, with 95 % interval", accuracy=average["accuracy"], ci95=average["ci95"])]
    if average["pass_at_k"]:
        lines.append(Series(label="Independent samples (pass@k)", accuracy=average["pass_at_k"], style="dashed"))
    if len(blocks) > 1:
        lines += [
            Series(label=name, accuracy=block["accuracy"], style="thin", hue=-1) for name, block in blocks.items()
        ]
    return lines


def report(evaluation: Evaluation) -> str:
    """The text of `report.md`."""
    templates = Environment(
        loader=PackageLoader("multiattempt_trl.evaluation"),
        autoescape=False,  # it is Markdown; what models and data sets wrote goes through `fenced`, `code` or `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "percent": markdown.percent,
        "interval": markdown.interval,
        "fenced": markdown.fenced,
        "code": markdown.code,
        "cell": markdown.cell,
    }
    blocks = evaluation.blocks
    sections = dict(blocks) if len(blocks) == 1 else {"average": evaluation.average, **blocks}
    return templates.get_template("report.md.jinja").render(
        plan=evaluation.plan,
        blocks=blocks,
        average=evaluation.average,
        sections=sections,
        examples=choose_examples(evaluation.episodes, evaluation.plan.budget),
        versions=versions(),
    )


def print_table(blocks: Mapping[str, Block], *, title: str, console: Console | None = None) -> None:
    """Prints accuracy by attempt in percent, a few rows a block (a benchmark, or a run). 80 columns hold 7 attempts.

    Under each share stand its 95 % interval, pass@k with as many independent attempts where that was played, and how
    often attempt k repeats an earlier answer.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("solved, %,\nwithin k =", overflow="fold", min_width=17)
    ks = list(next(iter(blocks.values()))["accuracy"])
    for heading in (*ks, "well\nformed", "tries\nused"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="top", header_style="bold")
    for name, block in blocks.items():
        shares = [markdown.percent(block["accuracy"][k]) for k in ks]
        formed, used = markdown.percent(block["well_formed_rate"]), f"{block['mean_attempts']:.2f}"
        table.add_row(Text(name), *shares, formed, used, style="bold")  # as Text: a name may hold brackets
        intervals = [f"{100 * lower:.0f}–{100 * upper:.0f}" for lower, upper in block["ci95"].values()]
        table.add_row(f" 95 %, n = {block['n']:,}", *intervals, style="dim")
        if block["pass_at_k"]:
            table.add_row(" pass@k", *(markdown.percent(block["pass_at_k"][k]) for k in ks), style="cyan")
        if block["repeat_rate"]:
            again = [block["repeat_rate"].get(k) for k in ks]
            cells = ("" if rate is None else markdown.percent(rate) for rate in again)
            table.add_row(" same answer again", *cells, style="dim")
        table.add_section()
    (console or Console()).print(table)

"""What a reader gets of an evaluation: a page, the same as Markdown, figures, and a table in the terminal."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import multiattempt_trl
from multiattempt_trl.dialogue.episode import Episode
from multiattempt_trl.evaluation.files import write_text
from multiattempt_trl.evaluation.pages import curves, markdown, page, paper_numbers, second, tables
from multiattempt_trl.evaluation.pages.examples import choose_examples, figure_3
from multiattempt_trl.evaluation.pages.figures import draw_accuracy_by_attempt, draw_panels
from multiattempt_trl.evaluation.pages.headline import headline
from multiattempt_trl.evaluation.pages.page_data import page_data
from multiattempt_trl.evaluation.protocols import EvalPlan

REPORTED_PACKAGES = ("torch", "transformers", "trl", "math-verify")
"""Packages whose version can change a number."""


FIGURES = {
    "accuracy_by_attempt": "Share of questions solved by attempts allowed; the numbers stand in the tables below.",
    "paper_figure_1": "Average accuracy by attempts allowed, beside the numbers of the paper.",
    "paper_figure_5": "Accuracy by attempts allowed on each benchmark, beside the numbers of the paper.",
}
"""What each figure shows, for who cannot see it."""


def write_report(
    folder: Path,
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Mapping[str, Sequence[Episode]]],
    plan: EvalPlan,
    comparisons: Sequence[str] = (),
) -> None:
    """Writes `report.html`, `report.md` and the figures, each file whole or not at all.

    Args:
        folder: where `summary.json` and `episodes.jsonl` stand.
        summary: the content of `summary.json`.
        evaluation: benchmark -> run -> episodes.
        plan: how they were played.
        comparisons: sentences for below the curve.
    """
    figures = _draw(summary, folder)
    common = {
        "summary": summary,
        "plan": plan,
        "headline": headline(summary, plan),
        "comparisons": comparisons,
        "sections": page.sections(summary),
        "figure_3": figure_3(evaluation),
    }
    text = _markdown("report.md.jinja", examples=choose_examples(evaluation, plan.budget), **common)
    write_text(folder / "report.md", text)
    html = page.render(
        "report.html.jinja",
        page.browser_scripts(),
        figures=figures,
        data=page_data(evaluation, plan),
        **common,
    )
    write_text(folder / "report.html", html)


def _draw(summary: Mapping[str, Any], folder: Path) -> dict[str, Markup]:
    """Writes the figures into `folder`, and returns them as parts of a page."""
    main, first, fifth = (folder / f"{name}.png" for name in FIGURES)
    drawn = (
        draw_accuracy_by_attempt(curves.run_series(summary), main),
        draw_accuracy_by_attempt(
            curves.paper_figure_1(summary), first, title="The paper's Figure 1: average accuracy by attempts allowed"
        ),
        draw_panels(curves.paper_figure_5(summary), fifth, title="The paper's Figure 5: each benchmark"),
    )
    return {
        name: page.inline(svg, name, description)
        for (name, description), svg in zip(FIGURES.items(), drawn, strict=True)
    }


def write_comparison(
    folder: Path, labelled: Sequence[tuple[str, Mapping[str, Any]]], sentences: Sequence[str]
) -> None:
    """Writes `comparison.html`, `comparison.md` and the figure `comparison.png` and `.svg`.

    Args:
        folder: where they go.
        labelled: a label and the content of `summary.json` for each run; one hue each in the figure.
        sentences: what the differences come to, in plain words.
    """
    title = "Questions solved, by attempts allowed"
    svg = draw_accuracy_by_attempt(curves.comparison_series(labelled), folder / "comparison.png", title=title)
    values = {"labelled": labelled, "sentences": sentences}
    write_text(folder / "comparison.md", _markdown("comparison.md.jinja", **values))
    figure = page.inline(svg, "comparison", "Share of questions solved by attempts allowed, one line a run.")
    write_text(folder / "comparison.html", page.render("comparison.html.jinja", [], figure=figure, **values))


def versions() -> dict[str, str]:
    """Python's version, ours, and those of `REPORTED_PACKAGES` that are installed."""
    found = {"python": python_version(), "multiattempt_trl": multiattempt_trl.__version__}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _markdown(template: str, **values: Any) -> str:
    templates = Environment(
        loader=PackageLoader("multiattempt_trl.evaluation.pages"),
        autoescape=False,  # it is Markdown; what models and data sets wrote goes through `fenced`, `code` or `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = ("percent", "interval", "fenced", "code", "cell", "plain")
    templates.filters |= {name: getattr(markdown, name) for name in filters}
    return templates.get_template(template).render(paper=paper_numbers, tables=tables, second=second, **values)


def print_table(blocks: Mapping[str, Any], *, title: str, console: Console | None = None) -> None:
    """Prints accuracy by attempt in percent, a few rows a block (a benchmark, or a run). 80 columns hold 7 attempts.

    Under each share stand its 95 % interval, the controls and the base model where they were played, and how often
    attempt k repeats an earlier answer.
    """
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("solved, %,\nwithin k =", overflow="fold", min_width=17)
    ks = max((list(block["accuracy"]) for block in blocks.values()), key=len)
    for heading in (*ks, "well\nformed", "tries\nused"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="top", header_style="bold")
    for name, block in blocks.items():
        shares = [markdown.percent(block["accuracy"][k]) if k in block["accuracy"] else "" for k in ks]
        formed, used = markdown.percent(block["well_formed_rate"]), f"{block['mean_attempts']:.2f}"
        table.add_row(Text(name), *shares, formed, used, style="bold")  # as Text: a name may hold brackets
        intervals = [f"{100 * lower:.0f}–{100 * upper:.0f}" for lower, upper in block["ci95"].values()]
        table.add_row(f" 95 %, n = {block['n']:,}", *intervals, style="dim")
        for label, key, style in PRINTED:
            if block[key]:
                cells = (markdown.percent(block[key][k]) if k in block[key] else "" for k in ks)
                table.add_row(f" {label}", *cells, style=style)
        table.add_section()
    (console or Console()).print(table)


PRINTED = (
    ("pass@k", "pass_at_k", "cyan"),
    ("maj@k", "maj_at_k", "cyan"),
    ("base model", "base_accuracy", "yellow"),
    ("same answer again", "repeat_rate", "dim"),
)
"""Rows of the printed table: label, key of a block, style."""

"""Which lines go into which picture: from the numbers of a summary to series."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from multiattempt_trl.evaluation.numbers.intervals import mover
from multiattempt_trl.evaluation.pages import paper_numbers
from multiattempt_trl.evaluation.pages.figures import BLACK, Series
from multiattempt_trl.evaluation.pages.markdown import one_line
from multiattempt_trl.evaluation.pages.paper_numbers import PaperModel

BASE_HUE = 1
PAPER_HUES = (2, 5)
"""Of the multi-attempt model and of the baseline."""
READ = "paper, read from its text"


def run_series(summary: Mapping[str, Any]) -> list[Series]:
    """The average with its interval, its controls, the base model, and a thin line for each of several benchmarks."""
    blocks, average = summary["benchmarks"], summary["average"]
    lines = _with_controls(average, f"{_reach(blocks)}, with 95 % interval", hue=0)
    if average["base_accuracy"]:
        lines.append(
            Series(
                label="Base model, same prompt",
                accuracy=average["base_accuracy"],
                ci95=average["base_ci95"],
                hue=BASE_HUE,
            )
        )
    if len(blocks) > 1:
        lines += [
            Series(label=one_line(name, 24), accuracy=block["accuracy"], style="thin", hue=BLACK)
            for name, block in blocks.items()
        ]
    return lines


def comparison_series(labelled: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Series]:
    """The average of each labelled summary with its interval and its pass@k, one hue each."""
    lines: list[Series] = []
    for hue, (label, summary) in enumerate(labelled):
        average = summary["average"]
        lines.append(Series(label=one_line(label, 48), accuracy=average["accuracy"], ci95=average["ci95"], hue=hue))
        if average["pass_at_k"]:
            lines.append(_dashed(average["pass_at_k"], "", hue))
    return lines


def paper_figure_1(summary: Mapping[str, Any]) -> list[Series]:
    """The average by attempts allowed, with the paper's numbers where it is over the same five benchmarks."""
    blocks = summary["benchmarks"]
    if not has_all_five(blocks):
        average = summary["average"]
        return [Series(label=f"This run: {_reach(blocks)}", accuracy=average["accuracy"], ci95=average["ci95"])]
    five = [blocks[name] for name in paper_numbers.NAMES]
    accuracy = {k: fmean(block["accuracy"][k] for block in five) for k in five[0]["accuracy"]}
    ci95 = {k: mover([b["accuracy"][k] for b in five], [b["ci95"][k] for b in five]) for k in accuracy}
    lines = [Series(label="This run, average of the five benchmarks", accuracy=accuracy, ci95=ci95)]
    for hue, model in zip(PAPER_HUES, paper_numbers.MODELS, strict=True):
        within = {k: percent / 100 for k, percent in model.average.items() if k in accuracy}
        lines.append(_points(model, within, hue))
    return lines


def paper_figure_5(summary: Mapping[str, Any]) -> dict[str, list[Series]]:
    """A panel for each benchmark, with what the paper has of it at one attempt."""
    panels = {}
    for name, block in summary["benchmarks"].items():
        lines = [Series(label="This run", accuracy=block["accuracy"], ci95=block["ci95"])]
        if block["pass_at_k"]:
            lines.append(_dashed(block["pass_at_k"], "Independent samples (pass@k)", 0))
        for hue, model in zip(PAPER_HUES, paper_numbers.MODELS, strict=True):
            if name in model.single:
                lines.append(_points(model, {"1": model.single[name] / 100}, hue))
        panels[paper_numbers.NAMES.get(name, one_line(name, 30))] = lines
    return panels


def has_all_five(blocks: Mapping[str, Any]) -> bool:
    """Whether an average over the paper's five benchmarks can be taken."""
    return all(name in blocks for name in paper_numbers.NAMES)


def _reach(blocks: Mapping[str, Any]) -> str:
    return one_line(next(iter(blocks)), 40) if len(blocks) == 1 else f"Average of {len(blocks)} benchmarks"


def _with_controls(block: Mapping[str, Any], label: str, hue: int) -> list[Series]:
    lines = [Series(label=label, accuracy=block["accuracy"], ci95=block["ci95"], hue=hue)]
    if block["pass_at_k"]:
        lines.append(_dashed(block["pass_at_k"], "Independent samples (pass@k)", hue))
    if block["maj_at_k"]:
        lines.append(Series(label="Their majority vote (maj@k)", accuracy=block["maj_at_k"], style="dotted", hue=hue))
    return lines


def _dashed(accuracy: Mapping[str, float], label: str, hue: int) -> Series:
    return Series(label=label, accuracy=accuracy, style="dashed", hue=hue)


def _points(model: PaperModel, accuracy: Mapping[str, float], hue: int) -> Series:
    return Series(label=f"{model.name.capitalize()} ({READ})", accuracy=accuracy, style="points", hue=hue)

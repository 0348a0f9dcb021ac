"""Second answers beside what crossing out the first would give: rows of a table, and a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiattempt_trl.evaluation.numbers.bootstrap import FEW, ROUNDING
from multiattempt_trl.evaluation.pages.markdown import interval, percent

MEANINGS = {
    "refined": ("Second answer", "Of the questions whose first answer was wrong: the second one is right."),
    "best_other": (
        "Commonest other answer",
        "On the same questions: the most frequent answer of the samples is right, without the refuted one.",
    ),
    "chance": (
        "Any other answer",
        "One of the different answers of the independent samples is right, drawn evenly, without the refuted one.",
    ),
    "independent": ("Another sample", "An independent sample is right; it may repeat the refuted answer."),
    "excluding": (
        "Another sample, not the same",
        "An independent sample is right that was drawn again until it is not the refuted answer.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondRow:
    """What one way to answer again comes to, in percent and points."""

    label: str
    meaning: str
    share: str
    interval: str
    difference: str = ""
    """The second answer minus it; empty for the second answer itself."""
    difference_interval: str = ""


def second_rows(block: Mapping[str, Any]) -> list[SecondRow]:
    """The second answer and each control; empty where the block has none."""
    told = block["refinement"]
    if told is None:
        return []
    limits = told["differences_ci95"]
    differences = {
        name: {"difference": f"{100 * value:+.1f}", "difference_interval": interval(limits[name])}
        for name, value in told["differences"].items()
    }
    return [
        SecondRow(
            label=label,
            meaning=meaning,
            share=percent(told["shares"][name]),
            interval=interval(told["ci95"][name]),
            **differences.get(name, {}),
        )
        for name, (label, meaning) in MEANINGS.items()
    ]


def second_sentence(block: Mapping[str, Any], benchmarks: int = 1) -> str:
    """Whether the second answer is better than the commonest other one; empty where the block does not tell.

    Args:
        benchmarks: whose mean the block is. Of several, shares are not shares of all their questions.
    """
    told = block["refinement"]
    if told is None:
        return ""
    lower, upper = told["differences_ci95"]["best_other"]
    better = "which is as good as far as these questions tell"
    if told["n"] >= FEW and lower > ROUNDING:
        better = "which is worse: feedback brings more than crossing out the refuted answer"
    if told["n"] >= FEW and upper < -ROUNDING:
        better = "which is better: crossing out the refuted answer would bring more than feedback"
    refined, other = percent(told["shares"]["refined"]), percent(told["shares"]["best_other"])
    many = f"{told['n']:,} question{'s' if told['n'] > 1 else ''}"
    first, without = f"Of {many} whose first answer was wrong", "of them"
    if benchmarks > 1:
        first = f"Where the first answer was wrong ({many}; each benchmark has the same weight)"
        without = "in the same mean"
    return (
        f"{first}, the second is right in {refined} %, and the commonest "
        f"other answer of the independent samples in {other} %, {better} "
        f"({100 * told['differences']['best_other']:+.1f} points, 95 % interval {interval((lower, upper))}). For "
        f"{percent(told['without_other'])} % {without} no sample has another answer."
    )

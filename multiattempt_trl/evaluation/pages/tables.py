"""The numbers of a block as rows to print, each with what it means: the same rows in every report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multiattempt_trl.evaluation.pages.markdown import interval, percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One number at every attempt k = 1 ... K."""

    label: str
    meaning: str
    cells: list[str]
    """For k = 1 ... K; empty where it is not defined."""
    intervals: list[str]
    """"lower to upper" for each cell, or no entry at all where the number has no interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One number of a whole block."""

    label: str
    meaning: str
    value: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The questions of one level or subject."""

    name: str
    n: int
    cells: list[str]
    """Solved within k attempts, for k = 1 ... K."""
    interval: str
    """Of the last cell."""


MEANINGS = {
    "accuracy": (
        "Solved within k attempts, %",
        "Share of questions with a correct one among the first k attempts.",
    ),
    "pass_at_k": (
        "pass@k: independent samples, %",
        "Share that k independent one-attempt dialogues solve, without any feedback (unbiased estimate).",
    ),
    "maj_at_k": ("maj@k: their majority, %", "Share where the commonest answer of k independent samples is correct."),
    "base_accuracy": ("Base model, %", "The base model, spoken to in the same way: solved within k attempts."),
    "hidden_count": (
        "Count hidden, %",
        "Solved within k attempts where no words say how many there are.",
    ),
    "wrong_count": ("Count misstated, %", "Solved within k attempts where the words name another number of them."),
    "solved_after_failures": (
        "Solved at k after k−1 failures, %",
        "Of the dialogues that reached attempt k: share whose k-th answer is correct.",
    ),
    "repeat_rate": ("Same answer again, %", "Share of k-th attempts whose answer stands in an earlier one already."),
    "distinct_answers": (
        "Different answers so far",
        "Of the dialogues that reached attempt k: how many different answers their first k attempts gave.",
    ),
    "truncated": ("Cut at a token limit, %", "Share of k-th attempts that a token limit cut off."),
    "announced": (
        "First attempt, k announced, %",
        "First-attempt accuracy where the prompt announced k attempts: does the count change the first answer?",
    ),
}

COUNT_SAID = {
    "shown": "In the main run the words said how many attempts were left.",
    "hidden": "No words said how many attempts were left.",
    "wrong": "The words always named another number of attempts than were left.",
}
"""What all words said of the attempts, by a plan's `count`."""

COUNTS = ("distinct_answers",)
"""Rows that are no shares."""


def by_attempt(block: Mapping[str, Any]) -> list[Row]:
    """Every number of the block that has a value for each k, those that were not played left out."""
    probes = block["probes"]
    sources: dict[str, tuple[Mapping[str, float], Mapping[str, Sequence[float]]]] = {
        "accuracy": (block["accuracy"], block["ci95"]),
        "pass_at_k": (block["pass_at_k"], block["pass_ci95"]),
        "maj_at_k": (block["maj_at_k"], block["maj_ci95"]),
        "base_accuracy": (block["base_accuracy"], block["base_ci95"]),
        **{name: (probes[name]["accuracy"], probes[name]["ci95"]) for name in COUNT_PROBES if name in probes},
        **{name: (block[name], {}) for name in DYNAMICS},
    }
    return [
        _row(name, values, limits, list(block["accuracy"])) for name, (values, limits) in sources.items() if values
    ]


COUNT_PROBES = ("hidden_count", "wrong_count")
DYNAMICS = ("solved_after_failures", "repeat_rate", "distinct_answers", "truncated", "announced")


def _row(name: str, values: Mapping[str, float], limits: Mapping[str, Sequence[float]], ks: Sequence[str]) -> Row:
    label, meaning = MEANINGS[name]
    write = "{:.2f}".format if name in COUNTS else percent
    return Row(
        label=label,
        meaning=meaning,
        cells=[write(values[k]) if k in values else "" for k in ks],
        intervals=[interval(limits[k]) if k in limits else "" for k in ks] if limits else [],
    )


def facts(block: Mapping[str, Any]) -> list[Fact]:
    """Every number of the block that is one number."""
    found = [
        Fact(label="Questions", meaning="Questions that were asked.", value=f"{block['n']:,}"),
        Fact(
            label="Lost dialogues",
            meaning="Dialogues of any run that a failed request ended; no number counts them.",
            value=f"{block['failed']:,}",
        ),
        Fact(
            label="Well-formed attempts",
            meaning="Share of attempts that end in a closed, non-empty box.",
            value=f"{percent(block['well_formed_rate'])} %",
        ),
        Fact(label="Attempts used", meaning="Mean over dialogues.", value=f"{block['mean_attempts']:.2f}"),
        Fact(label="Tokens", meaning="Sampled in a dialogue, on average.", value=_count(block["mean_tokens"])),
        Fact(
            label="Tokens for a solved one",
            meaning="All sampled tokens over the number of solved dialogues.",
            value=_count(block["tokens_per_solved"]),
        ),
        Fact(
            label="Attempts for a solved one",
            meaning="All attempts over the number of solved dialogues.",
            value=_or_dash(block["attempts_per_solved"], "{:.2f}"),
        ),
    ]
    if abandoned := block["probes"].get("abandoned"):
        found.append(
            Fact(
                label="Right answer abandoned",
                meaning=f"Of {abandoned['n']:,} right first answers that were called wrong: share that the second "
                "attempt gave up.",
                value=f"{percent(abandoned['share'])} %",
                interval=interval(abandoned["ci95"]),
            )
        )
    return found


def groups(block: Mapping[str, Any]) -> dict[str, list[Group]]:
    """The block by level and by subject, where its set has them."""
    found = {"Level": block["levels"], "Subject": block["subjects"]}
    return {
        kind: [
            Group(
                name=name,
                n=part["n"],
                cells=[percent(share) for share in part["accuracy"].values()],
                interval=interval(list(part["ci95"].values())[-1]),
            )
            for name, part in parts.items()
        ]
        for kind, parts in found.items()
        if parts
    }


def _count(value: float | None) -> str:
    return _or_dash(value, "{:,.0f}")


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)

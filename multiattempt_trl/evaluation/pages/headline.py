"""What an evaluation comes to, in two or three sentences."""

from collections.abc import Mapping
from typing import Any

from multiattempt_trl.evaluation.pages.markdown import one_line, percent
from multiattempt_trl.evaluation.protocols import EvalPlan

Part = tuple[str, bool]
"""Text, and whether it is stressed."""


def headline(summary: Mapping[str, Any], plan: EvalPlan) -> list[Part]:
    """What was solved at the first and the last budget, what the controls say of it, and the base model."""
    average, blocks = summary["average"], summary["benchmarks"]
    last = str(plan.budget)
    reach = one_line(next(iter(blocks))) if len(blocks) == 1 else f"{len(blocks)} benchmarks"
    parts: list[Part] = [
        (f"On {reach}, {average['n']:,} questions, ", False),
        (f"{percent(average['accuracy']['1'])} %", True),
        (" are solved within 1 attempt", False),
    ]
    if plan.budget > 1:
        parts += [(" and ", False), (f"{percent(average['accuracy'][last])} %", True)]
        parts += [(f" within {last}, with feedback after each failure", False)]
    if last in average["pass_at_k"] and plan.budget > 1:  # it is not where too many samples were lost
        parts += [(f"; {last} independent attempts without feedback solve ", False)]
        parts += [(f"{percent(average['pass_at_k'][last])} %", True)]
    if last in average["base_accuracy"]:
        parts += [("; the base model solves ", False), (f"{percent(average['base_accuracy'][last])} %", True)]
    return [*parts, (".", False)]

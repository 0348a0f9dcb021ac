"""What an evaluation leaves in its folder: the numbers, and the report of them."""

from typing import Any

from multiattempt_trl.evaluation.run import Evaluation
from multiattempt_trl.evaluation.statistics import Block, average, block

SUMMARY_FILE = "summary.json"
REPORTED_PACKAGES = ("torch", "transformers", "trl", "math-verify")
"""Packages whose version can change a number."""


def blocks(evaluation: Evaluation) -> dict[str, Block]:
    """The numbers of each benchmark."""
    return {name: block(runs, evaluation.plan.budget) for name, runs in evaluation.episodes.items()}


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The content of `summary.json`."""
    plan, each = evaluation.plan, blocks(evaluation)
    return {
        "model": plan.model,
        "base_model": plan.base_model,
        "protocol": plan.protocol,
        "seed": plan.seed,
        "budget": plan.budget,
        "versions": versions(),
        "benchmarks": each,
        "average": average(list(each.values())),
    }

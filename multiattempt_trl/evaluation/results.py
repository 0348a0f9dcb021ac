"""What an evaluation leaves in its folder, and what is read from there: the numbers, and the report of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.numbers.compare import Compared, gain_verdicts
from multiattempt_trl.evaluation.numbers.statistics import Block, average, block
from multiattempt_trl.evaluation.pages.report import versions, write_report
from multiattempt_trl.evaluation.run import Evaluation, Runs, filed
from multiattempt_trl.evaluation.store import EPISODES_FILE, PLAN_FILE, read_episodes

SUMMARY_FILE = "summary.json"


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


def verdicts(evaluation: Evaluation) -> list[str]:
    """Sentences on what the first further attempt brings, and what all of them do, against each control."""
    plan = evaluation.plan
    compared = Compared(label=Path(plan.model).name, runs=evaluation.episodes, budget=plan.budget)
    gains = gain_verdicts(compared, at=(2, plan.budget))
    # With one attempt there is no gain that a control could explain.
    return [gain.sentence for gain in gains if gain.difference is not None or plan.budget > 1]


def write_evaluation(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    """Writes the report and its figures, then `summary.json`, which it returns; each appears whole or not at all."""
    numbers = summary(evaluation)
    write_report(folder, numbers, evaluation.episodes, evaluation.plan, verdicts(evaluation))
    write_json(folder / SUMMARY_FILE, numbers)
    return numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """An evaluation as its folder holds it."""

    folder: Path
    summary: dict[str, Any]
    asked: dict[str, Any]
    """The content of `plan.json`."""
    episodes: Mapping[str, Runs]

    @classmethod
    def read(cls, place: Path) -> "Saved":
        """Reads `place`, or `place`/eval. Raises `ValueError` where no evaluation was ended there."""
        folder = next((one for one in (place, place / "eval") if (one / SUMMARY_FILE).is_file()), None)
        if folder is None:
            raise ValueError(
                f"{place} holds no evaluation (no {SUMMARY_FILE}, nor in {place / 'eval'}): name the folder of one or "
                "of its model; one that was broken off is ended by the command that began it"
            )
        try:
            numbers = dict(json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")))
            asked = dict(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")))
            if missing := {"budget", "benchmarks", "average"} - numbers.keys():
                raise ValueError(f"{SUMMARY_FILE} has no {sorted(missing)[0]}")
            episodes = filed(read_episodes(folder / EPISODES_FILE))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{folder} does not hold what an evaluation writes: {error}") from error
        return cls(folder=folder, summary=numbers, asked=asked, episodes=episodes)

"""What domains that read data sets share: where a set is on the Hub, its rows, and what of it is in a benchmark."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from multiattempt_trl.dialogue.episode import Question

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<path>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """Where a set stands on the Hub."""

    path: str
    split: str
    config: str | None = None
    data_files: str | None = None
    """For a repository of folders without configs."""

    @classmethod
    def of(cls, place: str, split: str) -> "HubSource | None":
        """The set that a Hub id names, as `owner/name` or `owner/name:split`; None where it is no id."""
        hub = _HUB_ID.fullmatch(place)
        return None if hub is None else cls(path=hub["path"], split=hub["split"] or split)

    def rows(self, name: str, columns: str) -> list[Mapping[str, Any]]:
        """All rows. `name` and `columns` are what a local file would be called and have.

        Raises `ConnectionError` where the Hub does not give the set, `ValueError` for a split or config it lacks.
        """
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        try:
            dataset = load_dataset(self.path, self.config, data_files=self.data_files, split=self.split)
        except (OSError, DatasetsError) as error:  # no network, no such repository, a download that broke
            raise ConnectionError(
                f"could not load {self.path} from the Hub ({error}). Without the Hub, give a local file instead of "
                f"{name!r}: JSON lines with the columns {columns}, for a benchmark as {name}=path/to/file.jsonl"
            ) from error
        except ValueError as error:  # a split or a config that the set does not have
            raise ValueError(f"could not load {self.path} from the Hub: {error}") from error
        return list(dataset)


def problem_digest(problem: str) -> str:
    """Eight hexadecimal digits that name a problem whatever its line breaks and blanks are."""
    return blake2b("".join(problem.split()).encode(errors="replace"), digest_size=4).hexdigest()


def without_benchmark_rows(
    questions: Sequence[Question], evaluated: Sequence[Question], known: Mapping[str, str] | None = None
) -> list[Question]:
    """The questions that stand in no benchmark; the log names those that are dropped.

    Args:
        evaluated: what the model will be judged by.
        known: `problem_digest` -> the benchmark that has the problem in other words.

    Raises `ValueError` where none is left.
    """
    benchmark_of = dict(known or {})
    benchmark_of |= {problem_digest(question.problem): question.benchmark for question in evaluated}
    kept: list[Question] = []
    dropped: dict[str, list[str]] = {}
    for question in questions:
        digest = problem_digest(question.problem)
        if digest in benchmark_of:
            dropped.setdefault(benchmark_of[digest], []).append(question.id)
        else:
            kept.append(question)
    if dropped:
        rows = "; ".join(f"{', '.join(ids)} (in {benchmark})" for benchmark, ids in dropped.items())
        number = len(questions) - len(kept)
        logger.warning("dropped %d training questions that also stand in a benchmark: %s", number, rows)
    if not kept:
        raise ValueError(
            "every training question also stands in a benchmark of this run; train on another set, or set "
            "keep_benchmark_rows"
        )
    return kept

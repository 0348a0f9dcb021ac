"""What domains that read data sets share: where a set stands, its rows, and what of it is in a benchmark."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import TrainRows, UnusableGold, UnusableGoldError

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".json", ".parquet")
LISTED = 5
"""Unusable rows that are named; the others are counted."""
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

    def rows(self, name: str, columns: str) -> list[Row]:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a set stands that is named by its path or its Hub id, as they are or as `name=...`."""

    name: str
    """The one before the equals sign, else that of the file or the set, with its split where that is no column."""
    path: Path | None = None
    hub: HubSource | None = None
    """Where it is no local path."""
    split: str | None = None
    """What stands behind the path, as `path:split`."""

    @classmethod
    def of(cls, spec: str, split: str) -> "Place | None":
        """The place that is named; None where there is none. `split` is read from the Hub unless one is named."""
        name, equals, place = spec.partition("=")
        if not equals or Path(spec).exists():
            name, place = "", spec
        folder, _, named = place.rpartition(":")
        if Path(place).exists():
            folder, named = place, ""
        path = Path(folder)
        if folder and path.exists():
            own = f"{path.stem}:{named}" if named and path.is_dir() else path.stem
            return cls(name=name or own, path=path, split=named or None)
        hub = None if place.endswith(SUFFIXES) else HubSource.of(place, split)
        return None if hub is None else cls(name=name or place.rpartition("/")[2], hub=hub)


def no_place(spec: str, what: str, known: Sequence[str], example: str) -> ValueError:
    """The error for what names neither a set of the domain nor a place.

    Args:
        what: "benchmark" or "training set".
        known: what else could have been named.
        example: a Hub id.
    """
    place = spec.partition("=")[2] or spec
    if place != spec or place.endswith(SUFFIXES):
        return ValueError(f"{what} {spec!r}: there is no file {place!r}")
    names = f"one of {', '.join(known)}, " if known else ""
    return ValueError(
        f"{what} {spec!r} is unknown: choose {names}a local file, name=path/to/file, or a Hub id such as {example}"
    )


def read_rows(path: Path, split: str | None = None) -> list[Row]:
    """Rows of a local file, by its suffix; of a folder, by what `datasets.save_to_disk` leaves.

    Raises `ValueError` for anything else, and where it cannot be read.
    """
    if path.is_dir():
        return _read_saved(path, split)
    if split is not None:
        raise ValueError(f"{path} is one file and has no split {split!r}")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected {', '.join(SUFFIXES)} or a folder saved by `datasets`")
    try:
        rows = _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of objects, one for each question")
    return rows


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _read_json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}, is not valid JSON: {error}") from error
    return rows


def _read_parquet(path: Path) -> list[Any]:
    from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped]

    try:
        return list(parquet.read_table(path).to_pylist())
    except ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error


_READERS = {".json": _read_json, ".jsonl": _read_json_lines, ".parquet": _read_parquet}


def _read_saved(path: Path, split: str | None) -> list[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not a folder saved by `datasets`: {error}") from error
    splits = dict(saved) if isinstance(saved, DatasetDict) else {split or "": saved}
    if split is None and len(splits) == 1:
        (split,) = splits
    if split not in splits:
        raise ValueError(f"{path} holds the splits {', '.join(splits)}: name one, as {path}:{next(iter(splits))}")
    return list(splits[split])


def listed(unusable: Sequence[UnusableGold]) -> str:
    """The first few rows with what is wrong with each, and how many more there are."""
    named = [f"row {gold.row} (id {gold.id!r}): {gold.reason}" for gold in unusable[:LISTED]]
    more = [f"and {len(unusable) - LISTED} more"] if len(unusable) > LISTED else []
    return "; ".join([*named, *more])


def problem_digest(problem: str) -> str:
    """Eight hexadecimal digits that name a problem whatever its line breaks and blanks are."""
    return blake2b("".join(problem.split()).encode(errors="replace"), digest_size=4).hexdigest()


def training_questions(
    load: Callable[[], list[Question]],
    rows: TrainRows,
    *,
    what: str,
    drop_unusable: bool,
    known: Mapping[str, str] | None = None,
) -> list[Question]:
    """What is trained on of a set: without rows that cannot be graded, where so asked, and without a benchmark's.

    Args:
        load: reads the set; raises `UnusableGoldError` with the rows of it that can be used.
        what: what such a row lacks, for the log.
        known: as in `without_benchmark_rows`.

    Raises what `load` does, and `ValueError` where no row is left.
    """
    try:
        questions = load()
    except UnusableGoldError as error:
        if not error.usable or not drop_unusable:
            raise
        questions = list(error.usable)
        named = listed(error.unusable)
        logger.warning("dropped %d training rows without %s: %s", len(error.unusable), what, named)
    return questions if rows.keep_benchmark_rows else without_benchmark_rows(questions, rows.evaluated, known)


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

"""Questions with answers from the Hub or from a local file, whatever their columns are called."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean, key

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

PROBLEM_COLUMNS = ("problem", "question", "extra_info.question")
ANSWER_COLUMNS = ("final_answer", "gt_answer", "answer", "ground_truth", "reward_model.ground_truth", "target")
"""In the order of preference: where a set has several, the later ones may hold a whole solution."""
ID_COLUMNS = ("id", "unique_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """Where a set stands on the Hub."""

    path: str
    split: str
    config: str | None = None
    data_files: str | None = None
    """For a repository of folders without configs."""
    without_gold: bool = False
    """The set is known to have rows without a gold answer: drop them instead of refusing it."""


BENCHMARKS: dict[str, HubSource] = {
    "aime24": HubSource(path="HuggingFaceH4/aime_2024", split="train"),
    "amc23": HubSource(path="math-ai/amc23", split="test"),
    "math500": HubSource(path="HuggingFaceH4/MATH-500", split="test"),
    "minerva": HubSource(path="math-ai/minervamath", split="test"),
    "olympiadbench": HubSource(path="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train"),
}
TRAIN = HubSource(
    path="hkust-nlp/SimpleRL-Zoo-Data",
    data_files="simplelr_qwen_level3to5/train.parquet",
    split="train",
    without_gold=True,
)
ALSO_IN_BENCHMARK = {
    "15199380": "simplerl-1473",
    "dbba905d": "simplerl-2847",
    "2769fc50": "simplerl-5922",
}
"""Training problems that stand in OlympiadBench in other words, by `problem_digest`; dropped from training."""


def load_train(spec: str | None = None) -> list[Question]:
    """Training questions: the paper's set for None, else a local file or a Hub id (split `train`).

    Problems that also stand in a benchmark are dropped, and the log names them. Errors as in `load_benchmark`.
    """
    if spec is None:
        questions = _from_hub("simplerl", TRAIN)
    elif Path(spec).exists() or "=" in spec:
        questions = load_benchmark(spec)
    elif spec.count("/") == 1:
        questions = _from_hub(spec.split("/")[1], HubSource(path=spec, split="train"))
    else:
        raise ValueError(f"training set {spec!r} is neither a local file nor a Hub id such as {TRAIN.path}")
    kept = [question for question in questions if problem_digest(question.problem) not in ALSO_IN_BENCHMARK]
    if dropped := len(questions) - len(kept):
        known = {problem_digest(question.problem): question.id for question in questions}
        ids = ", ".join(known[digest] for digest in ALSO_IN_BENCHMARK if digest in known)
        logger.info("dropped %d training questions that also stand in OlympiadBench: %s", dropped, ids)
    return kept


def load_benchmark(spec: str) -> list[Question]:
    """Test questions: one of `BENCHMARKS` from the Hub, `name=path`, or a local path, whose stem is the name.

    A local file is JSON lines, JSON, parquet, or a folder saved by `datasets`. Raises `ValueError` for an unknown
    name, a missing column, a repeated id, and a row whose gold answer is empty or too long to be graded;
    `ConnectionError` where the Hub does not give the set.
    """
    path = Path(spec)
    if path.exists():
        return _questions(_read_rows(path), path.stem, where=spec)
    name, equals, local = spec.partition("=")
    if equals:
        if not Path(local).exists():
            raise ValueError(f"{spec!r}: there is no file {local!r}")
        return _questions(_read_rows(Path(local)), name, where=local)
    if name in BENCHMARKS:
        return _from_hub(name, BENCHMARKS[name])
    raise ValueError(
        f"benchmark {spec!r} is unknown: choose one of {', '.join(BENCHMARKS)}, a local file, or name=path/to/file"
    )


def problem_digest(problem: str) -> str:
    """Eight hexadecimal digits that name a problem whatever its line breaks and blanks are."""
    return blake2b("".join(problem.split()).encode(), digest_size=4).hexdigest()


def _from_hub(name: str, source: HubSource) -> list[Question]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(source.path, source.config, data_files=source.data_files, split=source.split)
    except (OSError, DatasetsError) as error:  # no network, no such repository, a download that broke
        raise ConnectionError(
            f"could not load {source.path} from the Hub ({error}). Without the Hub, give a local file instead of "
            f"{name!r}: JSON lines with the columns problem and answer, for a benchmark as {name}=path/to/file.jsonl"
        ) from error
    return _questions(list(dataset), name, where=source.path, hub=source)


def _read_rows(path: Path) -> list[Row]:
    """Rows of a local file, by its suffix; of a folder, by what `datasets.save_to_disk` leaves."""
    if path.is_dir():
        return _read_saved(path)
    if path.suffix == ".parquet":
        from pyarrow import parquet  # type: ignore[import-untyped]

        return list(parquet.read_table(path).to_pylist())
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"{path}: expected .jsonl, .json, .parquet or a folder saved by `datasets`")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":  # one object a line is one list once the lines are joined
        text = "[" + ",\n".join(line for line in text.split("\n") if line.strip()) + "]"
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected a list of objects, one for each question")
    return rows


def _read_saved(path: Path) -> list[Row]:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(str(path))
    if isinstance(saved, DatasetDict):
        if len(saved) != 1:
            raise ValueError(f"{path} holds the splits {', '.join(saved)}: name the folder of one of them")
        saved = next(iter(saved.values()))
    return list(saved)


def _questions(rows: Sequence[Row], name: str, where: str, hub: HubSource | None = None) -> list[Question]:
    """Questions of the rows. `name` is the benchmark, `where` is what error messages call the source."""
    if not rows:
        raise ValueError(f"{where} holds no rows")
    problem_column = _column(rows[0], PROBLEM_COLUMNS, where, "the problem")
    answer_column = _column(rows[0], ANSWER_COLUMNS, where, "the answer")
    id_column = next((column for column in ID_COLUMNS if column in rows[0]), None)
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        answer = _answer_text(_value(row, answer_column))
        if not key(clean(answer)):
            if hub is not None and hub.without_gold:
                continue
            raise ValueError(f"{where}: row {index} has an empty answer in {answer_column!r}; fill or drop the row")
        if len(answer) > MAX_ANSWER:
            raise ValueError(
                f"{where}: row {index}'s answer has {len(answer)} characters and none above {MAX_ANSWER} is graded; "
                f"is {answer_column!r} the column of the final answer?"
            )
        question_id = _question_id(row, id_column, name, index, from_hub=hub is not None)
        if question_id in seen:
            raise ValueError(f"{where}: rows {seen[question_id]} and {index} share the id {question_id!r}")
        seen[question_id] = index
        problem = str(_value(row, problem_column) or "")
        questions.append(Question(id=question_id, problem=problem, answer=answer, benchmark=name))
    if len(rows) > len(questions):
        logger.info("dropped %d rows of %s without a gold answer", len(rows) - len(questions), where)
    return questions


def _column(row: Row, candidates: Sequence[str], where: str, what: str) -> str:
    """The first candidate that the row has; `a.b` is the field b of the column a."""
    for candidate in candidates:
        outer, _, inner = candidate.partition(".")
        if outer in row and (not inner or (isinstance(row[outer], Mapping) and inner in row[outer])):
            return candidate
    raise ValueError(f"{where}: no column for {what}: looked for {', '.join(candidates)}; it has {', '.join(row)}")


def _value(row: Row, column: str) -> Any:
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return value.get(inner) if inner and isinstance(value, Mapping) else value


def _answer_text(value: Any) -> str:
    """A gold answer as text: whole floats without their point, several answers joined by commas; empty for None.

    >>> _answer_text(27.0), _answer_text(["$69$", "$84$"]), _answer_text(None)
    ('27', '$69$,$84$', '')
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ",".join(_answer_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _question_id(row: Row, column: str | None, name: str, index: int, *, from_hub: bool) -> str:
    """The row's own id, else `<name>-<row>`. A Hub id often is a bare number, so there the name goes before it."""
    own = row.get(column) if column is not None else None
    if own is None:
        return f"{name}-{index}"
    return f"{name}-{own}" if from_hub else str(own)

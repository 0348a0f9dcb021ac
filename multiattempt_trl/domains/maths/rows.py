"""Rows as questions with answers, whatever their columns are called."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import UnusableGold, UnusableGoldError
from multiattempt_trl.domains.sources import Row, listed
from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean, key

PROBLEM_COLUMNS = ("problem", "question", "extra_info.question")
ANSWER_COLUMNS = ("final_answer", "gt_answer", "answer", "ground_truth", "reward_model.ground_truth", "target")
"""In the order of preference: where a set has several, the later ones may hold a whole solution."""
ID_COLUMNS = ("id", "unique_id")
LEVEL_COLUMNS = ("level", "difficulty")
SUBJECT_COLUMNS = ("subject", "subfield", "type")
_EXACT_FLOAT = 2**53  # above it, a float's digits as an integer are not those that were written


def to_questions(rows: Sequence[Row], name: str, where: str, *, name_in_id: bool = False) -> list[Question]:
    """Questions of the rows, with their gold answers as `normalisation.clean` writes them.

    Args:
        rows: all with the columns of the first.
        name: the benchmark.
        where: what error messages call the source.
        name_in_id: the name goes before an id of the row's own, which on the Hub often is a bare number.

    Raises `UnusableGoldError` for gold answers that are empty after normalisation or too long to be graded, and
    `ValueError` for a missing column, a row without a problem and a repeated id.
    """
    if not rows:
        raise ValueError(f"{where} holds no rows")
    problem_column = _column(rows[0], PROBLEM_COLUMNS, where, "the problem")
    answer_column = _column(rows[0], ANSWER_COLUMNS, where, "the answer")
    questions: list[Question] = []
    unusable: list[UnusableGold] = []
    for index, (question_id, row) in enumerate(zip(_ids(rows, name, where, name_in_id), rows, strict=True)):
        problem = _value(row, problem_column)
        if not isinstance(problem, str) or not problem.strip():
            raise ValueError(f"{where}: row {index} (id {question_id!r}) has no problem in {problem_column!r}")
        gold = _answer_text(_value(row, answer_column))
        if reason := why_unusable(gold):
            unusable.append(UnusableGold(id=question_id, row=index, gold=gold, reason=reason))
        else:
            questions.append(
                Question(
                    id=question_id,
                    problem=problem,
                    answer=clean(gold),
                    benchmark=name,
                    level=_tag(row, LEVEL_COLUMNS),
                    subject=_tag(row, SUBJECT_COLUMNS),
                )
            )
    if unusable:
        raise UnusableGoldError(
            f"{where}: no usable gold answer in {answer_column!r}: {listed(unusable)}. Fill or drop the rows (for "
            "training: drop_unusable_gold), or rename the column if it is not that of the final answer",
            unusable,
            questions,
        )
    return questions


def why_unusable(gold: str) -> str:
    r"""Why nothing can be graded against this answer; empty where it can.

    >>> why_unusable("5"), why_unusable(r"$\text{}$"), why_unusable("x" * 1001)
    ('', 'empty', '1001 characters, and none above 1000 is graded')
    """
    if len(gold) > MAX_ANSWER:
        return f"{len(gold)} characters, and none above {MAX_ANSWER} is graded"
    return "" if key(clean(gold)) else "empty"


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


def _tag(row: Row, columns: Sequence[str]) -> str:
    """What the first of these columns says; empty where none says anything.

    >>> _tag({"level": 5.0}, LEVEL_COLUMNS), _tag({"level": "Level 5"}, LEVEL_COLUMNS), _tag({}, LEVEL_COLUMNS)
    ('5', '5', '')
    """
    texts = (_answer_text(row.get(column)) for column in columns)
    return next((text.removeprefix("Level ") for text in texts if text), "")


def _answer_text(value: Any) -> str:
    """A gold answer as text: whole floats without their point, several answers with a comma and a blank between them,
    which no separator of thousands has; empty for None and NaN, the missing value of a table.

    >>> _answer_text(27.0), _answer_text(["$100$", "$400$"]), _answer_text(None), _answer_text(float("nan"))
    ('27', '$100$, $400$', '', '')
    >>> _answer_text(4.5e33)
    '4.5e+33'
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_answer_text(part) for part in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        return str(int(value))
    return str(value).strip()


def _ids(rows: Sequence[Row], name: str, where: str, name_in_id: bool) -> Iterable[str]:
    """Each row's own id, else `<name>-<row>`. Raises `ValueError` where two are the same."""
    column = next((column for column in ID_COLUMNS if column in rows[0]), None)
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        own = row.get(column) if column is not None else None
        question_id = f"{name}-{index}" if own is None else f"{name}-{own}" if name_in_id else str(own)
        if question_id in seen:
            raise ValueError(f"{where}: rows {seen[question_id]} and {index} share the id {question_id!r}")
        seen[question_id] = index
        yield question_id

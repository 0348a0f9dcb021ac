"""Where programming questions come from: MBPP and HumanEval, from the Hub or a local file."""

from collections.abc import Sequence
from pathlib import Path

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import ALL_BUT_BENCHMARK_ROWS, TrainRows, UnusableGold, UnusableGoldError
from multiattempt_trl.domains.code.suites import Suite, first_test, helpers, joined, suite
from multiattempt_trl.domains.sources import (
    HubSource,
    Place,
    Row,
    listed,
    no_place,
    read_rows,
    training_questions,
)

BENCHMARKS: dict[str, HubSource] = {
    "mbpp": HubSource(path="google-research-datasets/mbpp", config="sanitized", split="test"),
    "humaneval": HubSource(path="openai/openai_humaneval", split="test"),
}
TRAIN = HubSource(path="google-research-datasets/mbpp", config="sanitized", split="train")
ALL = "all"
"""Instead of a split: every row of a file."""
_MBPP_TEXT = ("problem", "prompt", "text")
_MBPP_TESTS = ("tests", "test_list")
_MBPP_SETUP = ("setup", "test_imports", "test_setup_code")
_SOLUTION = ("solution", "code", "canonical_solution")


def load_train(spec: str | None = None, rows: TrainRows = ALL_BUT_BENCHMARK_ROWS) -> list[Question]:
    """Training questions: the train split of MBPP for None, else of a local file or a Hub id.

    Problems that also stand in a benchmark are dropped unless `rows` says otherwise. Errors as in `load_benchmark`,
    and `ValueError` where no row is left.
    """
    return training_questions(
        lambda: _from_hub("mbpp", TRAIN) if spec is None else _load(spec, split="train", what="training set"),
        rows,
        what="usable tests",
        drop_unusable=rows.drop_unusable_gold,
    )


def load_benchmark(spec: str) -> list[Question]:
    """Test questions: one of `BENCHMARKS`, a local file, or a Hub id; all but the first as they are or as `name=...`.

    Of a file whose rows name their `split` those of `test` are taken; `path:split` takes others, and `path:all` every
    row. Without a name the path's stem is the name.

    Raises `ValueError` for an unknown name and for rows that are no questions, `UnusableGoldError` for those whose
    tests cannot judge a program, and `ConnectionError` where the Hub does not give the set.
    """
    if not Path(spec).exists() and spec in BENCHMARKS:
        return _from_hub(spec, BENCHMARKS[spec])
    return _load(spec, split="test", what="benchmark")


def to_questions(rows: Sequence[Row], name: str, where: str) -> list[Question]:
    """Questions of the rows, with their tests as the answer.

    Raises `UnusableGoldError` where tests are not Python or call nothing, and `ValueError` for rows of another kind,
    a row without a problem and a repeated id.
    """
    if not rows:
        raise ValueError(f"{where} holds no rows")
    questions: list[Question] = []
    unusable: list[UnusableGold] = []
    seen: set[str] = set()
    for index, row in enumerate(rows):
        own = row.get("task_id", row.get("id"))
        question_id = own if isinstance(own, str) else f"{name}-{index if own is None else own}"
        if question_id in seen:
            raise ValueError(f"{where}: two rows have the id {question_id!r}")
        seen.add(question_id)
        read = _human_eval if "entry_point" in row else _mbpp
        try:
            problem, tests = read(row, where)
        except UnusableTestsError as error:
            unusable.append(UnusableGold(id=question_id, row=index, gold=str(error.tests), reason=str(error)))
        else:
            questions.append(Question(id=question_id, problem=problem, answer=tests.text, benchmark=name))
    if unusable:
        raise UnusableGoldError(
            f"{where}: no usable tests: {listed(unusable)}. Repair or drop the rows (training: drop_unusable_gold)",
            unusable,
            questions,
        )
    return questions


class UnusableTestsError(ValueError):
    """Tests that cannot judge a program."""

    def __init__(self, reason: str, tests: str) -> None:
        super().__init__(reason)
        self.tests = tests


def _mbpp(row: Row, where: str) -> tuple[str, Suite]:
    """The problem with its first test, which says what the function is called; the other tests stay unseen."""
    text, tests = _text(row, _MBPP_TEXT, where), _text(row, _MBPP_TESTS, where)
    setup = _text(row, _MBPP_SETUP, where, needed=False)
    try:
        judged = suite(setup, tests, _text(row, _SOLUTION, where, needed=False))
        return f"{text.strip()}\n\nYour program should pass this test:\n{first_test(tests)}", judged
    except ValueError as error:
        raise UnusableTestsError(str(error), tests) from error


def _human_eval(row: Row, where: str) -> tuple[str, Suite]:
    """The beginning of a file, whose last function is to be written."""
    prompt, entry_point = _text(row, ("prompt",), where), _text(row, ("entry_point",), where).strip()
    tests = _text(row, ("test",), where).strip() + f"\n\ncheck({entry_point})\n"
    body = _text(row, _SOLUTION, where, needed=False)
    problem = f"Write the function `{entry_point}` as a whole:\n\n```python\n{prompt.strip()}\n```"
    try:
        return problem, Suite(
            given=helpers(prompt, entry_point),
            calls=(entry_point,),
            tests=tests,
            solution=f"{prompt.rstrip()}\n{body}" if body else "",
        )
    except ValueError as error:
        raise UnusableTestsError(str(error), tests) from error


def _text(row: Row, columns: Sequence[str], where: str, *, needed: bool = True) -> str:
    """The first of these columns that the row has, a list as lines. Raises `ValueError` where it is needed and not
    there, or empty.
    """
    value = next((row[column] for column in columns if row.get(column) is not None), "")
    text = joined(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if needed and not text.strip():
        raise ValueError(
            f"{where}: a row has nothing in {' or '.join(columns)}; it has {', '.join(row)}. Rows are those of MBPP "
            "(prompt, test_list, test_imports, code) or of HumanEval (prompt, entry_point, test)"
        )
    return text if not text or text.endswith("\n") else text + "\n"


def _load(spec: str, *, split: str, what: str) -> list[Question]:
    """Questions of a local path or a Hub id, as they are or as `name=...`."""
    place = Place.of(spec, split)
    if place is None:
        raise no_place(spec, what, tuple(BENCHMARKS) if what == "benchmark" else (), TRAIN.path)
    if place.hub is not None:
        return _from_hub(place.name, place.hub)
    assert place.path is not None
    saved = place.path.is_dir()
    rows = read_rows(place.path, place.split) if saved else _of_split(read_rows(place.path), place, split)
    return to_questions(rows, place.name, where=f"{place.path}:{place.split}" if place.split else str(place.path))


def _of_split(rows: list[Row], place: Place, split: str) -> list[Row]:
    """The rows of a file that are of the split that was named, else of `split` where they say of which they are."""
    if place.split == ALL or not rows:
        return rows
    if "split" in rows[0]:
        return [row for row in rows if row.get("split") == (place.split or split)]
    if place.split is not None:
        raise ValueError(f"{place.path}: its rows name no split, so there is no {place.split!r}")
    return rows


def _from_hub(name: str, source: HubSource) -> list[Question]:
    return to_questions(source.rows(name, "of MBPP or HumanEval"), name, where=source.path)

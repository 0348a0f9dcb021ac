"""The maths questions: local files of every kind, columns under their many names, and errors that name the remedy."""

import doctest
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import TrainRows, UnusableGoldError, get_domain
from multiattempt_trl.domains.maths import rows as maths_rows
from multiattempt_trl.domains.maths.data import (
    ALSO_IN_BENCHMARK,
    BENCHMARKS,
    load_benchmark,
    load_train,
)
from multiattempt_trl.graders.numbers import parse_number

ROWS = [{"id": "a", "problem": "1+1?", "answer": "2"}, {"id": "b", "problem": "1+2?", "answer": "3"}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "rows"), [("aime24", 30), ("amc23", 40), ("math500", 500), ("minerva", 272), ("olympiadbench", 675)]
)
def test_benchmarks(shared: Path, name: str, rows: int) -> None:
    questions = load_benchmark(str(shared / "data" / f"{name}.jsonl"))
    assert len(questions) == len({question.id for question in questions}) == rows
    assert {question.benchmark for question in questions} == {name}


def test_golds_are_normalised_and_nothing_else_is(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "data" / "olympiadbench.jsonl").read_text("utf-8").splitlines()]
    questions = load_benchmark(str(shared / "data" / "olympiadbench.jsonl"))
    assert [(q.id, q.problem) for q in questions] == [(row["id"], row["problem"]) for row in rows]
    golds = {q.id: q.answer for q in questions}
    written = {row["id"]: row["answer"] for row in rows}
    assert written["olympiadbench-1612"].startswith("$")
    assert not [gold for gold in golds.values() if "$" in gold or r"\left" in gold or gold != gold.strip()]


def test_golds_with_an_exponent_stay_as_they_are(shared: Path) -> None:
    path = shared / "data" / "minerva.jsonl"
    written = [json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()]
    read = [question.answer for question in load_benchmark(str(path))]
    exponents = [
        (one, other) for one, other in zip(written, read, strict=True) if re.fullmatch(r"-?[\d.]+e-?\d+", one)
    ]
    assert len(exponents) == 58
    assert all(one == other and parse_number(other) is not None for one, other in exponents)


def test_training_set_without_what_stands_in_a_benchmark(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(shared / "data" / "math_l3to5_train.jsonl")
    assert len(load_benchmark(path)) == 8_521
    questions = load_train(path)
    assert len(questions) == 8_521 - 3
    assert {question.id for question in questions}.isdisjoint(ALSO_IN_BENCHMARK.values())
    assert "benchmark: simplerl-1473, simplerl-2847, simplerl-5922 (in olympiadbench)" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}  # what is less nobody sees
    assert len(load_train(path, TrainRows(keep_benchmark_rows=True))) == 8_521


def test_training_rows_that_the_model_is_judged_by_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": str(number), "problem": f"{number} +\n1?", "answer": number + 1} for number in range(5)]
    path = write(tmp_path / "train.jsonl", rows)
    judged = [
        Question(id="a", problem="3 + 1?", answer="4", benchmark="mine"),
        Question(id="b", problem="0 + 1?", answer="1", benchmark="yours"),
        Question(id="c", problem="1+1?", answer="2", benchmark="yours"),
        Question(id="d", problem="9 + 1?", answer="10", benchmark="yours"),
    ]
    kept = load_train(path, TrainRows(evaluated=judged))
    assert [question.id for question in kept] == ["2", "4"]
    assert "dropped 3 training questions that also stand in a benchmark: 0, 1 (in yours); 3 (in mine)" in caplog.text
    assert len(load_train(path, TrainRows(evaluated=judged, keep_benchmark_rows=True))) == 5
    with pytest.raises(ValueError, match=r"every training question also stands in a benchmark.*keep_benchmark_rows"):
        load_train(path, TrainRows(evaluated=load_benchmark(path)))


def test_domain() -> None:
    domain = get_domain("maths")
    assert domain.benchmarks == ("aime24", "amc23", "math500", "minerva", "olympiadbench")
    assert domain.preset(None).name == "paper"


def test_every_kind_of_local_file(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    dataset = Dataset.from_list(ROWS)
    dataset.to_parquet(str(tmp_path / "rows.parquet"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    DatasetDict(test=dataset).save_to_disk(str(tmp_path / "splits"))
    DatasetDict(train=dataset.select([0]), test=dataset).save_to_disk(str(tmp_path / "both"))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    write(tmp_path / "rows.jsonl", ROWS)
    for name in ("rows.parquet", "saved", "splits", "rows.json", "rows.jsonl"):
        for spec in (str(tmp_path / name), f"mine={tmp_path / name}"):
            questions = load_benchmark(spec)
            assert [(q.id, q.problem, q.answer) for q in questions] == [("a", "1+1?", "2"), ("b", "1+2?", "3")]
            assert questions[0].benchmark == ("mine" if "=" in spec else Path(name).stem)
        assert load_train(str(tmp_path / name)) == load_benchmark(str(tmp_path / name))
    for split, rows in (("train", 1), ("test", 2)):
        for spec in (f"{tmp_path}/both:{split}", f"mine={tmp_path}/both:{split}", f"{tmp_path}/both/{split}"):
            questions = load_benchmark(spec)
            assert len(questions) == rows, spec
            assert questions[0].benchmark == ("mine" if "=" in spec else Path(spec).stem)


def test_columns_are_mapped(tmp_path: Path) -> None:
    olympiad = {"question": "?", "solution": ["long"], "final_answer": ["$69$", "$84$"], "answer_type": "Numerical"}
    (row,) = load_benchmark(write(tmp_path / "o.jsonl", [olympiad]))
    assert (row.id, row.answer) == ("o-0", "69, 84")
    nested = {"extra_info": {"question": "?"}, "reward_model": {"ground_truth": 27.0}, "id": 5}
    (row,) = load_benchmark(write(tmp_path / "n.jsonl", [nested]))
    assert (row.id, row.answer) == ("5", "27")
    (row,) = load_benchmark(write(tmp_path / "f.jsonl", [{"problem": "?", "answer": 4.5e33}]))
    assert row.answer == "4.5e+33"  # as an integer it would be 4499999999999999963...


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "?", "answer": "2"}],
            r"bad\.jsonl: no column for the problem: .*question.*; it has prompt, answer",
        ),
        (
            [{"problem": "?", "gold": "2"}],
            r"bad\.jsonl: no column for the answer: .*gt_answer.*; it has problem, gold",
        ),
        ([*ROWS, {"id": "c", "problem": "?", "answer": " "}], r"gold answer in 'answer': row 2 \(id 'c'\): empty\. "),
        ([*ROWS, {"id": "c", "problem": "?"}], r"row 2 \(id 'c'\): empty"),
        ([{"problem": "?", "answer": r"$\text{}$"}], r"row 0 \(id 'bad-0'\): empty"),
        ([{"problem": "?", "answer": float("nan")}], r"row 0 \(id 'bad-0'\): empty"),
        ([{"problem": "?", "answer": "x" * 1_001}], r"row 0 \(id 'bad-0'\): 1001 characters"),
        ([{"problem": "?", "answer": ""}] * 7, r"row 4 \(id 'bad-4'\): empty; and 2 more\. "),
        ([*ROWS, {"id": "c", "problem": " ", "answer": "2"}], r"row 2 \(id 'c'\) has no problem in 'problem'"),
        ([{"problem": ["?"], "answer": "2"}], r"row 0 \(id 'bad-0'\) has no problem"),
        ([*ROWS, ROWS[0]], "rows 0 and 2 share the id 'a'"),
        ([], "no rows"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_benchmark(write(tmp_path / "bad.jsonl", rows))


def test_unusable_golds_are_all_found_and_can_be_left_out_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [{"id": "c", "problem": "1+3?", "answer": "$"}, {"id": "d", "problem": "1+4?", "answer": "5" * 1_001}]
    path = write(tmp_path / "bad.jsonl", [bad[0], *ROWS, bad[1]])
    with pytest.raises(UnusableGoldError, match="drop_unusable_gold") as raised:
        load_train(path)
    found = [(gold.id, gold.row, gold.gold[:3], gold.reason[:4]) for gold in raised.value.unusable]
    assert found == [("c", 0, "$", "empt"), ("d", 3, "555", "1001")]
    assert [question.id for question in raised.value.usable] == ["a", "b"]
    kept = load_train(path, TrainRows(drop_unusable_gold=True))
    assert [question.id for question in kept] == ["a", "b"]
    assert "dropped 2 training rows without a usable gold answer: row 0 (id 'c'): empty; row 3" in caplog.text
    with pytest.raises(UnusableGoldError):  # nothing would be left
        load_train(write(tmp_path / "all.jsonl", bad), TrainRows(drop_unusable_gold=True))


def test_bad_files_and_names(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    (tmp_path / "a.jsonl").write_text('{"problem": "?", "answer": "2"}\n\n{oops\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('{"problem": "?"}', encoding="utf-8")
    (tmp_path / "b.json").write_text("{oops", encoding="utf-8")
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "\xe9", "answer": "2"}\n')
    (tmp_path / "a.csv").write_text("problem,answer\n", encoding="utf-8")
    (tmp_path / "a.parquet").write_text("problem,answer\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    DatasetDict(x=Dataset.from_list(ROWS), y=Dataset.from_list(ROWS)).save_to_disk(str(tmp_path / "splits"))
    for spec, message in (
        ("a.jsonl", r"a\.jsonl, line 3, is not valid JSON"),
        ("b.json", "not valid JSON"),
        ("a.json", "list of objects"),
        ("latin.jsonl", "not UTF-8"),
        ("a.csv", r"expected \.jsonl"),
        ("a.parquet", r"a\.parquet is not a parquet file"),
        ("empty", "not a folder saved by `datasets`"),
        ("splits", r"holds the splits x, y: name one, as .*splits:x"),
        ("splits:z", "holds the splits x, y"),
        ("a.jsonl:train", "one file and has no split 'train'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_benchmark(f"{tmp_path}/{spec}")
    for spec, message in (
        ("math500=missing.jsonl", "no file 'missing.jsonl'"),
        ("data/missing.jsonl", "no file 'data/missing.jsonl'"),
        ("math5000", "choose one of aime24, amc23"),
    ):
        with pytest.raises(ValueError, match=message):
            load_benchmark(spec)
    with pytest.raises(ValueError, match=r"training set 'math5000' is unknown: choose a local file, .* a Hub id"):
        load_train("math5000")


class FakeHub:
    """Stands for `datasets.load_dataset`: what it was asked for, and rows or an error to give."""

    def __init__(self, rows: list[dict[str, Any]] | Exception) -> None:
        self.rows, self.calls = rows, []  # type: ignore[var-annotated]

    def __call__(self, path: str, name: str | None, *, data_files: str | None, split: str) -> list[dict[str, Any]]:
        self.calls.append((path, name, data_files, split))
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(
        [{"question": "?", "final_answer": ["2"], "id": 1606}, {"question": "?", "final_answer": ["3"], "id": 7}]
    )
    monkeypatch.setattr("datasets.load_dataset", hub)
    assert [q.id for q in load_benchmark("olympiadbench")] == ["olympiadbench-1606", "olympiadbench-7"]
    assert hub.calls == [("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", None, "train")]
    hub.rows = [
        {"question": "?", "gt_answer": "2"},
        {"question": "?", "gt_answer": ""},
        {"question": "?", "gt_answer": "4"},
    ]
    assert [(q.id, q.answer) for q in load_train()] == [("simplerl-0", "2"), ("simplerl-2", "4")]
    assert hub.calls[1] == ("hkust-nlp/SimpleRL-Zoo-Data", None, "simplelr_qwen_level3to5/train.parquet", "train")
    with pytest.raises(UnusableGoldError, match=r"someone/else: .* row 1 \(id 'else-1'\): empty"):
        load_train("someone/else")


def test_any_set_of_the_hub_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([{"problem": "?", "answer": 7, "id": 0}])
    monkeypatch.setattr("datasets.load_dataset", hub)
    for load, spec, name, split in (
        (load_train, "someone/set-1", "set-1", "train"),
        (load_train, "someone/set-1:half", "set-1:half", "half"),
        (load_benchmark, "someone/set-1", "set-1", "test"),
        (load_benchmark, "mine=someone/set-1:train", "mine", "train"),
    ):
        (question,) = load(spec)  # type: ignore[operator]
        assert (question.id, question.answer, question.benchmark) == (f"{name}-0", "7", name)
        assert hub.calls[-1] == ("someone/set-1", None, None, split)
    hub.rows = ValueError("Unknown split 'test'. Should be one of ['train'].")
    with pytest.raises(ValueError, match=r"could not load someone/set-1 from the Hub: Unknown split"):
        load_benchmark("someone/set-1")


def test_an_unreachable_hub_tells_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets.exceptions import DatasetNotFoundError

    for error in (ConnectionError("Couldn't reach the Hub"), DatasetNotFoundError("no such set")):
        monkeypatch.setattr("datasets.load_dataset", FakeHub(error))
        for name in BENCHMARKS:
            with pytest.raises(ConnectionError, match=rf"local file.*{name}=path/to/file\.jsonl"):
                load_benchmark(name)
    monkeypatch.setattr("datasets.load_dataset", FakeHub(TypeError("a bug of ours")))
    with pytest.raises(TypeError):
        load_benchmark("aime24")


def test_doctests() -> None:
    assert doctest.testmod(maths_rows) == doctest.TestResults(failed=0, attempted=4)

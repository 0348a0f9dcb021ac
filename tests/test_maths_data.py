"""The maths questions: local files of every kind, columns under their many names, and errors that name the remedy."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from multiattempt_trl.domains import get_domain
from multiattempt_trl.domains.maths.data import ALSO_IN_BENCHMARK, BENCHMARKS, load_benchmark, load_train

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


def test_training_set_without_what_stands_in_a_benchmark(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(shared / "data" / "math_l3to5_train.jsonl")
    assert len(load_benchmark(path)) == 8_521
    with caplog.at_level(logging.INFO):
        questions = load_train(path)
    assert len(questions) == 8_521 - 3
    assert {question.id for question in questions}.isdisjoint(ALSO_IN_BENCHMARK.values())
    assert "simplerl-1473, simplerl-2847, simplerl-5922" in caplog.text


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
    (tmp_path / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    write(tmp_path / "rows.jsonl", ROWS)
    for name in ("rows.parquet", "saved", "splits", "rows.json", "rows.jsonl"):
        for spec in (str(tmp_path / name), f"mine={tmp_path / name}"):
            questions = load_benchmark(spec)
            assert [(q.id, q.problem, q.answer) for q in questions] == [("a", "1+1?", "2"), ("b", "1+2?", "3")]
            assert questions[0].benchmark == ("mine" if "=" in spec else Path(name).stem)
        assert load_train(str(tmp_path / name)) == load_benchmark(str(tmp_path / name))


def test_columns_are_mapped(tmp_path: Path) -> None:
    olympiad = {"question": "?", "solution": ["long"], "final_answer": ["$69$", "$84$"], "answer_type": "Numerical"}
    (row,) = load_benchmark(write(tmp_path / "o.jsonl", [olympiad]))
    assert (row.id, row.answer) == ("o-0", "$69$,$84$")
    nested = {"extra_info": {"question": "?"}, "reward_model": {"ground_truth": 27.0}, "id": 5}
    (row,) = load_benchmark(write(tmp_path / "n.jsonl", [nested]))
    assert (row.id, row.answer) == ("5", "27")


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
        ([*ROWS, {"id": "c", "problem": "?", "answer": " "}], "row 2 has an empty answer"),
        ([*ROWS, {"id": "c", "problem": "?"}], "row 2 has an empty answer"),
        ([{"problem": "?", "answer": r"$\text{}$"}], "row 0 has an empty answer"),
        ([{"problem": "?", "answer": "x" * 1_001}], "1001 characters"),
        ([{"problem": " ", "answer": "2"}], "bad-0.*empty problem"),
        ([*ROWS, ROWS[0]], "rows 0 and 2 share the id 'a'"),
        ([], "no rows"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_benchmark(write(tmp_path / "bad.jsonl", rows))


def test_bad_files_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "?", "answer": "2"}\n\n{oops\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('{"problem": "?"}', encoding="utf-8")
    (tmp_path / "a.csv").write_text("problem,answer\n", encoding="utf-8")
    for spec, message in (
        (str(tmp_path / "a.jsonl"), "not valid JSON"),
        (str(tmp_path / "a.json"), "list of objects"),
        (str(tmp_path / "a.csv"), "expected .jsonl"),
        ("math500=missing.jsonl", "no file 'missing.jsonl'"),
        ("math5000", "choose one of aime24, amc23"),
    ):
        with pytest.raises(ValueError, match=message):
            load_benchmark(spec)
    with pytest.raises(ValueError, match="neither a local file nor a Hub id"):
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
    assert hub.calls[1][0] == "hkust-nlp/SimpleRL-Zoo-Data"
    with pytest.raises(ValueError, match="row 1 has an empty answer"):
        load_train("someone/else")


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

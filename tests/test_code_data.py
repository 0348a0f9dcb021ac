"""The programming questions: local files and the Hub's columns, what a program is shown, and unusable tests."""

import doctest
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from multiattempt_trl.domains import TrainRows, UnusableGoldError, get_domain
from multiattempt_trl.domains.code import data, programs, suites
from multiattempt_trl.domains.code.data import load_benchmark, load_train
from multiattempt_trl.domains.code.programs import last_program
from multiattempt_trl.domains.code.suites import Suite, suite

SANITIZED: dict[str, Any] = {  # the Hub's columns, of the config `sanitized` and of `full`
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 82,
    "prompt": "Write a function to find the volume of a sphere.",
    "code": "import math\ndef volume_sphere(r):\n    return 4 / 3 * math.pi * r**3",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(volume_sphere(10), 4188.79, rel_tol=0.001)", "assert volume_sphere(0) == 0"],
}
FULL: dict[str, Any] = {
    "task_id": 601,
    "text": "Write a function to find the sum.",
    "code": "def sum(a):\n    return a[0] + a[1]",
    "test_list": ["assert sum((1, 2)) == 3"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
HUMAN: dict[str, Any] = {
    "task_id": "HumanEval/38",
    "prompt": "import math\n\ndef encode(s: str):\n    return s[::-1]\n\n\ndef decode(s: str):\n    '''Undo it.'''\n",
    "canonical_solution": "    return s[::-1]\n",
    "test": "\n\ndef check(candidate):\n    assert candidate(encode('ab')) == 'ab'\n",
    "entry_point": "decode",
}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_mbpp_of_the_hub(tmp_path: Path) -> None:
    volume, total = load_benchmark(f"mbpp={write(tmp_path / 'x.jsonl', SANITIZED, FULL)}")
    assert (volume.id, volume.benchmark, total.id) == ("mbpp-82", "mbpp", "mbpp-601")
    shown = "Your program should pass this test:\nassert math.isclose(volume_sphere(10), 4188.79, rel_tol=0.001)"
    assert volume.problem == f"Write a function to find the volume of a sphere.\n\n{shown}"
    judged = ["import math", "# The tests:", "# They call: volume_sphere", *SANITIZED["test_list"]]
    assert volume.answer == "\n".join([*judged, "# A solution:", SANITIZED["code"], ""])
    assert Suite.read(total.answer).calls == ("sum",)  # though there is a `sum` already


def test_human_eval_of_the_hub(tmp_path: Path) -> None:
    (question,) = load_benchmark(f"humaneval={write(tmp_path / 'x.jsonl', HUMAN)}")
    assert (question.id, question.benchmark) == ("HumanEval/38", "humaneval")
    assert question.problem == f"Write the function `decode` as a whole:\n\n```python\n{HUMAN['prompt'].strip()}\n```"
    assert question.answer == (
        "import math\ndef encode(s: str):\n    return s[::-1]\n# The tests:\n# They call: decode\n"
        "def check(candidate):\n    assert candidate(encode('ab')) == 'ab'\n\ncheck(decode)\n"
        f"# A solution:\n{HUMAN['prompt']}    return s[::-1]\n"
    )


def test_the_hub_is_asked_for_the_right_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, config: str | None, split: str, data_files: None) -> Dataset:
        asked.append((path, config, split))
        return Dataset.from_list([HUMAN if "humaneval" in path else SANITIZED])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    ids = [load_benchmark("mbpp")[0].id, load_benchmark("humaneval")[0].id, load_train(None)[0].id]
    assert ids == ["mbpp-82", "HumanEval/38", "mbpp-82"]
    load_benchmark("someone/mine:extra")
    mbpp = "google-research-datasets/mbpp"
    assert asked == [
        (mbpp, "sanitized", "test"),
        ("openai/openai_humaneval", None, "test"),
        (mbpp, "sanitized", "train"),
        ("someone/mine", None, "extra"),
    ]


def test_without_the_hub_the_remedy_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ConnectionError, match=r"mbpp=path/to/file\.jsonl"):
        load_benchmark("mbpp")


def test_a_file_that_names_splits_keeps_them_apart(tmp_path: Path) -> None:
    rows = [{**SANITIZED, "task_id": n, "split": split} for n, split in enumerate(["train", "test", "test", "prompt"])]
    rows = [{**row, "prompt": f"Problem {row['task_id']}"} for row in rows]
    path = write(tmp_path / "rows.jsonl", *rows)
    found = {spec: [q.id for q in load_benchmark(spec)] for spec in (path, f"{path}:prompt", f"x={path}:all")}
    assert list(found.values()) == [["rows-1", "rows-2"], ["rows-3"], ["x-0", "x-1", "x-2", "x-3"]]
    assert [q.id for q in load_train(path)] == ["rows-0"]
    plain = write(tmp_path / "plain.jsonl", SANITIZED)
    assert len(load_benchmark(f"{plain}:all")) == len(load_train(plain)) == 1
    with pytest.raises(ValueError, match="name no split"):
        load_benchmark(f"{plain}:train")
    with pytest.raises(ValueError, match="holds no rows"):
        load_benchmark(f"{path}:validation")


def test_real_files(shared: Path) -> None:
    mbpp, human = (str(shared / "data" / f"{name}.jsonl") for name in ("mbpp_sanitized", "humaneval"))
    assert [len(load_benchmark(spec)) for spec in (mbpp, f"{mbpp}:all", human)] == [257, 427, 164]
    train = load_train(mbpp)
    assert len(train) == 120
    assert not {q.id for q in train} & {q.id for q in load_benchmark(mbpp)}
    for question in load_benchmark(f"{mbpp}:all") + load_benchmark(human):
        read = Suite.read(question.answer)
        assert read.text == question.answer
        assert len(read.calls) == 1
        assert read.calls[0] in question.problem
        hidden = read.tests.splitlines()[1:]
        assert not [test for test in hidden if test.startswith("assert") and test in question.problem]


def test_what_also_stands_in_a_benchmark_is_not_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", SANITIZED, FULL)
    evaluated = load_benchmark(path)[:1]
    assert [q.id for q in load_train(path, TrainRows(evaluated=evaluated))] == ["rows-601"]
    assert len(load_train(path, TrainRows(evaluated=evaluated, keep_benchmark_rows=True))) == 2
    with pytest.raises(ValueError, match="keep_benchmark_rows"):
        load_train(path, TrainRows(evaluated=load_benchmark(path)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"test_list": ["assert ("]}, "not Python"),
        ({"test_list": ["assert 1 == 1"]}, "call no function"),
        ({"test_imports": ["# The tests:"]}, "holds the line '# The tests:'"),
        ({"test_list": ["assert f(1)", "# A solution:"]}, "holds the line '# A solution:'"),
    ],
)
def test_unusable_tests(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "rows.jsonl", FULL, {**SANITIZED, **change})
    with pytest.raises(UnusableGoldError, match=reason) as caught:
        load_train(path)
    assert [(gold.id, gold.row) for gold in caught.value.unusable] == [("rows-82", 1)]
    assert [q.id for q in load_train(path, TrainRows(drop_unusable_gold=True))] == ["rows-601"]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({**SANITIZED, "prompt": " "}, "nothing in problem or prompt or text"),
        ({"problem": "1+1?", "answer": "2"}, "nothing in tests or test_list; it has problem, answer"),
    ],
)
def test_rows_of_another_kind(tmp_path: Path, row: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_benchmark(write(tmp_path / "rows.jsonl", row))


def test_repeated_ids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two rows have the id 'rows-82'"):
        load_benchmark(write(tmp_path / "rows.jsonl", SANITIZED, SANITIZED))


@pytest.mark.parametrize("spec", ["mbbp", "x=absent.jsonl", "absent.jsonl:all"])
def test_unknown_sets(spec: str) -> None:
    with pytest.raises(ValueError, match=r"is unknown: choose one of mbpp, humaneval|there is no file"):
        load_benchmark(spec)


def test_text_that_is_no_suite() -> None:
    for text in ("5", "# The tests:\nassert f()", "# The tests:\n# They call: f\nassert ("):
        with pytest.raises(ValueError, match=r"domain `code`|not Python"):
            Suite.read(text)


def test_a_failing_test_of_human_eval_calls_the_function_by_its_name(tmp_path: Path) -> None:
    (question,) = load_benchmark(f"humaneval={write(tmp_path / 'x.jsonl', HUMAN)}")
    judged = Suite.read(question.answer)
    assert judged.statement_at(2) == "assert decode(encode('ab')) == 'ab'"
    assert judged.statement_at(4) == "check(decode)"
    assert judged.statement_at(3) == judged.statement_at(None) == ""
    own = suite("", "assert apply(candidate) == 1\n", "def apply(x): ...\ndef candidate(): ...")
    assert own.calls == ("apply", "candidate")
    assert own.statement_at(1) == "assert apply(candidate) == 1"


def test_what_tests_call() -> None:
    assert suite("", "assert f(g(1), len('')) == 2", "").calls == ("f", "g")
    assert suite("", "def check(c):\n    assert c(f(1))\ncheck(f)", "def f(x): ...\ndef g(): ...").calls == ("f",)


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("  ```Python \nx\n  ```", "x\n"),
        ("```py\r\nx\r\n```", "x\n"),
        ("```python3\n```", ""),
        ("```python x = 1```", None),
        ("text ```python\nx\n```", None),
        ("```python\nx\n```python\ny\n```", "x\n```python\ny\n"),
        ("`" * 100_000, None),
        ("```python\n" * 50_000, None),
        ("```" + " " * 100_000 + "`", None),
        ("```python" + " \t" * 50_000 + "\nx\n```" + " " * 100_000, "x\n"),
    ],
)
def test_last_program(response: str, program: str | None) -> None:
    assert last_program(response) == program


def test_the_words() -> None:
    domain = get_domain("code")
    (message,) = domain.preset(None).first_messages("Double {x}.", 3)
    assert message["role"] == "user"
    assert message["content"].endswith("You have 3 attempts.\n\nTask: Double {x}.")
    assert "one block that begins with ```python" in message["content"]
    (message,) = domain.preset(None).first_messages("Double {x}.", 3, counted=False)
    assert message["content"].endswith("ends with ```.\n\nTask: Double {x}.")
    assert domain.benchmarks == ("mbpp", "humaneval")


@pytest.mark.parametrize("module", [data, programs, suites])
def test_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted > 0 or module is data

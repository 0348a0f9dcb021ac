"""`multiattempt eval` as a user calls it: what is refused and what is left, odd names, unlike runs compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from talkers import TOKENIZER

from multiattempt_trl.cli import main
from multiattempt_trl.cli.compare import settings_that_differ, short_labels
from multiattempt_trl.evaluation.results import Saved

SHORT = ["--domain", "arithmetic", "--eval_limit", "6", "--independent", "3"]


def evaluate(model: Path, output: Path, *options: str, budget: int = 3) -> dict[str, Any]:
    main(["eval", "--model", str(model), "--output_dir", str(output), "--budget", str(budget), *SHORT, *options])
    summary: dict[str, Any] = json.loads((output / "eval" / "summary.json").read_text(encoding="utf-8"))
    return summary


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["eval", *command])
    assert ended.value.code == 2
    return capsys.readouterr().err.split("multiattempt eval: error: ")[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_command_that_cannot_be_played_leaves_everything_as_it_was(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(talking, tmp_path / "old")
    before = contents(tmp_path / "old")
    template = tmp_path / "long.jinja"
    template.write_text("{{ '7' * 3000 }}" + TOKENIZER.chat_template)
    too_long = ["--model", str(talking), *SHORT, "--budget", "3", "--chat_template", str(template)]
    for folder in ("new", "old"):
        place = ["--output_dir", str(tmp_path / folder), "--overwrite_output_dir", "true"]
        assert "leaves no room for an answer" in refused(capsys, *too_long, *place)
    assert not (tmp_path / "new").exists()
    assert contents(tmp_path / "old") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "2"], "differs in budget (3 there, 2 asked)"),
        (["--seed", "5"], "differs in seed (0 there, 5 asked)"),
        (["--dtype", "bfloat16"], 'differs in dtype ("float32" there, "bfloat16" asked)'),
        (["--eval_batch_size", "4"], "differs in batch_size (256 there, 4 asked)"),
        (["--benchmarks", ","], "names none"),
        (["--benchmarks", "arithmetic,arithmetic"], "is named twice"),
        (["--eval_memory_gib", "0"], "eval_memory_gib must be above 0"),
        (["--probes", "al"], "probe 'al' is unknown"),
    ],
)
def test_another_evaluation_in_the_same_folder_is_refused(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    evaluate(talking, tmp_path)
    before = contents(tmp_path)
    common = ["--model", str(talking), "--output_dir", str(tmp_path), *SHORT]
    common += [] if "--budget" in options else ["--budget", "3"]
    assert said in refused(capsys, *common, *options)
    assert contents(tmp_path) == before


def test_the_same_words_with_another_template_are_another_evaluation(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(talking, tmp_path / "out")
    moved = tmp_path / "moved"
    shutil.copytree(talking, moved)
    evaluate(moved, tmp_path / "out")  # the same weights: it is done already
    template = tmp_path / "other.jinja"
    template.write_text(TOKENIZER.chat_template + "{# the same #}")
    command = ["--model", str(talking), "--output_dir", str(tmp_path / "out"), "--budget", "3", *SHORT]
    assert "differs in chat_template" in refused(capsys, *command, "--chat_template", str(template))


def test_a_base_model_that_is_none_is_found_first(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for base in ("empty", "nowhere"):
        command = ["--model", str(talking), "--base_model", str(tmp_path / base), *SHORT]
        assert "cannot be opened" in refused(capsys, *command, "--output_dir", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_brackets_in_names_are_names(talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m[/b][red]"
    shutil.copytree(talking, model)
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"id": "x", "problem": "1 + 1?", "answer": "2"}))
    command = ["--model", str(model), "--output_dir", str(tmp_path / "out"), "--domain", "maths", "--budget", "2"]
    main(["eval", *command, "--benchmarks", f"a[/b]={questions}", "--eval_max_attempt_tokens", "8"])
    assert "m[/b][red], nested protocol" in " ".join(capsys.readouterr().out.split())
    message = refused(capsys, *command, "--benchmarks", f"Average={questions}")
    assert "a benchmark cannot be called 'Average'" in message


@pytest.mark.parametrize("first", ["two", "three"])
def test_runs_of_unlike_budgets_are_compared_as_far_as_they_go(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    evaluate(talking, tmp_path / "two", budget=2)
    evaluate(talking, tmp_path / "three", "--probes", "all")
    capsys.readouterr()
    places = [str(tmp_path / name) for name in (first, "two" if first == "three" else "three")]
    main(["eval", "--compare", *places, "--output_dir", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert " at 2 attempts: " in out
    assert " at 3 attempts: " not in out
    assert "differ in budget" in out
    contrasts = json.loads((tmp_path / "out" / "comparison.json").read_text())["contrasts"]
    assert [contrast["k"] for contrast in contrasts] == [1, 2]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"comparison.{kind}" for kind in ("html", "md", "png", "svg", "json")
    }


def test_what_is_no_evaluation_cannot_be_compared(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(talking, tmp_path / "one")
    one = str(tmp_path / "one")
    assert "holds no evaluation" in refused(capsys, "--compare", one, str(tmp_path))
    assert "more than once" in refused(capsys, "--compare", one, one)
    assert "not both" in refused(capsys, "--compare", one, "--model", str(talking))
    (tmp_path / "one" / "eval" / "summary.json").write_text("{}")
    assert "summary.json has no average" in refused(capsys, "--compare", one, one)


def test_labels_are_as_short_as_can_be() -> None:
    folders = [Path("/a/ppo/single/eval"), Path("/a/ppo/multi/eval"), Path("/a/grpo/multi")]
    assert short_labels(folders) == ["ppo/single", "ppo/multi", "grpo/multi"]
    assert short_labels(folders[:2]) == ["single", "multi"]


def test_what_differs_is_said_by_its_whole_name() -> None:
    one, other = (
        Saved(folder=Path("x"), summary={}, asked={"limits": {"a": 1, "b": b}, "weights": b}, episodes={})
        for b in (2, 3)
    )
    assert settings_that_differ(["A", "B"], [one, other]) == ["The evaluations differ in limits.b (A: 2, B: 3)."]


def test_with_one_attempt_everything_is_written_and_no_gain_is_spoken_of(talking: Path, tmp_path: Path) -> None:
    summary = evaluate(talking, tmp_path, "--probes", "all", budget=1)
    assert list(summary["average"]["accuracy"]) == ["1"]
    assert "explain" not in (tmp_path / "eval" / "report.md").read_text(encoding="utf-8")

"""A domain of somebody else's: found by its file or its name, refused in plain words, trained and evaluated."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_recipes import ROOT

from multiattempt_trl.cli import main
from multiattempt_trl.cli.arguments import Settings
from multiattempt_trl.dialogue.episode import Judgement, Verdict
from multiattempt_trl.domains import TrainRows, arithmetic, get_domain, warm_start

EXAMPLE = ROOT / "examples" / "word_puzzle"
FILE = str(EXAMPLE / "word_puzzle.py")
SMALL = ["--per_device_train_batch_size", "8", "--steps_per_generation", "1", "--num_generations", "4"]
SHORT = [
    "--max_steps",
    "2",
    "--save_steps",
    "2",
    "--max_completion_length",
    "8",
    "--budget",
    "2",
    "--independent",
    "2",
]
CPU = ["--independent", "2", "--use_cpu", "true", "--bf16", "false", "--logging_steps", "1", "--base_model", "none"]


def test_a_file_is_a_domain() -> None:
    domain = get_domain(FILE)
    assert domain.name == FILE  # what a model's settings must say, for it to be found again
    assert domain.preset(None).name == "word-puzzle"
    train, test = domain.load_train(None, TrainRows()), domain.load_benchmark("words")
    assert len(test) == 12
    assert not {question.id for question in train} & {question.id for question in test}
    peach = next(question for question in train if question.id == "peach")
    with domain.grader() as grade:
        said = [grade(peach, text) for text in (r"\boxed{peach}", r"\boxed{cheap}", r"\boxed{chepa}", "peach")]
        other = grade(peach, r"\boxed{chair}")
    assert said == [Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.INVALID]
    assert other == Judgement(verdict=Verdict.WRONG, remarks={"hint": "It has other letters."})


def test_a_module_is_a_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somebodys_puzzles"
    package.mkdir()
    (package / "words.py").write_text(Path(FILE).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get_domain("somebodys_puzzles.words").name == "somebodys_puzzles.words"


def test_what_is_no_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"domain 'chess' is unknown; choose one of .*maths.*path/to/my_domain.py"):
        get_domain("chess")
    with pytest.raises(ValueError, match=r"'no/where.py': there is no such file"):
        get_domain("no/where.py")
    with pytest.raises(ValueError, match=r"'no_such_package.words' cannot be imported: No module named 'no_such_pa"):
        get_domain("no_such_package.words")
    empty = tmp_path / "without_a_record.py"
    empty.write_text("DOMAIN = 'words'\n")
    with pytest.raises(ValueError, match=r"has no DOMAIN = multiattempt_trl.domains.Domain"):
        get_domain(str(empty))
    taken = tmp_path / "json.py"
    taken.write_text(Path(FILE).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ValueError, match="another module is called 'json'; rename the file"):
        get_domain(str(taken))


COURSE = """
from dataclasses import replace
from multiattempt_trl.domains import arithmetic
from settings_of_the_course import SETTINGS
COURSE = replace(arithmetic.COURSE, module=__name__, settings=SETTINGS)
DOMAIN = replace(arithmetic.DOMAIN, build_model=COURSE.build_model)
"""
SETTINGS = """
from multiattempt_trl.domains.course import WarmStart
SETTINGS = WarmStart(steps=1, batch_size=4, warmup_steps=0)
"""


def test_the_small_model_of_a_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "with_a_course.py").write_text(COURSE)
    (own / "settings_of_the_course.py").write_text(SETTINGS)
    (own / "json.py").write_text("raise AssertionError('a name of the standard library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    build_model = get_domain("own/with_a_course.py").build_model
    assert build_model is not None
    assert (build_model(3) / "model.safetensors").is_file()


def test_where_the_module_of_a_course_is_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "courses_of_somebody" / "first").mkdir(parents=True)
    for name in ("first/__init__", "second"):
        text = "from multiattempt_trl.domains.arithmetic import COURSE"
        (tmp_path / "courses_of_somebody" / f"{name}.py").write_text(text)
    (tmp_path / "courses_of_somebody" / "__init__.py").touch()
    for name in ("courses_of_somebody.first", "courses_of_somebody.second"):
        assert warm_start._root(replace(arithmetic.COURSE, module=name)) == str(tmp_path.resolve())
    with pytest.raises(ValueError, match="module 'courses_of_somebody' has no COURSE"):
        warm_start._root(replace(arithmetic.COURSE, module="courses_of_somebody"))


def test_it_is_trained_and_evaluated_and_its_code_runs_only_where_it_is_named(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    recipe, folder = str(EXAMPLE / "grpo" / "multi_attempt.yaml"), tmp_path / "run"
    start = ["--model_name_or_path", str(tiny_model), "--output_dir", str(folder)]
    words = ["--feedback", "hint", "--count", "hidden", "--max_remark_tokens", "20"]
    with pytest.raises(SystemExit):
        main(["grpo", "--config", recipe, *start, *SMALL, *SHORT, *CPU, "--feedback", "hnt"])
    assert "neither 'none', 'binary', 'hint' (whether the letters are others)" in capsys.readouterr().err
    main(["grpo", "--config", recipe, *start, *SMALL, *SHORT, *CPU, *words])
    settings = Settings.of_model(folder)
    assert settings.domain == "examples/word_puzzle/word_puzzle.py"
    assert (settings.feedback, settings.count, settings.max_remark_tokens) == ("hint", "hidden", 20)
    asked = json.loads((folder / "eval" / "plan.json").read_text())
    assert (asked["feedback"], asked["count"], asked["limits"]["remark"]) == ("hint", "hidden", 20)
    block = json.loads((folder / "eval" / "summary.json").read_text())["benchmarks"]["words"]
    assert (block["n"], set(block["accuracy"])) == (12, {"1", "2"})
    again = [
        "eval",
        "--model",
        str(folder),
        "--output_dir",
        str(tmp_path / "again"),
        "--budget",
        "2",
        *CPU[:2],
        *CPU[-2:],
    ]
    with pytest.raises(SystemExit):
        main(again)
    assert "which is code outside this package: to run it, name it with --domain" in capsys.readouterr().err
    main([*again, "--domain", "examples/word_puzzle/word_puzzle.py"])
    other = json.loads((tmp_path / "again" / "eval" / "summary.json").read_text())["benchmarks"]["words"]
    assert other == block
    told = ["--domain", "examples/word_puzzle/word_puzzle.py", "--eval_count", "shown", "--feedback", "binary"]
    main([*again, *told, "--overwrite_output_dir", "true"])
    asked = json.loads((tmp_path / "again" / "eval" / "plan.json").read_text())
    assert (asked["feedback"], asked["count"], "remark" in asked["limits"]) == ("binary", "shown", False)

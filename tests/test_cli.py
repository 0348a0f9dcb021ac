"""The commands as a user types them: help without heavy imports, one-line errors, and a whole run on a tiny model."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_recipes import ROOT

from multiattempt_trl.cli import COMMANDS, main
from multiattempt_trl.cli.arguments import EvalArguments, Settings
from multiattempt_trl.cli.evaluator import load_benchmarks
from multiattempt_trl.cli.runs import COMMAND_FILE
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import TrainRows, get_domain
from multiattempt_trl.domains.arithmetic.questions import questions as questions_of

RECIPE = str(ROOT / "recipes/arithmetic/ppo/multi_attempt.yaml")
QUICK = ["--per_device_train_batch_size", "4", "--max_steps", "4", "--save_steps", "4", "--critic_warmup_steps", "0"]
SHORT = ["--budget", "2", "--eval_limit", "6", "--independent", "2"]


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = "import sys; from multiattempt_trl.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_grading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from multiattempt_trl.cli import main, grade, validate;"
        "main(['grade', '--gold', '5', '--answer', '5']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout[:20]) == (0, "correct: same text (")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"multiattempt {name}" in capsys.readouterr().out


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown command 'pop'; choose one of ppo"):
        main(["pop"])


UNCOUNTED = ["--skip_eval", "true", "--count", "hidden", "--feedback", "No, {attempts} left."]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ppo", "--config", "YAML"], "Unknown arguments from config file: .*max_atempts"),
        (["ppo", "--config", RECIPE, "--max_attempts", "0"], "max_attempts must be at least 1, got 0"),
        (
            ["ppo", "--config", RECIPE, "--domain", "chess"],
            "domain 'chess' is unknown; choose one of",
        ),
        (
            ["ppo", "--config", RECIPE, "--prompt_preset", "x"],
            "prompt_preset 'x' is unknown; choose one of arithmetic",
        ),
        (["ppo", "--config", RECIPE, "--model_name_or_path", "/no/where"], "no checkpoint could be opened"),
        *(
            (
                [name, "--config", RECIPE, "--model_name_or_path", "/no/where", *UNCOUNTED],
                "nothing is left of 'No",
            )
            for name in ("ppo", "plan")
        ),
        (
            ["ppo", "--domain", "maths", "--use_cpu", "true", "--bf16", "false"],
            "has no model of its own: set --model_na",
        ),
        (["eval", "--model", "/no/where", "--domain", "arithmetic", "--benchmarks", "algebra"], "benchmark 'algebra'"),
        (["grade", "--gold", "5"], "give --gold with --answer or --response"),
        (["validate"], "the following arguments are required: --data"),
        (["validate", "--data", "math5000"], "benchmark 'math5000' is unknown: choose one of aime24"),
        (["validate", "--data", "train", "--domain", "chess"], "domain 'chess' is unknown"),
        (["reproduce", "--seeds", "1", "1"], "seeds must be distinct"),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_so(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(RECIPE).read_text(encoding="utf-8") + "max_atempts: 3\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main([str(recipe) if word == "YAML" else word for word in argv])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"multiattempt {argv[0]}: error: ")
    assert re.search(message, last)


def test_a_run_leaves_what_it_promises_and_can_be_evaluated_again(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "run"
    common = ["--model_name_or_path", str(tiny_model), "--output_dir", str(folder), *QUICK, *SHORT]
    main(["ppo", "--config", RECIPE, *common])
    for name in ("model.safetensors", "tokenizer.json", "README.md", "metrics.jsonl", "multi_attempt.json"):
        assert (folder / name).is_file(), name
    assert (folder / "critic" / "model.safetensors").is_file()
    assert Settings.of_model(folder / "checkpoint-4") == Settings.of_model(folder)
    assert Settings.of_model(folder).domain == "arithmetic"
    for name in ("report.md", "accuracy_by_attempt.png", "episodes.jsonl"):
        assert (folder / "eval" / name).is_file(), name
    first = json.loads((folder / "eval" / "summary.json").read_text())
    main(["eval", "--model", str(folder), "--output_dir", str(tmp_path / "again"), *SHORT])
    again = json.loads((tmp_path / "again" / "eval" / "summary.json").read_text())
    assert again["benchmarks"] == first["benchmarks"]  # the same words, limits and seed, without being told


def test_training_is_told_what_the_model_will_be_judged_by(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiattempt_trl.domains import arithmetic

    def load_train(spec: str | None, rows: TrainRows) -> list[Question]:
        seen.append((spec, rows))
        raise RuntimeError("seen")

    seen: list[tuple[str | None, TrainRows]] = []
    monkeypatch.setattr(arithmetic, "DOMAIN", replace(arithmetic.DOMAIN, load_train=load_train))
    command = ["ppo", "--config", RECIPE, "--model_name_or_path", str(tiny_model), "--output_dir", str(tmp_path)]
    watched = ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_dataset_name", "arithmetic-validation"]
    for options in ([*watched, "--drop_unusable_gold"], ["--skip_eval", "--keep_benchmark_rows", "true"]):
        with pytest.raises(RuntimeError, match="seen"):
            main([*command, *SHORT, *options])
    questions = [*questions_of("validation"), *questions_of("test")[:6]]
    assert seen == [
        (None, TrainRows(evaluated=questions, drop_unusable_gold=True)),
        (None, TrainRows(evaluated=[], keep_benchmark_rows=True)),
    ]


def test_benchmarks_are_named_once_and_cut_to_the_limit() -> None:
    arithmetic = get_domain("arithmetic")
    loaded = load_benchmarks(arithmetic, EvalArguments(benchmarks="arithmetic, arithmetic-validation", eval_limit=3))
    assert {name: len(questions) for name, questions in loaded.items()} == {
        "arithmetic": 3,
        "arithmetic-validation": 3,
    }
    with pytest.raises(ValueError, match="'arithmetic' is named twice"):
        load_benchmarks(arithmetic, EvalArguments(benchmarks="arithmetic,arithmetic"))


@pytest.mark.parametrize("domain", ["code", "lists"])
def test_a_program_does_not_end_at_a_box(
    domain: str, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--domain", domain, "--stop_at_box", "true"]
    machine = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    for argv in (
        ["grpo", *asked, "--model_name_or_path", str(tiny_model), "--skip_eval", "true", *machine],
        ["eval", *asked, "--model", str(tiny_model)],
        ["play", *asked, "--model", str(tiny_model)],
    ):
        with pytest.raises(SystemExit):
            main(argv)
        assert (
            f"in the domain {domain!r} no answer stands in a box: set stop_at_box to false" in capsys.readouterr().err
        )


def test_reproduce_does_not_take_another_run_for_its_own(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from multiattempt_trl.domains import warm_start

    monkeypatch.setattr(warm_start, "build_warm_start", lambda course, seed: tiny_model)
    arm = tmp_path / "seed0" / "warm_start"
    (arm / "eval").mkdir(parents=True)
    (arm / "eval" / "summary.json").write_text("{}")
    (arm / COMMAND_FILE).write_text('["eval", "--budget", "3"]')
    with pytest.raises(SystemExit):
        main(["reproduce", "--seeds", "0", "--output_dir", str(tmp_path)])
    assert "holds a run with other settings" in capsys.readouterr().err

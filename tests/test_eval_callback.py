"""Benchmarks played while training: the numbers of `multiattempt eval`, a checkpoint chosen by them, no trace left."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_documents import WATCHED
from test_recipes import ROOT

from multiattempt_trl.cli import main

QUICK = [
    "--per_device_train_batch_size",
    "8",
    "--max_steps",
    "8",
    "--save_steps",
    "4",
    "--save_total_limit",
    "3",
    "--skip_eval",
    "true",
]
WATCH = ["--watch", "arithmetic-validation,arithmetic", "--watch_limit", "12", "--watch_budget", "3"]
WATCH += ["--watch_independent", "3", "--watch_probes", "all"]
OFTEN = ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_on_start", "true"]


def train(algorithm: str, model: Path, folder: Path, *options: str) -> list[dict[str, Any]]:
    recipe = str(ROOT / f"recipes/arithmetic/{algorithm}/multi_attempt.yaml")
    common = ["--config", recipe, "--model_name_or_path", str(model), "--output_dir", str(folder), *QUICK]
    main([algorithm, *common, "--per_device_eval_batch_size", "8", *options])
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def watched(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [line for line in lines if "eval_average/within_1" in line]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_numbers_are_those_of_an_evaluation_of_the_checkpoint(
    tmp_path: Path, talking: Path, algorithm: str
) -> None:
    best = ["--metric_for_best_model", "average/within_3", "--learning_rate", "0.01", "--critic_warmup_steps", "0"]
    best = best if algorithm == "ppo" else best[:-2]
    lines = watched(train(algorithm, talking, tmp_path / "run", *OFTEN, *WATCH, *best))
    assert [line["step"] for line in lines] == [0, 4, 8]
    lines = lines[1:]
    for line in lines:
        checkpoint = tmp_path / "run" / f"checkpoint-{line['step']}"
        folder = tmp_path / f"again{line['step']}"
        again = [
            "--domain",
            "arithmetic",
            "--benchmarks",
            "arithmetic-validation,arithmetic",
            "--eval_limit",
            "12",
            "--budget",
            "3",
        ]
        main(["eval", "--model", str(checkpoint), "--output_dir", str(folder), "--base_model", "none", *again])
        summary = json.loads((folder / "eval" / "summary.json").read_text())
        for name, block in [*summary["benchmarks"].items(), ("average", summary["average"])]:
            for k in ("1", "2", "3"):
                assert line[f"eval_{name}/within_{k}"] == block["accuracy"][k]
                assert line[f"eval_{name}/pass_at_{k}"] == block["pass_at_k"][k]
                assert line[f"eval_{name}/maj_at_{k}"] == block["maj_at_k"][k]
            assert line[f"eval_{name}/repeats_2"] == block["repeat_rate"]["2"]
    assert len({line["eval_average/pass_at_3"] for line in lines}) == 2, "training has moved it"
    state = json.loads((tmp_path / "run" / "checkpoint-8" / "trainer_state.json").read_text())
    first, second = (line["eval_average/within_3"] for line in lines)
    assert state["best_metric"] == max(first, second)
    assert state["best_model_checkpoint"].endswith("checkpoint-4" if first >= second else "checkpoint-8")


def test_training_goes_on_as_it_would_have(tmp_path: Path, talking: Path) -> None:
    with_it = train("ppo", talking, tmp_path / "with", *OFTEN, *WATCH)
    without = train("ppo", talking, tmp_path / "without")
    assert len(watched(with_it)) == 3
    assert watched(without) == []
    plain = [{key: value for key, value in line.items() if not timed(key)} for line in without]
    beside = [{key: value for key, value in line.items() if not timed(key)} for line in with_it]
    assert [line for line in beside if line not in watched(beside)] == plain
    keys = {re.sub(r"_\d$", "_k", key) for line in watched(with_it) for key in line} - {"step", "epoch"}
    names = ("arithmetic", "arithmetic-validation", "average")
    documented = {key.replace("<set>", name) for key in WATCHED for name in names}
    # A model that gets nothing right at once has nothing to give up.
    assert documented - keys <= {f"eval_{name}/abandoned" for name in names}
    assert keys <= documented


def timed(key: str) -> bool:
    return any(part in key for part in ("runtime", "per_second", "seconds", "step_time", "rollout/", "drift"))


def test_without_a_time_to_watch_it_is_refused(talking: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        train("ppo", talking, tmp_path, *WATCH)
    assert "needs eval_strategy" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train("ppo", talking, tmp_path, "--eval_strategy", "steps", "--eval_steps", "2")
    assert "needs watch or eval_dataset_name" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train("ppo", talking, tmp_path, *OFTEN, *WATCH, "--eval_dataset_name", "arithmetic")
    assert "are two evaluations: choose one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train("ppo", talking, tmp_path, *OFTEN, *WATCH, "--metric_for_best_model", "arithmetic/within_9")
    said = "'arithmetic/within_9' is none of what is watched: arithmetic-validation/within_1"
    assert said in capsys.readouterr().err

"""The real thing, small: the 1.5B recipes on real questions with the real tokenizer, shrunk on the command line."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from talkers import save_random_qwen

ROOT = Path(__file__).resolve().parent.parent
SHRUNK = [
    *("--per_device_train_batch_size", "4", "--update_batch_size", "4", "--generation_batch_size", "8"),
    *("--max_steps", "2", "--max_attempts", "3", "--max_completion_length", "24", "--max_episode_tokens", "60"),
    *("--rollout_batch_size", "4", "--save_steps", "2", "--logging_steps", "1"),
    *("--bf16", "false", "--use_cpu", "true", "--chat_template", "qwen2_5"),
    *("--budget", "2", "--eval_limit", "4", "--eval_max_attempt_tokens", "24", "--independent", "2"),
]


@pytest.fixture(scope="module")
def small_qwen(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """A random Qwen2 of two thin layers with the real vocabulary of 151,936 rows, saved beside the real tokenizer."""
    return save_random_qwen(
        tmp_path_factory.mktemp("smoke") / "qwen", shared, hidden_size=32, layers=2, heads=4, key_value_heads=2
    )


@pytest.fixture(scope="module")
def some_questions(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The first rows of the training set: reading all of it takes most of a run."""
    lines = (shared / "data" / "math_l3to5_train.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    path = tmp_path_factory.mktemp("some") / "questions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "recipe",
    [
        "ppo/multi_attempt",  # on the whole set
        "grpo/multi_attempt",
        "ppo/single_attempt",
        "ppo/lora",
        "ppo/qlora",
        "grpo/qlora",
    ],
)
def test_a_1_5b_recipe_trains_two_steps_and_evaluates_on_math500(
    recipe: str, small_qwen: Path, some_questions: Path, shared: Path, tmp_path: Path
) -> None:
    algorithm, arm = recipe.split("/")
    whole = shared / "data" / "math_l3to5_train.jsonl"
    if arm == "qlora":
        pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    command = [
        *(sys.executable, "-m", "multiattempt_trl", algorithm),
        *("--config", str(ROOT / f"recipes/qwen2.5-math-1.5b/{recipe}.yaml")),
        *("--model_name_or_path", str(small_qwen), "--output_dir", str(tmp_path)),
        *("--dataset_name", str(whole if recipe == "ppo/multi_attempt" else some_questions)),
        *("--benchmarks", f"math500={shared / 'data' / 'math500.jsonl'}"),
        *SHRUNK,
        *(["--dtype", "float32"] if arm not in ("lora", "qlora") else []),
        *(["--num_generations", "4"] if algorithm == "grpo" else []),
        *(["--max_attempts", "1"] if arm == "single_attempt" else []),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if "loss" in step]
    assert len(losses) == 2
    assert steps[0]["episodes_total"] == 8
    is_adapter = arm in ("lora", "qlora")
    weights, config = ("adapter_model", "adapter_config.json") if is_adapter else ("model", "config.json")
    saved = load_file(tmp_path / f"{weights}.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert (tmp_path / "critic" / config).is_file() == (algorithm == "ppo")
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["benchmarks"]["math500"]["n"] == 4
    assert set(summary["benchmarks"]["math500"]["accuracy"]) == {"1", "2"}
    episodes = [json.loads(line) for line in (tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()]
    assert Counter(episode["run"] for episode in episodes) == {"main": 4, "independent": 8, "base": 4}
    assert all(episode["benchmark"] == "math500" and episode["gold"] for episode in episodes)


@pytest.fixture(scope="module")
def sandbox() -> None:
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    if shutil.which("bwrap") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("bubblewrap is not installed, or is not allowed to make namespaces here")


def programs(shared: Path) -> str:
    """The two benchmarks of code as the command line takes them."""
    return f"mbpp={shared / 'data' / 'mbpp_sanitized.jsonl'},humaneval={shared / 'data' / 'humaneval.jsonl'}"


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_recipe_of_programs_trains_two_steps_on_mbpp_and_evaluates(
    algorithm: str, sandbox: None, small_qwen: Path, shared: Path, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "multiattempt_trl", algorithm),
        *("--config", str(ROOT / f"recipes/qwen2.5-coder-1.5b/{algorithm}/multi_attempt.yaml")),
        *("--model_name_or_path", str(small_qwen), "--output_dir", str(tmp_path), "--dtype", "float32"),
        *("--dataset_name", str(shared / "data" / "mbpp_sanitized.jsonl"), "--benchmarks", programs(shared)),
        *(*SHRUNK, "--num_generations", "4"),
        *(("--critic_warmup_steps", "0") if algorithm == "ppo" else ()),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len([step for step in steps if "loss" in step]) == 2
    assert steps[0]["episodes_total"] == 8
    assert steps[0]["well_formed/attempt_1"] == 0  # a random model writes no block
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert {name: block["n"] for name, block in summary["benchmarks"].items()} == {"mbpp": 4, "humaneval": 4}
    asked = [json.loads(line) for line in (tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()]
    assert all("# The tests:" in episode["gold"] for episode in asked)


def test_a_model_of_mathematics_is_evaluated_on_programs(
    sandbox: None, small_qwen: Path, shared: Path, tmp_path: Path
) -> None:
    """One that was trained with other words, and to stop at a box."""
    model = shutil.copytree(small_qwen, tmp_path / "trained")
    spoken = {"domain": "maths", "prompt_preset": "paper-code", "feedback": "none", "count": "hidden"}
    spoken |= {"stop_at_box": True, "seed": 3}
    (model / "multi_attempt.json").write_text(json.dumps(spoken | {"base_model": str(small_qwen)}))
    command = [
        *(sys.executable, "-m", "multiattempt_trl", "eval"),
        *("--config", str(ROOT / "recipes/transfer/code_eval.yaml"), "--model", str(model)),
        *("--benchmarks", programs(shared), "--output_dir", str(tmp_path), "--chat_template", "qwen2_5"),
        *("--eval_limit", "3", "--eval_max_attempt_tokens", "24", "--eval_batch_size", "8"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    plan = json.loads((tmp_path / "eval" / "plan.json").read_text())
    assert (plan["count"], plan["feedback"], plan["preset"]["name"]) == ("shown", "binary", "code")
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert {name: block["n"] for name, block in summary["benchmarks"].items()} == {"mbpp": 3, "humaneval": 3}
    assert set(summary["benchmarks"]["humaneval"]["accuracy"]) == {str(k) for k in range(1, 8)}
    episodes = [json.loads(line) for line in (tmp_path / "eval" / "episodes.jsonl").read_text().splitlines()]
    assert Counter(episode["run"] for episode in episodes) == {"main": 6, "independent": 42, "base": 6}
    assert {episode["budget"] for episode in episodes if episode["run"] == "main"} == {7}


@pytest.mark.slow
def test_an_experiment_runs_on_the_1_5b_recipes_in_two_processes(
    small_qwen: Path, some_questions: Path, shared: Path, tmp_path: Path
) -> None:
    """The file that runs on arithmetic, with a folder of recipes that are shrunk."""
    names = (name.removeprefix("--") for name in SHRUNK[::2])
    shrunk = dict(zip(names, map(yaml.safe_load, SHRUNK[1::2]), strict=True))
    shrunk |= {"model_name_or_path": str(small_qwen), "num_train_epochs": 0.08, "max_steps": -1, "save_steps": 4}
    shrunk |= {"per_device_train_batch_size": 2, "independent": 7, "eval_limit": 2}
    shrunk |= {"dataset_name": str(some_questions), "benchmarks": f"math500={shared / 'data' / 'math500.jsonl'}"}
    for name in ("multi_attempt", "single_attempt"):
        recipe = yaml.safe_load((ROOT / f"recipes/qwen2.5-math-1.5b/ppo/{name}.yaml").read_text(encoding="utf-8"))
        recipe |= {key: value for key, value in shrunk.items() if name == "multi_attempt" or key != "max_attempts"}
        path = tmp_path / "small" / "ppo" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "multiattempt_trl", "experiment"),
        *("--config", str(ROOT / "recipes/experiments/degradation.yaml"), "--recipes", str(tmp_path / "small")),
        *("--accelerate", str(ROOT / "accelerate_configs/cpu_ddp.yaml"), "--seeds", "0"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    folder = tmp_path / "outputs/experiments/degradation-small"
    cells = json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]
    assert list(cells) == ["multi-attempt", "multi-attempt, then single-turn", "single-turn", "warm start"]
    steps = {}
    for cell in list(cells)[:-1]:
        lines = (folder / "seed0" / cell / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps[cell] = sum("loss" in json.loads(line) for line in lines)
    # 25 rollouts of 8 dialogues an epoch, each trained on in 2 steps: 0.08 of it are 2, and half of that 1.
    assert steps["multi-attempt"] == 4
    assert steps["multi-attempt, then single-turn"] == 2
    tokens = {cell: found["sampled_tokens"]["0"] for cell, found in cells.items()}
    assert tokens["single-turn"] == pytest.approx(tokens["multi-attempt"], rel=0.3)
    assert all(set(found["accuracy"]) == {str(k) for k in range(1, 8)} for found in cells.values())

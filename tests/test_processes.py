"""Several processes: DDP, ZeRO-2 and ZeRO-3 on two CPU processes compute the same, whatever their dialogues do."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from multiattempt_trl.dialogue.budgets import draw_budget

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("cpu_ddp", "cpu_zero2", "cpu_zero3")
COMPARED = (
    *("loss", "grad_norm", "learning_rate", "reward", "kl", "entropy", "attempts/used"),
    *("sampled_tokens_total", "episodes_total"),
)
PPO_ONLY = (
    *("value/loss", "value/grad_norm", "value/learning_rate", "value/mean", "value/explained_variance"),
    "advantage/std",
)


@dataclass(frozen=True)
class Ran:
    folder: Path
    ranks: list[dict[str, Any]]

    def logged(self, key: str) -> list[float]:
        return [entry[key] for entry in self.ranks[0]["log"] if key in entry]

    def weights(self, part: str = "") -> dict[str, torch.Tensor]:
        (file,) = (self.folder / part).glob("*model.safetensors")
        return load_file(file)


def start(
    config: str,
    folder: Path,
    model: Path,
    algorithm: str = "ppo",
    *overrides: str,
    launch: Any = (),
    **environment: str,
) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / f"accelerate_configs/{config}.yaml"), *launch),
        *(str(ROOT / "tests" / "ranks.py"), str(folder), str(model), algorithm, *overrides),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(config: str, folder: Path, model: Path, algorithm: str = "ppo", *overrides: str) -> Ran:
    process = start(config, folder, model, algorithm, *overrides)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-6000:]
    found = ran(folder)
    assert_global(found, algorithm)
    assert len(found.ranks) == (1 if config == "single_cpu" else 2)
    assert all(rank["deepspeed"] == ("zero" in config) for rank in found.ranks)
    return found


def assert_global(found: Ran, algorithm: str) -> None:
    """What is logged is of all processes, though each has dialogues of its own, and so are whitening's moments."""
    everywhere = {"ppo": (*COMPARED, *PPO_ONLY, "value/clip_fraction"), "grpo": COMPARED}[algorithm]
    for key in everywhere:
        assert found.logged(key), key
        assert all([e[key] for e in rank["log"] if key in e] == found.logged(key) for rank in found.ranks), key
    for rollout in zip(*(rank["advantages"] for rank in found.ranks), strict=True):
        count, total, squares = (sum(column) for column in zip(*rollout, strict=True))
        assert total / count == pytest.approx(0, abs=1e-5)
        assert squares / count == pytest.approx(1, rel=1e-4)
    assert all(bool(rank["advantages"]) == (algorithm == "ppo") for rank in found.ranks)


def ran(folder: Path) -> Ran:
    """What the processes of a run wrote at its end."""
    return Ran(folder, [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rank*.json"))])


def assert_same(ours: Ran, theirs: Ran, *, exact: bool) -> None:
    """Every logged number and every weight; across backends up to the order of summation in float32."""
    for key in COMPARED + PPO_ONLY:
        mine, other = ours.logged(key), theirs.logged(key)
        if not exact and key == "grad_norm":  # DDP logs a norm of 0 where the policy rests, DeepSpeed none
            mine, other = [value for value in mine if value], [value for value in other if value]
        assert len(mine) == len(other), key
        assert mine == other if exact else mine == pytest.approx(other, rel=2e-4, abs=2e-6), key
    for part in ("", "critic") if (ours.folder / "critic").exists() else ("",):
        weights = ours.weights(part)  # Under ZeRO-2 tied embeddings are written twice.
        for name, value in theirs.weights(part).items():
            tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 2e-5}
            torch.testing.assert_close(weights[name], value, **tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_zero3_plays_ragged_rounds_and_computes_what_ddp_does(tmp_path: Path, tiny_model: Path) -> None:
    plain, sharded = (run(config, tmp_path / config, tiny_model) for config in ("cpu_ddp", "cpu_zero3"))
    for one in (plain, sharded):
        assert [rank["rounds"] for rank in one.ranks] == [3, 15]  # three rollouts: one round each, and five
        assert len(one.logged("loss")) == len(one.logged("value/loss")) == 6
        assert one.logged("episodes_total") == [16, 32, 48]
    assert_same(sharded, plain, exact=False)
    for part, auto in (("", AutoModelForCausalLM), ("critic", AutoModelForTokenClassification)):
        loaded = auto.from_pretrained(sharded.folder / part).state_dict()
        saved = sharded.weights(part)
        assert saved
        assert all(torch.equal(loaded[name], value) for name, value in saved.items())


CHECKPOINTING = ["--activation_checkpointing", "true", "--forward_batch_size", "4"]


@pytest.mark.slow
class TestAgreement:
    @pytest.mark.parametrize(
        "options",
        [
            ["ppo", "--gradient_accumulation_steps", "2", "--steps_per_generation", "4", "--critic_warmup_steps", "1"],
            ["ppo", "--activation_checkpointing", "true"],
            ["grpo"],
            ["grpo", "--credit", "attempt", "--num_generations", "16"],  # each group spans both processes
            ["grpo", "--credit", "own", "--single_attempt_share", "0.5", "--budget_draw", "uniform"],
            ["ppo", "--lora", '{"r": 4, "target_modules": ["q_proj", "v_proj"], "use_dora": true}', *CHECKPOINTING],
        ],
        ids=["ppo", "ppo-checkpointing", "grpo", "grpo-attempt", "grpo-own", "dora-checkpointing"],
    )
    def test_all_backends_compute_the_same(self, tmp_path: Path, tiny_model: Path, options: list[str]) -> None:
        runs = [run(config, tmp_path / config, tiny_model, *options) for config in BACKENDS]
        assert len(runs[0].logged("loss")) == 6
        for one in runs[1:]:
            assert_same(one, runs[0], exact=False)

    def test_continuous_batching_computes_the_same_in_all(self, tmp_path: Path, tiny_model: Path) -> None:
        # Attempts are sampled, each process's from its own random numbers.
        options = ["ppo", "--use_transformers_continuous_batching", "true"]
        runs = [run(config, tmp_path / config, tiny_model, *options) for config in BACKENDS]
        for ran in runs:
            assert [rank["rounds"] for rank in ran.ranks] == [0, 0]  # nobody called `generate`
            assert len(ran.logged("loss")) == 6
            assert_same(ran, runs[0], exact=False)

    @pytest.mark.parametrize("config", ["cpu_ddp", "cpu_zero2"])
    def test_in_bf16_the_sampler_is_taken_for_the_policy(self, tmp_path: Path, tiny_model: Path, config: str) -> None:
        # DeepSpeed makes the weights bf16 when training begins, after the trainer was made.
        options = ["ppo", "--bf16", "true", "--use_transformers_continuous_batching", "true"]
        launch = ["--mixed_precision", "bf16", "--num_processes", "1"]
        process = start(config, tmp_path, tiny_model, *options, launch=launch)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-6000:]
        drift = ran(tmp_path).logged("sampling/drift_mean")
        assert len(drift) == 2
        assert all(1e-4 < one < 0.02 for one in drift), drift  # bf16 rounds, and that is all
        assert "what was sampled is not what is trained on" not in output

    def test_a_policy_that_fits_no_process_generates_from_its_shards(self, tmp_path: Path, tiny_model: Path) -> None:
        whole = run("cpu_zero3", tmp_path / "whole", tiny_model)
        shards = run("cpu_zero3", tmp_path / "shards", tiny_model, "ppo", "--ds3_gather_for_generation", "false")
        assert [rank["rounds"] for rank in shards.ranks] == [15, 15]  # who is done generates along
        assert_same(shards, whole, exact=False)


@pytest.mark.slow
def test_siblings_of_a_group_in_two_processes_draw_as_in_one(tmp_path: Path, tiny_model: Path) -> None:
    options = ["grpo", "--budget_draw", "per_sample", "--num_generations", "16"]
    ran = run("cpu_ddp", tmp_path, tiny_model, *options)
    drawn = [rank["budgets"] for rank in ran.ranks]
    assert len(drawn[0]) == len(drawn[1]) == 24  # three rollouts of 8 dialogues
    for rollout in range(0, 24, 8):
        group = drawn[0][rollout : rollout + 8] + drawn[1][rollout : rollout + 8]
        step, question, _ = group[0]
        budgets = [draw_budget(0, step, question, 5, "per_sample", sibling) for sibling in range(16)]
        assert group == [[step, question, budget] for budget in budgets]


LORA = ["--lora", '{"r": 4, "target_modules": ["q_proj", "v_proj"]}']
BF16 = ["--bf16", "true"]
SETTINGS = {
    "full": ["--max_steps", "10"],
    "bf16": BF16,
    "lora": [*LORA, *BF16, "--model_init_kwargs", '{"dtype": "bfloat16"}'],
    "in-warm-up": ["--critic_warmup_steps", "4"],
}


@pytest.mark.slow
class TestResume:
    @pytest.mark.parametrize(
        ("config", "setting"),
        [
            *((config, setting) for config in ("single_cpu", *BACKENDS) for setting in ("full", "bf16", "lora")),
            ("cpu_zero3", "in-warm-up"),
        ],
    )
    def test_stopped_and_resumed_equals_uninterrupted_to_the_digit(
        self, tmp_path: Path, tiny_model: Path, config: str, setting: str
    ) -> None:
        """A process in another state goes on: after the first rollout, or in the middle of the second epoch."""
        options = [
            "ppo",
            "--save_strategy",
            "steps",
            "--save_steps",
            "2",
            "--num_train_epochs",
            "3",
            *SETTINGS[setting],
        ]
        straight = run(config, tmp_path / "straight", tiny_model, *options)
        half = str(tmp_path / "straight" / f"checkpoint-{8 if setting == 'full' else 2}")
        resumed = run(
            config, tmp_path / "resumed", tiny_model, *options, "--resume_from_checkpoint", half, "--scramble", "99"
        )
        assert len(resumed.logged("loss")) == (10 if setting == "full" else 6)
        assert_same(resumed, straight, exact=True)


@pytest.mark.slow
class TestFailure:
    @pytest.mark.parametrize(
        ("config", "options"),
        [("cpu_ddp", []), ("cpu_zero3", []), ("cpu_zero3", ["--ds3_gather_for_generation", "false"])],
        ids=["ddp", "zero3", "zero3-shards"],
    )
    def test_a_process_that_fails_stops_the_others_with_its_own_error(
        self, tmp_path: Path, tiny_model: Path, config: str, options: list[str]
    ) -> None:
        """In the middle of a rollout, whose end the other process waits for."""
        process = start(config, tmp_path, tiny_model, "ppo", *options, RANKS_FAIL="1")
        output, _ = process.communicate(timeout=300)
        ended = time.time()
        assert process.returncode != 0
        assert "RuntimeError: the grader of this process is broken" in output
        (failed,) = re.findall(r"FAILING AT ([\d.]+)", output)
        assert ended - float(failed) < 60


@pytest.mark.slow
def test_two_machines_compute_what_one_does(tmp_path: Path, tiny_model: Path) -> None:
    """Two launches on the loopback, as multi_node.yaml has them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = tmp_path / "two"
    common = ["--num_machines", "2", "--num_processes", "2", "--deepspeed_multinode_launcher", "standard"]
    common += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    launches = [[*common, "--machine_rank", str(rank)] for rank in (0, 1)]
    machines = [start("cpu_zero2", folder, tiny_model, launch=launch) for launch in launches]
    for machine in machines:
        output, _ = machine.communicate(timeout=300)
        assert machine.returncode == 0, output[-4000:]
    two = ran(folder)
    assert [rank["rounds"] for rank in two.ranks] == [3, 15]
    assert_same(two, run("cpu_zero2", tmp_path / "one", tiny_model), exact=True)


@pytest.mark.slow
def test_an_evaluation_shared_out_plays_the_same_dialogues(tmp_path: Path, tiny_model: Path) -> None:
    """In one process, in two, and begun by two that are killed and ended by one: the same files, byte for byte."""
    arguments = ["eval", "--model", str(tiny_model), "--domain", "arithmetic", "--eval_limit", "21", "--budget", "3"]
    arguments += ["--eval_batch_size", "5", "--probes", "all"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]

    def evaluate(config: str, folder: Path, seconds: float = 300) -> None:
        command = [*launch, str(ROOT / f"accelerate_configs/{config}.yaml"), "-m", "multiattempt_trl", *arguments]
        done = subprocess.run(
            [*command, "--output_dir", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.count("solved, %") == 1  # one table, of one process

    def begin_and_kill(config: str, folder: Path) -> None:
        command = [*launch, str(ROOT / f"accelerate_configs/{config}.yaml"), "-m", "multiattempt_trl", *arguments]
        process = subprocess.Popen([*command, "--output_dir", str(folder)], cwd=ROOT, start_new_session=True)
        parts = folder / "eval" / "episodes.parts"
        while process.poll() is None and sum(len(part.read_bytes()) for part in parts.glob("*")) < 20_000:
            time.sleep(0.01)
        assert process.poll() is None, "it was over too soon"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    evaluate("single_cpu", tmp_path / "one")
    evaluate("cpu_ddp", tmp_path / "two")
    begin_and_kill("cpu_ddp", tmp_path / "killed")
    evaluate("single_cpu", tmp_path / "killed")
    lines = (tmp_path / "one" / "eval" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 21 * (1 + 3 + 1 + 1 + 1 + 3)
    for name in ("episodes.jsonl", "summary.json", "plan.json", "report.html"):
        one = (tmp_path / "one" / "eval" / name).read_bytes()
        for other in ("two", "killed"):
            assert (tmp_path / other / "eval" / name).read_bytes() == one, f"{name} of {other}"


@pytest.mark.slow
def test_watching_benchmarks_in_several_processes(tmp_path: Path, tiny_model: Path) -> None:
    """Before the first step the model is the same everywhere, and so are the numbers."""
    recipe = str(ROOT / "recipes/arithmetic/grpo/multi_attempt.yaml")
    options = ["--model_name_or_path", str(tiny_model), "--max_steps", "4", "--save_strategy", "no"]
    options += ["--per_device_train_batch_size", "4", "--num_generations", "4"]
    options += ["--eval_strategy", "steps", "--eval_steps", "4", "--eval_on_start", "true", "--eval_batch_size", "4"]
    options += ["--watch", "arithmetic", "--watch_limit", "10", "--watch_budget", "3", "--watch_independent", "3"]
    options += ["--per_device_eval_batch_size", "4", "--skip_eval", "true"]
    first = []
    for config in ("single_cpu", "cpu_ddp", "cpu_zero3"):
        folder = tmp_path / config
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file"),
            *(str(ROOT / f"accelerate_configs/{config}.yaml"), "-m", "multiattempt_trl", "grpo", "--config", recipe),
            *(*options, "--output_dir", str(folder)),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        watched = [line for line in lines if "eval_arithmetic/within_1" in line]
        assert [line["step"] for line in watched] == [0, 4]
        first.append({key: value for key, value in watched[0].items() if key.startswith("eval_arithmetic/")})
    assert len(first[0]) >= 9
    assert first[0] == first[1] == first[2]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu_ddp", "cpu_zero3"])
def test_evaluating_while_training_in_several_processes(tmp_path: Path, tiny_model: Path, config: str) -> None:
    options = ["ppo", "--eval_strategy", "steps", "--eval_steps", "2", "--per_device_eval_batch_size", "4"]
    one = run(config, tmp_path, tiny_model, *options)
    assert len(one.logged("eval_reward")) == 3
    assert one.logged("eval_accuracy/within_5") == [0.5, 0.5, 0.5]  # the first process solves all, the second none
    assert one.logged("episodes_total") == [16, 32, 48]

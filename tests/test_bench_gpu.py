"""The GPU benchmark on the CPU: every configuration runs end to end at small size, and the tables are right."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from multiattempt_trl.training.planning.phases import GIB

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
gpu, gpu_meter, gpu_table = (import_module(name) for name in ("gpu", "gpu_meter", "gpu_table"))
SCRIPT = ROOT / "bench" / "gpu.sh"
RUNS = re.findall(r'^    "(\S+) +(\S+) +(\d+)', SCRIPT.read_text(encoding="utf-8"), flags=re.MULTILINE)


def bench(out: Path, *words: str, **env: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [str(SCRIPT), "--small", "--tokenizer", "bytes", *words],
        env=os.environ | {"OUT": str(out), "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results: list[dict[str, Any]] = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
    assert (out / "gpu.md").read_text(encoding="utf-8") in done.stdout
    return results


def check(found: dict[str, Any]) -> None:
    assert found["outcome"] == "ended", found.get("error")
    assert found["rollouts"] == 2
    phases = {"rollout", "scoring", "policy update", "optimizer step"}
    is_ppo = found["name"].startswith("ppo")
    assert (
        set(found["planned"]) == set(found["planned_as_played"]) == phases | ({"critic update"} if is_ppo else set())
    )
    assert ("reference weights" in found["states"]) == ("full" in found["name"])
    assert ("critic weights" in found["states"]) == is_ppo
    if not torch.cuda.is_available():
        assert found["measured"] == {}
        assert found["speed"] is None


def test_a_small_run_ends_and_is_written(tmp_path: Path) -> None:
    (found,) = bench(tmp_path, "ppo-full", LENGTHS="caps")
    check(found)
    # The first attempt takes 58 of 60 tokens, the second reads it and takes the others.
    (rows, read, sampled), (_, again, rest) = found["rounds"]
    assert (rows, sampled, rest) == (4, 58, 2)
    assert 900 < read <= 960 < again
    for item, held in found["states"].items():
        # AdamW also keeps the number of its steps, four bytes a tensor.
        assert held["bytes"] == pytest.approx(held["planned"], rel=1e-3), item


@pytest.mark.slow
def test_all_configurations_run_small(tmp_path: Path) -> None:
    results = bench(tmp_path, SECONDS_EACH="600", MINUTES="60")
    assert {(one["name"], one["lengths"]) for one in results} == {
        (name, lengths) for name, *_ in RUNS for lengths in ("caps", "mean")
    }
    assert len(results) == 14
    for found in results:
        check(found)


def test_every_configuration_names_a_recipe() -> None:
    assert len(RUNS) == 7
    for _, recipe, card in RUNS:
        assert (ROOT / "recipes" / "qwen2.5-math-1.5b" / f"{recipe}.yaml").is_file(), recipe
        assert int(card) in (80, 24, 16)


def test_an_unknown_name_is_refused() -> None:
    done = subprocess.run([str(SCRIPT), "ppo-all"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown name ppo-all" in done.stderr


# --- the meter -----------------------------------------------------------------------------------------------------


def test_time_of_an_inner_phase_is_not_the_outer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0, 7.0, 15.0, 15.0])
    monkeypatch.setattr(gpu_meter, "perf_counter", lambda: next(clock))
    meter = gpu_meter.Meter()  # at 0
    with meter.phase("policy update"), meter.phase("rollout"):  # from 1, and from 3 to 7
        pass
    # until 15: 1 before, 2 + 8 of the outer phase, 4 of the inner one
    assert dict(meter.seconds) == {"between": 1.0, "policy update": 10.0, "rollout": 4.0}


def test_a_failure_is_of_the_innermost_phase() -> None:
    def fail(meter: Any) -> None:
        with meter.phase("policy update"), meter.phase("rollout"):
            raise RuntimeError

    def fail_in_a_step(meter: Any) -> None:
        with meter.phase("critic update"):
            meter.enter("optimizer step")  # as the first hook does; the other one never comes
            raise RuntimeError

    for failure, phase in ((fail, "rollout"), (fail_in_a_step, "optimizer step")):
        meter = gpu_meter.Meter()
        with pytest.raises(RuntimeError):
            failure(meter)
        assert meter.failed_in == phase


def test_an_optimizers_step_is_a_phase_of_its_own() -> None:
    meter = gpu_meter.Meter()
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with meter.watching_optimizers(), meter.phase("critic update"):
        torch.optim.AdamW([weight]).step()
    assert set(meter.seconds) == {"between", "critic update", "optimizer step"}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "out of memory"),
        (ValueError("max_attempts must be at least 1"), "error"),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, outcome: str) -> None:
    assert gpu.outcome_of(error) == outcome


# --- the tables ----------------------------------------------------------------------------------------------------


def result(**changes: Any) -> dict[str, Any]:
    found = {"name": "ppo-lora", "lengths": "caps", "card": 24, "small": False, "outcome": "ended", "fits": True}
    found |= {"hardware": {"versions": {"torch": "2.13.0"}, "card": "A card", "bytes": 80 * GIB, "driver": "1"}}
    found["hardware"]["cuda"] = "13"
    found["planned"] = {"rollout": 20 * GIB, "policy update": 12 * GIB}
    found["planned_as_played"] = {"rollout": 11 * GIB, "policy update": 12 * GIB}
    found["measured"] = {
        "rollout": {"allocated": 10 * GIB, "reserved": 13 * GIB, "seconds": 2.0},
        "policy update": {"allocated": 8 * GIB, "reserved": 14 * GIB, "seconds": 1.0},
    }
    found |= {"rounds": [[32, 900, 2900], [32, 3800, 100]], "speed": {"tokens_per_second": 1234.5}}
    found["states"] = {"policy weights": {"bytes": 4, "planned": 5}}
    return found | changes


def test_the_peak_and_how_far_the_plan_is_off() -> None:
    # The peak as planned, 12, over the one that was measured, 10, whichever phases they are in.
    row = gpu_table.memory_row(result())
    assert row[1:] == ["ended", "rollout", "10.00", "14.00", "12.00", "+20.0%", "20.00 (rollout)", "yes"]
    assert gpu_table.phase_row(result())[1] == "10.00 / 11.00 / +10.0%"
    assert gpu_table.speed_row(result())[1:4] == ["32 x (900 + 2900), 32 x (3800 + 100)", "n/a", "1,234"]


def test_what_did_not_end_has_a_row() -> None:
    full = result(outcome="out of memory", failed_in="rollout", rollouts=1, measured={}, planned_as_played={})
    assert gpu_table.memory_row(full)[1:6] == ["out of memory (rollout of the warm-up)", *["n/a"] * 4]
    killed = {key: full[key] for key in ("name", "lengths", "card", "small", "hardware")} | {"outcome": "cut off"}
    page = gpu_table.page([killed, full, result()])
    assert "| ppo-lora, caps, 24 GB | cut off | n/a |" in page
    assert page.startswith("Card: A card, 80.00 GiB, driver 1, CUDA 13. torch 2.13.0.")
    assert page.count("ppo-lora") == 3 + 3  # three rows of memory, and one in each of the other tables

"""Rollouts in training: requests that fail, a sampler that drifts, seeds, and the bar."""

import io
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from training_arguments import arguments, grade_by_length, logged, train_set

from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.rollout.play import Progress
from multiattempt_trl.rollout.requests import GenResult
from multiattempt_trl.training import generation, progress
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.drift import DriftCheck
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer
from multiattempt_trl.training.progress import rollout_bar
from multiattempt_trl.training.sequences import TokenSequence

Change = Callable[[GenResult], GenResult]


class Changed:
    """A backend whose results are changed on their way."""

    def __init__(self, backend: Any, change: Change) -> None:
        self.backend, self.change = backend, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def __enter__(self) -> Any:
        self.backend.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.backend.__exit__(*error)

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        return [self.change(result) for result in self.backend.poll(timeout)]


def changing(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    make = generation.training_backend
    monkeypatch.setattr(generation, "training_backend", lambda trainer: Changed(make(trainer), change))


def losing(*dialogues: int, attempt: int = 1) -> Change:
    """Loses these dialogues' requests at that attempt."""
    seen: dict[int, int] = {}

    def change(result: GenResult) -> GenResult:
        seen[result.request_id] = seen.get(result.request_id, 0) + 1
        lost = result.request_id in dialogues and seen[result.request_id] == attempt
        return replace(result, token_ids=(), finish_reason="error", error="gone") if lost else result

    return change


def trainer_of(kind: str, folder: Path, model: Path, **options: Any) -> Any:
    given = arguments(folder, max_attempts=3, budget_draw="fixed", **options)
    if kind == "ppo":
        config: Any = MultiAttemptPPOConfig(**given)
        return MultiAttemptPPOTrainer(str(model), config, train_set(), grade_by_length, preset=PRESET)
    config = MultiAttemptGRPOConfig(**given, num_generations=4)
    return MultiAttemptGRPOTrainer(str(model), config, train_set(), grade_by_length, preset=PRESET)


def rollout(trainer: Any) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """(episodes, batch) of four questions, four times each."""
    rows = [dict(trainer.train_dataset[number]) for number in range(4) for _ in range(4)]
    trainer.model.train()
    torch.manual_seed(1)
    batch = trainer._generate_and_score_completions(rows)
    return [row["episode"] for row in rows], batch


# --- requests that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
@pytest.mark.parametrize("credit", ["terminal", "improvement"])
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_failed_episode_teaches_nothing_and_takes_nothing_from_the_others(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, kind: str, credit: str, attempt: int
) -> None:
    trainer = trainer_of(kind, tmp_path, tiny_model, credit=credit)
    changing(monkeypatch, losing(2, 9, attempt=attempt))
    episodes, batch = rollout(trainer)
    lost = [number for number, episode in enumerate(episodes) if episode.ending == "failed"]
    assert set(lost) <= {2, 9}
    assert lost
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    advantages = batch["advantages"] if batch["advantages"].dim() == 2 else batch["advantages"][:, None] * mask
    assert len(episodes) == len(mask) == 16  # the batch is as long as ever
    assert not mask[lost].any()
    assert not advantages[lost].any()
    assert trainer._metrics["train"]["episode/failed"] == [len(lost) / 16]
    kept = [number for number in range(16) if number not in lost]
    rewards = torch.tensor([sum(trainer._prices[number]) for number in kept])
    assert trainer._metrics["train"]["reward"] == [pytest.approx(rewards.mean().item())]
    if kind == "ppo":
        values = advantages[mask]
        torch.testing.assert_close(values.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)  # whitened over the others
        assert not batch["returns"][lost].any()
        return
    if credit == "terminal":  # the baseline is the mean of the siblings that ended, and their deviation the scale
        for group in range(4):
            mine = [number for number in kept if number // 4 == group]
            worth = torch.tensor([sum(trainer._prices[number]) for number in mine])
            expected = (worth - worth.mean()) / (worth.std() + 1e-4)
            torch.testing.assert_close(batch["advantages"][mine], expected)


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
def test_training_goes_on_with_failed_requests(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    trainer = trainer_of(kind, tmp_path, tiny_model, max_steps=4)
    changing(monkeypatch, losing(0, 1, 2, 3, 7))
    trainer.train()
    losses = logged(trainer, "loss", "episode/failed")
    assert losses["episode/failed"] == [5 / 16]
    assert all(abs(loss) < 100 for loss in losses["loss"])
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())


def test_where_all_requests_fail_nothing_is_trained(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of("ppo", tmp_path, tiny_model, max_steps=4)
    changing(monkeypatch, losing(*range(16)))
    with pytest.raises(RuntimeError, match="all 16 dialogues of this rollout failed; the first one: gone"):
        trainer.train()


# --- a sampler that drifts -------------------------------------------------------------------------------------------


def test_drift_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        TokenSequence(
            prompt_ids=[1], completion_ids=[5, 9, 6], attempt_index=[1, 0, 2], sampled_logprobs=[-1.0, None, -2.0]
        ),
        # A token that nobody told the log-probability of does not count.
        TokenSequence(prompt_ids=[1], completion_ids=[5, 6], attempt_index=[1, 1], sampled_logprobs=[None, -0.5]),
    ]
    logps = torch.tensor([[-1.1, -50.0, -2.0], [-3.0, -0.8, -9.0]])
    check = DriftCheck(lambda value, _: 2 * value)  # two processes with the same rows
    # Distances 0.1, 0 and 0.3.
    found = check(rows, logps, torch.float32, 0)
    assert found == {"sampling/drift_mean": pytest.approx(0.4 / 3), "sampling/drift_max": pytest.approx(0.3)}
    assert "over 6 tokens the sampler's log-probabilities are 0.133 away" in caplog.text
    assert "up to 0.3 here; rounding explains 0.001" in caplog.text
    caplog.clear()
    DriftCheck(lambda value, _: value)(rows[:1], torch.tensor([[-1.0005, -50.0, -2.0]]), torch.float32, 0)
    assert not caplog.text


@pytest.mark.parametrize(("told", "by_policy"), [(math.nan, -1.0), (-1.0, math.nan)])
def test_a_log_probability_that_is_no_number_is_told(
    told: float, by_policy: float, caplog: pytest.LogCaptureFixture
) -> None:
    row = TokenSequence(prompt_ids=[1], completion_ids=[5, 6], attempt_index=[1, 1], sampled_logprobs=[told, -1.0])
    found = DriftCheck(lambda value, _: value)([row], torch.tensor([[by_policy, -1.0]]), torch.float32, 0)
    assert math.isnan(found["sampling/drift_mean"])
    assert "over 2 tokens the sampler's log-probabilities are nan away from the policy's on average" in caplog.text


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
@pytest.mark.parametrize("off", [0.0, 0.5])
def test_the_first_rollouts_of_a_run_are_checked(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    off: float,
) -> None:
    trainer = trainer_of(kind, tmp_path, tiny_model, max_steps=12, use_transformers_continuous_batching=True)
    if off:
        changing(monkeypatch, lambda one: replace(one, logprobs=tuple(value - off for value in one.logprobs or ())))
    trainer.train()
    drift = logged(trainer, "sampling/drift_mean", "sampling/drift_max")
    assert drift["sampling/drift_mean"] == [pytest.approx(off, abs=1e-4)] * 2  # of three rollouts
    assert drift["sampling/drift_max"] == [pytest.approx(off, abs=1e-4)] * 2
    assert ("what was sampled is not what is trained on" in caplog.text) is bool(off)


@pytest.mark.parametrize(
    ("options", "at_steps"),
    [
        # 4 micro-batches a rollout: of 8 a step two rollouts come before an update, and two after each.
        ({"gradient_accumulation_steps": 8, "max_steps": 3}, [0, 1]),
        ({"gradient_accumulation_steps": 1, "max_steps": 12}, [0, 4]),
        # Two batches of evaluation before the first step, and after each fourth one.
        ({"max_steps": 12, "eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True}, [0, 4]),
    ],
    ids=["several rollouts a step", "several steps a rollout", "evaluation first"],
)
def test_one_rollout_before_and_one_after_an_update_is_checked(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], at_steps: list[int]
) -> None:
    given = arguments(tmp_path, per_device_eval_batch_size=4, use_transformers_continuous_batching=True, **options)
    trainer = MultiAttemptPPOTrainer(
        str(tiny_model),
        MultiAttemptPPOConfig(**given),
        train_set(),
        grade_by_length,
        preset=PRESET,
        eval_dataset=train_set(8),
    )
    checked, check = [], DriftCheck.__call__

    def noting(self: DriftCheck, *args: Any) -> dict[str, float]:
        checked.append((trainer.state.global_step, trainer.model.training))
        return check(self, *args)

    monkeypatch.setattr(DriftCheck, "__call__", noting)
    trainer.train()
    assert checked == [(step, True) for step in at_steps]
    assert logged(trainer, "eval_sampling/drift_mean")["eval_sampling/drift_mean"] == []


def test_a_type_that_is_no_coarser_than_float32_has_its_tolerance(tmp_path: Path, tiny_model: Path) -> None:
    options = {"model_init_kwargs": {"dtype": torch.float64}, "use_transformers_continuous_batching": True}
    trainer = trainer_of("grpo", tmp_path, tiny_model, max_steps=1, **options)
    trainer.train()
    assert trainer.model.dtype == torch.float64
    assert logged(trainer, "sampling/drift_mean")["sampling/drift_mean"] == [pytest.approx(0, abs=1e-4)]


@pytest.mark.parametrize("options", [{"use_transformers_continuous_batching": True, "top_p": 0.9}, {}])
def test_where_the_sampler_tells_another_sum_or_nothing_nothing_is_checked(
    tmp_path: Path, tiny_model: Path, options: dict[str, Any]
) -> None:
    trainer = trainer_of("ppo", tmp_path, tiny_model, max_steps=4, **options)
    trainer.train()
    assert logged(trainer, "sampling/drift_mean")["sampling/drift_mean"] == []


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_a_rollout_is_drawn_from_the_seed_the_step_and_the_process(tmp_path: Path, tiny_model: Path) -> None:
    trainer = trainer_of("grpo", tmp_path, tiny_model, use_transformers_continuous_batching=True)

    def said() -> list[Any]:
        return [[one.response_ids for one in episode.attempts] for episode in rollout(trainer)[0]]

    first = said()
    assert said() == first
    assert len({str(each) for each in first}) == 16  # siblings differ
    trainer.state.global_step = 1
    later = said()
    assert later != first
    trainer.state.global_step, trainer.accelerator.state._shared_state["process_index"] = 0, 1
    try:
        assert said() != first
    finally:
        trainer.accelerator.state._shared_state["process_index"] = 0
    assert said() == first


# --- the bar ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_says_how_far_a_rollout_is(monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "monotonic", count(step=0.25).__next__)
    with rollout_bar(8, shown=shown) as advance:
        advance(Progress(dialogues=8, done=0, solved=0, running=8, tokens=0))
        advance(Progress(dialogues=8, done=5, solved=3, running=2, tokens=640))
    told = sys.stderr.getvalue()
    assert ("5/8" in told and "2 running, 3 solved, 1,280 tokens/s" in told) is shown


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with rollout_bar(8, shown=True) as advance:
        advance(Progress(dialogues=8, done=8, solved=4, running=0, tokens=900))
    assert sys.stderr.getvalue() == ""

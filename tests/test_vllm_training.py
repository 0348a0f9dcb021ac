"""Training on rollouts by vLLM, over stand-ins for its engine and its server: weights, samples, importance ratios."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl.trainer.grpo_trainer
from training_arguments import arguments, grade_by_length, logged, train_set
from trl_stand_ins import StandInGeneration
from vllm_stand_ins import StandInServer, modules

from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.training import generation
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer


class Served:
    """TRL's `VLLMGeneration` in mode "server", as far as the trainer asks it; weights go straight to the stand-in."""

    def __init__(self, model: Any, server: StandInServer, calls: list[str]) -> None:
        self.model, self.server, self.calls = model, server, calls
        info = {"model_config": {"logprobs_mode": "processed_logprobs"}}
        self.vllm_client = SimpleNamespace(get_server_info=lambda: info)

    def sync_weights(self) -> None:
        self.calls.append("sync")
        self.server.engine.load_weights(self.model.named_parameters())


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM as it would be found, colocated."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(generation, "is_vllm_available", lambda: True)

    def colocated(*, model: Any, max_num_seqs: int, enable_sleep_mode: bool, **_: Any) -> StandInGeneration:
        return StandInGeneration(model, slots=max_num_seqs, sleep=enable_sleep_mode)

    monkeypatch.setattr(trl.trainer.grpo_trainer, "VLLMGeneration", colocated)


@pytest.fixture
def serve(vllm: None, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Iterator[Callable[[], Any]]:
    """vLLM as a server, with what was done in which order."""
    from transformers import AutoModelForCausalLM

    calls: list[str] = []
    with StandInServer(AutoModelForCausalLM.from_pretrained(tiny_model)) as server:
        monkeypatch.setattr(
            trl.trainer.grpo_trainer, "VLLMGeneration", lambda *, model, **_: Served(model, server, calls)
        )
        yield lambda: (server, calls)


# Adam would make a step of the last digit of a gradient, and the two runs would part.
OPTIONS: dict[str, Any] = {"max_steps": 8, "optim": "sgd", "learning_rate": 0.1}


def trainer_of(kind: str, folder: Path, model: Path, **options: Any) -> Any:
    given = arguments(folder, max_attempts=3, budget_draw="fixed", **options)
    if kind == "ppo":
        config: Any = MultiAttemptPPOConfig(**given)
        return MultiAttemptPPOTrainer(str(model), config, train_set(), grade_by_length, preset=PRESET)
    config = MultiAttemptGRPOConfig(**given, num_generations=4)
    return MultiAttemptGRPOTrainer(str(model), config, train_set(), grade_by_length, preset=PRESET)


def check_trained(trainer: Any, like: Any) -> None:
    """Two rollouts were trained on, each sampled from the policy of its time, as by another engine."""
    drift = logged(trainer, "sampling/drift_mean", "sampling/sampling_logp_difference/max")
    assert len(drift["sampling/drift_mean"]) == 2
    assert max(*drift["sampling/drift_mean"], *drift["sampling/sampling_logp_difference/max"]) < 1e-4
    ratios = logged(trainer, *(f"sampling/importance_sampling_ratio/{of}" for of in ("min", "max")))
    for values in ratios.values():
        assert values == [pytest.approx(1, abs=1e-4)] * 2  # but for feedback, which has no ratio
    for key in ("reward", "loss", "kl", "attempts/used", "episode/sampled_tokens"):
        assert logged(trainer, key)[key] == pytest.approx(logged(like, key)[key], rel=1e-3, abs=1e-4), key


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
@pytest.mark.parametrize("sleep", [False, True])
def test_colocated(vllm: None, tmp_path: Path, tiny_model: Path, kind: str, sleep: bool) -> None:
    like = trainer_of(kind, tmp_path / "like", tiny_model, use_transformers_continuous_batching=True, **OPTIONS)
    like.train()
    trainer = trainer_of(kind, tmp_path / "vllm", tiny_model, use_vllm=True, vllm_enable_sleep_mode=sleep, **OPTIONS)
    trainer.train()
    check_trained(trainer, like)
    calls = [name for name, _ in trainer.vllm_generation.engine.calls if name in ("sleep", "wake_up")]
    # Weights are sent to an engine that is awake for them; it sleeps when all dialogues of a rollout are over.
    assert calls == (["wake_up", "wake_up", "sleep"] * 2 if sleep else [])
    assert trainer.model.training


def test_served(serve: Callable[[], Any], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = trainer_of("ppo", tmp_path / "like", tiny_model, use_transformers_continuous_batching=True, **OPTIONS)
    like.train()
    server, calls = serve()
    trainer = trainer_of(
        "ppo", tmp_path / "vllm", tiny_model, use_vllm=True, vllm_mode="server", vllm_server_base_url=server.url,
        **OPTIONS,
    )  # fmt: skip
    wait = trainer.accelerator.wait_for_everyone
    monkeypatch.setattr(
        "multiattempt_trl.training.generation.monotonic", lambda: monotonic() + 3600 * calls.count("wait")
    )
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: (calls.append("wait"), wait()))
    add = server.engine.add_request
    monkeypatch.setattr(server.engine, "add_request", lambda *args: (calls.append("ask"), add(*args)))
    trainer.train()
    check_trained(trainer, like)
    # TRL's main process sends the weights while the others go on: nobody may ask before it is through.
    order = [name for before, name in zip(["", *calls], calls, strict=False) if name != before]
    assert order[:6] == ["sync", "wait", "ask", "sync", "wait", "ask"]
    # To wait for it is no part of a rollout, though by this clock it takes an hour.
    seconds = logged(trainer, "rollout/seconds")["rollout/seconds"]
    assert len(seconds) == 2
    assert max(seconds) < 3600


def test_weights_that_are_not_sent_are_told(
    vllm: None, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of("grpo", tmp_path, tiny_model, use_vllm=True, max_steps=8, learning_rate=1e-1)
    monkeypatch.setattr(trainer.vllm_generation, "sync_weights", lambda: None)
    trainer.train()
    first, second = logged(trainer, "sampling/drift_mean")["sampling/drift_mean"]
    assert first < 1e-4 < 0.1 < second
    assert caplog.text.count("what was sampled is not what is trained on") == 1


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
def test_the_importance_ratio_gets_the_samplers_logprobs_and_nothing_for_feedback(
    vllm: None, tmp_path: Path, tiny_model: Path, kind: str
) -> None:
    trainer = trainer_of(kind, tmp_path, tiny_model, use_vllm=True)
    trainer.model.train()
    rows = [dict(trainer.train_dataset[number]) for number in range(4) for _ in range(4)]
    batch = trainer._generate_and_score_completions(rows)
    asked = (batch["completion_mask"] * batch["tool_mask"]).bool()
    fed = (batch["completion_mask"] * (1 - batch["tool_mask"])).bool()
    assert fed.any()
    for row, one in enumerate(rows):
        told = [value for attempt in one["episode"].attempts for value in attempt.logprobs]
        assert batch["sampling_per_token_logps"][row][asked[row]].tolist() == pytest.approx(told)
    assert batch["sampling_per_token_logps"][fed].isnan().all()
    assert not batch["old_per_token_logps"][asked].isnan().any()
    torch.testing.assert_close(batch["importance_sampling_ratio"], torch.ones_like(batch["importance_sampling_ratio"]))


def test_sampling_is_the_recipes(vllm: None, tmp_path: Path, tiny_model: Path) -> None:
    trainer = trainer_of("ppo", tmp_path, tiny_model, use_vllm=True, temperature=0.7, top_p=0.9, top_k=20, min_p=0.05)
    trainer._rows = [{}] * 16
    backend = generation.training_backend(trainer)
    assert backend.sampling == Sampling(temperature=0.7, top_p=0.9, top_k=20, min_p=0.05)


@pytest.mark.parametrize(("asked", "together"), [(None, 16), (5, 5), (64, 16)])
def test_colocated_the_smaller_of_the_engines_bound_and_the_recipes_holds(
    vllm: None, tmp_path: Path, tiny_model: Path, asked: int | None, together: int
) -> None:
    trainer = trainer_of("ppo", tmp_path, tiny_model, use_vllm=True, rollout_batch_size=asked)
    trainer._rows = [{}] * 16
    assert generation.training_backend(trainer).capacity == together


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_transformers_continuous_batching": True}, "are two ways to generate: choose one"),
        ({"vllm_mode": "remote"}, "vllm_mode must be 'colocate' or 'server', got 'remote'"),
        ({"vllm_structured_outputs_regex": "a*"}, "vllm_structured_outputs_regex='a\\*' is not read"),
        ({"generation_kwargs": {"seed": 3}}, "generation_kwargs={'seed': 3} is not read"),
    ],
)
def test_what_cannot_be_is_refused(vllm: None, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiAttemptPPOConfig(**arguments(tmp_path, use_vllm=True, **options))


def test_without_vllm_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_vllm needs vLLM, which is not installed: pip install"):
        MultiAttemptPPOConfig(**arguments(tmp_path, use_vllm=True))

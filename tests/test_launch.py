"""What cannot work in a launch is said before a model is loaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_arguments import arguments, grade_by_length, train_set

from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.launch import Launch, check_launch, check_processes
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer


def deepspeed(stage: int, **config: Any) -> SimpleNamespace:
    """As accelerate's plugin, with what an accelerate configuration puts into it."""
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": config.pop("save", True)}
    return SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": zero, **config})


@pytest.fixture
def args(tmp_path: Path) -> MultiAttemptPPOConfig:
    return MultiAttemptPPOConfig(**arguments(tmp_path))


class TestProcesses:
    def test_more_processes_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        with pytest.raises(ValueError, match=r"8 processes were launched on this machine, which has 4 GPUs: .* 4 "):
            check_processes(use_cpu=False, fewest=1)
        check_processes(use_cpu=True, fewest=1)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
        check_processes(use_cpu=False, fewest=8)

    def test_fewer_than_the_recipe_needs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="at least min_processes=4 GPUs to fit, got 1"):
            MultiAttemptGRPOConfig(**arguments(tmp_path, use_cpu=False, num_generations=2, min_processes=4))
        MultiAttemptGRPOConfig(**arguments(tmp_path, use_cpu=True, num_generations=2, min_processes=4))

    def test_a_rollout_that_the_processes_do_not_divide(self, tmp_path: Path) -> None:
        values = arguments(tmp_path, generation_batch_size=18, steps_per_generation=None)
        with pytest.raises(ValueError, match=r"generation_batch_size \(18\) must be divisible by .* \(4\)"):
            MultiAttemptPPOConfig(**values)

    def test_one_process_that_sees_several_gpus(self, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(args), "n_gpu", property(lambda self: 2))
        with pytest.raises(ValueError, match="one process sees 2 GPUs"):
            check_launch(args, adapted=False, quantised=False)

    def test_a_size_that_no_launcher_set(self, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="WORLD_SIZE=2 is set, but this is one of 1 processes"):
            check_launch(args, adapted=False, quantised=False)

    def test_a_disk_for_each_machine(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="save_on_each_node is not supported"):
            MultiAttemptPPOConfig(**arguments(tmp_path, save_on_each_node=True))


class TestDeepSpeed:
    @pytest.mark.parametrize("section", ["optimizer", "scheduler"])
    def test_an_optimizer_or_schedule_of_its_own(self, args: Any, section: str) -> None:
        args.deepspeed_plugin = deepspeed(2, **{section: {"type": "AdamW"}})
        with pytest.raises(ValueError, match=f"has its own '{section}', which would be the critic's"):
            check_launch(args, adapted=False, quantised=False)

    def test_a_switch_that_turns_it_off(self, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        args.deepspeed_plugin = deepspeed(2)
        check_launch(args, adapted=False, quantised=False)
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        with pytest.raises(ValueError, match="ACCELERATE_USE_CPU is set, which turns DeepSpeed off"):
            check_launch(args, adapted=False, quantised=False)

    @pytest.mark.parametrize(("clip", "wrong"), [("auto", False), (1.0, False), (0.5, True), ("0.5", True)])
    def test_two_numbers_for_the_clipping(self, args: Any, clip: Any, wrong: bool) -> None:
        args.deepspeed_plugin = deepspeed(2, gradient_clipping=clip)
        if not wrong:
            check_launch(args, adapted=False, quantised=False)
            return
        with pytest.raises(ValueError, match=r"gradient_clipping is 0.5 in .* but max_grad_norm is 1.0"):
            check_launch(args, adapted=False, quantised=False)

    def test_zero3_with_quantised_weights(self, args: Any) -> None:
        args.deepspeed_plugin = deepspeed(2)
        check_launch(args, adapted=True, quantised=True)
        args.deepspeed_plugin = deepspeed(3)
        check_launch(args, adapted=False, quantised=False)
        with pytest.raises(ValueError, match="ZeRO-3 would shard quantised weights"):
            check_launch(args, adapted=True, quantised=True)

    def test_zero3_with_an_adapter_checkpointed_in_several_passes(self, tmp_path: Path) -> None:
        several = {"forward_batch_size": 2, "activation_checkpointing": True}
        args = MultiAttemptPPOConfig(**arguments(tmp_path, **several))
        for stage, adapted in ((2, True), (3, False)):
            args.deepspeed_plugin = deepspeed(stage)
            check_launch(args, adapted=adapted, quantised=False)
        args.deepspeed_plugin = deepspeed(3)
        with pytest.raises(ValueError, match="forward_batch_size=2 makes several of a micro-batch: leave it out"):
            check_launch(args, adapted=True, quantised=False)
        for fine in ({"forward_batch_size": 4}, {"activation_checkpointing": False}):
            args = MultiAttemptPPOConfig(**arguments(tmp_path, **(several | fine)))
            args.deepspeed_plugin = deepspeed(3)
            check_launch(args, adapted=True, quantised=False)

    def test_zero3_that_batches_continuously_over_shards(self, tmp_path: Path) -> None:
        for batched, gathered in ((True, True), (False, False)):
            options = {"use_transformers_continuous_batching": batched, "ds3_gather_for_generation": gathered}
            args = MultiAttemptPPOConfig(**arguments(tmp_path, **options))
            args.deepspeed_plugin = deepspeed(3)
            check_launch(args, adapted=False, quantised=False)
        args.use_transformers_continuous_batching = True
        with pytest.raises(ValueError, match="continuous batching needs the whole policy in each process"):
            check_launch(args, adapted=False, quantised=False)

    def test_zero3_that_would_save_nothing(self, args: Any) -> None:
        args.deepspeed_plugin = deepspeed(3, save=False)
        with pytest.raises(ValueError, match="zero3_save_16bit_model: true"):
            check_launch(args, adapted=False, quantised=False)

    def test_it_is_checked_before_the_model_is_loaded(self, args: Any, tmp_path: Path, tiny_model: Path) -> None:
        args.deepspeed_plugin = deepspeed(3, save=False)
        with pytest.raises(ValueError, match="zero3_save_16bit_model"):
            MultiAttemptPPOTrainer(str(tmp_path / "nothing"), args, train_set(), grade_by_length, preset=PRESET)


def test_fsdp_is_refused(args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="launch with accelerate_configs/zero3"):
        check_launch(args, adapted=False, quantised=False)


def test_a_launch_says_what_it_is(args: Any) -> None:
    assert str(Launch.of(args)) == "1 process (plain)"
    args.deepspeed_plugin = deepspeed(3)
    assert Launch.of(args) == Launch(backend="zero3", processes=1)
    assert str(Launch(backend="zero2", processes=8)) == "8 processes (zero2)"

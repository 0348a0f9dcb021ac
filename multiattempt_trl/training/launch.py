"""How a run was launched: how many processes, who holds what. What cannot work is said before a model is loaded."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from accelerate.utils import str_to_bool

if TYPE_CHECKING:
    from multiattempt_trl.training.configs import MultiAttemptGRPOConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What a checkpoint's shards depend on."""

    backend: str
    """`plain` (one process, or DDP), `zero1`, `zero2`, `zero3` or `fsdp`."""
    processes: int

    @classmethod
    def of(cls, args: "MultiAttemptGRPOConfig") -> Self:
        """Of the run that these arguments were made for."""
        backend = "fsdp" if _said("ACCELERATE_USE_FSDP") else "plain"
        if args.deepspeed_plugin is not None:
            backend = f"zero{args.deepspeed_plugin.zero_stage}"
        return cls(backend=backend, processes=args.world_size)

    def __str__(self) -> str:
        return f"{self.processes} process{'es' if self.processes > 1 else ''} ({self.backend})"


def check_processes(*, use_cpu: bool, fewest: int) -> None:
    """Raises `ValueError` where more processes were launched here than there are GPUs, or fewer than are needed."""
    processes, here = processes_launched(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if use_cpu:
        return
    found = torch.cuda.device_count()
    if here > 1 and here > found:
        raise ValueError(
            f"{here} processes were launched on this machine, which has {found} GPUs: launch with --num_processes "
            f"{max(found, 1)} (num_processes in the accelerate configuration), or on the CPU with --use_cpu true"
        )
    if processes < fewest:
        raise ValueError(
            f"this recipe needs at least min_processes={fewest} GPUs to fit, got {processes}: launch more with "
            "--num_processes, take a recipe for fewer, or lower min_processes if `multiattempt plan` says that it fits"
        )


def processes_launched() -> int:
    """Over all machines; every launcher says it before torch is asked."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulation_steps(update_batch_size: int, per_device: int, processes: int) -> int:
    """Micro-batches of `per_device` dialogues in each of `processes` that make one update of `update_batch_size`.

    Raises `ValueError` where they do not divide it.
    """
    at_once = per_device * processes
    if update_batch_size < 1 or update_batch_size % at_once:
        raise ValueError(
            f"update_batch_size={update_batch_size} cannot be shared out: {processes} processes x "
            f"per_device_train_batch_size={per_device} is {at_once} dialogues at a time, which must divide it"
        )
    return update_batch_size // at_once


def check_launch(args: "MultiAttemptGRPOConfig", *, adapted: bool, quantised: bool) -> None:
    """Raises `ValueError` for a launch that could not train as it says."""
    if args.world_size != processes_launched():
        raise ValueError(
            f"WORLD_SIZE={processes_launched()} is set, but this is one of {args.world_size} processes: launch with "
            "`accelerate launch`, or unset the variable"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs, and would copy the model to all of them at every step: launch one "
            "process per GPU (accelerate_configs/ddp.yaml), or one with CUDA_VISIBLE_DEVICES=0"
        )
    if _said("ACCELERATE_USE_FSDP"):
        raise ValueError(
            "FSDP shards the weights in a way that neither the dialogues nor the critic are written for: launch with "
            "accelerate_configs/zero3.yaml, which shards them as well"
        )
    if args.deepspeed_plugin is not None:
        _check_deepspeed(args, args.deepspeed_plugin)
        if args.deepspeed_plugin.zero_stage == 3:
            _check_zero3(args, args.deepspeed_plugin, adapted, quantised)


def _check_deepspeed(args: "MultiAttemptGRPOConfig", plugin: Any) -> None:
    config = plugin.deepspeed_config
    if _said("ACCELERATE_USE_CPU"):
        raise ValueError(
            "ACCELERATE_USE_CPU is set, which turns DeepSpeed off without a word: unset it (--use_cpu true in the "
            "recipe is enough), or launch with accelerate_configs/cpu_ddp.yaml"
        )
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise ValueError(
                f"the DeepSpeed configuration has its own {section!r}, which would be the critic's as well: take it "
                "out; the recipe says both models' optimizers and schedules"
            )
    clip = config.get("gradient_clipping", "auto")
    if clip != "auto" and float(clip) != args.max_grad_norm:
        raise ValueError(
            f"gradient_clipping is {clip} in the accelerate configuration but max_grad_norm is {args.max_grad_norm} "
            "in the recipe: write `gradient_clipping: auto`"
        )


def _check_zero3(args: "MultiAttemptGRPOConfig", plugin: Any, adapted: bool, quantised: bool) -> None:
    if quantised:
        raise ValueError(
            "ZeRO-3 would shard quantised weights, which it cannot put together again: launch QLoRA with "
            "accelerate_configs/ddp.yaml or zero2.yaml"
        )
    if args.use_transformers_continuous_batching and not args.ds3_gather_for_generation:
        raise ValueError(
            "continuous batching needs the whole policy in each process: leave out ds3_gather_for_generation: false "
            "or use_transformers_continuous_batching: true"
        )
    rows = args.forward_batch_size
    if adapted and args.gradient_checkpointing and rows is not None and rows < args.per_device_train_batch_size:
        raise ValueError(
            "under ZeRO-3 TRL checkpoints an adapter's activations in a way that allows one forward pass for each "
            f"backward pass, and forward_batch_size={rows} makes several of a micro-batch: leave it out, or launch "
            "with accelerate_configs/zero2.yaml"
        )
    if not plugin.deepspeed_config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(
            "ZeRO-3 would save no weights that load by themselves: write `zero3_save_16bit_model: true` in the "
            "accelerate configuration"
        )


def _said(variable: str) -> bool:
    return bool(str_to_bool(os.environ.get(variable, "false")))

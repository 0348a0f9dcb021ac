"""The rollout backend over the model that is being trained, with the sampling that its configuration asks for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from trl.import_utils import is_vllm_available
from trl.models import unwrap_model_for_generation

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Episode
from multiattempt_trl.dialogue.seeds import stable_seed
from multiattempt_trl.rollout.continuous_backend import ContinuousBackend, check_sampling
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.requests import RolloutBackend
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.transformers_backend import TransformersBackend
from multiattempt_trl.rollout.vllm_colocate import VLLMColocateBackend
from multiattempt_trl.rollout.vllm_server import VLLMServerBackend
from multiattempt_trl.training.progress import rollout_bar

if TYPE_CHECKING:
    from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
    from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer


COMPUTE_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What accelerate's mixed precision computes in."""


def generate_episodes(trainer: "MultiAttemptGRPOTrainer", envs: Sequence[Environment]) -> tuple[list[Episode], float]:
    """Plays one rollout with the current policy; each process its own dialogues, for as many rounds as they take.

    Random numbers of attempts are drawn from the run's seed, the step, the process and the dialogue, so that a resumed
    run needs no state for them.

    Returns: the episodes, and the seconds they took from when this process could ask.
    """
    if trainer.use_vllm and trainer.vllm_mode == "server":
        # TRL's main process sends the weights and the others do not wait, but ask the server themselves.
        trainer.accelerator.wait_for_everyone()
    seed = stable_seed(trainer.args.seed, trainer.state.global_step, trainer.accelerator.process_index)
    shown = trainer.accelerator.is_main_process and not trainer.args.disable_tqdm
    began = monotonic()
    with rollout_bar(len(envs), shown=shown) as on_progress:
        episodes = play(
            envs,
            training_backend(trainer),
            trainer.grade,
            trainer.renderer,
            trainer.limits,
            stop_at_box=trainer.args.stop_at_box,
            seed=seed,
            on_progress=on_progress,
        )
    return episodes, monotonic() - began


def training_backend(trainer: "MultiAttemptGRPOTrainer") -> RolloutBackend:
    """What generates: in lock step, or where asked for vLLM or continuous batching."""
    stop_ids, args = trainer.renderer.stop_ids, trainer.args
    sampling = Sampling(
        temperature=trainer.temperature,
        top_p=trainer.top_p,
        top_k=trainer.top_k,
        min_p=trainer.min_p,
        repetition_penalty=trainer.repetition_penalty,
    )
    dialogues = args.rollout_batch_size or len(trainer._rows)
    if args.use_vllm:
        return _vllm_backend(trainer, sampling, dialogues)
    if args.use_transformers_continuous_batching:
        return ContinuousBackend(
            lambda: policy_to_generate(trainer),
            trainer._tokenizer,
            stop_ids=stop_ids,
            sampling=sampling,
            dialogues=dialogues,
            memory_gib=args.rollout_memory_gib,
            autocast=autocast_type(trainer),
        )
    return TransformersBackend(
        lambda: policy_to_generate(trainer),
        trainer._tokenizer,
        pad_token_id=trainer._tokenizer.pad_token_id,
        stop_ids=stop_ids,
        sampling=sampling,
        batch_size=args.rollout_batch_size,
        anyone=None if holds_whole_policy(trainer) else lambda busy: _anyone(trainer, busy),
    )


def _vllm_backend(trainer: "MultiAttemptGRPOTrainer", sampling: Sampling, dialogues: int) -> RolloutBackend:
    args, stop_ids = trainer.args, trainer.renderer.stop_ids
    if args.vllm_mode == "colocate":
        return VLLMColocateBackend(
            trainer.vllm_generation, trainer._tokenizer, stop_ids=stop_ids, sampling=sampling, capacity=dialogues
        )
    return VLLMServerBackend(
        args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}",
        trainer._tokenizer,
        stop_ids=stop_ids,
        sampling=sampling,
        capacity=dialogues,
        stall_seconds=args.vllm_server_timeout,
    )


def tells_logprobs(args: "MultiAttemptGRPOConfig") -> bool:
    """Whether the sampler's log-probabilities are the policy's own, to be held against it.

    Lock step tells none, and what top-p, top-k or min-p leave out is left out of the others' sum.
    """
    told = args.use_transformers_continuous_batching or args.use_vllm
    return bool(told and args.top_p == 1.0 and not args.top_k and not args.min_p and args.repetition_penalty == 1.0)


def autocast_type(trainer: "MultiAttemptGRPOTrainer") -> torch.dtype | None:
    """What accelerate casts to in the policy's passes; None where it does not, as under DeepSpeed, whose weights are
    of the type already."""
    accelerator = trainer.accelerator
    return COMPUTE_TYPES.get(accelerator.mixed_precision) if accelerator.native_amp else None


def compute_type(trainer: "MultiAttemptGRPOTrainer") -> torch.dtype:
    """What the policy's passes compute in, once training has begun: until then DeepSpeed leaves the weights alone."""
    model_type: torch.dtype = trainer.model.dtype
    return autocast_type(trainer) or model_type


def check_generation(args: "MultiAttemptGRPOConfig") -> None:
    """Raises `ValueError` for a way to generate that is not there, and for options that nobody would read."""
    if args.use_vllm:
        check_vllm_options(args)
        if not is_vllm_available():
            raise ValueError(
                "use_vllm needs vLLM, which is not installed: pip install 'multiattempt_trl[vllm]', or say "
                "--use_transformers_continuous_batching true instead, which needs no other package"
            )
    if args.generation_kwargs:
        raise ValueError(
            f"generation_kwargs={args.generation_kwargs} is not read: say temperature, top_p, top_k, min_p or "
            "repetition_penalty by their own names"
        )
    if not args.use_transformers_continuous_batching:
        return
    check_sampling(args.repetition_penalty)
    if args.transformers_continuous_batching_config:
        raise ValueError(
            "transformers_continuous_batching_config is not read: the cache is made for the dialogues of a rollout; "
            "bound it by rollout_memory_gib"
        )
    if args.rollout_memory_gib <= 0:
        raise ValueError(f"rollout_memory_gib must be above 0, got {args.rollout_memory_gib}")


def check_vllm_options(args: "MultiAttemptGRPOConfig") -> None:
    """Raises `ValueError` for what cannot be said with `use_vllm`, whether or not vLLM is there."""
    if args.vllm_mode not in ("colocate", "server"):
        raise ValueError(f"vllm_mode must be 'colocate' or 'server', got {args.vllm_mode!r}")
    if not 0 < args.vllm_gpu_memory_utilization <= 1:
        raise ValueError(f"vllm_gpu_memory_utilization must be in (0, 1], got {args.vllm_gpu_memory_utilization}")
    if args.use_transformers_continuous_batching:
        raise ValueError("use_vllm and use_transformers_continuous_batching are two ways to generate: choose one")
    if args.vllm_structured_outputs_regex:
        raise ValueError(
            f"vllm_structured_outputs_regex={args.vllm_structured_outputs_regex!r} is not read: leave it out"
        )


def holds_whole_policy(trainer: "MultiAttemptGRPOTrainer") -> bool:
    """Whether a process can generate by itself: ZeRO-3's shards are gathered for a rollout, unless told otherwise."""
    return not trainer._dist.is_zero3 or bool(trainer.args.ds3_gather_for_generation)


@contextmanager
def policy_to_generate(trainer: "MultiAttemptGRPOTrainer") -> Iterator[PreTrainedModel]:
    """The policy unwrapped and, under ZeRO-3, gathered, as TRL does it; once for a whole rollout.

    Under mixed precision by one autocast, which casts the weights once and not at every token; PEFT would otherwise
    call an adapted model past accelerate's own.
    """
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        _quiet_coordinator(trainer),
        trainer.accelerator.autocast(),
    ):
        yield model


@contextmanager
def _quiet_coordinator(trainer: "MultiAttemptGRPOTrainer") -> Iterator[None]:
    """Keeps ZeRO-3 from comparing notes with the other processes at each forward pass of a gathered model.

    A hook on the root, which TRL leaves in place, would wait for all of them. Dialogues take different numbers of
    rounds, so some would wait for a pass that never comes.
    """
    optimizer = getattr(trainer.model_wrapped, "optimizer", None)
    offload = getattr(optimizer, "parameter_offload", None)
    if offload is None or not holds_whole_policy(trainer):
        yield
        return
    coordinator: Any = offload.get_param_coordinator()
    coordinator.reset_step = lambda: None  # stands before the class's own method
    try:
        yield
    finally:
        del coordinator.reset_step


def _anyone(trainer: "MultiAttemptGRPOTrainer", busy: bool) -> bool:
    total = trainer.accelerator.reduce(torch.tensor(float(busy), device=trainer.accelerator.device), "sum")
    return bool(total > 0)

"""The rollout backend over the model that is being trained, with the sampling that its configuration asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation

from multiattempt_trl.rollout.transformers_backend import Sampling, TransformersBackend

if TYPE_CHECKING:
    from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer


def training_backend(trainer: "MultiAttemptGRPOTrainer") -> TransformersBackend:
    """Lock-step generation with the current policy for one rollout.

    Every process generates for its own dialogues, for as many rounds as they take.
    """
    return TransformersBackend(
        lambda: policy_to_generate(trainer),
        trainer._tokenizer,
        pad_token_id=trainer._tokenizer.pad_token_id,
        stop_ids=trainer.renderer.stop_ids,
        sampling=Sampling(
            temperature=trainer.temperature,
            top_p=trainer.top_p,
            top_k=trainer.top_k,
            min_p=trainer.min_p,
            repetition_penalty=trainer.repetition_penalty,
        ),
        batch_size=trainer.args.rollout_batch_size,
        anyone=None if holds_whole_policy(trainer) else lambda busy: _anyone(trainer, busy),
    )


def holds_whole_policy(trainer: "MultiAttemptGRPOTrainer") -> bool:
    """Whether a process can generate by itself: ZeRO-3's shards are gathered for a rollout, unless told otherwise."""
    return not trainer._dist.is_zero3 or bool(trainer.args.ds3_gather_for_generation)


@contextmanager
def policy_to_generate(trainer: "MultiAttemptGRPOTrainer") -> Iterator[PreTrainedModel]:
    """The policy unwrapped and, under ZeRO-3, gathered, as TRL does it; once for a whole rollout."""
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        _quiet_coordinator(trainer),
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

"""The rollout backend over the model that is being trained, with the sampling that its configuration asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import PreTrainedModel
from trl.models import unwrap_model_for_generation

from multiattempt_trl.rollout.transformers_backend import Sampling, TransformersBackend

if TYPE_CHECKING:
    from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer


def training_backend(trainer: "MultiAttemptGRPOTrainer") -> TransformersBackend:
    """Lock-step generation with the current policy, unwrapped and gathered as TRL does it, for one rollout."""

    @contextmanager
    def open_model() -> Iterator[PreTrainedModel]:
        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model:
            yield model

    return TransformersBackend(
        open_model,
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
    )

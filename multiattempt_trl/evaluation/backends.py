"""What generates an evaluation: a model in this process, in lock step or without barriers, or vLLM."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from transformers import GenerationConfig, PreTrainedModel

from multiattempt_trl.dialogue.rendering import ChatTokenizer, Renderer
from multiattempt_trl.evaluation.protocols import Run
from multiattempt_trl.rollout.continuous_backend import ContinuousBackend
from multiattempt_trl.rollout.requests import RolloutBackend
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.transformers_backend import TransformersBackend
from multiattempt_trl.rollout.vllm_colocate import VLLMColocateBackend
from multiattempt_trl.rollout.vllm_server import VLLMServerBackend

Kind = Literal["transformers", "continuous", "vllm", "vllm-server"]
"""Lock step, transformers' continuous batching, a vLLM engine of our own, or a server that was started before."""
KINDS: tuple[Kind, ...] = get_args(Kind)

OpenBackend = Callable[[Run], RolloutBackend]
"""Makes what generates a run."""


def renderer_for(tokenizer: ChatTokenizer, generation: GenerationConfig | None) -> Renderer:
    """The renderer of a model's own words, whose EOS ids end a turn too."""
    eos: int | list[int] | None = generation.eos_token_id if generation else None
    return Renderer(tokenizer, [eos] if isinstance(eos, int) else eos or ())


def model_backend(
    kind: Kind,
    model: PreTrainedModel,
    tokenizer: ChatTokenizer,
    renderer: Renderer,
    sampling: Sampling,
    *,
    batch_size: int,
    memory_gib: float,
) -> RolloutBackend:
    """A backend over a model in this process, `batch_size` attempts at a time.

    Each attempt draws from random numbers of its own, so that what is sampled depends on the plan alone.
    """
    if kind == "continuous":
        device = model.device.type
        return ContinuousBackend(
            lambda: nullcontext(model),
            tokenizer,
            stop_ids=renderer.stop_ids,
            sampling=sampling,
            dialogues=batch_size,
            memory_gib=memory_gib,
            autocast=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        )
    assert kind == "transformers", "vLLM has no model of ours"
    pad: Any = getattr(tokenizer, "pad_token_id", None)
    return TransformersBackend.for_model(
        model,
        tokenizer,
        pad_token_id=renderer.stop_ids[0] if pad is None else pad,
        stop_ids=renderer.stop_ids,
        sampling=sampling,
        batch_size=batch_size,
        own_draws=True,
    )


def open_models(
    kind: Kind,
    model: PreTrainedModel,
    load_base: Callable[[], PreTrainedModel],
    tokenizer: ChatTokenizer,
    renderer: Renderer,
    *,
    batch_size: int,
    memory_gib: float,
) -> OpenBackend:
    """Backends over the model and, in runs of the base model, over that; it is loaded when it is first asked for."""
    loaded: list[PreTrainedModel] = []

    def of(run: Run) -> PreTrainedModel:
        if not run.of_base:
            return model
        if not loaded:
            loaded.append(load_base().eval())
        return loaded[0]

    return lambda run: model_backend(
        kind, of(run), tokenizer, renderer, run.sampling, batch_size=batch_size, memory_gib=memory_gib
    )


def open_vllm(
    engine: Any, tokenizer: ChatTokenizer, renderer: Renderer, *, server_url: str | None, batch_size: int
) -> OpenBackend:
    """Backends over an engine of this process (`rollout.vllm_engine`), or over a server."""
    stop_ids = renderer.stop_ids
    if server_url is None:
        return lambda run: VLLMColocateBackend(engine, tokenizer, stop_ids=stop_ids, sampling=run.sampling)
    return lambda run: VLLMServerBackend(
        server_url, tokenizer, stop_ids=stop_ids, sampling=run.sampling, capacity=batch_size
    )


@contextmanager
def borrowed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, put back at the end."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

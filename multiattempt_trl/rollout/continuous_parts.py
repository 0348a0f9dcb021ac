"""What continuous batching needs of ours: a request that ends at its box, and the model as it has to see it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.generation.continuous_batching import RequestState, RequestStatus

from multiattempt_trl.dialogue.boxes import BoxMatcher


class AttemptState(RequestState):
    """A request that also ends with the token that closes its box. transformers' stopping criteria are not asked."""

    closes_box: Callable[[int], bool] | None = None

    def update_and_check_completion(self, token_id: int, logprob: float | None) -> bool:
        sampling = self.status == RequestStatus.DECODING
        done: bool = super().update_and_check_completion(token_id, logprob)
        if sampling and not done and self.closes_box is not None and self.closes_box(token_id):
            self.status, done = RequestStatus.FINISHED, True
        return done

    def create_equivalent_initial_request(self) -> "AttemptState":
        """What is read again when the cache was full: the same attempt, in the midst of the same box."""
        plain: Any = super().create_equivalent_initial_request()
        plain.__class__ = AttemptState  # transformers names its own class there
        again: AttemptState = plain
        again.closes_box = self.closes_box
        return again


def closes_box(piece: Callable[[int], str]) -> Callable[[int], bool]:
    """Of each sampled token in turn: whether the attempt's first box is closed with it."""
    matcher = BoxMatcher()
    return lambda token_id: matcher.feed(piece(token_id)) is not None


def bytes_per_token(model: Any, dtype: torch.dtype, step: int) -> int:
    """What a token of the cache takes: keys and values in each layer and, in the layer at work, their copies and, but
    for flash attention, a column of the mask over the `step` tokens that are read at once."""
    config = model.config.get_text_config()
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    flash = "flash" in config._attn_implementation
    copies = 2 * kv_heads if flash else 2 * heads + kv_heads
    numbers = (2 * config.num_hidden_layers * kv_heads + copies) * head_dim + (0 if flash else step)
    return int(numbers * dtype.itemsize)


@contextmanager
def as_found(model: Any) -> Iterator[None]:
    """Puts the mode of every module and the attention back: a PEFT model's base would be left in `eval` mode."""
    modes = [(module, module.training) for module in model.modules()]
    attention = model.config._attn_implementation
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)


class Autocast:
    """A model that computes in another type than its weights have, and a cache of that type."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        with torch.autocast(self.model.device.type, self.dtype):
            return self.model(**inputs)


def cast_into(cache: Any, dtype: torch.dtype) -> None:
    """Has a paged cache keep what comes in its own type: under autocast, keys leave the rotation in float32."""
    update = cache.update

    def casting(key_states: torch.Tensor, value_states: torch.Tensor, **rest: Any) -> Any:
        return update(key_states=key_states.to(dtype), value_states=value_states.to(dtype), **rest)

    cache.update = casting  # attention asks for the class, so that a cache of ours around it would be passed over

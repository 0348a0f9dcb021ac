"""What continuous batching needs of ours: a request that ends at its box, and the model as it has to see it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import torch
from transformers.generation.continuous_batching import RequestState, RequestStatus

from multiattempt_trl.dialogue.boxes import BoxMatcher
from multiattempt_trl.rollout.paged_attention import NAME, Step
from multiattempt_trl.rollout.sampling import draw, uniform


class AttemptState(RequestState):
    """A request that also ends with the token that closes its box, and has its own random numbers.

    transformers' stopping criteria are not asked, and its random numbers go by the place in the batch.
    """

    closes_box: Callable[[int], bool] | None = None
    random: Random

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
        again.closes_box, again.random = self.closes_box, self.random
        return again


def closes_box(piece: Callable[[int], str]) -> Callable[[int], bool]:
    """Of each sampled token in turn: whether the attempt's first box is closed with it."""
    matcher = BoxMatcher()
    return lambda token_id: matcher.feed(piece(token_id)) is not None


def own_sampler(inputs: Any, *, greedy: bool) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """In place of transformers' `ModelRunner._sample`: each request's next token from its own random numbers.

    Writes tokens and log-probabilities into the rows of its output (2, n), the latter as the bits of float32.
    """

    def sample(scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        states = [future.state for future in inputs.requests_in_batch if future.has_new_token]
        rows = scores[0, : len(states)]  # (n, V): the requests that get a token come first
        tokens, logprobs = draw(rows, None if greedy else [uniform(state.random) for state in states])
        output_ids[0, : len(states)].copy_(tokens)
        output_ids[1, : len(states)].copy_(logprobs.view(torch.int32))

    return sample


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


def attends_by_row(model: Any) -> bool:
    """Whether our attention can stand in: for scaled dot products over all of a dialogue, and no more than that."""
    config = model.config.get_text_config()
    everywhere = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    window = None if getattr(config, "layer_types", None) else getattr(config, "sliding_window", None)
    return config._attn_implementation == "sdpa" and everywhere and window is None


class SteppedModel:
    """A model as continuous batching calls it: its type, which is its cache's, may be another than that of its
    weights, and with our attention it is told which pages each row reads."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.step: Callable[[], Step] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs, **({} if self.step is None else {"step": self.step()}))


def attend_by_row(model: SteppedModel, processor: Any) -> None:
    """Has the model attend by `paged_attention`. No indices of single tokens are made any more, but block tables
    are read as they stand."""
    (allocator,) = processor.cache.cache_allocators.values()
    stride = allocator.block_physical_stride // allocator.tokens_per_page
    processor.cache.extend_read_and_write_indices = lambda *_: None
    inputs, device = processor.inputs_and_outputs, model.device

    def step() -> Step:
        futures = inputs.requests_in_batch
        return Step.of(
            [allocator.block_table[future.state.request_id] for future in futures],
            [future.query_length for future in futures],
            [future.state.position_offset for future in futures],
            page=allocator.tokens_per_page,
            stride=stride,
            device=device,
        )

    model.step = step


def cast_into(cache: Any, dtype: torch.dtype) -> None:
    """Has a paged cache keep what comes in its own type: under autocast, keys leave the rotation in float32."""
    update = cache.update

    def casting(key_states: torch.Tensor, value_states: torch.Tensor, **rest: Any) -> Any:
        return update(key_states=key_states.to(dtype), value_states=value_states.to(dtype), **rest)

    cache.update = casting  # attention asks for the class, so that a cache of ours around it would be passed over


def use_own_attention(model: Any) -> None:
    """For this model alone, until `as_found` puts back what was there."""
    model.set_attn_implementation(NAME)

"""The backend without barriers: transformers' continuous batching takes an attempt while others are generated."""

import logging
import math
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from random import Random
from types import TracebackType
from typing import Any, Self

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching import RequestStatus

from multiattempt_trl.dialogue.rendering import ChatTokenizer
from multiattempt_trl.rollout.continuous_parts import (
    AttemptState,
    SteppedModel,
    as_found,
    attend_by_row,
    attends_by_row,
    cast_into,
    closes_box,
    own_sampler,
    use_own_attention,
)
from multiattempt_trl.rollout.ends import Pieces, end_of
from multiattempt_trl.rollout.paging import KeyValues, Paging
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling

logger = logging.getLogger(__name__)


class ContinuousBackend:
    """Generates attempts as they come, each beside whichever others are under way.

    One manager of transformers lives as long as the `with` block: its pages hold keys and values of the weights it
    began with. Within it, an attempt finds the pages of its dialogue's earlier attempts. Its steps are taken by
    `poll`, not by a thread, so that what raises in one is raised here, and nothing runs on when a rollout is
    interrupted.

    Each attempt draws from random numbers of its own, so that what is sampled does not depend on who shares a step,
    but for the rounding of sums, which may differ with the size of the batch. torch's random state is not touched.

    Args:
        open_model: a context manager that yields the model ready to generate; open for a whole rollout.
        tokenizer: its text tells where a box closes.
        stop_ids: ids that end an attempt.
        dialogues: the most attempts that are under way together.
        memory_gib: bound on what the cache of keys and values takes with the copies that attention makes. Where it
            does not hold all dialogues at their longest, some wait, or are read again.
        autocast: the type to compute in, where it is not that of the weights.

    Raises `ValueError` for a repetition penalty, and for fewer dialogues than 1.

    Sources: scheduling by the step is Orca's (https://www.usenix.org/conference/osdi22/presentation/yu); pages, which
    requests share, are PagedAttention's (https://arxiv.org/abs/2309.06180).
    """

    eager = True

    def __init__(
        self,
        open_model: Callable[[], AbstractContextManager[PreTrainedModel]],
        tokenizer: ChatTokenizer,
        *,
        stop_ids: Sequence[int],
        sampling: Sampling,
        dialogues: int,
        memory_gib: float = 8.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_sampling(sampling.repetition_penalty)
        if dialogues < 1:
            raise ValueError(f"dialogues under way together must be at least 1, got {dialogues}")
        self.open_model, self.stop_ids, self.sampling = open_model, tuple(stop_ids), sampling
        self.capacity, self.memory_gib, self.autocast = dialogues, memory_gib, autocast
        self.piece = Pieces(tokenizer)
        self._running: dict[str, GenRequest] = {}
        self._manager: Any = None
        self._processor: Any = None
        self._model: Any = None

    @classmethod
    def for_model(cls, model: PreTrainedModel, tokenizer: ChatTokenizer, **kwargs: Any) -> Self:
        """A backend over a model that is always ready, as in evaluation."""
        return cls(lambda: nullcontext(model), tokenizer, **kwargs)

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        # Who has no dialogue opens the model with the others all the same, over the smallest of caches.
        self._longest, self._feedback = sorted(longest or [1], reverse=True)[: self.capacity], feedback

    def __enter__(self) -> Self:
        self._running = {}
        with ExitStack() as stack:  # puts back what was done so far where a line of it raises
            model: Any = stack.enter_context(self.open_model())
            stack.enter_context(as_found(model))
            if self.autocast is not None:  # once for all steps, so that weights are cast once
                stack.enter_context(torch.autocast(model.device.type, self.autocast))
            model.destroy_cached_continuous_batching_manager()  # one that somebody kept would be taken up again
            sampling = GenerationConfig(eos_token_id=list(self.stop_ids), **self.sampling.generation_kwargs())
            stack.callback(self._forget)
            self._manager = model.init_continuous_batching(sampling, self._config(model))
            self._begin(model)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def submit(self, requests: list[GenRequest]) -> None:
        for request in requests:
            longest = len(request.prompt_ids) + request.max_new_tokens
            assert longest <= self._longest[0], "a dialogue is longer than was expected"
            name = str(request.request_id)
            self._running[name] = request
            state = AttemptState(
                request_id=name,
                initial_tokens=list(request.prompt_ids),
                max_new_tokens=request.max_new_tokens,
                eos_token_id=list(self.stop_ids),
            )
            state.random = Random(request.seed)
            state.closes_box = closes_box(self.piece) if request.stop_at_box else None
            self._manager.input_queue.put(state)  # `add_request` would make a plain state, which stops at no box

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        """Takes steps until an attempt has ended, or for `timeout` seconds (None: no limit), but at least one.

        Raises whatever the model raises.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        results: list[GenResult] = []
        while self._running and not results:
            results = self._step()
            if time.monotonic() >= until:
                break
        return results

    def _step(self) -> list[GenResult]:
        if self._processor.prepare_next_batch():
            self._processor._generation_step(self._model)
            self._processor.update_batch()
        finished = self._manager.output_router.output_queue
        results: list[GenResult] = []
        while True:
            try:
                results.append(self._result(finished.get_nowait()))
            except queue.Empty:
                return results

    def _result(self, output: Any) -> GenResult:
        request = self._running.pop(output.request_id)
        if output.status == RequestStatus.FAILED:
            logger.warning("attempt of dialogue %s failed: %s", request.request_id, output.error)
            return GenResult(
                request_id=request.request_id, token_ids=(), finish_reason="error", error=str(output.error)
            )
        token_ids, logprobs = tuple(output.generated_tokens), tuple(output.logprobs)
        count, reason = end_of(request, token_ids, self.stop_ids, self.piece)
        assert count == len(token_ids) == len(logprobs), "continuous batching went on after the end of an attempt"
        return GenResult(request_id=request.request_id, token_ids=token_ids, finish_reason=reason, logprobs=logprobs)

    def _begin(self, model: Any) -> None:
        by_row = attends_by_row(model)
        if by_row:
            use_own_attention(model)  # after the manager has looked at it, which knows no other than its own
        self._model = self._manager.model = SteppedModel(self._manager.model, self.autocast or model.dtype)
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):  # it sets torch's seed
            self._processor = self._manager._create_batch_processor()
        inputs = self._processor.inputs_and_outputs
        inputs.compute_stream = None  # each step waits for its tokens, so that another stream would gain nothing
        self._processor.model_runner._sample = own_sampler(inputs, greedy=self.sampling.temperature == 0)
        if by_row:
            attend_by_row(self._model, self._processor)
        elif self.autocast is not None:
            cast_into(self._processor.cache, self.autocast)

    def _forget(self) -> None:
        if self._manager is not None:
            self._manager.destroy()
        self._manager = self._processor = self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _config(self, model: Any) -> ContinuousBatchingConfig:
        paging = Paging.of(
            KeyValues.of(model.config.get_text_config(), self.autocast or model.dtype),
            by_row=attends_by_row(model),
            longest=self._longest,
            feedback=self._feedback,
            memory_gib=self.memory_gib,
        )
        return ContinuousBatchingConfig(
            page_size=paging.page_size,
            num_blocks=paging.pages,
            max_batch_tokens=paging.step_tokens,
            max_requests_per_batch=len(self._longest),
            safety_margin=paging.free_share,
            max_memory_percent=1e6,  # `memory_gib` is the bound; theirs would also count a mask that is not made
            return_logprobs=True,
            auto_switch_to_flash=False,  # attend as in training; the switch may also load a kernel from the Hub
            max_blocks_per_request=0,  # flash attention's way to decode, which needs pages of 256 tokens
            use_async_batching=False,
            use_cuda_graph=False,
        )


def check_sampling(repetition_penalty: float) -> None:
    """Raises `ValueError` for what continuous batching would leave out with no more than a warning."""
    if repetition_penalty != 1.0:
        raise ValueError(
            f"continuous batching has no repetition_penalty, got {repetition_penalty}: leave it at 1.0, or generate "
            "in lock step"
        )

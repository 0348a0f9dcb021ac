"""The backend without barriers: transformers' continuous batching takes an attempt while others are generated."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching import RequestStatus

from multiattempt_trl.dialogue.rendering import ChatTokenizer
from multiattempt_trl.rollout.continuous_parts import (
    AttemptState,
    Autocast,
    as_found,
    bytes_per_token,
    cast_into,
    closes_box,
)
from multiattempt_trl.rollout.ends import Pieces, end_of
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.transformers_backend import Sampling

logger = logging.getLogger(__name__)

PAGE_SIZE = 16
"""Tokens of a page. The next attempt finds whole pages only, and a short dialogue fills few large ones."""
PREFILL_TOKENS = 512
"""Prompt tokens that one step may read beside the token of each dialogue: more would let those wait for longer, and
without flash attention take more memory for the mask."""
FREE_SHARE = 0.15
"""Where less of the cache is free, transformers drops what finished attempts left in it (its own default)."""
LOOK_SECONDS = 0.1
"""How often a wait looks whether the thread that generates still lives."""


class ContinuousBackend:
    """Generates attempts as they come, each beside whichever others are under way.

    One manager of transformers lives as long as the `with` block: its pages hold keys and values of the weights it
    began with. Within it, an attempt finds the pages of its dialogue's earlier attempts.

    Which attempts share a step depends on when they come, and so does the order of the random numbers: what is sampled
    above temperature 0 does not repeat from run to run. The random state is left as one draw leaves it.

    Args:
        open_model: a context manager that yields the model ready to generate; open for a whole rollout.
        tokenizer: its text tells where a box closes.
        stop_ids: ids that end an attempt.
        dialogues: the most attempts that are under way together.
        context: the most tokens of a dialogue.
        memory_gib: bound on what the cache of keys and values takes with the mask and the copies that attention makes.
            Where it does not hold all dialogues at their longest, some wait, or are read again.
        autocast: the type to compute in, where it is not that of the weights.

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
        context: int,
        memory_gib: float = 8.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_sampling(sampling.repetition_penalty)
        self.open_model, self.stop_ids, self.sampling = open_model, tuple(stop_ids), sampling
        self.dialogues, self.context, self.memory_gib, self.autocast = dialogues, context, memory_gib, autocast
        self.piece = Pieces(tokenizer)
        self._running: dict[str, GenRequest] = {}
        self._manager: Any = None

    @classmethod
    def for_model(cls, model: PreTrainedModel, tokenizer: ChatTokenizer, **kwargs: Any) -> Self:
        """A backend over a model that is always ready, as in evaluation."""
        return cls(lambda: nullcontext(model), tokenizer, **kwargs)

    def __enter__(self) -> Self:
        self._running = {}
        with ExitStack() as stack:  # puts back what was done so far where a line of it raises
            model: Any = stack.enter_context(self.open_model())
            stack.enter_context(as_found(model))
            seed = int(torch.randint(2**31, (1,)))
            stack.enter_context(torch.random.fork_rng([model.device] if model.device.type == "cuda" else []))
            model.destroy_cached_continuous_batching_manager()  # one that somebody kept would be taken up again
            self._manager = model.init_continuous_batching(
                GenerationConfig(eos_token_id=list(self.stop_ids), **self.sampling.generation_kwargs()),
                self._config(model, seed),
            )
            if self.autocast is not None:
                self._manager.model = Autocast(self._manager.model, self.autocast)
            stack.callback(self._stop)
            self._manager.warmup()  # makes the cache in this thread, so that its errors are raised here
            if self.autocast is not None:
                cast_into(self._manager.batch_processor.cache, self.autocast)
            self._manager.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def submit(self, requests: list[GenRequest]) -> None:
        for request in requests:
            longest = len(request.prompt_ids) + request.max_new_tokens
            if longest > self.context:
                raise ValueError(f"an attempt may need {longest} tokens, and the cache was made for {self.context}")
            name = str(request.request_id)
            self._running[name] = request
            state = AttemptState(
                request_id=name,
                initial_tokens=list(request.prompt_ids),
                max_new_tokens=request.max_new_tokens,
                eos_token_id=list(self.stop_ids),
            )
            state.closes_box = closes_box(self.piece) if request.stop_at_box else None
            self._manager.input_queue.put(state)  # `add_request` would make a plain state, which stops at no box
        self._manager._wake_up_loop.set()

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        """What has finished, at least one where any is running; waits at most `timeout` seconds (None: no limit).

        Raises `RuntimeError` where the thread that generates has died.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        results: list[GenResult] = []
        while self._running:
            alive = self._manager.is_running()
            wait = 0.0 if results or not alive else min(LOOK_SECONDS, max(0.0, until - time.monotonic()))
            output = self._manager.get_result(timeout=wait)
            if output is not None:
                results.append(self._result(output))
            elif not alive:
                raise self._dead(self._manager.background_thread_status.fatal_error)
            elif results or time.monotonic() >= until:
                break
        return results

    def _result(self, output: Any) -> GenResult:
        failed = output.status == RequestStatus.FAILED
        if failed and self._manager.background_thread_status.can_accept_new_requests() is not None:
            raise self._dead(output.error)  # all requests fail together: the thread ends
        request = self._running.pop(output.request_id)
        if failed:
            logger.warning("attempt of dialogue %s failed: %s", request.request_id, output.error)
            return GenResult(request_id=request.request_id, token_ids=(), finish_reason="error")
        token_ids, logprobs = tuple(output.generated_tokens), tuple(output.logprobs)
        count, reason = end_of(request, token_ids, self.stop_ids, self.piece)
        assert count == len(token_ids) == len(logprobs), "continuous batching went on after the end of an attempt"
        return GenResult(request_id=request.request_id, token_ids=token_ids, finish_reason=reason, logprobs=logprobs)

    def _dead(self, error: object) -> RuntimeError:
        return RuntimeError(f"continuous batching ended with {len(self._running)} attempts under way: {error}")

    def _stop(self) -> None:
        manager, self._manager = self._manager, None
        manager.stop(hard_stop=True)  # blocks until the thread has ended
        manager.destroy()

    def _config(self, model: Any, seed: int) -> ContinuousBatchingConfig:
        step = self.dialogues + PREFILL_TOKENS
        pages = math.ceil(self.context / PAGE_SIZE)
        wanted = math.ceil(pages * self.dialogues / (1 - FREE_SHARE))
        fits = int(self.memory_gib * 2**30 / (PAGE_SIZE * bytes_per_token(model, self.autocast or model.dtype, step)))
        if fits < pages:
            raise ValueError(
                f"one dialogue of {self.context} tokens does not fit into {self.memory_gib} GiB, which hold "
                f"{fits * PAGE_SIZE}: allow more memory, or shorten the context"
            )
        return ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=min(wanted, fits),
            max_batch_tokens=step,
            max_requests_per_batch=self.dialogues,
            safety_margin=FREE_SHARE,
            return_logprobs=True,
            seed=seed,
            auto_switch_to_flash=False,  # attend as in training; the switch may also load a kernel from the Hub
            # Not tried, and worth their memory and start for a server rather than for a rollout:
            max_blocks_per_request=0,
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

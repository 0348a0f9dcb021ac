"""The lock-step backend: one Hugging Face `generate` over all waiting attempts. Needs nothing but transformers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from multiattempt_trl.dialogue.boxes import BoxMatcher
from multiattempt_trl.dialogue.rendering import ChatTokenizer
from multiattempt_trl.rollout.ends import Pieces, end_of
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import OwnDraws, Sampling


class TransformersBackend:
    """Generates all submitted requests together, in chunks of `batch_size` rows.

    Args:
        open_model: a context manager that yields the model ready to generate (TRL's `unwrap_model_for_generation` in
            training); it is open for a whole rollout.
        tokenizer: its pad id fills the left of shorter prompts, and its text tells where a box closes.
        stop_ids: ids that end an attempt.
        batch_size: rows per `generate` call; None for all at once.
        own_draws: each attempt draws from random numbers of its own (`GenRequest.seed`), so that what is sampled does
            not depend on who is generated beside it; else from torch's state, as stock GRPO does.
        anyone: for a model whose shards are spread over processes, which all must call `generate` equally often: tells
            whether any of them is busy, given whether this one is. A process that is done generates for nobody until
            all are. None where each process has a whole model.
        streamer: is told of the tokens as they come, which `generate` does for one row alone (`rollout/streaming.py`).
    """

    eager = False
    capacity = None

    def __init__(
        self,
        open_model: Callable[[], AbstractContextManager[PreTrainedModel]],
        tokenizer: ChatTokenizer,
        *,
        pad_token_id: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        batch_size: int | None = None,
        own_draws: bool = False,
        anyone: Callable[[bool], bool] | None = None,
        streamer: BaseStreamer | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the generation batch size must be at least 1, got {batch_size}")
        if streamer is not None and batch_size != 1:
            raise ValueError(f"a streamer follows one attempt at a time: set batch_size=1, got {batch_size}")
        self.open_model, self.tokenizer, self.batch_size, self.anyone = open_model, tokenizer, batch_size, anyone
        self.pad_token_id, self.stop_ids, self.sampling = pad_token_id, tuple(stop_ids), sampling
        self.own_draws, self.streamer = own_draws and sampling.temperature > 0, streamer
        self.piece = Pieces(tokenizer)
        self._waiting: list[GenRequest] = []

    @classmethod
    def for_model(cls, model: PreTrainedModel, tokenizer: ChatTokenizer, **kwargs: Any) -> Self:
        """A backend over a model that is always ready, as in evaluation."""
        return cls(lambda: nullcontext(model), tokenizer, **kwargs)

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        """Whatever comes, `generate` makes room for it."""

    def __enter__(self) -> Self:
        self._waiting = []
        self._context = self.open_model()
        self._model = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.anyone is not None:
            self._wait_for_others(self.anyone)
        del self._model
        self._context.__exit__(kind, error, trace)

    def submit(self, requests: list[GenRequest]) -> None:
        self._waiting += requests

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        """The next chunk of what was submitted; `timeout` has no meaning here."""
        size = self.batch_size or len(self._waiting)
        chunk, self._waiting = self._waiting[:size], self._waiting[size:]
        if chunk and self.anyone is not None:
            self.anyone(True)
        return self._generate(chunk) if chunk else []

    def _wait_for_others(self, anyone: Callable[[bool], bool]) -> None:
        idle = GenRequest(request_id=-1, prompt_ids=self.stop_ids[:1], max_new_tokens=1, stop_at_box=False)
        device = self._model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # what is real draws alike
            while anyone(False):
                self._generate([idle])

    @torch.no_grad()
    def _generate(self, requests: list[GenRequest]) -> list[GenResult]:
        device = self._model.device
        width = max(len(request.prompt_ids) for request in requests)
        pads = [width - len(request.prompt_ids) for request in requests]
        rows = [[self.pad_token_id] * pad + list(r.prompt_ids) for pad, r in zip(pads, requests, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        ends = AttemptEnds(requests, self.piece, width)
        config = GenerationConfig(
            max_new_tokens=max(request.max_new_tokens for request in requests),
            pad_token_id=self.pad_token_id,
            eos_token_id=list(self.stop_ids),
            disable_compile=True,
            **self.sampling.generation_kwargs(own_draws=self.own_draws),
        )
        model: Any = self._model  # its `generate` is a mixin's, which type checkers take for a submodule
        output = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=config,
            synced_gpus=self.anyone is not None,  # else transformers takes ZeRO-3's word that it must be
            logits_processor=self._draws(requests),
            # Without need of it, leave `generate` as stock GRPO calls it.
            stopping_criteria=StoppingCriteriaList([ends]) if ends.needed else None,
            streamer=self.streamer,
        )
        sampled = output[:, width:].tolist()
        return [self._result(request, ids) for request, ids in zip(requests, sampled, strict=True)]

    def _draws(self, requests: Sequence[GenRequest]) -> LogitsProcessorList | None:
        if not self.own_draws:
            return None
        return LogitsProcessorList([OwnDraws(self.sampling, [request.seed for request in requests])])

    def _result(self, request: GenRequest, token_ids: list[int]) -> GenResult:
        """Cuts a row at its own end: what follows are pads, or tokens sampled while longer rows went on."""
        count, reason = end_of(request, token_ids, self.stop_ids, self.piece)
        return GenResult(request_id=request.request_id, token_ids=tuple(token_ids[:count]), finish_reason=reason)


class AttemptEnds(StoppingCriteria):
    """Ends each row at its closed box or its own token cap, while the others go on."""

    def __init__(self, requests: Sequence[GenRequest], piece: Callable[[int], str], prompt_width: int) -> None:
        self.caps = torch.tensor([request.max_new_tokens for request in requests])
        self.matchers = [BoxMatcher() if request.stop_at_box else None for request in requests]
        self.piece, self.prompt_width = piece, prompt_width

    @property
    def needed(self) -> bool:
        return any(self.matchers) or len(set(self.caps.tolist())) > 1

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        done = self.caps <= input_ids.size(1) - self.prompt_width
        for row, (matcher, token_id) in enumerate(zip(self.matchers, input_ids[:, -1].tolist(), strict=True)):
            if matcher is not None:
                matcher.feed(self.piece(token_id))
                done[row] |= matcher.closed
        return done.to(input_ids.device)  # type: ignore[return-value]

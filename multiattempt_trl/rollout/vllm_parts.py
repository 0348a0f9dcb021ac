"""What both ways to vLLM share: a request in its words, and an attempt whose tokens come a few at a time."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from multiattempt_trl.dialogue.boxes import BoxMatcher
from multiattempt_trl.rollout.ends import end_of
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling

logger = logging.getLogger(__name__)


def parameters(request: GenRequest, sampling: Sampling, stop_ids: Sequence[int]) -> dict[str, Any]:
    """A request as vLLM's sampling parameters; all are given, since a model may bring its own for those that are not.

    Source: https://docs.vllm.ai/en/latest/api/vllm/sampling_params/
    """
    greedy = sampling.temperature == 0
    return {
        "temperature": sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "top_k": 0 if greedy else sampling.top_k,
        "min_p": 0.0 if greedy else sampling.min_p or 0.0,
        "repetition_penalty": 1.0 if greedy else sampling.repetition_penalty,
        "max_tokens": request.max_new_tokens,
        "seed": request.seed,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": True,  # what ends an attempt is said by our stop ids alone
        "logprobs": 0,  # of the sampled token and no other
        "skip_special_tokens": False,
    }


class StreamedAttempt:
    """An attempt as its tokens come, over where our own count says so.

    Args:
        piece: each token's own text, which tells where the box closes.
    """

    def __init__(self, request: GenRequest, stop_ids: Sequence[int], piece: Callable[[int], str]) -> None:
        self.request, self.stop_ids, self.piece = request, stop_ids, piece
        self.token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._matcher = BoxMatcher() if request.stop_at_box else None

    def add(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> GenResult | None:
        """The result, once the attempt is over. What the engine sampled beyond its end is cut off."""
        self.token_ids += token_ids
        self._logprobs += logprobs
        assert len(self.token_ids) == len(self._logprobs), "every token has its log-probability"
        closed = self._matcher is not None and any(
            self._matcher.feed(self.piece(token_id)) is not None for token_id in token_ids
        )
        ended = any(token_id in self.stop_ids for token_id in token_ids)
        if not (closed or ended or len(self.token_ids) >= self.request.max_new_tokens):
            return None
        count, reason = end_of(self.request, self.token_ids, self.stop_ids, self.piece)
        return GenResult(
            request_id=self.request.request_id,
            token_ids=tuple(self.token_ids[:count]),
            finish_reason=reason,
            logprobs=tuple(self._logprobs[:count]),
        )


def failed(request: GenRequest, why: str) -> GenResult:
    """The result of a request that was lost alone, which is also told in the log."""
    logger.warning("attempt of dialogue %s failed: %s", request.request_id, why)
    return GenResult(request_id=request.request_id, token_ids=(), finish_reason="error", error=why)


def check_context(longest: Sequence[int], held: int | None, remedy: str) -> None:
    """Raises `ValueError` where a dialogue could outgrow what the engine holds; None where that is not known."""
    most = max(longest, default=0)
    if held is not None and most > held:
        raise ValueError(
            f"a dialogue may come to {most} tokens, and vLLM holds {held} (its max_model_len): {remedy} at least "
            f"{most}, or lower the token limits"
        )

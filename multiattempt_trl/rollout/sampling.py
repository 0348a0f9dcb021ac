"""How tokens are drawn, and how an attempt draws the same ones whoever is generated beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

BLOCK = 64
"""Words whose probabilities are summed at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0 (0 is greedy), got {self.temperature}")

    def generation_kwargs(self, *, own_draws: bool = False) -> dict[str, Any]:
        """The same as arguments of a transformers `GenerationConfig`; with `OwnDraws`, all but what those do."""
        if self.temperature == 0 or own_draws:
            # Neutral values, since a model's own generation_config may carry others.
            penalty = self.repetition_penalty if own_draws else 1.0
            return {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": penalty}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }

    def warpers(self) -> LogitsProcessorList:
        """What transformers does to the scores before it draws, but for the repetition penalty, in its order."""
        chosen: list[LogitsProcessor] = []
        if self.temperature != 1:
            chosen.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k > 0:
            chosen.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            chosen.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            chosen.append(MinPLogitsWarper(self.min_p))
        return LogitsProcessorList(chosen)


class OwnDraws(LogitsProcessor):
    """Draws each row's next token from random numbers of its own, and puts it before all others.

    With it, `generate` gives a row the same tokens whatever rows stand beside it, but for the rounding of sums, and
    leaves torch's random state alone. It is to run with `do_sample=False`, as the last processor.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.warpers, self.randoms = sampling.warpers(), [Random(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        tokens, _ = draw(self.warpers(input_ids, scores), [uniform(random) for random in self.randoms])
        # Written into them: another tensor over the whole vocabulary would take as long as all that comes before.
        return scores.scatter_(1, tokens[:, None], torch.inf)  # type: ignore[return-value]


def uniform(random: Random) -> float:
    """On [0, 1), in steps of 2^-52: times any sum of probabilities it stays below the sum after rounding."""
    return random.getrandbits(52) * 2.0**-52


def draw(scores: torch.Tensor, uniforms: Sequence[float] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """One token of each row with its log-probability: by the inverse of the cumulative distribution, one number each.

    Probabilities are summed in blocks, and the blocks in double precision: torch's `log_softmax` of float32 is off by
    up to 5e-4 for 150,000 words on a CPU, and a sum over all words in double precision takes several times as long.

    Args:
        scores: (n, V), log-probabilities but for a constant; what is -inf is never drawn.
        uniforms: n numbers on [0, 1); None for the likeliest tokens.

    Returns: (n,) and (n,), the latter float32.

    Raises `FloatingPointError` for scores that are NaN or infinite.
    """
    weights = scores.softmax(-1, dtype=torch.float32)  # probabilities but for the rounding of their sum
    blocks = _padded(weights).unflatten(1, (-1, BLOCK))  # (n, V / BLOCK, BLOCK)
    cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.double)  # (n, V / BLOCK)
    total = cumulative[:, -1]
    _check_finite(total)
    tokens = scores.argmax(-1) if uniforms is None else _search(blocks, cumulative, uniforms)
    return tokens, (weights.gather(1, tokens[:, None]).squeeze(1).double().log() - total.log()).float()


def _padded(weights: torch.Tensor) -> torch.Tensor:
    """With words that are never drawn, up to a whole number of blocks."""
    missing = -weights.size(1) % BLOCK
    return torch.nn.functional.pad(weights, (0, missing)) if missing else weights


def _search(blocks: torch.Tensor, cumulative: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """(n,): the token in which each row's number falls; first the block, then the place in it."""
    target = torch.tensor(uniforms, dtype=torch.double, device=blocks.device) * cumulative[:, -1]
    block = torch.searchsorted(cumulative, target[:, None], right=True)  # (n, 1)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1).cumsum(-1, dtype=torch.double)
    place = torch.searchsorted(inside, target[:, None] - before, right=True)
    # A block's own sum is rounded otherwise than these: its last word that can be drawn is the last one.
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    return (block * BLOCK + torch.minimum(place, last)).squeeze(1)


def _check_finite(total: torch.Tensor) -> None:
    """Asked before there is an index: out of bounds, it would end a process on a GPU without a word of why.

    It waits for the GPU, but so does the caller right after, who looks at the tokens of every step.
    """
    finite = total.isfinite()
    if not bool(finite.all()):
        raise FloatingPointError(
            f"the model's scores are not numbers in {int((~finite).sum())} of {len(total)} rows: its weights are "
            "broken (look at loss and grad_norm, and go on from an earlier checkpoint), or its type is too narrow "
            "(--dtype float32)"
        )

"""How tokens are drawn, and how an attempt draws the same ones whoever is generated beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch


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

    def generation_kwargs(self) -> dict[str, Any]:
        """The same as arguments of a transformers `GenerationConfig`."""
        if self.temperature == 0:
            # Neutral values, since a model's own generation_config may carry others.
            return {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }


def uniform(random: Random) -> float:
    """On [0, 1), in steps of 2^-52: times any sum of probabilities it stays below the sum after rounding."""
    return random.getrandbits(52) * 2.0**-52


def draw(logprobs: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """One token of each row, by the inverse of its cumulative distribution: one random number a token, and its own.

    Args:
        logprobs: (n, V); what is -inf is never drawn.
        uniforms: n numbers on [0, 1).

    Returns: (n,).
    """
    cumulative = logprobs.double().exp().cumsum(-1)
    target = torch.tensor(uniforms, dtype=torch.double, device=logprobs.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)

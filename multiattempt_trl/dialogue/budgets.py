"""How many attempts a question gets in this step: a stable function of (seed, step, question), no sampler's state."""

from hashlib import blake2b
from typing import Literal

BudgetDraw = Literal["uniform", "fixed", "per_sample"]


def draw_budget(
    seed: int,
    step: int,
    question_id: str,
    max_attempts: int,
    draw: BudgetDraw = "uniform",
    sibling: int = 0,
    single_share: float = 0.0,
) -> int:
    """N for this question at this step: uniform on {1, ..., max_attempts} (paper, section 2), or always max_attempts.

    Every sibling of a GRPO group gets the same N wherever it runs, or with `per_sample` one of its own: the first
    (0) that of `uniform`. `single_share` of the questions get a single attempt instead, all siblings alike. A resumed
    run needs no random state. The draw is 64 bits modulo M, so its bias is below 1e-18.

    >>> [draw_budget(0, step, "gcd-12-18", 5) for step in range(6)]
    [3, 3, 1, 4, 5, 1]
    >>> [draw_budget(0, 0, "gcd-12-18", 5, "per_sample", sibling) for sibling in range(6)]
    [3, 5, 3, 2, 5, 2]
    """
    key = f"{seed}\x00{step}\x00{question_id}"
    if single_share and _hash(f"{key}\x00single") < single_share * 2**64:
        return 1
    if draw == "fixed":
        return max_attempts
    if draw == "per_sample" and sibling:
        key += f"\x00{sibling}"
    return 1 + _hash(key) % max_attempts


def share_with_at_least(k: int, max_attempts: int, draw: BudgetDraw = "uniform", single_share: float = 0.0) -> float:
    """P(N >= k) for k from 1 to max_attempts.

    >>> [round(share_with_at_least(k, 5, single_share=0.5), 3) for k in (1, 2, 5)]
    [1.0, 0.4, 0.1]
    """
    drawn = 1.0 if draw == "fixed" else 1 - (k - 1) / max_attempts
    return drawn if k == 1 else (1 - single_share) * drawn


def _hash(key: str) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")

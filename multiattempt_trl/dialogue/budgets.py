"""How many attempts a question gets in this step: a stable function of (seed, step, question), no sampler's state."""

from hashlib import blake2b
from typing import Literal

BudgetDraw = Literal["uniform", "fixed", "per_sample"]


def draw_budget(
    seed: int, step: int, question_id: str, max_attempts: int, draw: BudgetDraw = "uniform", sibling: int = 0
) -> int:
    """N for this question at this step: uniform on {1, ..., max_attempts} (paper, section 2), or always max_attempts.

    Every sibling of a GRPO group gets the same N wherever it runs, or with `per_sample` one of its own: the first
    (0) that of `uniform`. A resumed run needs no random state. The draw is 64 bits modulo M, so its bias is below
    1e-18.

    >>> [draw_budget(0, step, "gcd-12-18", 5) for step in range(6)]
    [3, 3, 1, 4, 5, 1]
    >>> [draw_budget(0, 0, "gcd-12-18", 5, "per_sample", sibling) for sibling in range(6)]
    [3, 5, 3, 2, 5, 2]
    """
    if draw == "fixed":
        return max_attempts
    key = f"{seed}\x00{step}\x00{question_id}"
    if draw == "per_sample" and sibling:
        key += f"\x00{sibling}"
    digest = blake2b(key.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % max_attempts

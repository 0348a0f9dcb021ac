"""How many attempts a question gets in this step: a stable function of (seed, step, question), no sampler's state."""

from hashlib import blake2b
from typing import Literal

BudgetDraw = Literal["uniform", "fixed"]


def draw_budget(seed: int, step: int, question_id: str, max_attempts: int, draw: BudgetDraw = "uniform") -> int:
    """N for this question at this step: uniform on {1, ..., max_attempts} (paper, section 2), or always max_attempts.

    Every sibling of a GRPO group gets the same N wherever it runs, and a resumed run needs no random state.
    The draw is 64 bits modulo M, so its bias is below 1e-18.

    >>> [draw_budget(0, step, "gcd-12-18", 5) for step in range(6)]
    [3, 3, 1, 4, 5, 1]
    """
    if draw == "fixed":
        return max_attempts
    digest = blake2b(f"{seed}\x00{step}\x00{question_id}".encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % max_attempts

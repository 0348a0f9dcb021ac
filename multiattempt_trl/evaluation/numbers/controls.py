"""What independent attempts would have done, from n of them: pass@k and a majority vote over k."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import comb

from multiattempt_trl.dialogue.episode import Attempt, Verdict
from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean, key


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate that one of k attempts is correct, from n of which c are: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), equation 1. Raises `ValueError` where k attempts cannot be drawn from n.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}")
    return 1 - comb(n - c, k) / comb(n, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class Votes:
    """How n attempts at one question vote.

    >>> Votes(correct=2, others=(3, 1), silent=1).n  # right twice, one wrong answer three times, another once
    7
    """

    correct: int
    """Attempts that the grader accepts, however they are written: one class."""
    others: tuple[int, ...]
    """Attempts of each other class, largest first."""
    silent: int
    """Attempts without a well-formed answer, which do not vote."""

    @property
    def n(self) -> int:
        return self.correct + sum(self.others) + self.silent


CORRECT = ""
"""The class of all correct answers; that of a wrong one is never empty."""


def answer_class(attempt: Attempt) -> str | None:
    """What makes two answers the same: `CORRECT`, the answer, or None for an attempt without a well-formed one.

    Answers that are not correct are one class where they are one string once both are cleaned
    (`graders/normalisation.py`); that they be equal as mathematics is not asked, since it would take a worker for
    each pair. What a grader named itself, such as a program, is taken as it is.
    """
    if attempt.verdict is Verdict.CORRECT:
        return CORRECT
    if not attempt.well_formed or attempt.answer is None:
        return None
    return attempt.judged_answer or _class(attempt.answer)


def count_votes(attempts: Iterable[Attempt]) -> Votes:
    """The votes of independent attempts at one question."""
    votes = Counter(map(answer_class, attempts))
    correct, silent = votes.pop(CORRECT, 0), votes.pop(None, 0)
    return Votes(correct=correct, others=tuple(sorted(votes.values(), reverse=True)), silent=silent)


@lru_cache(maxsize=16_384)  # the samples of a question are much alike
def _class(answer: str) -> str:
    answer = answer[:MAX_ANSWER]  # the grader reads no more either
    return key(clean(answer)) or answer


@lru_cache(maxsize=65_536)  # few ways to vote come again and again
def maj_at_k(votes: Votes, most: int) -> tuple[float, ...]:
    """How often a majority vote over k of the n attempts is correct, for k = 1 ... `most`.

    The mean over all C(n, k) subsets, which are counted by how they vote and not listed. In each the largest class
    wins; where several are the largest, each wins its share of the vote; where nobody votes, nothing is correct.
    Wang et al. 2023, self-consistency (arXiv 2203.11171).

    Raises `ValueError` where so many attempts cannot be drawn from n.
    """
    if not 1 <= most <= votes.n:
        raise ValueError(f"maj@k needs 1 <= k <= n, got n={votes.n}, k={most}")
    won = [0.0] * (most + 1)
    for top in range(1, min(votes.correct, most) + 1):  # votes that the correct class gets
        # Classes smaller than that cannot reach it: with the silent ones they only fill the subset.
        fill = votes.silent + sum(size for size in votes.others if size < top)
        ways = {(0, 0): comb(votes.correct, top)}  # (other attempts drawn, classes with `top` votes too) -> subsets
        for size in votes.others:
            if size >= top:
                ways = _with_class(ways, size, top, most - top)
        for (drawn, tied), count in ways.items():
            for rest in range(min(fill, most - top - drawn) + 1):
                won[top + drawn + rest] += count * comb(fill, rest) / (1 + tied)
    return tuple(won[k] / comb(votes.n, k) for k in range(1, most + 1))


def _with_class(ways: dict[tuple[int, int], int], size: int, top: int, room: int) -> dict[tuple[int, int], int]:
    """`ways` with one more class of `size`, of which at most `top` are drawn, and at most `room` altogether."""
    wider: dict[tuple[int, int], int] = {}
    for (drawn, tied), count in ways.items():
        for taken in range(min(top, room - drawn) + 1):
            state = drawn + taken, tied + (taken == top)
            wider[state] = wider.get(state, 0) + count * comb(size, taken)
    return wider

"""What an episode is worth: prices per attempt, put on after the episode is over.

The value of stopping after attempt k is +1 if attempt k is correct, else -0.5 if a well-formed answer counts, else -1
(paper, section 2). A credit scheme spreads the value of the last attempt over the attempts, or judges each attempt
alone (`own`). No scheme pays for extra failures: the sum over an episode never grows when a failed attempt is repeated
or put before a correct one, and the best that n failures can pay is never more than what one failure pays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Verdict

Credit = Literal["terminal", "discounted", "improvement", "attempt", "own"]
CREDITS: tuple[Credit, ...] = ("terminal", "discounted", "improvement", "attempt", "own")
WellFormedBy = Literal["any", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What the three outcomes cost; the paper's by default.

    Raises `ValueError` unless invalid <= wrong < correct.
    """

    correct: float = 1.0
    wrong: float = -0.5
    """No correct answer, but a well-formed one."""
    invalid: float = -1.0
    well_formed_by: WellFormedBy = "any"
    """Which answer decides between wrong and invalid: any so far (published code), or the last."""

    def __post_init__(self) -> None:
        if not self.invalid <= self.wrong < self.correct:
            raise ValueError(
                f"prices must satisfy invalid <= wrong < correct, got {self.invalid}, {self.wrong}, {self.correct}: "
                "otherwise failing pays at least as much as solving"
            )
        if self.well_formed_by not in ("any", "last"):
            raise ValueError(f"well_formed_by must be 'any' or 'last', got {self.well_formed_by!r}")


def value_of_stopping(attempts: Sequence[Attempt], prices: Prices) -> float:
    """The paper's episode reward, had the episode ended after these attempts (at least one)."""
    if attempts[-1].verdict is Verdict.CORRECT:
        return prices.correct
    deciding = attempts if prices.well_formed_by == "any" else attempts[-1:]
    return prices.wrong if any(attempt.well_formed for attempt in deciding) else prices.invalid


def price(
    episode: Episode, prices: Prices | None = None, credit: Credit = "terminal", attempt_discount: float = 1.0
) -> list[float]:
    """One reward per attempt of `episode`; none at all for a failed one, which says nothing of who played it.

    - `terminal` (the paper) and `attempt`: everything on the last attempt. The two differ in the baseline alone: see
      `training.advantages.group_relative`.
    - `discounted`: a correct answer at attempt k is worth `attempt_discount ** (k - 1)` of its price. Failures are
      never discounted: with negative prices that would pay for failing longer.
    - `improvement`: the value of stopping after attempt k minus that of stopping after attempt k - 1, so the sum
      telescopes to the terminal price.
    - `own`: what the attempt itself is worth, as if it were the only one. No attempt is credited with a later one:
      `training.advantages` looks no further than its end.

    Raises `ValueError` for an unknown credit, and for a discount that could pay more for failing longer.

    >>> from multiattempt_trl.dialogue.episode import Ending, Question
    >>> def attempt(verdict):
    ...     return Attempt(prompt_ids=(), response_ids=(), response="", verdict=verdict, finish_reason="eos")
    >>> episode = Episode(question=Question(id="q", problem="p", answer="a"), budget=3, ending=Ending.SOLVED,
    ...                   attempts=tuple(map(attempt, (Verdict.INVALID, Verdict.WRONG, Verdict.CORRECT))))
    >>> price(episode), price(episode, credit="improvement"), price(episode, credit="discounted", attempt_discount=0.5)
    ([0.0, 0.0, 1.0], [-1.0, 0.5, 1.5], [0.0, 0.0, 0.25])
    >>> price(episode, credit="own")
    [-1.0, -0.5, 1.0]
    """
    prices = prices or Prices()
    check_credit(credit, prices, attempt_discount)
    if episode.ending is Ending.FAILED:
        return []
    if credit == "own":
        return [value_of_stopping([attempt], prices) for attempt in episode.attempts]
    values = [value_of_stopping(episode.attempts[:k], prices) for k in range(1, episode.attempts_used + 1)]
    if credit == "improvement":
        return [values[0], *(now - before for before, now in pairwise(values))]
    last = values[-1]
    if credit == "discounted" and episode.attempts[-1].verdict is Verdict.CORRECT:
        last *= attempt_discount ** (episode.attempts_used - 1)
    return [0.0] * (len(values) - 1) + [last]


def check_credit(credit: str, prices: Prices, attempt_discount: float) -> None:
    """Raises `ValueError` where the credit scheme is unknown or could pay for failures."""
    if credit not in CREDITS:
        raise ValueError(f"credit must be one of {', '.join(CREDITS)}, got {credit!r}")
    if not 0.0 < attempt_discount <= 1.0:
        raise ValueError(f"attempt_discount must be in (0, 1], got {attempt_discount}")
    if credit != "discounted" and attempt_discount != 1.0:
        raise ValueError(f"attempt_discount={attempt_discount} has no effect with credit={credit!r}; use 'discounted'")
    if credit == "own" and prices.wrong > 0:
        raise ValueError(f"credit='own' needs wrong <= 0, got {prices.wrong}: otherwise each failure would add to it")
    if credit == "discounted" and not prices.wrong <= 0 <= prices.correct:
        raise ValueError(
            f"credit='discounted' needs wrong <= 0 <= correct, got {prices.wrong} and {prices.correct}: otherwise a "
            "late success could pay less than a failure, or more than an early one"
        )

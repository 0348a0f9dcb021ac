"""Prices and credit: hand-computed, and no scheme pays more for more failures."""

from dataclasses import replace
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.rewards import CREDITS, Credit, Prices, check_credit, price, value_of_stopping

C, W, X = Verdict.CORRECT, Verdict.WRONG, Verdict.INVALID
LAST = Prices(well_formed_by="last")


def attempt(verdict: Verdict) -> Attempt:
    return Attempt(prompt_ids=(), response_ids=(), response="", verdict=verdict, finish_reason="eos")


def episode(verdicts: list[Verdict], spare: int = 0) -> Episode:
    """An episode with these verdicts, in a budget with `spare` attempts left over."""
    return Episode(
        question=Question(id="q", problem="p", answer="a"),
        budget=len(verdicts) + spare,
        attempts=tuple(map(attempt, verdicts)),
        ending=Ending.SOLVED if verdicts[-1] is C else Ending.TRUNCATED if spare else Ending.EXHAUSTED,
    )


# --- hand-computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "any_so_far", "last"),
    [
        ([C], 1.0, 1.0),
        ([W], -0.5, -0.5),
        ([X], -1.0, -1.0),
        ([X, X, C], 1.0, 1.0),
        ([W, X], -0.5, -1.0),  # where the published code and "the last answer" differ
        ([X, W], -0.5, -0.5),
        ([X, X, X], -1.0, -1.0),
        ([W, W, W, W, W], -0.5, -0.5),
    ],
)
@pytest.mark.parametrize("spare", [0, 2])
def test_the_papers_rule(verdicts: list[Verdict], any_so_far: float, last: float, spare: int) -> None:
    nothing_before = [0.0] * (len(verdicts) - 1)
    for credit in ("terminal", "attempt"):
        assert price(episode(verdicts, spare), credit=credit) == [*nothing_before, any_so_far]
        assert price(episode(verdicts, spare), LAST, credit) == [*nothing_before, last]


@pytest.mark.parametrize("credit", CREDITS)
def test_a_failed_episode_has_no_price(credit: Credit) -> None:
    assert price(replace(episode([W, X]), ending=Ending.FAILED), credit=credit) == []


@pytest.mark.parametrize(
    ("verdicts", "prices", "expected"),
    [
        # Values of stopping -1, -0.5, 1: differences -1, -0.5 - -1, 1 - -0.5.
        ([X, W, C], Prices(), [-1.0, 0.5, 1.5]),
        # Values -0.5, -0.5, -0.5: the invalid answer in between costs nothing under "any" ...
        ([W, X, W], Prices(), [-0.5, 0.0, 0.0]),
        # ... and under "last" values are -0.5, -1, -0.5: lost and regained.
        ([W, X, W], LAST, [-0.5, -0.5, 0.5]),
        ([C], Prices(), [1.0]),
        # Values -2, -1, 3.
        ([X, W, C], Prices(correct=3, wrong=-1, invalid=-2), [-2, 1, 4]),
    ],
)
def test_improvement(verdicts: list[Verdict], prices: Prices, expected: list[float]) -> None:
    assert price(episode(verdicts), prices, "improvement") == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([C], [1.0]),  # 0.5 ** 0
        ([W, C], [0.0, 0.5]),  # 0.5 ** 1
        ([W, X, C], [0.0, 0.0, 0.25]),  # 0.5 ** 2
        ([W, W, W], [0.0, 0.0, -0.5]),  # failures are not discounted: -0.125 would pay for failing longer
        ([X, X], [0.0, -1.0]),
    ],
)
def test_discounted(verdicts: list[Verdict], expected: list[float]) -> None:
    assert price(episode(verdicts), credit="discounted", attempt_discount=0.5) == expected


def test_the_discount_has_an_effect() -> None:
    late = episode([W, C])
    assert price(late, credit="discounted", attempt_discount=0.9) == [0.0, 0.9]
    assert price(late, credit="discounted", attempt_discount=1.0) == price(late, credit="terminal")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([C], [1.0]), ([W, X, W, C], [-0.5, -1.0, -0.5, 1.0]), ([X, W, X], [-1.0, -0.5, -1.0])],
)
def test_own_credit_judges_each_attempt_alone(verdicts: list[Verdict], expected: list[float]) -> None:
    assert price(episode(verdicts), credit="own") == price(episode(verdicts), LAST, "own") == expected


# --- no scheme pays more for more failures -------------------------------------------------------------------------

FAILURES = st.lists(st.sampled_from([W, X]), max_size=6)
EPISODES = st.tuples(FAILURES, st.sampled_from([C, W, X])).map(lambda parts: [*parts[0], parts[1]])


@st.composite
def schemes(draw: st.DrawFn) -> tuple[Prices, Credit, float]:
    """Any valid prices, credit and discount. Eighths are exact in binary, so that sums can be compared with ==."""
    credit = draw(st.sampled_from(CREDITS))
    invalid, wrong, correct = sorted(draw(st.lists(st.integers(-24, 24), min_size=3, max_size=3)))
    discount = draw(st.sampled_from([0.125, 0.5, 0.75, 1.0])) if credit == "discounted" else 1.0
    if credit == "own":
        wrong, invalid = -abs(wrong), -abs(wrong) - abs(invalid)
        correct = max(correct, wrong)
    if credit == "discounted":
        invalid, wrong, correct = -abs(invalid) - abs(wrong), -abs(wrong), abs(correct)
    prices = Prices(
        invalid=invalid / 8,
        wrong=wrong / 8,
        correct=(correct + (correct == wrong)) / 8,
        well_formed_by=draw(st.sampled_from(["any", "last"])),
    )
    return prices, credit, discount


def total(verdicts: list[Verdict], scheme: tuple[Prices, Credit, float]) -> float:
    rewards = price(episode(verdicts), *scheme)
    assert len(rewards) == len(verdicts)
    return sum(rewards)


@settings(deadline=None)
@given(EPISODES, st.data(), schemes())
def test_repeating_a_failed_attempt_never_pays(
    verdicts: list[Verdict], data: st.DataObject, scheme: tuple[Prices, Credit, float]
) -> None:
    """Saying a failed attempt once more, right after itself, never raises the sum: in solved and unsolved episodes."""
    at = data.draw(st.integers(0, len(verdicts) - 1))
    if verdicts[at] is not C:
        assert total([*verdicts[: at + 1], *verdicts[at:]], scheme) <= total(verdicts, scheme)


@settings(deadline=None)
@given(FAILURES, st.data(), st.sampled_from([W, X]), schemes())
def test_failing_more_before_solving_never_pays(
    before: list[Verdict], data: st.DataObject, extra: Verdict, scheme: tuple[Prices, Credit, float]
) -> None:
    """In a solved episode one more failed attempt, of either kind and anywhere, never raises the sum."""
    at = data.draw(st.integers(0, len(before)))
    assert total([*before[:at], extra, *before[at:], C], scheme) <= total([*before, C], scheme)


@settings(deadline=None)
@given(FAILURES, st.sampled_from([W, X]), st.data(), st.sampled_from([W, X]), schemes())
def test_failing_more_without_solving(
    before: list[Verdict],
    last: Verdict,
    data: st.DataObject,
    extra: Verdict,
    scheme: tuple[Prices, Credit, float],
) -> None:
    """In an unsolved episode one more failed attempt before the last never raises the sum, with one exception.

    The exception is the paper's rule itself: under "any" the first well-formed answer lifts the episode from `invalid`
    to `wrong`. That pays for the form of that answer and not for the number of failures: it happens once, and lifts to
    what one well-formed attempt alone is worth.
    """
    at = data.draw(st.integers(0, len(before)))
    fewer = total([*before, last], scheme)
    more = total([*before[:at], extra, *before[at:], last], scheme)
    prices, credit, _ = scheme
    if prices.well_formed_by == "any" and credit != "own" and extra is W and W not in [*before, last]:
        assert (fewer, more) == (prices.invalid, prices.wrong)
        assert more == total([W], scheme)
    else:
        assert more <= fewer


@settings(deadline=None)
@given(st.lists(st.sampled_from([W, X]), min_size=1, max_size=6), schemes())
def test_the_best_that_n_failures_pay_is_what_one_failure_pays(
    failures: list[Verdict], scheme: tuple[Prices, Credit, float]
) -> None:
    """Whatever the failures, they pay at most what one well-formed failure pays, and at least one invalid one.

    With `own` each failure is paid for, so that n of them cost up to n times as much.
    """
    times = len(failures) if scheme[1] == "own" else 1
    assert times * total([X], scheme) <= total(failures, scheme) <= total([W], scheme)


@settings(deadline=None)
@given(EPISODES, schemes())
def test_improvement_telescopes(verdicts: list[Verdict], scheme: tuple[Prices, Credit, float]) -> None:
    prices, _, _ = scheme
    assert total(verdicts, (prices, "improvement", 1.0)) == total(verdicts, (prices, "terminal", 1.0))
    # So does every beginning of the episode: what has been paid up to attempt k is the value of stopping there.
    paid = price(episode(verdicts), prices, "improvement")
    for k in range(1, len(verdicts) + 1):
        assert sum(paid[:k]) == value_of_stopping(list(map(attempt, verdicts[:k])), prices)


@settings(deadline=None)
@given(FAILURES, st.lists(st.sampled_from([W, X]), min_size=1, max_size=4), schemes())
def test_solving_pays_more_than_failing_on(
    before: list[Verdict], instead: list[Verdict], scheme: tuple[Prices, Credit, float]
) -> None:
    """After the same attempts, a correct one pays strictly more than any failures in its place."""
    assert total([*before, C], scheme) > total([*before, *instead], scheme)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"wrong": 1.0},  # as good as correct
        {"wrong": 2.0},
        {"invalid": 0.0},  # better than wrong
        {"correct": -0.5},
        {"correct": nan},
        {"invalid": nan},
    ],
)
def test_prices_out_of_order(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="invalid <= wrong < correct"):
        Prices(**bad)


def test_unknown_well_formed_by() -> None:
    with pytest.raises(ValueError, match="'any' or 'last', got 'first'"):
        Prices(well_formed_by="first")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("credit", "prices", "discount", "message"),
    [
        (
            "summed",
            Prices(),
            1.0,
            "one of terminal, discounted, improvement, attempt, own, got 'summed'",
        ),
        ("discounted", Prices(), 0.0, r"attempt_discount must be in \(0, 1\], got 0.0"),
        ("discounted", Prices(), 1.5, r"attempt_discount must be in \(0, 1\], got 1.5"),
        ("discounted", Prices(), nan, r"attempt_discount must be in \(0, 1\], got nan"),
        ("own", Prices(wrong=0.25), 1.0, "credit='own' needs wrong <= 0, got 0.25"),
        ("terminal", Prices(), 0.5, "has no effect with credit='terminal'"),
        # 0.2 for failing, 0.5 * 0.3 = 0.15 for solving at the second attempt.
        ("discounted", Prices(correct=0.3, wrong=0.2, invalid=0.0), 0.5, "wrong <= 0 <= correct"),
        # -1 for solving at once, -0.5 for solving at the second attempt.
        ("discounted", Prices(correct=-1.0, wrong=-2.0, invalid=-3.0), 0.5, "wrong <= 0 <= correct"),
    ],
)
def test_credit_that_could_pay_for_failures(credit: str, prices: Prices, discount: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_credit(credit, prices, discount)
    with pytest.raises(ValueError, match=message):
        price(episode([W, C]), prices, credit, discount)  # type: ignore[arg-type]

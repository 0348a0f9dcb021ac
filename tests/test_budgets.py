"""Budgets: stable, uniform, the same for all siblings of a question."""

from collections import Counter
from typing import Literal

import pytest

from multiattempt_trl.dialogue.budgets import draw_budget, share_with_at_least


def test_golden_values() -> None:
    # Blake2b of "seed\0step\0id": a change here changes the data of every seeded run, and breaks resuming.
    assert [draw_budget(0, step, "gcd-12-18", 5) for step in range(10)] == [3, 3, 1, 4, 5, 1, 5, 2, 5, 2]
    assert [draw_budget(seed, 0, "gcd-12-18", 5) for seed in range(10)] == [3, 2, 3, 4, 3, 3, 3, 5, 2, 4]
    assert [draw_budget(0, 0, f"simplerl-{n}", 5) for n in range(10)] == [3, 2, 3, 2, 1, 1, 3, 1, 2, 3]
    assert [draw_budget(0, 0, "gcd-12-18", most) for most in (1, 2, 3, 5, 7)] == [1, 1, 1, 3, 3]
    # 256 is 1 modulo 5, so that only other M show in which order the bytes are read.
    assert [draw_budget(0, step, "gcd-12-18", 7) for step in range(10)] == [3, 7, 5, 2, 7, 2, 5, 6, 4, 5]


@pytest.mark.parametrize(
    ("vary", "most", "bound"),
    # Chi-square with M - 1 degrees of freedom: its 99.9 % points. The draw is a hash, so this passes always or never.
    [("id", 5, 18.47), ("step", 5, 18.47), ("seed", 5, 18.47), ("id", 2, 10.83), ("id", 7, 22.46)],
)
def test_uniform_whatever_varies(vary: str, most: int, bound: float) -> None:
    draws = 10_000
    arguments = {
        "id": lambda n: (0, 0, f"question-{n}"),
        "step": lambda n: (0, n, "question-0"),
        "seed": lambda n: (n, 0, "question-0"),
    }[vary]
    counts = Counter(draw_budget(*arguments(n), most) for n in range(draws))
    assert set(counts) == set(range(1, most + 1))
    expected = draws / most
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < bound


def test_steps_are_independent() -> None:
    # Each pair (N at step 0, N at step 1) is drawn by 1 question in 25: chi-square, 24 degrees of freedom, 99.9 %.
    pairs = Counter((draw_budget(0, 0, f"q{n}", 5), draw_budget(0, 1, f"q{n}", 5)) for n in range(10_000))
    assert len(pairs) == 25
    assert sum((count - 400) ** 2 / 400 for count in pairs.values()) < 51.18


def test_seed_step_and_id_do_not_run_into_each_other() -> None:
    # As bare strings "1" + "11" and "11" + "1" would be one key.
    assert len({draw_budget(seed, step, "1", 10**9) for seed in (1, 11, 111) for step in (1, 11, 111)}) == 9


def test_siblings_share_the_budget() -> None:
    # The draw takes nothing of the sample or the process: any number of calls, in any order, gives the same N.
    first = {n: draw_budget(3, 7, f"q{n}", 5) for n in range(50)}
    assert all(draw_budget(3, 7, f"q{n}", 5) == first[n] for n in reversed(range(50)) for _ in range(4))


def test_each_sibling_draws_its_own_where_asked() -> None:
    # Blake2b of "seed\0step\0id\0sibling", 8 bytes modulo 5, plus 1; the key of the first sibling has no number.
    per_sample = [draw_budget(0, 0, "gcd-12-18", 5, "per_sample", sibling) for sibling in range(10)]
    assert per_sample == [3, 5, 3, 2, 5, 2, 1, 4, 1, 5]
    assert {draw_budget(0, 0, "gcd-12-18", 5, "uniform", sibling) for sibling in range(10)} == {3}
    assert {draw_budget(0, 0, "gcd-12-18", 5, "fixed", sibling) for sibling in range(10)} == {5}
    # Chi-square, 4 degrees of freedom, 99.9 %; and siblings do not draw alike: 24 degrees.
    pairs = Counter(
        (draw_budget(0, 0, f"q{n}", 5, "per_sample", 1), draw_budget(0, 0, f"q{n}", 5, "per_sample", 2))
        for n in range(10_000)
    )
    counts = Counter(first for first, _ in pairs.elements())
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 18.47
    assert sum((count - 400) ** 2 / 400 for count in pairs.values()) < 51.18


def test_a_share_of_single_attempts() -> None:
    drawn = [draw_budget(0, step, "gcd-12-18", 5) for step in range(10)]
    mixed = [draw_budget(0, step, "gcd-12-18", 5, single_share=0.5) for step in range(10)]
    assert all(n in (1, before) for n, before in zip(mixed, drawn, strict=True))
    counts = Counter(draw_budget(0, 0, f"q{n}", 5, single_share=0.25) for n in range(10_000))
    # A quarter has 1, the rest is uniform: 0.4 have 1, 0.15 each other. Chi-square, 4 degrees of freedom, 99.9 %.
    expected = {1: 4000, 2: 1500, 3: 1500, 4: 1500, 5: 1500}
    assert sum((counts[n] - expected[n]) ** 2 / expected[n] for n in expected) < 18.47
    fixed = Counter(draw_budget(0, 0, f"q{n}", 5, "fixed", single_share=0.25) for n in range(10_000))
    assert set(fixed) == {1, 5}
    assert (fixed[1] - 2500) ** 2 / 2500 + (fixed[5] - 7500) ** 2 / 7500 < 10.83
    siblings = {draw_budget(0, 0, "q", 5, "per_sample", sibling, 0.999_999) for sibling in range(8)}
    assert siblings == {1}


@pytest.mark.parametrize(("draw", "share"), [("uniform", 0.0), ("uniform", 0.25), ("fixed", 0.0), ("fixed", 0.25)])
def test_the_share_with_at_least_k_attempts(draw: Literal["uniform", "fixed"], share: float) -> None:
    drawn = [draw_budget(0, 0, f"q{n}", 5, draw, single_share=share) for n in range(10_000)]
    for k in range(1, 6):
        expected = share_with_at_least(k, 5, draw, share)  # within 4 standard errors
        assert sum(n >= k for n in drawn) / 10_000 == pytest.approx(expected, abs=0.02)


def test_one_attempt_and_fixed() -> None:
    assert {draw_budget(seed, step, "q", 1) for seed in range(20) for step in range(20)} == {1}
    assert {draw_budget(0, step, "q", 5, draw="fixed") for step in range(20)} == {5}

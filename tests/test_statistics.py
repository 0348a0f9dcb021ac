"""The statistics of an evaluation, against numbers worked out by hand and against simulation."""

import random

import pytest

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.evaluation import statistics
from multiattempt_trl.evaluation.statistics import Block


def episode(name: str, answers: list[str | None], *, budget: int, gold: str = "1", sample: int = 0) -> Episode:
    """A dialogue with these boxed answers; None for an attempt without a box."""
    attempts = tuple(
        Attempt(
            prompt_ids=(1,),
            response_ids=(2, 3),
            response="hm" if answer is None else f"\\boxed{{{answer}}}",
            verdict=Verdict.INVALID if answer is None else Verdict.CORRECT if answer == gold else Verdict.WRONG,
            finish_reason="eos",
        )
        for answer in answers
    )
    return Episode(
        question=Question(id=name, problem="?", answer=gold),
        budget=budget,
        attempts=attempts,
        ending=Ending.SOLVED if attempts[-1].verdict is Verdict.CORRECT else Ending.EXHAUSTED,
        sample=sample,
    )


# Four questions, K = 3: solved at 1, at 2, at 3 (after repeating 5), and never (no box, then 9 twice).
FOUR = [
    episode("a", ["1"], budget=3),
    episode("b", ["4", "1"], budget=3),
    episode("c", ["5", "5", "1"], budget=3),
    episode("d", [None, "9", "9"], budget=3),
]


def test_block_by_hand() -> None:
    block = statistics.block(FOUR, 3, [(3, 3), (3, 1), (3, 0), (3, 2)])
    assert block["n"] == 4
    assert block["accuracy"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    # Attempt 2 was reached by b, c, d, and only c repeats; attempt 3 by c and d, and only d repeats. A missing box
    # repeats nothing.
    assert block["repeat_rate"] == pytest.approx({"2": 1 / 3, "3": 1 / 2})
    # 1 + 2 + 3 + 3 = 9 attempts, one without a box.
    assert block["well_formed_rate"] == pytest.approx(8 / 9)
    assert block["mean_attempts"] == 9 / 4
    # pass@1: (3/3 + 1/3 + 0/3 + 2/3) / 4 = 1/2
    # pass@2: b 1 - C(2,2)/C(3,2) = 2/3, d 1 - C(1,2)/C(3,2) = 1: (1 + 2/3 + 0 + 1) / 4 = 2/3
    # pass@3: (1 + 1 + 0 + 1) / 4
    assert block["pass_at_k"] == pytest.approx({"1": 1 / 2, "2": 2 / 3, "3": 3 / 4})
    assert block["ci95"]["2"] == statistics.wilson(0.5, 4)
    assert list(block["ci95"]) == ["1", "2", "3"]


def test_what_was_not_seen_is_absent() -> None:
    block = statistics.block([episode("a", ["1"], budget=3), episode("b", ["2", "1"], budget=3)], 3)
    assert block["pass_at_k"] == {}
    assert block["repeat_rate"] == {"2": 0.0}  # nobody reached attempt 3


def test_samples_of_a_question_are_averaged_before_questions() -> None:
    # a: 1 of 2 samples solved at once, both within 2; b: its one sample never.
    # Over questions: (1/2 + 0) / 2 and (1 + 0) / 2. Over episodes it would be 1/3 and 2/3.
    played = [
        episode("a", ["1"], budget=2, sample=0),
        episode("a", ["2", "1"], budget=2, sample=1),
        episode("b", ["2", "3"], budget=2),
    ]
    block = statistics.block(played, 2)
    assert block["n"] == 2
    assert block["accuracy"] == {"1": 0.25, "2": 0.5}


def test_one_run_per_budget_uses_each_for_its_own_k() -> None:
    # The run of budget 1 solves b, the first attempt of budget 2 does not: accuracy at 1 is the former's.
    played = [
        episode("a", ["1"], budget=1),
        episode("b", ["1"], budget=1),
        episode("a", ["3", "3"], budget=2),
        episode("b", ["4", "1"], budget=2),
    ]
    block = statistics.block(played, 2)
    assert block["accuracy"] == {"1": 1.0, "2": 0.5}
    assert block["repeat_rate"] == {"2": 0.5}
    assert block["mean_attempts"] == 2.0


def test_other_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"budget 4, .* got \[3\]"):
        statistics.block(FOUR, 4)
    with pytest.raises(ValueError, match="got"):
        statistics.block([], 4)


def test_wilson_by_hand() -> None:
    # 5 of 10: z^2 = 3.84146; 1 + z^2/10 = 1.384146; half = 1.959964 / 1.384146 * sqrt(0.25/10 + 3.84146/400) = 0.26341
    assert statistics.wilson(0.5, 10) == pytest.approx([0.23659, 0.76341], abs=1e-5)
    # 0 of 10: upper = (z^2/10) / (1 + z^2/10) = 0.384146 / 1.384146 = 0.27753
    assert statistics.wilson(0.0, 10) == [0.0, pytest.approx(0.27753, abs=1e-5)]
    assert statistics.wilson(1.0, 10) == [pytest.approx(1 - 0.27753, abs=1e-5), 1.0]
    with pytest.raises(ValueError, match="n=0"):
        statistics.wilson(0.5, 0)


def test_mover_by_hand() -> None:
    # mean 0.5; below sqrt(0.1^2 + 0.08^2) / 2 = 0.0640312; above sqrt(0.1^2 + 0.12^2) / 2 = 0.0781025
    lower, upper = statistics.mover([0.4, 0.6], [[0.3, 0.5], [0.52, 0.72]])
    assert lower == pytest.approx(0.5 - 0.0640312)
    assert upper == pytest.approx(0.5 + 0.0781025)
    assert statistics.mover([0.4], [[0.3, 0.5]]) == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (5, 0, 3, 0.0),
        (5, 5, 1, 1.0),
        (5, 2, 1, 2 / 5),
        (5, 2, 2, 1 - 3 / 10),  # C(3,2) / C(5,2)
        (5, 2, 3, 1 - 1 / 10),  # C(3,3) / C(5,3)
        (5, 2, 4, 1.0),  # any 4 of 5 hold one of the 2
    ],
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, expected: float) -> None:
    assert statistics.pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_refuses_more_than_was_drawn() -> None:
    with pytest.raises(ValueError, match="n=2, c=1, k=3"):
        statistics.pass_at_k(2, 1, 3)


def test_pass_counts_are_by_question() -> None:
    played = [episode(name, [answer], budget=1) for name, answer in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "1")]]
    assert statistics.pass_counts([*played, episode("b", ["1"], budget=1)]) == [(2, 1), (3, 2)]


def a_block(accuracy: list[float], n: int, repeats: dict[str, float], pass_at_k: dict[str, float]) -> Block:
    shares = {str(k): share for k, share in enumerate(accuracy, start=1)}
    return {
        "n": n,
        "accuracy": shares,
        "ci95": {k: [share - 0.1, share + 0.1] for k, share in shares.items()},
        "repeat_rate": repeats,
        "well_formed_rate": 1.0,
        "mean_attempts": 2.0,
        "pass_at_k": pass_at_k,
    }


def test_average_gives_benchmarks_the_same_weight() -> None:
    small = a_block([0.2, 0.4], 10, {}, {"1": 0.2, "2": 0.3})
    large = a_block([0.6, 0.6], 1000, {"2": 0.5}, {"1": 0.6, "2": 0.7})
    average = statistics.average([small, large])
    assert average["n"] == 1010
    assert average["accuracy"] == pytest.approx({"1": 0.4, "2": 0.5})
    assert average["pass_at_k"] == pytest.approx({"1": 0.4, "2": 0.5})
    assert average["repeat_rate"] == {"2": 0.5}  # only `large` has one
    # two intervals of +-0.1: sqrt(0.01 + 0.01) / 2 = 0.0707107
    assert average["ci95"]["1"] == pytest.approx([0.4 - 0.0707107, 0.4 + 0.0707107])


def test_mean_over_seeds_keeps_the_questions() -> None:
    seeds = {"0": a_block([0.2, 0.4], 10, {}, {}), "1": a_block([0.4, 0.8], 10, {}, {})}
    both = statistics.over_seeds(seeds)
    assert both["seeds"] == seeds
    assert both["mean"]["n"] == 10
    assert both["mean"]["accuracy"] == pytest.approx({"1": 0.3, "2": 0.6})
    # The same questions: no narrower than one seed's interval.
    assert both["mean"]["ci95"]["2"] == pytest.approx([0.5, 0.7])
    with pytest.raises(ValueError, match=r"got \[9, 10\] questions"):
        statistics.over_seeds({**seeds, "2": a_block([0.4, 0.8], 9, {}, {})})


def test_blocks_of_different_budgets_are_not_averaged() -> None:
    with pytest.raises(ValueError, match=r"budgets \[1, 2\]"):
        statistics.average([a_block([0.2], 10, {}, {}), a_block([0.2, 0.3], 10, {}, {})])


def covered(limits: list[float], truth: float) -> bool:
    return limits[0] <= truth <= limits[1]


@pytest.mark.parametrize(("n", "p"), [(30, 0.2), (40, 0.6), (500, 0.75)])
def test_wilson_covers_95_percent(n: int, p: float) -> None:
    draw = random.Random(0)
    shares = [sum(draw.random() < p for _ in range(n)) / n for _ in range(1000)]
    assert sum(covered(statistics.wilson(share, n), p) for share in shares) / 1000 == pytest.approx(0.95, abs=0.02)


def test_the_average_covers_95_percent() -> None:
    draw = random.Random(1)
    sizes, truths = [30, 40, 200], [0.15, 0.6, 0.75]
    hits = 0
    for _ in range(1000):
        shares = [sum(draw.random() < p for _ in range(n)) / n for n, p in zip(sizes, truths, strict=True)]
        intervals = [statistics.wilson(share, n) for share, n in zip(shares, sizes, strict=True)]
        hits += covered(statistics.mover(shares, intervals), sum(truths) / 3)
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)


def test_several_samples_a_question_are_conservative() -> None:
    # 50 questions of their own difficulty, uniform on [0, 1], 4 samples each: the truth over questions is 0.5.
    draw = random.Random(2)
    hits = 0
    for _ in range(1000):
        difficulties = [draw.random() for _ in range(50)]
        share = sum(sum(draw.random() < p for _ in range(4)) / 4 for p in difficulties) / 50
        hits += covered(statistics.wilson(share, 50), 0.5)
    assert hits / 1000 >= 0.95

"""The statistics of an evaluation, against numbers worked out by hand, brute force, simulation and a second script."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from dialogues import alone, dialogue

from multiattempt_trl.dialogue.episode import Episode, Verdict
from multiattempt_trl.evaluation.numbers.blocks import Block
from multiattempt_trl.evaluation.numbers.controls import Votes, count_votes, maj_at_k, pass_at_k
from multiattempt_trl.evaluation.numbers.intervals import Z95, difference_interval, mover, share_interval, wilson
from multiattempt_trl.evaluation.numbers.shares import majority_shares, pass_shares
from multiattempt_trl.evaluation.numbers.statistics import average, block, over_seeds

# Four questions, K = 3: solved at 1, at 2, at 3 (after repeating 5), and never (no box, then 9 twice).
FOUR = [
    dialogue("a", ["1"], budget=3, tokens=[10]),
    dialogue("b", ["4", "1"], budget=3, tokens=[20, 10], cut=[1]),
    dialogue("c", ["5", "5", "1"], budget=3, tokens=[10, 10, 10]),
    dialogue("d", [None, "9", "9"], budget=3, tokens=[10, 20, 10], cut=[1, 3]),
]


class TestBlock:
    def test_by_hand(self) -> None:
        independent = [
            *alone("a", ["1", "1", "1"]),
            *alone("b", ["1", "2", "3"]),
            *alone("c", ["2", "2", None]),
            *alone("d", ["1", "2", "1"]),
        ]
        found = block({"main": FOUR, "independent": independent}, 3)
        assert (found["n"], found["failed"]) == (4, 0)
        assert found["accuracy"] == {"1": 0.25, "2": 0.5, "3": 0.75}
        assert found["ci95"] == {k: wilson(share, 4) for k, share in found["accuracy"].items()}
        # pass@1: (3/3 + 1/3 + 0/3 + 2/3) / 4 = 1/2
        # pass@2: b 1 - C(2,2)/C(3,2) = 2/3, d 1 - C(1,2)/C(3,2) = 1: (1 + 2/3 + 0 + 1) / 4 = 2/3
        # pass@3: (1 + 1 + 0 + 1) / 4
        assert found["pass_at_k"] == pytest.approx({"1": 1 / 2, "2": 2 / 3, "3": 3 / 4})
        assert found["pass_ci95"]["3"] == wilson(0.75, 4)  # each question yes or no
        assert found["pass_ci95"]["2"] == pytest.approx(share_interval([1, 2 / 3, 0, 1]))
        # maj@2: a 1; b: of 12, 13, 23 the correct one ties in two, (1/2 + 1/2 + 0) / 3 = 1/3; c 0;
        # d: of 12, 11, 21 it ties, wins, ties: 2/3. (1 + 1/3 + 0 + 2/3) / 4 = 1/2
        # maj@3: a 1; b three-way tie 1/3; c 0; d 1: 7/12
        assert found["maj_at_k"] == pytest.approx({"1": 1 / 2, "2": 1 / 2, "3": 7 / 12})
        assert list(found["maj_ci95"]) == ["1", "2", "3"]
        # One of four first attempts is right; of b, c, d at the second one; of c, d at the third one.
        assert found["solved_after_failures"] == pytest.approx({"1": 1 / 4, "2": 1 / 3, "3": 1 / 2})
        # Attempt 2 was reached by b, c, d, and only c repeats; attempt 3 by c and d, and only d repeats. A missing box
        # repeats nothing.
        assert found["repeat_rate"] == pytest.approx({"2": 1 / 3, "3": 1 / 2})
        # First: 1, 1, 1, 0. Two: b {4, 1}, c {5}, d {9}: 4/3. Three: c {5, 1}, d {9}: 3/2
        assert found["distinct_answers"] == pytest.approx({"1": 3 / 4, "2": 4 / 3, "3": 3 / 2})
        assert found["truncated"] == pytest.approx({"1": 2 / 4, "2": 0, "3": 1 / 2})
        # 1 + 2 + 3 + 3 = 9 attempts, one without a box.
        assert found["well_formed_rate"] == pytest.approx(8 / 9)
        assert found["mean_attempts"] == 9 / 4
        # 10 + 30 + 30 + 40 = 110 tokens in 4 dialogues, 3 of which are solved
        assert found["mean_tokens"] == 110 / 4
        assert found["tokens_per_solved"] == pytest.approx(110 / 3)
        assert found["attempts_per_solved"] == 3
        json.dumps(found, allow_nan=False)

    def test_what_was_not_played_or_seen_is_absent(self) -> None:
        found = block({"main": [dialogue("a", ["1"], budget=3), dialogue("b", ["2", "1"], budget=3)]}, 3)
        for name in ("pass_at_k", "pass_ci95", "maj_at_k", "maj_ci95", "base_accuracy", "base_ci95", "announced"):
            assert found[name] == {}, name  # type: ignore[literal-required]
        assert found["probes"] == found["levels"] == found["subjects"] == {}
        # nobody reached attempt 3
        assert found["repeat_rate"] == {"2": 0.0}
        assert list(found["solved_after_failures"]) == list(found["truncated"]) == ["1", "2"]
        assert list(found["distinct_answers"]) == ["1", "2"]

    def test_nothing_solved_has_no_cost(self) -> None:
        found = block({"main": [dialogue("a", ["2", "3"], budget=2)]}, 2)
        assert found["tokens_per_solved"] is found["attempts_per_solved"] is None
        assert found["mean_tokens"] == 4

    def test_samples_of_a_question_are_averaged_before_questions(self) -> None:
        # a: 1 of 2 samples solved at once, both within 2; b: its one sample never.
        # Over questions: (1/2 + 0) / 2 and (1 + 0) / 2. Over episodes it would be 1/3 and 2/3.
        played = [
            dialogue("a", ["1"], budget=2, sample=0),
            dialogue("a", ["2", "1"], budget=2, sample=1),
            dialogue("b", ["2", "3"], budget=2),
        ]
        found = block({"main": played}, 2)
        assert found["n"] == 2
        assert found["accuracy"] == {"1": 0.25, "2": 0.5}
        assert found["ci95"] == {"1": share_interval([0.5, 0]), "2": wilson(0.5, 2)}

    def test_one_run_per_budget_uses_each_for_its_own_k(self) -> None:
        # The run of budget 1 solves b, the first attempt of budget 2 does not: accuracy at 1 is the former's.
        played = [
            dialogue("a", ["1"], budget=1),
            dialogue("b", ["1"], budget=1),
            dialogue("a", ["3", "3"], budget=2),
            dialogue("b", ["4", "1"], budget=2),
        ]
        found = block({"main": played}, 2)
        assert found["accuracy"] == {"1": 1.0, "2": 0.5}
        assert found["repeat_rate"] == {"2": 0.5}
        assert found["mean_attempts"] == 2.0
        assert found["announced"] == {"1": 1.0, "2": 0.0}
        # A run of its own goes before the main one.
        own = block({"main": played, "announced_1": [dialogue("a", ["2"], budget=1)]}, 2)
        assert own["announced"] == {"1": 0.0, "2": 0.0}

    def test_failed_dialogues_are_counted_and_tell_nothing(self) -> None:
        broken = [dialogue("e", ["1"], budget=3, failed=True), dialogue("a", ["7", "7"], budget=3, failed=True)]
        independent = [*alone("a", ["1", "2", "2"]), dialogue("a", ["1"], budget=1, sample=3, failed=True)]
        whole = block({"main": FOUR, "independent": independent[:3]}, 3)
        found = block({"main": [*broken, *FOUR], "independent": independent}, 3)
        assert found == {**whole, "failed": 3}

    def test_a_question_with_too_few_samples_is_left_out(self) -> None:
        # b lost one of two samples: it has a pass@1, and no pass@2.
        independent = [*alone("a", ["2", "2"]), *alone("b", ["1"])]
        assert pass_shares(independent, 2) == {1: {"a": 0, "b": 1}, 2: {"a": 0}}
        assert majority_shares(independent, 2) == {1: {"a": 0, "b": 1}, 2: {"a": 0}}
        assert list(block({"main": FOUR, "independent": alone("a", ["1"])}, 3)["pass_at_k"]) == ["1"]

    def test_other_budgets_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"budget 4, .* got \[3\]"):
            block({"main": FOUR}, 4)
        with pytest.raises(ValueError, match="got"):
            block({"main": []}, 4)

    def test_a_budget_of_which_all_is_lost_is_refused(self) -> None:
        lost = [dialogue("a", ["2"], budget=1), dialogue("a", [], budget=2, failed=True)]
        with pytest.raises(ValueError, match="every dialogue of budget 2 lost a request"):
            block({"main": lost}, 2)

    def test_base_and_announced(self) -> None:
        runs = {
            "main": FOUR,
            "base": [dialogue(name, ["2", "2", "1"], budget=3) for name in "abc"],
            "announced_1": [dialogue("a", ["1"], budget=1), dialogue("b", ["1"], budget=1)],
            "announced_3": [dialogue("a", ["1"], budget=1), dialogue("b", ["2"], budget=1)],
        }
        found = block(runs, 3)
        assert found["base_accuracy"] == {"1": 0, "2": 0, "3": 1}
        assert found["base_ci95"]["3"] == wilson(1.0, 3)
        assert found["announced"] == {"1": 1.0, "3": 0.5}

    def test_probes(self) -> None:
        runs = {
            "main": FOUR,
            "false_feedback": [
                dialogue("a", ["1", "1"], budget=2),  # keeps it
                dialogue("b", ["1", "5"], budget=2),  # gives it up
                dialogue("c", ["1", None], budget=2),  # and so does that
                dialogue("d", ["2"], budget=2),  # was not right
                dialogue("e", ["1"], budget=2),  # right, but no room was left to be told
            ],
            "hidden_count": [dialogue(name, ["2", "1"], budget=3) for name in "ab"],
            "wrong_count": [dialogue(name, ["1"], budget=3) for name in "ab"],
        }
        probes = block(runs, 3)["probes"]
        assert probes["abandoned"] == {"n": 3, "share": pytest.approx(2 / 3), "ci95": wilson(2 / 3, 3)}
        assert probes["hidden_count"]["accuracy"] == {"1": 0, "2": 1, "3": 1}
        assert probes["wrong_count"] == {
            "accuracy": {"1": 1, "2": 1, "3": 1},
            "ci95": dict.fromkeys("123", wilson(1, 2)),
        }
        nobody = {"main": FOUR, "false_feedback": [dialogue("d", ["2"], budget=2)]}
        assert "abandoned" not in block(nobody, 3)["probes"]

    def test_levels_and_subjects(self) -> None:
        played = [
            dialogue("a", ["1"], budget=2, level="10", subject="Algebra"),
            dialogue("b", ["2", "1"], budget=2, level="9", subject="Algebra"),
            dialogue("c", ["2", "2"], budget=2, level="9"),
            dialogue("d", ["1"], budget=2, level="hard"),
        ]
        found = block({"main": played}, 2)
        assert list(found["levels"]) == ["9", "10", "hard"]
        assert found["levels"]["9"] == {
            "n": 2,
            "accuracy": {"1": 0, "2": 0.5},
            "ci95": {"1": wilson(0, 2), "2": wilson(0.5, 2)},
        }
        assert found["subjects"].keys() == {"Algebra"}
        assert found["subjects"]["Algebra"]["accuracy"] == {"1": 0.5, "2": 1}


class TestIntervals:
    def test_wilson_by_hand(self) -> None:
        # 5 of 10: z^2 = 3.84146; 1 + z^2/10 = 1.384146;
        # half = 1.959964 / 1.384146 * sqrt(0.25/10 + 3.84146/400) = 0.26341
        assert wilson(0.5, 10) == pytest.approx([0.23659, 0.76341], abs=1e-5)
        # 0 of 10: upper = (z^2/10) / (1 + z^2/10) = 0.384146 / 1.384146 = 0.27753
        assert wilson(0.0, 10) == [0.0, pytest.approx(0.27753, abs=1e-5)]
        assert wilson(1.0, 10) == [pytest.approx(1 - 0.27753, abs=1e-5), 1.0]
        with pytest.raises(ValueError, match="n=0"):
            wilson(0.5, 0)

    def test_shares_of_zero_and_one_have_wilsons_interval(self) -> None:
        assert share_interval([1, 0, 0, 1, 1.0]) == wilson(3 / 5, 5)
        assert share_interval([0.0] * 30) == wilson(0, 30)
        with pytest.raises(ValueError, match="n=0"):
            share_interval([])

    def test_shares_between_by_hand(self) -> None:
        # 0.5, 0.5, 1, 0 and the added 0, 1: mean 1/2, variance (4 * 0.25 + 0 + 0) / 6 = 1/6; n_eff = 4 * (1/4) / (1/6)
        assert share_interval([0.5, 0.5, 1, 0]) == pytest.approx(wilson(0.5, 6))

    def test_mover_by_hand(self) -> None:
        # mean 0.5; below sqrt(0.1^2 + 0.08^2) / 2 = 0.0640312; above sqrt(0.1^2 + 0.12^2) / 2 = 0.0781025
        lower, upper = mover([0.4, 0.6], [[0.3, 0.5], [0.52, 0.72]])
        assert lower == pytest.approx(0.5 - 0.0640312)
        assert upper == pytest.approx(0.5 + 0.0781025)
        assert mover([0.4], [[0.3, 0.5]]) == pytest.approx([0.3, 0.5])


class TestPass:
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
    def test_by_hand(self, n: int, c: int, k: int, expected: float) -> None:
        assert pass_at_k(n, c, k) == pytest.approx(expected)

    def test_refuses_more_than_was_drawn(self) -> None:
        with pytest.raises(ValueError, match="n=2, c=1, k=3"):
            pass_at_k(2, 1, 3)

    def test_is_the_share_of_subsets_and_unbiased(self) -> None:
        subsets = list(combinations([1, 1, 0, 0, 0, 0, 0], 3))
        assert pass_at_k(7, 2, 3) == pytest.approx(sum(map(any, subsets)) / len(subsets))
        # 20,000 questions of p = 0.3, 6 samples each: the mean of pass@4 is the closed form 1 - 0.7^4 = 0.7599
        # within 5 standard errors; one question's pass@4 varies by less than 0.35.
        draw = random.Random(0)
        shares = [pass_at_k(6, sum(draw.random() < 0.3 for _ in range(6)), 4) for _ in range(20_000)]
        assert fmean(shares) == pytest.approx(1 - 0.7**4, abs=5 * 0.35 / 20_000**0.5)


def brute_force_vote(answers: list[str | None], k: int, gold: str = "1") -> float:
    """The mean over every subset of k, each counted by hand."""
    won = []
    for subset in combinations(answers, k):
        votes = Counter(answer for answer in subset if answer is not None)
        winners = [answer for answer in votes if votes[answer] == max(votes.values())]
        won.append(winners.count(gold) / len(winners) if winners else 0.0)
    return fmean(won)


class TestMajority:
    def test_by_hand(self) -> None:
        # Right twice, 5 three times. Of 3 drawn from 5 (10 ways) the right one has both votes in C(3,1) = 3: it wins.
        # Of all 5 the other wins. Of 2: both right 1 way, one each 3 * 2 = 6 ways and half of it: (1 + 3) / 10.
        # Of 4 (5 ways): with both right 3 ways, 2 : 2, half: 1.5 / 5.
        votes = Votes(correct=2, others=(3,), silent=0)
        assert maj_at_k(votes, 5) == pytest.approx((2 / 5, 4 / 10, 3 / 10, 1.5 / 5, 0))
        # Who is silent does not vote: of one right and two without a box any subset with the right one wins.
        assert maj_at_k(Votes(correct=1, others=(), silent=2), 3) == pytest.approx((1 / 3, 2 / 3, 1))
        # Nobody votes, nothing is right; and a tie of three.
        assert maj_at_k(Votes(correct=0, others=(), silent=2), 2) == (0, 0)
        assert maj_at_k(Votes(correct=1, others=(1, 1), silent=0), 3)[2] == pytest.approx(1 / 3)

    def test_agrees_with_brute_force(self) -> None:
        draw = random.Random(0)
        seen = 0
        for _ in range(300):
            n = draw.randint(1, 8)
            answers = draw.choices(["1", "1", "2", "3", "4", None], k=n)
            votes = count_votes(episode.attempts[0] for episode in alone("a", answers))
            assert votes.n == n
            expected = [brute_force_vote(answers, k) for k in range(1, n + 1)]
            assert maj_at_k(votes, n) == pytest.approx(tuple(expected)), answers
            seen += sum(0 < share < 1 for share in expected)
        assert seen > 300  # the cases are not all trivial

    def test_sixteen_samples_against_every_subset(self) -> None:
        answers: list[str | None] = ["1"] * 5 + ["2"] * 4 + ["3"] * 3 + ["4", "5"] + [None] * 2
        votes = count_votes(episode.attempts[0] for episode in alone("a", answers))
        assert maj_at_k(votes, 7)[6] == pytest.approx(brute_force_vote(answers, 7))

    def test_classes_of_answers(self) -> None:
        gold = r"\frac{1}{2}"
        right = alone("a", [gold, gold], gold=gold)
        # One half is typed three ways below, and is wrong here; 3 and $3$ are one answer; no box, no vote.
        others = alone("a", [r"\dfrac{1}{2}", r"\frac12", r"$\tfrac{1}{2}$", "3", "$3$", "x", None], gold="7")
        votes = count_votes(episode.attempts[0] for episode in right + others)
        assert votes == Votes(correct=2, others=(3, 2, 1), silent=1)

    def test_a_wrong_answer_outside_of_a_box_does_not_vote(self) -> None:
        (boxless,) = alone("a", [None])[0].attempts
        votes = count_votes([replace(boxless, verdict=Verdict.WRONG)])
        assert votes == Votes(correct=0, others=(), silent=1)

    def test_an_answer_that_is_only_typesetting_or_endless_is_a_class(self) -> None:
        long = "9" * 100_000
        answers = [r"\text{}", long, long]
        start = time.perf_counter()
        votes = count_votes(episode.attempts[0] for episode in alone("a", answers))
        assert votes == Votes(correct=0, others=(2, 1), silent=0)
        assert time.perf_counter() - start < 2

    def test_refuses_more_than_was_drawn(self) -> None:
        with pytest.raises(ValueError, match="n=1, k=2"):
            maj_at_k(Votes(correct=1, others=(), silent=0), 2)


def a_block(accuracy: list[float], n: int, **values: Any) -> Block:
    shares = {str(k): share for k, share in enumerate(accuracy, start=1)}
    found = block({"main": [dialogue("a", ["1"], budget=1)]}, 1)
    around = {k: [share - 0.1, share + 0.1] for k, share in shares.items()}
    return {**found, "n": n, "accuracy": shares, "ci95": around, **values}  # type: ignore[typeddict-item]


class TestRefinement:
    def test_by_hand(self) -> None:
        main = [
            dialogue("right", ["1"], budget=3),
            dialogue("a", ["2", "1"], budget=3),
            dialogue("b", ["2", "3", "1"], budget=3),
            dialogue("c", ["2", "2", "2"], budget=3),
            dialogue("d", [None, "1"], budget=3),
            dialogue("e", ["2"], budget=3),  # its tokens were used up
        ]
        independent = [
            *alone("right", ["2", "2"]),
            *alone("a", ["2", "2", "2", "1", "1", "3", None, "2"]),
            *alone("b", ["1", "3", "3", "2", "4"]),
            *alone("c", ["2", "2"]),
            *alone("d", ["1", "3", None, "3", "1"]),
            *alone("e", ["1"]),
        ]
        found = block({"main": main, "independent": independent}, 3)["refinement"]
        assert found is not None
        assert found["n"] == 5
        assert found["without_other"] == pytest.approx(1 / 5)  # c
        assert found["shares"] == pytest.approx(
            {
                "refined": (1 + 0 + 0 + 1 + 0) / 5,
                # without 2: a has 1, 1, 3; b has 1, 3, 3, 4; c nothing. d refuted nothing: 1 and 3 tie.
                "best_other": (1 + 0 + 0 + 1 / 2 + 1) / 5,
                "chance": (1 / 2 + 1 / 3 + 0 + 1 / 2 + 1) / 5,
                "independent": (2 / 8 + 1 / 5 + 0 + 2 / 5 + 1) / 5,
                # A sample without an answer differs from the refuted one: 2 of 4 of a are right.
                "excluding": (2 / 4 + 1 / 4 + 0 + 2 / 5 + 1) / 5,
            }
        )
        # Per question: 0, 0, 0, 1/2, -1.
        assert found["differences"]["best_other"] == pytest.approx(-0.1)
        assert found["differences_ci95"]["best_other"] == difference_interval([0, 0, 0, 0.5, -1])
        assert found["ci95"]["refined"] == wilson(2 / 5, 5)
        assert list(found["differences"]) == ["best_other", "chance", "independent", "excluding"]

    def test_answers_are_the_same_as_for_a_majority(self) -> None:
        half = dialogue("a", [r"\dfrac{1}{2}", "1"], budget=2)
        found = block({"main": [half], "independent": alone("a", [r"\frac12", "0.5", "1"])}, 2)["refinement"]
        assert found is not None
        # \frac12 is \dfrac{1}{2} once cleaned; 0.5 is another answer.
        assert found["shares"] == {
            "refined": 1,
            "best_other": 1 / 2,
            "chance": 1 / 2,
            "independent": pytest.approx(1 / 3),
            "excluding": 1 / 2,
        }

    def test_samples_of_a_question_are_averaged_before_questions(self) -> None:
        main = [
            dialogue("a", ["1"], budget=2, sample=0),  # right at once: of no concern here
            dialogue("a", ["2", "1"], budget=2, sample=1),
            dialogue("a", ["3", "2"], budget=2, sample=2),
            dialogue("b", ["2", "1"], budget=2),
        ]
        found = block({"main": main, "independent": [*alone("a", ["2", "1"]), *alone("b", ["1"])]}, 2)["refinement"]
        assert found is not None
        assert found["n"] == 2
        # a: 1 and 0, and without 2 the best is 1, without 3 it is 1 or 2. b: 1 and 1.
        assert found["shares"]["refined"] == pytest.approx((1 / 2 + 1) / 2)
        assert found["shares"]["best_other"] == pytest.approx((3 / 4 + 1) / 2)

    def test_nothing_to_tell(self) -> None:
        wrong, samples = dialogue("a", ["2", "1"], budget=2), alone("b", ["1", "2"])
        once = dialogue("a", ["2"], budget=1)
        assert block({"main": [wrong]}, 2)["refinement"] is None  # no samples
        assert block({"main": [wrong], "independent": samples}, 2)["refinement"] is None  # none of this question
        assert block({"main": [once], "independent": alone("a", ["1"])}, 1)["refinement"] is None  # no second attempt
        right = dialogue("b", ["1"], budget=2)
        assert block({"main": [right], "independent": samples}, 2)["refinement"] is None  # nothing was wrong

    def test_benchmarks_that_have_it_are_averaged(self) -> None:
        one = block({"main": [dialogue("a", ["2", "1"], budget=2)], "independent": alone("a", ["1", "2"])}, 2)
        two = block({"main": [dialogue("a", ["2", "3"], budget=2)], "independent": alone("a", ["2", "2"])}, 2)
        none = block({"main": [dialogue("a", ["1"], budget=2)], "independent": alone("a", ["1", "2"])}, 2)
        found = average([one, none, two])["refinement"]
        assert found is not None
        assert (found["n"], found["without_other"]) == (2, 1 / 2)
        assert found["shares"] == {
            "refined": 1 / 2,
            "best_other": 1 / 2,
            "chance": 1 / 2,
            "independent": 1 / 4,
            "excluding": 1 / 2,
        }
        assert one["refinement"] is not None
        assert two["refinement"] is not None
        limits = [part["refinement"]["ci95"]["refined"] for part in (one, two)]  # type: ignore[index]
        assert found["ci95"]["refined"] == mover([1, 0], limits)
        assert average([none, none])["refinement"] is None

    def test_the_interval_of_a_mean_difference(self) -> None:
        # 3 differences of +1 and one of 0, with two more pairs: mean 3/6, of squares (3 + 1)/6,
        # variance 2/3 - 1/4 = 0.41667, half 1.95996 x sqrt(0.41667 / 6) = 0.51650.
        assert difference_interval([1, 1, 1, 0]) == pytest.approx([-0.01650, 1.0], abs=1e-5)
        assert difference_interval([0.0] * 1000)[1] == pytest.approx(Z95 * (1 / 1002 / 1002) ** 0.5)
        assert difference_interval([1.0] * 1000)[1] == 1.0
        with pytest.raises(ValueError, match="at least one question"):
            difference_interval([])

    def test_the_interval_of_a_mean_difference_covers_95_percent(self) -> None:
        # A yes or no against a share of 0, 1/2 or 1, both more often high on easy questions.
        draw = random.Random(5)

        def difference() -> float:
            ease = draw.random()
            return (draw.random() < 0.9 * ease + 0.1) - draw.choice([0, 0.5, 1]) * (draw.random() < ease)

        truth = 0.9 / 2 + 0.1 - 0.5 / 2
        for n in (30, 200):
            hits = sum(covered(difference_interval([difference() for _ in range(n)]), truth) for _ in range(1000))
            assert 0.93 <= hits / 1000 <= 0.98


class TestMeans:
    def test_average_gives_benchmarks_the_same_weight(self) -> None:
        group = {"1": {"n": 3, "accuracy": {"1": 0.5}, "ci95": {"1": [0.1, 0.9]}}}
        control = {"1": [0.1, 0.3], "2": [0.2, 0.4]}
        small = a_block(
            [0.2, 0.4],
            10,
            failed=1,
            pass_at_k={"1": 0.2, "2": 0.3},
            pass_ci95=control,
            levels=group,
            announced={"1": 0.2},
        )
        large = a_block(
            [0.6, 0.6],
            1000,
            failed=2,
            repeat_rate={"2": 0.5},
            pass_at_k={"1": 0.6, "2": 0.7},
            pass_ci95={"1": [0.5, 0.7], "2": [0.6, 0.8]},
            base_accuracy={"1": 0.5, "2": 0.5},
            base_ci95=control,
            announced={"1": 0.4, "2": 0.5},
            truncated={"1": 0.5, "2": 1.0},
        )
        mean = average([small, large])
        assert (mean["n"], mean["failed"]) == (1010, 3)
        assert mean["accuracy"] == pytest.approx({"1": 0.4, "2": 0.5})
        # two intervals of +-0.1: sqrt(0.01 + 0.01) / 2 = 0.0707107
        assert mean["ci95"]["1"] == pytest.approx([0.4 - 0.0707107, 0.4 + 0.0707107])
        assert mean["pass_at_k"] == pytest.approx({"1": 0.4, "2": 0.5})
        assert mean["pass_ci95"]["2"] == pytest.approx([0.5 - 0.0707107, 0.5 + 0.0707107])
        # A curve of one benchmark is not the average's; what is seen at attempt k is of those that reached it.
        assert mean["base_accuracy"] == mean["base_ci95"] == {}
        assert mean["announced"] == average([large, small])["announced"] == pytest.approx({"1": 0.3})
        assert mean["repeat_rate"] == {"2": 0.5}
        assert mean["truncated"] == {"1": 0.25, "2": 1.0}  # `small` cut none of its first attempts
        assert mean["levels"] == mean["subjects"] == {}

    def test_average_cost_counts_what_solves_nothing(self) -> None:
        # 100 tokens a dialogue and half solved; 300 and none: 200 tokens for a quarter solved.
        cheap = a_block([0.5], 10, mean_tokens=100.0, tokens_per_solved=200.0)
        vain = a_block([0.0], 10, mean_tokens=300.0, tokens_per_solved=None)
        assert average([cheap, vain])["tokens_per_solved"] == pytest.approx(800)
        assert average([vain, vain])["tokens_per_solved"] is None

    def test_average_of_probes(self) -> None:
        hidden = {"accuracy": {"1": 0.4}, "ci95": {"1": [0.3, 0.5]}}
        told = {"n": 4, "share": 0.5, "ci95": [0.4, 0.6]}
        both = average(
            [
                a_block([0.5], 5, probes={"abandoned": told, "hidden_count": hidden}),
                a_block([0.5], 5, probes={"abandoned": {"n": 2, "share": 1.0, "ci95": [0.9, 1.0]}}),
                a_block([0.5], 5),
            ]
        )["probes"]
        assert both.keys() == {"abandoned", "hidden_count"}
        assert (both["abandoned"]["n"], both["abandoned"]["share"]) == (6, 0.75)
        # below sqrt(0.1^2 + 0.1^2) / 2, above sqrt(0.1^2 + 0) / 2
        assert both["abandoned"]["ci95"] == pytest.approx([0.75 - 0.0707107, 0.8])
        assert both["hidden_count"]["accuracy"] == {"1": 0.4}
        assert both["hidden_count"]["ci95"]["1"] == pytest.approx([0.3, 0.5])

    def test_average_of_one_is_the_block_without_groups(self) -> None:
        one = block({"main": [dialogue("a", ["1"], budget=1, level="3", subject="Algebra")]}, 1)
        assert one["levels"]
        assert average([one]) == {**one, "levels": {}, "subjects": {}}

    def test_mean_over_seeds_keeps_the_questions(self) -> None:
        seeds = {"0": a_block([0.2, 0.4], 10), "1": a_block([0.4, 0.8], 10)}
        both = over_seeds(seeds)
        assert both["seeds"] == seeds
        assert both["mean"]["n"] == 10
        assert both["mean"]["accuracy"] == pytest.approx({"1": 0.3, "2": 0.6})
        # The same questions: no narrower than one seed's interval.
        assert both["mean"]["ci95"]["2"] == pytest.approx([0.5, 0.7])
        with pytest.raises(ValueError, match=r"got \[9, 10\] questions"):
            over_seeds({**seeds, "2": a_block([0.4, 0.8], 9)})

    def test_a_block_of_an_earlier_version_has_no_refinement(self) -> None:
        old: Any = {name: value for name, value in a_block([0.2, 0.4], 10).items() if name != "refinement"}
        assert over_seeds({"0": old, "1": old})["mean"]["refinement"] is None

    def test_blocks_of_different_budgets_are_not_averaged(self) -> None:
        with pytest.raises(ValueError, match=r"budgets \[1, 2\]"):
            average([a_block([0.2], 10), a_block([0.2, 0.3], 10)])
        with pytest.raises(ValueError, match=r"budgets \[\]"):
            average([])


def covered(limits: list[float], truth: float) -> bool:
    return limits[0] <= truth <= limits[1]


@pytest.mark.parametrize(("n", "p"), [(30, 0.2), (40, 0.6), (500, 0.75)])
def test_wilson_covers_95_percent(n: int, p: float) -> None:
    draw = random.Random(0)
    shares = [sum(draw.random() < p for _ in range(n)) / n for _ in range(1000)]
    assert sum(covered(wilson(share, n), p) for share in shares) / 1000 == pytest.approx(0.95, abs=0.02)


def test_the_average_covers_95_percent() -> None:
    draw = random.Random(1)
    sizes, truths = [30, 40, 200], [0.15, 0.6, 0.75]
    hits = 0
    for _ in range(1000):
        shares = [sum(draw.random() < p for _ in range(n)) / n for n, p in zip(sizes, truths, strict=True)]
        intervals = [wilson(share, n) for share, n in zip(shares, sizes, strict=True)]
        hits += covered(mover(shares, intervals), sum(truths) / 3)
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)


def drawn_shares(draw: random.Random, questions: int, samples: int, k: int, a: float, b: float) -> list[float]:
    """pass@k of questions whose own chance to be solved is Beta(a, b): many near 0 or 1, as with real models."""
    chances = [draw.betavariate(a, b) for _ in range(questions)]
    return [pass_at_k(samples, sum(draw.random() < p for _ in range(samples)), k) for p in chances]


def true_pass(k: int, a: float, b: float) -> float:
    """1 - E[(1 - p)^k] of p ~ Beta(a, b): 1 - B(a, b + k) / B(a, b)."""
    missed = 1.0
    for step in range(k):
        missed *= (b + step) / (a + b + step)
    return 1 - missed


@pytest.mark.parametrize(
    ("questions", "samples", "k", "a", "b"),
    [
        (40, 4, 1, 0.4, 0.4),  # accuracy of several samples
        (40, 7, 3, 0.4, 0.4),
        (40, 7, 7, 0.4, 0.4),  # each question yes or no
        (30, 16, 7, 0.25, 1.5),  # hard: 39 % within 7
        (200, 16, 3, 1.2, 0.4),  # easy: 91 % within 3
    ],
)
def test_shares_of_questions_cover_95_percent(questions: int, samples: int, k: int, a: float, b: float) -> None:
    draw = random.Random(2)
    truth = true_pass(k, a, b)
    hits = sum(covered(share_interval(drawn_shares(draw, questions, samples, k, a, b)), truth) for _ in range(1000))
    assert hits / 1000 == pytest.approx(0.95, abs=0.02)


def test_wilson_with_the_number_of_questions_would_be_too_wide_for_samples() -> None:
    # Why `share_interval` has an effective number: 4 samples of 40 questions.
    draw = random.Random(3)
    shares = [drawn_shares(draw, 40, 4, 1, 0.4, 0.4) for _ in range(1000)]
    assert sum(covered(wilson(fmean(each), 40), 0.5) for each in shares) / 1000 > 0.97


def test_nearly_all_solved_is_not_taken_for_certain() -> None:
    # 30 questions, 96 % solved within 7 of 16: a bootstrap over questions covers 76 %.
    draw = random.Random(4)
    truth = true_pass(7, 1.2, 0.4)
    hits = sum(covered(share_interval(drawn_shares(draw, 30, 16, 7, 1.2, 0.4)), truth) for _ in range(1000))
    assert hits / 1000 >= 0.93


def a_random_benchmark(draw: random.Random, name: str, *, every_budget: bool) -> dict[str, list[Episode]]:
    """All kinds of runs of 25 questions at K = 4, with repeated answers, missing boxes, cut and lost dialogues."""

    def play(question: int, budget: int, sample: int = 0, *, deny: bool = False) -> Episode:
        answers: list[str | None] = []
        while len(answers) < budget and ("1" not in answers or (deny and len(answers) == 1)):
            answers.append(draw.choice(["1", "2", "3", "3", "4", None]))
        return dialogue(
            f"q{question}",
            answers,
            budget=budget,
            sample=sample,
            benchmark=name,
            level=str(question % 3 + 1),
            tokens=[draw.randint(1, 30) for _ in answers],
            cut=[number for number in range(1, 5) if draw.random() < 0.2],
            failed=draw.random() < 0.05,
        )

    budgets = range(1, 5) if every_budget else [4]
    return {
        "main": [play(q, budget, sample) for budget in budgets for sample in range(2) for q in range(25)],
        "independent": [play(q, 1, sample) for sample in range(6) for q in range(25)],
        "base": [play(q, 4) for q in range(25)],
        "false_feedback": [play(q, 2, deny=True) for q in range(25)],
        "hidden_count": [play(q, 4) for q in range(25)],
        "wrong_count": [play(q, 4) for q in range(25)],
        "announced_1": [play(q, 1) for q in range(25)],
    }


def test_the_numbers_are_those_of_a_script_that_reads_the_file_alone(tmp_path: Path) -> None:
    draw = random.Random(0)
    benchmarks = {name: a_random_benchmark(draw, name, every_budget=name == "paper") for name in ("nested", "paper")}
    lines = [
        json.dumps({"run": run, **episode.to_json()})
        for runs in benchmarks.values()
        for run, episodes in runs.items()
        for episode in episodes
    ]
    (tmp_path / "episodes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = Path(__file__).parent / "reference_numbers.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 90
    assert "multiattempt_trl" not in script.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "episodes.jsonl")], capture_output=True, text=True, check=True
    )
    numbers = json.loads(done.stdout)
    assert numbers.keys() == benchmarks.keys()
    compared = 0
    for name, runs in benchmarks.items():
        found: Any = block(runs, 4)
        assert found["failed"] > 0
        for key, expected in numbers[name].items():
            ours = found[key]
            if key == "refinement":
                ours = {**ours["shares"], "without_other": ours["without_other"]}
                assert 0 < ours["without_other"] < 1
            assert ours == pytest.approx(expected, rel=1e-12), (name, key)
            compared += len(expected) if isinstance(expected, dict) else 1
    # 5 curves of 4 attempts, the repeat rate from 2, the tokens, and 6 numbers of second answers
    assert compared == 2 * (5 * 4 + 3 + 1 + 6)


def test_the_size_of_the_five_benchmarks_takes_seconds() -> None:
    # 1,517 questions with 16 independent samples each, whose answers differ as those of a weak model do.
    draw = random.Random(0)
    main = [dialogue(str(q), draw.choices("123", k=7), budget=7) for q in range(1517)]
    independent = [
        episode
        for q in range(1517)
        for episode in alone(str(q), [draw.choice(["1", str(draw.randint(2, 9)), None]) for _ in range(16)])
    ]
    start = time.perf_counter()
    block({"main": main, "independent": independent}, 7)
    assert time.perf_counter() - start < 5

"""The paired bootstrap against planted differences, and the verdicts against evaluations made up by hand."""

import dataclasses
import json
import random
import time
from collections.abc import Mapping, Sequence
from math import exp
from statistics import fmean

import pytest
from dialogues import alone, dialogue

from multiattempt_trl.dialogue.episode import Episode
from multiattempt_trl.evaluation.numbers.bootstrap import Difference, paired_difference, widening
from multiattempt_trl.evaluation.numbers.compare import Compared, compare, gain_verdicts
from multiattempt_trl.evaluation.numbers.verdicts import Contrast, Gain


class TestPairedDifference:
    def test_by_hand(self) -> None:
        # first: +1, 0 of the two that both have; second: -1/2: ((1 + 0) / 2 - 1/2) / 2 = 0
        a = {"first": {"p": 0.0, "q": 1.0, "r": 1.0}, "second": {"p": 1.0}}
        b = {"first": {"p": 1.0, "q": 1.0, "s": 0.0}, "second": {"p": 0.5}}
        found = paired_difference(a, b)
        assert found.mean == 0.0
        assert (found.questions, found.left_out) == (3, 2)
        # The resampled mean of the first is 0, 1/2 or 1, each end a quarter of the time: 1/2 off, halved.
        assert found.ci95 == pytest.approx((-0.25 * widening(2), 0.25 * widening(2)))

    def test_widening_by_hand(self) -> None:
        # The tables' t with 29 and 14 degrees of freedom: 2.0452 and 2.1448
        assert widening(30) == pytest.approx((30 / 29) ** 0.5 * 2.0452 / 1.95996, abs=1e-4)
        assert widening(15) == pytest.approx((15 / 14) ** 0.5 * 2.1448 / 1.95996, abs=1e-3)
        assert widening(1) == 1.0

    def test_benchmarks_count_the_same(self) -> None:
        a = {"small": dict.fromkeys("pq", 0.0), "large": dict.fromkeys(map(str, range(98)), 0.0)}
        b = {"small": dict.fromkeys("pq", 1.0), "large": dict.fromkeys(map(str, range(98)), 0.0)}
        assert paired_difference(a, b).mean == 0.5

    def test_the_interval_is_the_binomials(self) -> None:
        # 100 questions, 10 of them gained: a resample gains Binomial(100, 0.1), from 5 to 16 in 95 %
        a = {"set": dict.fromkeys(map(str, range(100)), 0.0)}
        b = {"set": {str(q): float(q < 10) for q in range(100)}}
        found = paired_difference(a, b)
        assert found.mean == pytest.approx(0.1)
        assert found.ci95 == pytest.approx((0.1 - 0.05 * widening(100), 0.1 + 0.06 * widening(100)))
        assert paired_difference(b, a).mean == -found.mean

    def test_the_same_questions_give_the_same_interval_in_any_order(self) -> None:
        draw = random.Random(0)
        a = {name: {str(q): draw.random() for q in range(30)} for name in "xy"}
        b = {name: {str(q): draw.random() for q in range(30)} for name in "xy"}
        turned_a, turned_b = ({name: dict(reversed(of[name].items())) for name in reversed(of)} for of in (a, b))
        assert paired_difference(a, b) == paired_difference(turned_a, turned_b)

    def test_a_difference_that_rounding_makes_is_none(self) -> None:
        noise = Difference(mean=0.01, ci95=(1e-17, 0.02), questions=100, left_out=0)
        assert not noise.told
        assert dataclasses.replace(noise, ci95=(0.001, 0.02)).told
        assert dataclasses.replace(noise, ci95=(-0.02, -0.001)).told
        assert not dataclasses.replace(noise, ci95=(0.001, 0.02), questions=19).told

    def test_other_benchmarks_and_questions_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"got \['x'\] and \['y'\]"):
            paired_difference({"x": {"p": 1.0}}, {"y": {"p": 1.0}})
        with pytest.raises(ValueError, match=r"got \[\] and \[\]"):
            paired_difference({}, {})
        with pytest.raises(
            ValueError, match=r"^x: .* share no question, 2 are in the first alone and 1 in the second"
        ):
            paired_difference({"x": {"p": 1.0, "q": 1.0}}, {"x": {"r": 1.0}})

    def test_five_benchmarks_take_a_fraction_of_a_second(self) -> None:
        draw = random.Random(0)
        sizes = {"aime24": 30, "amc23": 40, "math500": 500, "minerva": 272, "olympiadbench": 675}
        a, b = ({name: {str(q): draw.random() for q in range(n)} for name, n in sizes.items()} for _ in range(2))
        start = time.perf_counter()
        paired_difference(a, b)
        assert time.perf_counter() - start < 2


def chance(hardness: float) -> float:
    return 1 / (1 + exp(hardness))


def answered(
    draw: random.Random, sizes: Mapping[str, int], gain: float, samples: int = 1
) -> Sequence[dict[str, dict[str, float]]]:
    """Two checkpoints of one model on the same questions; the second gains `gain` on average.

    Hardness is normal with a standard deviation of 6 in logits: most questions are nearly always or nearly never
    solved, and where each is answered once the two disagree on one of eight, as checkpoints of one model do. Of what
    the second would answer wrong, half of all, a part of 2 `gain` is turned right.
    """
    a: dict[str, dict[str, float]] = {}
    b: dict[str, dict[str, float]] = {}
    for name, n in sizes.items():
        a[name], b[name] = {}, {}
        for question in map(str, range(n)):
            solved = chance(draw.gauss(0, 6))
            better = solved + 2 * gain * (1 - solved)
            a[name][question] = sum(draw.random() < solved for _ in range(samples)) / samples
            b[name][question] = sum(draw.random() < better for _ in range(samples)) / samples
    return a, b


class TestSimulation:
    def test_a_planted_difference_of_3_points_is_found(self) -> None:
        # 1,500 questions. Answered once each, the standard error is sqrt(0.15 / 1500) = 1 point, and 3 points are
        # found in four of five cases; with four samples each it is half a point.
        draw = random.Random(0)
        sizes = {"math500": 500, "level5": 500, "olympiad": 500}
        found = [paired_difference(*answered(draw, sizes, 0.03, 4), resamples=1000) for _ in range(100)]
        assert fmean(each.mean for each in found) == pytest.approx(0.03, abs=0.002)
        assert sum(each.told and each.mean > 0 for each in found) >= 98
        once = [paired_difference(*answered(draw, sizes, 0.03), resamples=1000) for _ in range(100)]
        assert sum(each.told and each.mean > 0 for each in once) >= 75

    def test_no_difference_is_not_found(self) -> None:
        draw = random.Random(1)
        sizes = {"aime24": 30, "amc23": 40, "large": 150}
        found = [paired_difference(*answered(draw, sizes, 0), resamples=1000) for _ in range(1000)]
        assert sum(each.told for each in found) / 1000 == pytest.approx(0.05, abs=0.02)

    def test_the_interval_of_a_difference_covers_95_percent(self) -> None:
        draw = random.Random(2)
        sizes = {"aime24": 30, "amc23": 40, "large": 150}
        hits = 0
        for _ in range(1000):
            lower, upper = paired_difference(*answered(draw, sizes, 0.1), resamples=1000).ci95
            hits += lower <= 0.1 <= upper
        assert hits / 1000 == pytest.approx(0.95, abs=0.02)

    def test_pairing_is_what_makes_it_narrow(self) -> None:
        # The same answers, but those of the second moved on by one question: what is hard no longer cancels.
        draw = random.Random(3)
        a, b = answered(draw, {"set": 500}, 0.03)
        names = list(b["set"])
        moved = {"set": dict(zip(names, [*list(b["set"].values())[1:], b["set"]["0"]], strict=True))}
        paired, unpaired = paired_difference(a, b).ci95, paired_difference(a, moved).ci95
        assert paired[1] - paired[0] < 0.7 * (unpaired[1] - unpaired[0])


def difference(mean: float, lower: float, upper: float, *, questions: int = 500, left_out: int = 0) -> Difference:
    """In percentage points."""
    return Difference(mean=mean / 100, ci95=(lower / 100, upper / 100), questions=questions, left_out=left_out)


UP, DOWN, NONE = difference(6.1, 3.9, 8.4), difference(-4, -6, -2), difference(0.5, -1, 2)


def contrast(found: Difference, above: Difference | None, own: Difference | None = NONE, k: int = 2) -> str:
    return Contrast(a="A", b="B", k=k, difference=found, above_pass=above, above_own_pass=own).sentence


class TestSentences:
    def test_a_gain(self) -> None:
        own = "; against its own pass@2: +0.5 [-1.0, 2.0]"
        assert contrast(UP, difference(3.2, 1.0, 5.5)) == (
            "B - A at 2 attempts: +6.1 [3.9, 8.4]; "
            f"not explained by pass@2: 3.2 [1.0, 5.5] above what 2 independent samples of A solve{own}"
        )
        assert contrast(UP, DOWN) == (
            "B - A at 2 attempts: +6.1 [3.9, 8.4]; "
            f"explained by pass@2: 2 independent samples of A solve 4.0 [2.0, 6.0] more{own}"
        )
        assert contrast(UP, difference(-0.3, -2, 1)) == (
            "B - A at 2 attempts: +6.1 [3.9, 8.4]; explained by pass@2: "
            f"2 independent samples of A do as well (B against them: -0.3 [-2.0, 1.0]){own}"
        )
        assert contrast(UP, NONE) == (
            "B - A at 2 attempts: +6.1 [3.9, 8.4]; may be explained by pass@2: that 2 independent samples of A do as "
            f"well cannot be ruled out (B against them: +0.5 [-1.0, 2.0]){own}"
        )

    def test_no_controls(self) -> None:
        assert contrast(UP, None, None) == (
            "B - A at 2 attempts: +6.1 [3.9, 8.4]; not known whether pass@2 explains it: A was evaluated without "
            "independent samples; B was evaluated without independent samples of its own"
        )

    def test_the_first_attempt_has_no_control(self) -> None:
        assert contrast(UP, UP, k=1) == "B - A at 1 attempt: +6.1 [3.9, 8.4]"

    def test_no_gain(self) -> None:
        assert contrast(NONE, UP) == (
            "B - A at 2 attempts: +0.5 [-1.0, 2.0]; no difference can be told from these questions"
        )
        assert contrast(DOWN, UP) == "B - A at 2 attempts: -4.0 [-6.0, -2.0]; A is better"
        few = difference(6.1, 3.9, 8.4, questions=12)
        assert contrast(few, UP).endswith("; 12 questions are too few to tell a difference")

    def test_rounding_leaves_no_negative_zero(self) -> None:
        assert contrast(difference(-0.04, -0.04, 0.04), None).startswith("B - A at 2 attempts: +0.0 [0.0, 0.0];")

    def test_questions_of_one_side_alone_are_told(self) -> None:
        found = difference(-4, -6, -2, left_out=3)
        assert contrast(found, None) == (
            "B - A at 2 attempts: -4.0 [-6.0, -2.0] over the 500 questions that both answered; A is better"
        )

    def test_gains(self) -> None:
        def said(against: str, found: Difference | None) -> str:
            return Gain(label="A", k=4, against=against, difference=found).sentence  # type: ignore[arg-type]

        points = "A: within 4 attempts 6.1 [3.9, 8.4] percentage points more are solved than by "
        assert said("first", UP) == f"{points}the first attempt alone"
        assert said("pass", UP) == f"{points}4 independent samples"
        assert said("maj", UP) == f"{points}a majority vote over 4 independent samples"
        assert said("base", UP) == f"{points}the base model within 4 attempts"
        assert said("pass", DOWN) == (
            "A: within 4 attempts 4.0 [2.0, 6.0] percentage points fewer are solved than by 4 independent samples"
        )
        assert said("pass", NONE) == (
            "A: within 4 attempts +0.5 [-1.0, 2.0] percentage points against 4 independent samples; "
            "no difference can be told from these questions"
        )
        assert said("base", None) == (
            "A: evaluated without the base model, so how far that explains the gain is not known"
        )


def evaluation(
    label: str, first: int, second: int, *, right_samples: int | None = None, base: int | None = None, n: int = 40
) -> Compared:
    """n questions at K = 2, of which so many are solved by the first attempt and so many more by the second.

    Of the independent samples, two for each question, one is right for the first `right_samples` questions.
    """
    main = [
        dialogue(str(q), ["1"] if q < first else ["2", "1"] if q < first + second else ["2", "2"], budget=2)
        for q in range(n)
    ]
    runs: dict[str, list[Episode]] = {"main": main}
    if right_samples is not None:
        runs["independent"] = [
            each for q in range(n) for each in alone(str(q), ["1" if q < right_samples else "2", "2"])
        ]
    if base is not None:
        runs["base"] = [dialogue(str(q), ["1"] if q < base else ["2", "2"], budget=2) for q in range(n)]
    return Compared(label=label, runs={"set": runs}, budget=2)


class TestCompare:
    def test_every_other_against_the_first_at_each_k(self) -> None:
        a = evaluation("A", 10, 4, right_samples=16)
        b = evaluation("B", 16, 8)
        found = compare([a, b, evaluation("C", 10, 4)])
        assert [(each.a, each.b, each.k) for each in found] == [
            ("A", "B", 1),
            ("A", "B", 2),
            ("A", "C", 1),
            ("A", "C", 2),
        ]
        # 16 - 10 and 24 - 14 of 40 questions
        assert [each.difference.mean for each in found] == pytest.approx([6 / 40, 10 / 40, 0, 0])
        # pass@1 of A: half of 16; pass@2: all 16
        assert found[0].above_pass is not None
        assert found[1].above_pass is not None
        assert found[0].above_pass.mean == pytest.approx((16 - 8) / 40)
        assert found[1].above_pass.mean == pytest.approx((24 - 16) / 40)
        assert found[1].above_own_pass is None
        assert found[1].sentence.startswith("B - A at 2 attempts: +25.0 [")
        assert "not explained by pass@2: 20.0 [" in found[1].sentence
        assert found[1].sentence.endswith("B was evaluated without independent samples of its own")
        assert (
            found[3].sentence == "C - A at 2 attempts: +0.0 [0.0, 0.0]; no difference can be told from these questions"
        )
        own = compare([b, a])[1].above_own_pass
        assert own is not None
        assert own.mean == pytest.approx((14 - 16) / 40)

    def test_up_to_the_smaller_budget(self) -> None:
        longer = Compared(
            label="L", runs={"set": {"main": [dialogue(str(q), ["2"] * 5, budget=5) for q in range(40)]}}, budget=5
        )
        assert [each.k for each in compare([longer, evaluation("A", 10, 4)])] == [1, 2]

    def test_records_are_json(self) -> None:
        a, b = evaluation("A", 10, 4, right_samples=16), evaluation("B", 16, 8)
        records = [*compare([a, b]), *gain_verdicts(a)]
        line = json.loads(json.dumps([dataclasses.asdict(each) for each in records], allow_nan=False))
        assert line[1]["difference"]["mean"] == pytest.approx(0.25)
        assert len(line[1]["difference"]["ci95"]) == 2

    def test_lost_dialogues_leave_the_question_out(self) -> None:
        a = evaluation("A", 10, 4)
        lost = [dialogue("0", ["2"], budget=2, failed=True), *evaluation("B", 10, 4).runs["set"]["main"][1:]]
        found = compare([a, Compared(label="B", runs={"set": {"main": lost}}, budget=2)])[0]
        assert (found.difference.questions, found.difference.left_out) == (39, 1)
        assert "over the 39 questions that both answered" in found.sentence

    def test_mistakes_are_refused(self) -> None:
        a, b = evaluation("A", 10, 4), evaluation("B", 10, 4)
        with pytest.raises(ValueError, match="at least two evaluations, got 1"):
            compare([a])
        with pytest.raises(ValueError, match="label of its own, got A more than once"):
            compare([a, b, a])
        other = Compared(label="B", runs={"set": b.runs["set"], "more": b.runs["set"]}, budget=2)
        with pytest.raises(ValueError, match="A was evaluated on set, B on more, set"):
            compare([a, other])

    def test_other_questions_are_refused(self) -> None:
        a, b = evaluation("A", 10, 4), evaluation("B", 10, 4)
        changed = [dialogue("0", ["2", "2"], budget=2, problem="!"), *b.runs["set"]["main"][1:30]]
        with pytest.raises(
            ValueError,
            match=r"^set: 1 of 30 shared questions have another problem or gold answer, '0' for one; "
            "10 are of A alone and 0 of B alone",
        ):
            compare([a, Compared(label="B", runs={"set": {"main": changed}}, budget=2)])
        gold = [dialogue("0", ["2", "2"], budget=2, gold="3"), *b.runs["set"]["main"][1:]]
        with pytest.raises(ValueError, match=r"^set: 1 of 40 shared questions"):
            compare([a, Compared(label="B", runs={"set": {"main": gold}}, budget=2)])
        unknown = [dialogue(f"x{q}", ["2", "2"], budget=2) for q in range(7)]
        with pytest.raises(ValueError, match=r"^set: no question is shared; 40 are of A alone and 7 of B alone"):
            compare([a, Compared(label="B", runs={"set": {"main": unknown}}, budget=2)])


class TestGains:
    def test_against_the_first_attempt_and_the_controls(self) -> None:
        # Solved at once 10 of 40, within two 22; two samples solve 16, one of them at a time: a vote ties, 8; base 6.
        found = gain_verdicts(evaluation("A", 10, 12, right_samples=16, base=6))
        means = {(each.against, each.k): each.difference.mean for each in found if each.difference}
        assert means == {
            ("first", 2): pytest.approx(12 / 40),
            ("pass", 2): pytest.approx((22 - 16) / 40),
            ("maj", 2): pytest.approx((22 - 8) / 40),
            ("base", 1): pytest.approx((10 - 6) / 40),
            ("base", 2): pytest.approx((22 - 6) / 40),
        }
        assert found[0].sentence.startswith("A: within 2 attempts 30.0 [")

    def test_a_control_that_was_not_played_is_said_once(self) -> None:
        found = gain_verdicts(evaluation("A", 10, 12))
        assert [(each.against, each.k, each.difference is None) for each in found] == [
            ("first", 2, False),
            ("pass", 2, True),
            ("maj", 2, True),
            ("base", 2, True),
        ]

    def test_each_budget_of_its_own_run(self) -> None:
        # Protocol `paper`: the run of budget 1 solves 20 of 40, the first attempts of budget 2 none, its second 30.
        main = [dialogue(str(q), ["1"] if q < 20 else ["2"], budget=1) for q in range(40)]
        main += [dialogue(str(q), ["2", "1"] if q < 30 else ["2", "2"], budget=2) for q in range(40)]
        found = gain_verdicts(Compared(label="A", runs={"set": {"main": main}}, budget=2))[0]
        assert found.difference is not None
        assert found.difference.mean == pytest.approx((30 - 20) / 40)

    def test_with_one_attempt_only_the_base_is_left(self) -> None:
        main = [dialogue(str(q), ["1"], budget=1) for q in range(40)]
        found = gain_verdicts(Compared(label="A", runs={"set": {"main": main, "base": main}}, budget=1))
        assert [(each.against, each.k) for each in found] == [("base", 1)]

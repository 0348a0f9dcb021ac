"""The maths grader: verdicts by hand, hostile answers, and thousands of labelled and real ones."""

import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from multiattempt_trl import graders
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.domains.maths.data import BENCHMARKS, load_benchmark
from multiattempt_trl.graders import client, hints
from multiattempt_trl.graders.decision import Stage
from multiattempt_trl.graders.math_verify import Grading, MathVerifyGrader

ROOT = Path(__file__).parents[1]
CORRECT, WRONG, INVALID = Verdict.CORRECT, Verdict.WRONG, Verdict.INVALID


@pytest.fixture(scope="module")
def grade() -> Iterator[MathVerifyGrader]:
    with MathVerifyGrader() as grader:
        yield grader


def question(gold: str, benchmark: str = "") -> Question:
    return Question(id="q", problem="?", answer=gold, benchmark=benchmark)


@pytest.mark.parametrize(
    ("gold", "response", "verdict"),
    [
        # No closed, non-empty box at the end.
        ("5", "", INVALID),
        ("5", "The answer is $5$.", INVALID),
        ("5", "boxed{5}", INVALID),
        ("5", r"\boxed 5", INVALID),
        ("5", r"\fbox{5}", INVALID),
        ("5", r"\boxed{5", INVALID),
        ("5", r"\boxed{5} and then \boxed{5", INVALID),
        ("5", r"\boxed{5\}", INVALID),
        ("5", r"\boxed{}", INVALID),
        ("5", r"\boxed{ }", INVALID),
        ("5", r"\boxed{5}, put your answer within \boxed{}", INVALID),
        ("5", r"\boxed{\text{}}", INVALID),
        ("5", r"\boxed{\,\!$$}", INVALID),
        # The last box counts.
        ("5", r"\boxed {5}", CORRECT),
        ("5", r"\boxed{\boxed{5}}", CORRECT),
        ("5", r"\boxed{3}, no: \boxed{5}.", CORRECT),
        ("5", r"\boxed{5}, no: \boxed{3}.", WRONG),
        # Equal as strings after normalisation.
        (r"\text{ellipse}", r"\boxed{ellipse}", CORRECT),
        (r"\text{(C)}", r"\boxed{C}", CORRECT),
        ("C", r"\boxed{D}", WRONG),
        (r"$\left(1,2\right)$", r"\boxed{(1,\,2)}", CORRECT),
        # Plain numbers, exactly.
        ("10080", r"\boxed{10{,}080}", CORRECT),
        ("9999", r"\boxed{10000}", WRONG),
        ("5", r"\boxed{500}", WRONG),
        ("5", r"\boxed{500\%}", WRONG),
        (r"10\%", r"\boxed{0.1}", CORRECT),
        ("137 \\frac{1}{2}", r"\boxed{137.5}", CORRECT),
        (r"\frac{1}{3}", r"\boxed{0.33}", WRONG),
        ("4.5e33", r"\boxed{4.5 \times 10^{33}}", CORRECT),
        ("4.5e33", r"\boxed{4.5 \times 10^{34}}", WRONG),
        (r"9.1e-31", r"\boxed{1.6 \times 10^{-19}}", WRONG),
        # Algebra, in the worker.
        (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}", CORRECT),
        ("y=2x+3", r"\boxed{2x - y + 3 = 0}", CORRECT),
        ("[2,5]", r"\boxed{(2,5)}", WRONG),
        ("1,-2", r"\boxed{\{-2, 1\}}", CORRECT),
        ("5", r"\boxed{1,2,3,4,5}", WRONG),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\boxed{\begin{pmatrix}1&3\\2&4\end{pmatrix}}", WRONG),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", CORRECT),
        (r"\frac{1}{2004!}", r"\boxed{\frac{1}{2006!}}", WRONG),
        (r"\frac{1}{2^{99}}", r"\boxed{\frac{1}{2^{98}}}", WRONG),
    ],
)
def test_verdicts(grade: MathVerifyGrader, gold: str, response: str, verdict: Verdict) -> None:
    assert grade(question(gold), response).verdict is verdict


def test_minerva_is_compared_at_its_own_tolerance(grade: MathVerifyGrader) -> None:
    # 9.6 against 9.6005: 0.0005 / 9.6 = 5.2e-5, between 1e-6 and 1e-4. 9.602: 2.1e-4.
    assert grade(question("9.6", "minerva"), r"\boxed{9.6005}").verdict is CORRECT
    assert grade(question("9.6", "minerva"), r"\boxed{9.602}").verdict is WRONG
    assert grade(question("9.6"), r"\boxed{9.6005}").verdict is WRONG


@pytest.mark.parametrize(
    "answer",
    [
        "\ud83d lone surrogate \udc00",
        "\x00",
        "5\x00\x1b[31m + x",
        "x" * 1_000_000,
        "{" * 2_000 + "5" + "}" * 2_000,
        r"\frac{1}{1+" * 80 + "x" + "}" * 80,
        '"}\n{"gold": "5", "answer": "5"}',
        "__import__('os').system('touch PWNED')",
        "١٢٣ + ½ ²",
        r"\frac{1}{0}",
        "nan",
    ],
)
def test_no_text_raises_or_is_taken_for_correct(grade: MathVerifyGrader, answer: str) -> None:
    assert grade(question("7"), rf"\boxed{{{answer}}}").verdict in (WRONG, INVALID)
    assert grade(question("7"), answer).verdict is INVALID
    assert grade(question("x^2"), r"\boxed{x \cdot x}").verdict is CORRECT  # the next answer is its own
    assert not Path("PWNED").exists()


def test_threads_share_a_grader() -> None:
    with MathVerifyGrader() as grader, ThreadPoolExecutor(8) as threads:
        golds = [f"x+{k}" for k in range(100)]
        said = threads.map(lambda k: grader(question(golds[k]), rf"\boxed{{{k - k % 2}+x}}"), range(100))
        verdicts = [one.verdict for one in said]
        assert verdicts == [CORRECT, WRONG] * 50  # even k: the same sum; odd k: one less
        assert (grader.counts.answers, grader.pool.crashes) == (100, 0)


def test_graders_need_no_torch() -> None:
    code = (
        "import sys\n"
        "import multiattempt_trl.graders.math_verify, multiattempt_trl.graders.worker as worker\n"
        "worker.load_comparison()\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'gmpy2') if sys.modules.get(name)])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_examples_in_docstrings() -> None:
    examples = 0
    for module in pkgutil.iter_modules(graders.__path__, "multiattempt_trl.graders."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        examples += result.attempted
    assert examples >= 60


def test_the_documented_calls() -> None:
    text = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    rewards: list[float] = []

    class Trainer:
        def __init__(self, *_: Any, reward_funcs: Any, **__: Any) -> None:
            self.reward = reward_funcs

        def train(self) -> None:
            completions = [[{"role": "assistant", "content": text}] for text in (r"\boxed{0.5}", r"\boxed{2}")]
            rewards.extend(self.reward(completions=completions, solution=[r"\frac12"] * 2))

    names: dict[str, Any] = {"GRPOTrainer": Trainer, "model": "m", "dataset": []}
    exec(first + second, names)  # our own page
    assert (names["found"].verdict, names["found"].stage, names["found"].reason) == ("correct", "math_verify", "equal")
    assert rewards == [1.0, 0.0]


@pytest.mark.parametrize(
    ("gold", "response", "stage", "reason"),
    [
        ("5", "five", Stage.BOX, "no box"),
        ("5", r"\boxed{\text{ }}", Stage.BOX, "empty box"),
        ("5", rf"\boxed{{{'5' * 1_001}}}", Stage.BOX, "too long"),
        ("5", r"\boxed{5<|im_end|>}", Stage.BOX, "special token"),
        ("5", r"\boxed{5}", Stage.STRING, "same text"),
        ("5", r"\boxed{6}", Stage.NUMBER, "different number"),
        ("0.5", r"\boxed{\frac12}", Stage.NUMBER, "same number"),
        ("5", r"\boxed{5, 6}", Stage.RULES, "several answers"),
        ("5", r"\boxed{answer}", Stage.RULES, "placeholder"),
        ("5", r"\boxed{5 \text{ or not}}", Stage.RULES, "several answers"),
        (r"3\text{ hours}", r"\boxed{3\text{ minutes}}", Stage.RULES, "different unit"),
        (r"\text{(C)}", r"\boxed{(D)}", Stage.RULES, "different choice"),
        ("2516_8", r"\boxed{2516_9}", Stage.RULES, "different base"),
        ("4:20", r"\boxed{4:21}", Stage.RULES, "different time"),
        ("3:2", r"\boxed{2:3}", Stage.RULES, "different ratio"),
        (r"\text{east}", r"\boxed{\text{west}}", Stage.RULES, "different words"),
        ("5", r"\boxed{9^{9^{9^9}}}", Stage.RULES, "too expensive"),
        ("x+1", r"\boxed{1+x}", Stage.MATH_VERIFY, "equal"),
        ("x+1", r"\boxed{2+x}", Stage.RULES, "different values"),
        (r"\sin x", r"\boxed{\cos x}", Stage.MATH_VERIFY, "different"),
        ("x+1", r"\boxed{\frac{x}{}", Stage.BOX, "no box"),
        ("x+1", r"\boxed{\foo\bar}", Stage.RULES, "not understood"),
        ("5", r"\boxed{\frac{5}{1} \Rightarrow 6}", Stage.RULES, "not understood"),
        (r"\sin x", r"\boxed{\sin ) (}", Stage.RULES, "not understood"),
        (r"\sin x", r"\boxed{\sum_{} \int_{} x}", Stage.MATH_VERIFY, "unparsed"),
    ],
)
def test_the_deciding_stage_and_the_reason_are_told(
    grade: MathVerifyGrader, gold: str, response: str, stage: Stage, reason: str
) -> None:
    found = grade.grade(gold, response)
    assert (found.stage, found.reason) == (stage, reason)
    assert 0 <= found.seconds < 3


def test_an_empty_gold_answer_is_refused(grade: MathVerifyGrader) -> None:
    with pytest.raises(ValueError, match="gold answer '\\$\\$' is empty"):
        grade.grade("$$", r"\boxed{5}")


def test_many_are_graded_in_order(grade: MathVerifyGrader) -> None:
    pairs = [(f"y+{k}", rf"\boxed{{{k + k % 2}+y}}") for k in range(20)] * 2
    before = grade.pool.comparisons
    assert [found.verdict for found in grade.grade_all(pairs)] == [CORRECT, WRONG] * 20
    assert grade.pool.comparisons - before == 10  # the wrong ones need no worker, nor anything the second time


def read_cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grade_case(grader: MathVerifyGrader, row: dict[str, Any]) -> Grading:
    # `gen` is an expression of the file's own author that builds a long text; no model writes it.
    text = row["pred"] if row.get("pred") is not None else eval(row["gen"])
    return grader.grade(row["gold"], text) if row["kind"] == "response" else grader.grade_answer(row["gold"], text)


def disagreements(grader: MathVerifyGrader, rows: list[dict[str, Any]]) -> list[str]:
    """Unambiguous cases that are not graded as labelled, and every answer that is wrongly accepted."""
    found = []
    for row in rows:
        grading = grade_case(grader, row)
        status = row.get("status", "correct" if row["equal"] else "not correct")
        agrees = grading.verdict == status or (status == "not correct" and grading.verdict is not CORRECT)
        accepted = grading.verdict is CORRECT and not row["equal"]
        if accepted or not (agrees or row.get("policy")):
            found.append(f"{row['category']}: {row['gold']} | {str(row['pred'])[:80]} | {grading.reason}")
    return found


def test_labelled_cases(shared: Path, grade: MathVerifyGrader) -> None:
    rows = [row for row in read_cases(shared / "grading_cases.jsonl") if not row["category"].startswith("stress:")]
    assert len(rows) == 246
    assert not disagreements(grade, rows)


def test_our_own_labelled_cases(grade: MathVerifyGrader) -> None:
    rows = read_cases(ROOT / "tests" / "grading" / "pairs.jsonl")
    assert len(rows) == 1_709
    assert len({row["category"] for row in rows}) == 51
    assert not disagreements(grade, rows)


def test_hostile_answers_are_wrong_within_the_deadline(shared: Path) -> None:
    rows = read_cases(shared / "grading_cases.jsonl") + read_cases(ROOT / "tests" / "grading" / "stress.jsonl")
    rows = [row for row in rows if row["category"].startswith("stress:")]
    assert len(rows) == 29 + 96
    with MathVerifyGrader(workers=1) as grader:
        assert grader(question("x+1"), r"\boxed{1+x}").verdict is CORRECT  # it has started
        for row in rows:
            began = time.monotonic()
            found = grade_case(grader, row)
            assert (found.verdict is CORRECT) == row["equal"], (row["category"], found.reason)
            assert time.monotonic() - began < client.DEADLINE_SECONDS + 5, row[
                "category"
            ]  # 5: to start the next worker
        assert grader.pool.crashes == 0
        assert grader.counts.timeouts <= 0.2 * len(rows)  # most are seen to be too expensive before
        assert grader(question("x+1"), r"\boxed{1+x}").verdict is CORRECT


def test_answers_that_are_code_are_not_run(grade: MathVerifyGrader, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    payloads = [
        f"__import__('os').system('touch {canary}')",
        f"open('{canary}','w')",
        f"exec(\"open('{canary}','w')\")",
        f"().__class__.__base__.__subclasses__() or open('{canary}','w')",
        f"\\input{{|touch {canary}}}",
        f"\\write18{{touch {canary}}}",
        f"5; import os; os.system('touch {canary}')",
        f"$(touch {canary})",
        f"`touch {canary}`",
        f"sympify(\"open('{canary}','w')\")",
        f"x.subs(x, open('{canary}','w'))",
    ]
    for payload in payloads:
        assert grade.grade_answer("5", payload).verdict is WRONG, payload
    assert not canary.exists()


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_gold_is_accepted_against_itself(shared: Path, grade: MathVerifyGrader, name: str) -> None:
    questions = load_benchmark(str(shared / "data" / f"{name}.jsonl"))
    refused = [row.answer for row in questions if grade(row, f"so \\boxed{{{row.answer}}}").verdict is not CORRECT]
    assert not refused, f"{len(questions) - len(refused)} of {len(questions)} accepted"


EQUAL_GOLDS = {("5", "5\\text{ digits}"), ("0.5", "\\frac{1}{2}"), ("12_5", "12")}
"""Gold answers of the training set that stand seven rows apart and are equal, or would be for the same question."""


@pytest.mark.parametrize("name", ["aime24", "amc23", "math500", "minerva", "olympiadbench", "math_l3to5_train"])
def test_gold_answers_are_told_apart(shared: Path, grade: MathVerifyGrader, name: str) -> None:
    """Each against the one seven rows further on."""
    golds = [row["answer"] for row in read_cases(shared / "data" / f"{name}.jsonl")]
    pairs = list(zip(golds, golds[7:] + golds[:7], strict=True))
    found = grade.grade_all([(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs])
    accepted = {pair for pair, grading in zip(pairs, found, strict=True) if grading.verdict is CORRECT}
    assert {pair for pair in accepted if pair[0] != pair[1]} <= EQUAL_GOLDS
    assert Counter(grading.stage for grading in found)[Stage.MATH_VERIFY] <= 0.4 * len(found)


def test_powers_of_ten_in_minerva(shared: Path, grade: MathVerifyGrader) -> None:
    rows = load_benchmark(str(shared / "data" / "minerva.jsonl"))
    matches = [(row, re.fullmatch(r"(-?[\d.]+)e(-?\d+)", row.answer)) for row in rows]
    found = [(row, match[1], int(match[2])) for row, match in matches if match]
    assert len(found) == 58
    for row, mantissa, power in found:
        assert grade(row, rf"\boxed{{{mantissa} \times 10^{{{power}}}}}").verdict is CORRECT
        assert grade(row, rf"\boxed{{{mantissa} \times 10^{{{power + 1}}}}}").verdict is WRONG
        assert grade(row, rf"\boxed{{{mantissa} \times 10^{{{power - 1}}}}}").verdict is WRONG


@pytest.fixture
def both_cores_busy() -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for process in busy:
        process.kill()
        process.wait()


def all_verdicts(shared: Path) -> list[tuple[str, str]]:
    """Verdict and stage of every case there is, from a grader of its own."""
    files = (shared / "grading_cases.jsonl", *sorted((ROOT / "tests" / "grading").glob("*.jsonl")))
    with MathVerifyGrader() as grader:
        found = [grade_case(grader, row) for path in files for row in read_cases(path)]
    return [(grading.verdict, grading.stage) for grading in found]


@pytest.fixture(scope="module")
def idle_verdicts(shared: Path) -> list[tuple[str, str]]:
    return all_verdicts(shared)


@pytest.mark.slow
def test_verdicts_do_not_depend_on_load(
    shared: Path, idle_verdicts: list[tuple[str, str]], both_cores_busy: None
) -> None:
    assert len(idle_verdicts) == 275 + 1_709 + 96
    assert all_verdicts(shared) == idle_verdicts


FRACTION, DISPLAYED = r"\frac", r"\dfrac"


@pytest.mark.slow
def test_hostile_answers_among_good_ones(shared: Path) -> None:
    """2,000 hostile answers among 10,000 good ones, two workers."""
    stress = read_cases(shared / "grading_cases.jsonl") + read_cases(ROOT / "tests" / "grading" / "stress.jsonl")
    stress = [row for row in stress if row["category"].startswith("stress:") and not row["equal"]]
    golds = [row["answer"] for row in read_cases(shared / "data" / "math_l3to5_train.jsonl")]
    golds += [row["answer"] for row in read_cases(shared / "data" / "olympiadbench.jsonl")]
    golds += [row["answer"] for row in read_cases(shared / "data" / "math500.jsonl")]
    mixed: list[tuple[str, str, bool]] = [
        (gold, rf"so \boxed{{{gold.replace(FRACTION, DISPLAYED).replace('+', ' + ')}}}", True)
        for gold in (golds * 2)[:10_000]
    ]
    for n in range(2_000):
        row = stress[n % len(stress)]
        text = row["pred"] if row.get("pred") is not None else eval(row["gen"])
        other = re.sub(r"\d", str(1 + n // len(stress) % 9), text, count=1)  # not to be remembered
        mixed.append((row["gold"], other if row["kind"] == "response" else rf"\boxed{{{other}}}", False))
    Random(0).shuffle(mixed)
    with MathVerifyGrader(workers=2) as grader:
        found = grader.grade_all([(gold, text) for gold, text, _ in mixed])
        wrong = [
            pair for pair, grading in zip(mixed, found, strict=True) if pair[2] and grading.verdict is not CORRECT
        ]
        assert not wrong, wrong[:5]
        accepted = [
            pair for pair, grading in zip(mixed, found, strict=True) if not pair[2] and grading.verdict is CORRECT
        ]
        assert len(accepted) <= 20, accepted[:5]  # with another digit some are what was asked
        assert max(grading.seconds for grading in found) <= client.DEADLINE_SECONDS
        assert grader.pool.crashes == 0
        assert grader(question("x+1"), r"\boxed{1+x}").verdict is CORRECT


# --- hints ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "response", "hint"),
    [
        ("5", "It is 5.", "No boxed answer was found at the end."),
        ("5", r"\boxed{\text{ }}", "The last box is empty."),
        ("5", rf"\boxed{{{'1' * 2_000}}}", "What stands in the box is too long."),
        ("5", r"\boxed{answer}", "A placeholder stands in the box."),
        ("5", r"\boxed{4, 5}", "Several answers stand in the box where one is asked for."),
        ("1, 2", r"\boxed{1}", "There are more answers than one."),
        ("1, 2", r"\boxed{1, 2, 3}", "The number of answers is another."),
        (r"3\text{ hours}", r"\boxed{3\text{ minutes}}", "The unit does not fit."),
        ("(1, 2)", r"\boxed{[1, 2]}", "The brackets are others."),
        ("5", r"\boxed{-5}", "The sign is wrong."),
        (r"\frac{1}{2}", r"\boxed{-0.5}", "The sign is wrong."),
        ("5", r"\boxed{500}", "It is off by a power of ten."),
        ("0.05", r"\boxed{50}", "It is off by a power of ten."),
        (r"50\%", r"\boxed{5}", "It is off by a power of ten."),
        ("5", r"\boxed{50000}", ""),  # 10^4: nothing that a point or a percent sign does
        ("1/3", r"\boxed{0.33}", "It must be exact, not rounded."),
        ("1/3", r"\boxed{0.4}", ""),
        ("17", r"\boxed{17.1}", ""),
        ("1000", r"\boxed{999.5}", ""),
        ("0.33", r"\boxed{0.331}", ""),  # rounded itself
        ("5", r"\boxed{x + y}", "The answer is a number."),
        ("5", r"\boxed{\text{maybe}}", "The answer is a number."),
        ("5", r"\boxed{\text{hundred}}", ""),
        ("120", r"\boxed{\text{a dozen dozen}}", ""),
        ("-5", r"\boxed{-\text{Hundreds}}", ""),
        ("5", r"\boxed{\sqrt{3}}", ""),
        ("5", r"\boxed{e}", ""),
        ("5", r"\boxed{6}", ""),
        ("5", r"\boxed{5}", ""),
        ("x + 1", r"\boxed{x + 2}", ""),
        ("x + 1", r"\boxed{\frac{x}}", "What stands in the box could not be read as mathematics."),
        (r"\text{(C)}", r"\boxed{B}", ""),
        ("0", r"\boxed{1}", ""),
    ],
)
def test_a_hint_tells_the_kind_of_error_alone(grade: MathVerifyGrader, gold: str, response: str, hint: str) -> None:
    said = grade(question(gold), response)
    assert said.remarks == {"hint": hint}
    assert said.answer is None  # what stands in the last box
    assert grade.grade(gold, response).hint == hint


KINDS = {
    "The sign is wrong.",
    "It is off by a power of ten.",
    "It must be exact, not rounded.",
    "The answer is a number.",
    "",
}


def parts(text: str) -> set[str]:
    return set(re.findall(r"\d+|[a-z]{2,}", text.lower()))


def test_no_hint_tells_the_answer_or_repeats_what_was_said(grade: MathVerifyGrader) -> None:
    given = 0
    for row in [row for name in ("pairs", "stress") for row in read_cases(ROOT / "tests/grading" / f"{name}.jsonl")]:
        found = grade_case(grade, row)
        given += bool(found.hint)
        assert not (found.hint and found.verdict is CORRECT)
        assert found.hint in KINDS | {*hints._OF_REASONS.values()}  # a sentence of ours, whole
        assert not parts(found.hint) & parts(row["gold"]), (row["gold"], found.hint)
    assert given > 100


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("-{gold}", "The sign is wrong."),
        ("{gold}00", "It is off by a power of ten."),
        ("0.{gold:03d}", "It is off by a power of ten."),
        ("{gold}.5", ""),
        ("{more}", ""),
        ("{gold}, {more}", "Several answers stand in the box where one is asked for."),
        ("x + {gold}y", ""),
        ("\\text{{maybe}}", "The answer is a number."),
        ("{rounded:.3f}", "It must be exact, not rounded."),
    ],
)
def test_a_hint_is_the_same_for_every_gold_answer(grade: MathVerifyGrader, answer: str, hint: str) -> None:
    golds = [gold for gold in range(1, 100) if gold % 7 and gold % 10]
    said = set()
    for gold in golds:
        written = f"{gold}/7" if "rounded" in answer else str(gold)
        said.add(grade.grade_answer(written, answer.format(gold=gold, more=gold + 1, rounded=gold / 7)).hint)
    assert said == {hint}
    assert len(golds) == 77

"""What a model may write: generated LaTeX, and labelled answers that were damaged. Nothing raises or hangs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Verdict
from multiattempt_trl.graders import client
from multiattempt_trl.graders.cost import too_expensive
from multiattempt_trl.graders.decision import Decision, Stage
from multiattempt_trl.graders.exploits import exploits_in
from multiattempt_trl.graders.math_verify import MathVerifyGrader, judge
from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean, key
from multiattempt_trl.graders.numbers import TOLERANCE, parse_number
from multiattempt_trl.graders.rules import decide
from multiattempt_trl.graders.values import values, values_differ

PAIRS = [
    json.loads(line)
    for line in (Path(__file__).parent / "grading" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
]
ANSWERS = sorted({text for row in PAIRS if row["kind"] == "answer" for text in (row["gold"], row["pred"])})
COMMANDS = r"""
    \frac \dfrac \sqrt \text{ \mathrm{ \left( \right) \left\{ \right\} \begin{pmatrix} \end{pmatrix} \cup \infty \pm
    \cdot \times \pi \% \$ \, \! \\ & ^ _ { } ( ) [ ] , ; : = < > \leq \geq \neq \approx \in | ! / + - * . e10 ^\circ
    and or cm hours p.m. \boxed{ \binom \log \sin \sum_{k=1}^{ \int \ldots \mathbb{R} \emptyset \{ \} ' \prime
""".split()  # noqa: SIM905  # one token after another reads best
TOKENS = st.sampled_from(
    [*COMMANDS, " ", "\n", "\\", "x", "y", "n", "i", "E", "A", "C", "0", "1", "2", "12", "100", "3.5"]
)
LATEX = st.lists(st.one_of(TOKENS, TOKENS, st.integers(0, 10**6).map(str)), max_size=25).map("".join)
DAMAGE = st.tuples(
    st.sampled_from(ANSWERS), st.integers(0, 200), st.integers(0, 4), st.one_of(TOKENS, st.text(max_size=2))
)
FUZZ = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def damaged(damage: tuple[str, int, int, str]) -> str:
    """A labelled answer with a few characters taken out and something put in."""
    text, place, out, put = damage
    place %= len(text) + 1
    return text[:place] + put + text[place + out :]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathVerifyGrader]:
    with MathVerifyGrader() as opened:
        yield opened


@FUZZ
@given(
    gold=st.sampled_from([answer for answer in ANSWERS if key(clean(answer))]),
    answer=st.one_of(LATEX, DAMAGE.map(damaged)),
)
def test_generated_answers_get_a_verdict_in_time(grader: MathVerifyGrader, gold: str, answer: str) -> None:
    began = time.monotonic()
    found = grader.grade_answer(gold, answer)
    assert time.monotonic() - began < client.DEADLINE_SECONDS + 1
    assert (found.verdict is Verdict.INVALID) == (found.reason in ("no box", "empty box"))
    again = grader.grade(gold, rf"\boxed{{{answer}}}")
    if last_boxed(rf"\boxed{{{answer}}}") == answer.strip():  # no brace or box of its own
        assert again.verdict is found.verdict


@FUZZ
@given(one=st.one_of(LATEX, st.sampled_from(ANSWERS)), other=st.one_of(st.sampled_from(ANSWERS), DAMAGE.map(damaged)))
def test_numbers_and_strings_are_compared_alike_in_both_directions(one: str, other: str) -> None:
    one, other = clean(one), clean(other)
    if not (key(one) and key(other)):
        return
    found, turned = decide(one, other), decide(other, one)
    symmetric = (Stage.STRING, Stage.NUMBER)
    if (
        isinstance(found, Decision)
        and found.stage in symmetric
        and "%" not in one + other
        and "percent" not in one + other
    ):
        assert isinstance(turned, Decision)
        assert (turned.equal, turned.stage) == (found.equal, found.stage)
    assert values_differ(one, other) == values_differ(other, one)


@FUZZ
@given(answer=st.one_of(LATEX, st.sampled_from(ANSWERS), st.text(max_size=60)))
def test_cleaning_twice_changes_nothing_and_an_answer_equals_itself(answer: str) -> None:
    cleaned = clean(answer)
    assert clean(cleaned) == cleaned
    if key(cleaned):
        outcome = decide(cleaned, cleaned)
        assert isinstance(outcome, Decision)
        assert outcome.equal


SHORT = [
    "1 ",
    "1",
    "a",
    "A ",
    "A,",
    "=",
    "a=",
    "1:",
    "{",
    "(",
    "[",
    "\\{",
    "}",
    "\\",
    "\\text{",
    "\\text{a}",
    "and ",
    "1,111",
]
SHORT += [
    "^",
    "^{2",
    "2^",
    "2^{",
    "!",
    "9!",
    "\\frac",
    "\\frac1",
    "\\sqrt{",
    "\\left(",
    "\\pm",
    "\\pm1,",
    "|",
    "$",
    "~",
    "\\,",
    "%",
    "'",
]
SHORT += [
    "\\cup(1,2)",
    "<",
    "x<",
    "\\leq",
    "cm ",
    "\\cm",
    "m/s",
    "\\begin{pmatrix}",
    "&",
    "\\\\",
    "-",
    "+",
    "*",
    "**",
    "_",
    "x_1",
    "e9",
]
SHORT += [
    "\\overline{3",
    "0.3",
    ",000",
    " 000",
    "one ",
    "twenty-",
    "th",
    "1st",
    "\u221a",
    "\u00b2",
    "\ud800",
    "\u200b",
    "<|a|>",
    "where ",
    "for all ",
]


@pytest.mark.parametrize("ending", ["", "x", "}", "5", " \\text{ cm}^2", "=3", ":"])
def test_no_pattern_is_slow(ending: str) -> None:
    """A thousand characters of one thing, and of two things in turn, in every stage of this process."""
    slow = []
    for piece in [*SHORT, *(one + other for one in SHORT[::3] for other in SHORT[1::3])]:
        text = (piece * MAX_ANSWER)[: MAX_ANSWER - len(ending)] + ending
        began = time.thread_time()
        judge("5", text, TOLERANCE)
        judge(r"\text{(C)}", text, TOLERANCE)
        judge("1,2,3", text, TOLERANCE)
        judge("x+1", text, TOLERANCE)
        parse_number(text), too_expensive(text), values(text), exploits_in(text * 100, "")
        if time.thread_time() - began > 1.5:
            slow.append((piece, time.thread_time() - began))
    assert not slow

"""The grader of arithmetic: the last box must hold the gold integer, digit for digit; and what it says of another."""

import re

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.dialogue.remarks import HINT

_INTEGER = re.compile(r"[-+]?[0-9]{1,1000}")
_OPERANDS = re.compile(r"(gcd|mod)-([0-9]{1,9})-([0-9]{1,9})")


def judge_exactly(question: Question, response: str) -> Judgement:
    r"""The verdict, with a hint where it is not correct.

    >>> question = Question(id="mod-437-7", problem="What is the remainder when 437 is divided by 7?", answer="3")
    >>> [judge_exactly(question, rf"\boxed{{{text}}}").remarks["hint"] for text in ("5", "1", "9", "x", "03")]
    ['Too high.', 'Too low.', 'Too high. At most 6.', 'Not a number.', 'Only digits, no leading zero.']
    """
    verdict = grade_exactly(question, response)
    remarks = {} if verdict is Verdict.CORRECT else {HINT: hint(question, last_boxed(response))}
    return Judgement(verdict=verdict, remarks=remarks)


def grade_exactly(question: Question, response: str) -> Verdict:
    r"""Compares as strings: every gold answer has one spelling, and "06" is not it.

    >>> question = Question(id="gcd-12-18", problem="What is the greatest common divisor of 12 and 18?", answer="6")
    >>> [grade_exactly(question, text).value for text in (r"\boxed{ 6 }", r"\boxed{06}", "6")]
    ['correct', 'wrong', 'invalid']
    """
    content = last_boxed(response)
    if content is None:
        return Verdict.INVALID
    return Verdict.CORRECT if content == question.answer else Verdict.WRONG


def hint(question: Question, answer: str | None) -> str:
    """On which side of a wrong answer the right one lies, and in which range where the answer is outside of it.

    Short, since the small tokenizer spells most words of it: "Too high." takes it 13 tokens.
    """
    if answer is None:
        return "No boxed answer."
    if _INTEGER.fullmatch(answer) is None:
        return "Not a number."
    if _INTEGER.fullmatch(question.answer) is None:  # as somebody typed it
        return ""
    value, gold = int(answer), int(question.answer)
    if value == gold:
        return "Only digits, no leading zero."
    least, most = _range(question)
    if value > gold:
        return "Too high." if most is None or value <= most else f"Too high. At most {most}."
    return "Too low." if least is None or value >= least else f"Too low. At least {least}."


def _range(question: Question) -> tuple[int, int] | tuple[None, None]:
    """Between which numbers the answer must lie, as the question tells: a divisor divides, a remainder remains."""
    found = _OPERANDS.fullmatch(question.id)
    if found is None:
        return None, None
    a, b = int(found[2]), int(found[3])
    return (1, min(a, b)) if found[1] == "gcd" else (0, b - 1)

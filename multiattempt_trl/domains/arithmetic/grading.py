"""The grader of arithmetic: the last box must hold the gold integer, digit for digit."""

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Question, Verdict


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

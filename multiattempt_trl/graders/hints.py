"""What can be said of a wrong answer without telling the right one: its kind, as rules and exact numbers show it."""

import re
from fractions import Fraction

from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean
from multiattempt_trl.graders.numbers import PlainNumber, plain_number
from multiattempt_trl.graders.symbolic import Outcome
from multiattempt_trl.graders.words import meaning, names_a_number

UNREADABLE = "What stands in the box could not be read as mathematics."
_OF_REASONS = {
    "no box": "No boxed answer was found at the end.",
    "empty box": "The last box is empty.",
    "too long": "What stands in the box is too long.",
    "placeholder": "A placeholder stands in the box.",
    "several answers": "Several answers stand in the box where one is asked for.",
    "one answer of several": "There are more answers than one.",
    "different number of answers": "The number of answers is another.",
    "different unit": "The unit does not fit.",
    "different brackets": "The brackets are others.",
    "different variable": "The variable is another.",
    "not understood": UNREADABLE,
    "too expensive": UNREADABLE,
    Outcome.UNPARSED.value: UNREADABLE,
}
"""By the reason of a verdict, where that is all there is to say."""
_POWERS = (10, 100, 1000)
_CLOSE = Fraction(1, 100)
_NUMERAL = re.compile(r"\d|\\(?:pi|sqrt|infty|[dt]?frac|log|ln|sin|cos|tan)(?![A-Za-z])|(?<![A-Za-z])[ei](?![A-Za-z])")


def hint(gold: str, answer: str | None, reason: str) -> str:
    r"""A sentence about a wrong or invalid answer to a cleaned gold one; empty where its kind is not known.

    It takes no longer than the stages that have judged the answer, and never holds a part of the gold answer or of
    the answer itself.

    >>> hint("5", "-5", "different number"), hint("5", "0.5", "different number"), hint("5", "6", "different number")
    ('The sign is wrong.', 'It is off by a power of ten.', '')
    >>> hint("1/3", "0.33", "different number"), hint("5", "x+y", "different")
    ('It must be exact, not rounded.', 'The answer is a number.')
    """
    if reason in _OF_REASONS:
        return _OF_REASONS[reason]
    right = plain_number(gold)
    if right is None or answer is None or len(answer) > MAX_ANSWER:
        return ""
    answer = clean(answer)
    given = plain_number(answer)
    if given is not None:
        return _of_numbers(right, given)
    told = _NUMERAL.search(answer) or names_a_number(answer) or meaning(answer) is not None
    return "" if told else "The answer is a number."


def _of_numbers(right: PlainNumber, given: PlainNumber) -> str:
    """Of two numbers that are not equal."""
    if given.value == -right.value:
        return "The sign is wrong."
    if any(given.value * ratio in (right.value, right.value * ratio**2) for ratio in _POWERS):
        return "It is off by a power of ten."
    fraction = right.exact and right.value.denominator != 1  # nobody rounds 17 to 17.1
    if fraction and not given.exact and abs(given.value - right.value) <= _CLOSE * abs(right.value):
        return "It must be exact, not rounded."
    return ""

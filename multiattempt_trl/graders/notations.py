r"""String rules for answers with a notation of their own: choice letters, bases, times of day, ratios.

Each rule looks at a cleaned gold answer and a cleaned answer, and says whether they are equal, or None where it does
not apply.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from multiattempt_trl.graders.normalisation import key, plain
from multiattempt_trl.graders.numbers import PlainNumber, plain_number

_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_LABELLED = re.compile(
    r"(?:option|choice|answer)?\s*(?:\(([A-Z])\)|([A-Z])[).:](?=\s|$)|([A-Z])$)\s*[.:)]?\s*(.*)",
    re.IGNORECASE | re.DOTALL,
)
_LETTERS = re.compile(r"[\[({\\]*([A-Z](?:[^A-Za-z0-9+*/^_=-]*[A-Z])+)[\])}\\.]*")

_BASE_WORDS = {
    word: str(base)
    for base, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"), start=2
    )
} | {"binary": "2", "octal": "8", "decimal": "10", "hex": "16", "hexadecimal": "16", "sixteen": "16"}
_BASED = re.compile(r"(-?)\(?(-?)([0-9A-Za-z]*\d[0-9A-Za-z]*|[A-F]+)(\.[0-9A-Za-z]+)?\)?_\{?\(?(?:base)?(\w+)\)?\}?")
_IN_BASE = re.compile(r"\(?(?:in)?base-?(\w+)\)?$|(?:in)?\(?(binary|octal|decimal|hexadecimal)\)?$")
_DIGITS = re.compile(r"(-?)\(?([0-9A-Z]*\d[0-9A-Z]*)(\.[0-9A-Z]+)?\)?")

_MAX_DIGITS = 100

_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?([ap]m)?")
_CLOCK_WORDS = {"noon": "12:00pm", "12noon": "12:00pm", "midnight": "12:00am", "12midnight": "12:00am"}
_RATIO = re.compile(r"\d+(?:\.\d+)?(?::\d+(?:\.\d+)?)+")


def same_choice(gold: str, answer: str) -> bool | None:
    r"""Choice letters, with the text of the choice or without; several letters in any order.

    >>> same_choice(r"\text{(C)}", "C"), same_choice("C", r"\textbf{(C)} 12"), same_choice("C", "D")
    (True, True, False)
    >>> same_choice("x", "C")
    >>> same_choice(r"\text{A,B}", r"\text{B and A}"), same_choice("A,B", "A"), same_choice(r"\text{ACF}", "A, C, F")
    (True, False, True)
    """
    gold_text, answer_text = plain(gold).strip(), plain(answer).strip()
    letter = _LETTER.fullmatch(gold_text)
    if letter:
        label = _LABELLED.fullmatch(answer_text)
        if label and re.search(
            r"^[,;]|\([A-Z]\)|\\to|\b(?:either|or|not|and)\b", label[4]
        ):  # another choice behind it
            return False
        if label is None or _letters(answer_text):
            return None if len(gold_text) == 1 and _letters(answer_text) is None else False
        given = label[1] or label[2] or label[3]
        bare = label[3] is not None and len(answer_text) == 1
        return given == letter[1] if bare else given.upper() == letter[1]
    gold_letters = _letters(gold_text)
    if gold_letters is None or (gold == gold_text and "," not in gold):
        return None
    answer_letters = _letters(answer_text)
    if answer_letters is None:
        return False if _LETTER.fullmatch(answer_text) else None
    in_order = gold_letters == sorted(gold_letters)
    return gold_letters == (sorted(answer_letters) if in_order else answer_letters)


def _letters(text: str) -> list[str] | None:
    """The single letters of a list such as `A, C and F` or `ACF`."""
    text = re.sub(r"\b(?:and|or)\b|\\(?:text|&)", ",", text)
    found = _LETTERS.fullmatch(text.replace("(", "").replace(")", "").strip())
    return re.findall(r"[A-Z]", found[1]) if found else None


def without_label(answer: str) -> str:
    r"""The text of a choice without its letter.

    >>> without_label(r"\textbf{(C)}\ 12".replace("\\ ", " ")), without_label("(C)"), without_label("(x)")
    ('12', '(C)', '(x)')
    """
    found = re.match(r"\s*(?:\\(?:text(?:bf|it|rm)?|mathrm|mathbf)\s*\{\s*)?\(([A-H])\)\s*\}?\s*:?(?=.)", answer)
    return answer[found.end() :].strip() or answer if found and not found[0].endswith("\\") else answer


def same_in_base(gold: str, answer: str) -> bool | None:
    r"""Digits with the base they are written in; a wrong base is wrong, a missing one is forgiven.

    >>> same_in_base("4343_6", r"4343_{\text{six}}"), same_in_base("4343_6", "4343_7"), same_in_base("2516_8", "2516")
    (True, False, True)
    >>> same_in_base("1101_2", "13"), same_in_base(r"\text{A5}_{11}", "A5_{11}"), same_in_base("x_1", "5")
    (False, True, None)
    """
    gold_digits, gold_base = _digits(gold)
    answer_digits, answer_base = _digits(answer)
    if gold_base is None and answer_base is None:
        return None
    if not (gold_digits and answer_digits):
        return False if gold_base is not None else None
    # A base that is not asked for is another number.
    return gold_digits == answer_digits and (answer_base or gold_base) == (gold_base or 10)


def _digits(text: str) -> tuple[str, int | None]:
    """The digits without leading zeros, and the base; empty and None for what is not a number in some base."""
    text = _IN_BASE.sub(lambda found: f"_{found[1] or found[2]}", key(text)[:_MAX_DIGITS])
    found = _BASED.fullmatch(text)
    if found is None:
        found = _DIGITS.fullmatch(text)
        return (found[1] + found[2].lstrip("0") + (found[3] or ""), None) if found else ("", None)
    name = found[5].lower()
    base = _BASE_WORDS.get(name, name)
    digits = found[3].upper()
    value = int(base) if base.isdecimal() and len(base) < 3 else 0
    if not 2 <= value <= 36 or any(int(digit, 36) >= value for digit in digits):
        return "", None
    return found[1] + found[2] + digits.lstrip("0") + (found[4] or "").upper(), value


def same_time(gold: str, answer: str) -> bool | None:
    r"""Times of day, where one side has minutes or a.m. or p.m.; a missing half of the day is forgiven.

    >>> same_time(r"4\text{:}20\text{ p.m.}", r"4:20 \text{ PM}"), same_time("10:08", "10:09")
    (True, False)
    >>> same_time("9 am", "9 pm"), same_time("4:20 pm", "16:20"), same_time("3:2", "3:2"), same_time("9", "9")
    (False, True, None, None)
    """
    gold_time, answer_time = _time(gold), _time(answer)
    if gold_time and gold_time[1] and answer_time is None and ":" in answer:
        return False
    if gold_time is None or answer_time is None or not (gold_time[2] or answer_time[2]):
        return None
    (clock, half, _), (other, other_half, _) = gold_time, answer_time
    if half and other_half:
        return clock == other and half == other_half
    # 16:20 and 05:00 say which half of the day it is, 4:20 does not.
    if "pm" in (half, other_half) and key(gold if other_half else answer).startswith("0"):
        return False
    return clock == other or (
        abs(clock - other) == 12 * 3600 and (half or other_half) == "pm" and max(clock, other) >= 13 * 3600
    )


def _time(text: str) -> tuple[int, str, bool] | None:
    """Seconds since midnight or noon as written, the half of the day, and whether it can only be a time."""
    text = re.sub(r"[\s{}]", "", plain(text)).lower().replace("o'clock", ":00")
    text = _CLOCK_WORDS.get(text, re.sub(r"([ap])\.m\.?$", r"\1m", text))
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    hour, minute, second = (int(found[group] or 0) for group in (1, 2, 3))
    if hour > 24 or minute > 59 or second > 59:
        return None
    return hour * 3600 + minute * 60 + second, found[4] or "", bool(found[4] or found[2])


def same_ratio(gold: str, answer: str) -> bool | None:
    r"""Ratios, which scale: `3:2` is `6:4` and, of two numbers, `\frac{3}{2}`.

    >>> same_ratio("3:2", "3 : 2"), same_ratio("3:2", "2:3"), same_ratio("3:2", r"\frac{3}{2}")
    (True, False, True)
    >>> same_ratio("3:2", r"3 \text{ to } 2"), same_ratio("3", "5")
    (True, None)
    """
    gold_terms, answer_terms = _ratio(gold), _ratio(answer)
    if gold_terms is None and answer_terms is None:
        return None
    terms = [
        written or _as_ratio(plain_number(text)) for written, text in ((gold_terms, gold), (answer_terms, answer))
    ]
    if terms[0] is None or terms[1] is None or len(terms[0]) != len(terms[1]):
        return False
    return all(one * terms[1][0] == other * terms[0][0] for one, other in zip(*terms, strict=True))


def _ratio(text: str) -> list[Fraction] | None:
    text = re.sub(r"(?<=\d)\s*\bto\b\s*(?=\d)", ":", plain(text))
    text = key(text).replace("{:}", ":")
    if not _RATIO.fullmatch(text):
        return None
    terms = [Fraction(term) for term in text.split(":")]
    return terms if terms[0] else None


def _as_ratio(number: PlainNumber | None) -> list[Fraction] | None:
    return None if number is None or number.percent or not number.value else [number.value, Fraction(1)]


NOTATIONS: dict[str, Callable[[str, str], bool | None]] = {
    "choice": same_choice,
    "base": same_in_base,
    "time": same_time,
    "ratio": same_ratio,
}
"""The rules, by what they are about."""

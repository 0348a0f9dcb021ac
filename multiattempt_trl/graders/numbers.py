r"""Plain numbers, compared as exact rationals: what needs no algebra, and what algebra systems round away."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from multiattempt_trl.graders.normalisation import key

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_GROUP = r"(?:,|\{,\}| )"
_THOUSANDS = re.compile(
    rf"(?<![\d.,_^])(?<![\d.,]\}})[1-9]\d{{0,2}}({_GROUP})\d{{3}}(?:\1\d{{3}})*(?!\d|,\d|\{{,|\}},| \d)"
)
_FRACTION = (
    rf"\\frac\s*(?:\{{(?P<num>[-+]?{_DECIMAL})\}}\{{(?P<den>[-+]?{_DECIMAL})\}}"
    r"|(?P<num1>\d)\s*(?P<den1>\d)|\{(?P<num2>[-+]?\d+)\}(?P<den2>\d)|(?P<num3>\d)\{(?P<den3>\d+)\})"
)
_POWER_OF_TEN = r"(?:10|\{10\})(?:\^|\*\*)(?:[({](?P<power>[-+]?\d+)[)}]|(?P<power1>[-+]?\d+))"
_TIMES = r"(?:\\times|\\cdot|\*|x(?=10\^))"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<decimal>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+))?"
    rf"|(?P<whole1>\d+) (?P<over>\d+)/(?P<under>\d+)|\(?(?P<top>{_DECIMAL})/(?P<bottom>[-+]?{_DECIMAL})\)?"
    rf"|(?P<whole>\d*)\+?{_FRACTION}|(?:(?P<factor>{_DECIMAL})(?:{_TIMES}|(?=\()))?\(?{_POWER_OF_TEN}\)?"
    r"|(?P<before>\d*)\.(?P<fixed>\d*)\\(?:overline|bar|dot)\{?(?P<repeating>\d+)\}?"
    r")(?P<percent>\\?%|percent)?",
    re.ASCII,
)
TOLERANCE = Fraction(1, 10**6)
"""Relative tolerance between numbers of which one was written as a decimal."""
BENCHMARK_TOLERANCE = {"minerva": Fraction(1, 10**4)}
"""Benchmarks whose gold answers are themselves rounded, integers included."""
_MAX_EXPONENT = 400  # 10^400 as an integer costs nothing; 10^(10^9) would
_MAX_DIGITS = 1_000  # of what is read as a number; more than any answer holds


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainNumber:
    """A number and how it was written."""

    value: Fraction
    """For a percentage the number before the sign."""
    exact: bool
    """Written as an integer or a fraction of integers: nothing was rounded."""
    decimals: int = 0
    """Digits written after the point."""
    percent: bool = False


def join_thousands(text: str) -> str:
    r"""Without the separators of thousands; a comma before a blank separates two answers, and so does one in brackets.

    >>> join_thousands(r"\frac{20,000}{\pi}"), join_thousands("10{,}080"), join_thousands("1,\\!234")
    ('\\frac{20000}{\\pi}', '10080', '1,\\!234')
    >>> join_thousands("100, 400"), join_thousands("(1,234)"), join_thousands("1,2,345"), join_thousands("0,125")
    ('100, 400', '(1,234)', '1,2,345', '0,125')
    """
    if not _THOUSANDS.search(text):
        return text
    pieces, position = [], 0
    for found in _THOUSANDS.finditer(text):
        before = text[: found.start()]
        bracketed = sum(before.count(mark) for mark in "([") > sum(before.count(mark) for mark in ")]")
        if bracketed or before.count(r"\{") > before.count(r"\}"):
            continue
        pieces += [text[position : found.start()], re.sub(r"\D", "", found[0])]
        position = found.end()
    return "".join([*pieces, text[position:]])


@lru_cache(maxsize=65_536)
def plain_number(cleaned: str) -> PlainNumber | None:
    r"""The number that a cleaned answer writes; None for anything else.

    >>> plain_number("x"), str(plain_number(r"- \text{5}").value)
    (None, '-5')
    """
    return parse_number(key(cleaned))


def parse_number(text: str) -> PlainNumber | None:
    r"""The number that a string of `normalisation.key` writes; None for anything else.

    >>> texts = ("-1,234", r"\frac{3}{-4}", r"3\frac12", "-1./3", "4.5e3", r"2\times10^{-3}", r"0.1\overline{6}")
    >>> [str(parse_number(text).value) for text in texts]
    ['-1234', '-3/4', '7/2', '-1/3', '4500', '1/500', '1/6']
    >>> parse_number("2,3") or parse_number("x") or parse_number("1/0") or parse_number("10^{999999999}")
    """
    if len(text) > _MAX_DIGITS or not any(char.isdigit() for char in text):
        return None
    match = _NUMBER.fullmatch(join_thousands(text))
    if match is None:
        return None
    parts = {name: part for name, part in match.groupdict().items() if part}

    def first(*names: str, default: str = "1") -> str:
        return next((parts[name] for name in names if name in parts), default)

    power = int(first("e", "power", "power1", default="0"))
    bottom = Fraction(first("bottom", "den", "den1", "den2", "den3", "under"))
    if abs(power) > _MAX_EXPONENT or bottom == 0:
        return None
    if "repeating" in parts:
        top = _repeating(parts.get("before", ""), parts.get("fixed", ""), parts["repeating"])
    else:
        top = Fraction(first("decimal", "top", "num", "num1", "num2", "num3", "factor", "over"))
    value = (int(first("whole", "whole1", default="0")) + top / bottom) * Fraction(10) ** power
    exact = "repeating" in parts or ("." not in text and "e" not in parts)
    decimals = len(parts["decimal"].partition(".")[2]) if "decimal" in parts else 0
    value = -value if parts.get("sign") == "-" else value
    return PlainNumber(value=value, exact=exact, decimals=decimals, percent="percent" in parts)


def _repeating(before: str, fixed: str, repeating: str) -> Fraction:
    """0.1(6) is (16 - 1) / 90."""
    head, all_digits = int(before + fixed or "0"), int(before + fixed + repeating)
    return Fraction(all_digits - head, (10 ** len(repeating) - 1) * 10 ** len(fixed))


def numbers_equal(gold: PlainNumber, answer: PlainNumber, tolerance: Fraction = TOLERANCE) -> bool:
    r"""Exactly where nothing was rounded, else within `tolerance` of the larger one.

    By default nothing is rounded in integers, in fractions, and between decimals of the same length; with a wider
    `tolerance` only two numbers without decimals are exact.

    A percent sign may be missing on either side; where it stands on one side only, the other may also be the ratio
    that it means: `10\%` is 10 and 0.1. An answer's own ratio must be at most 1: 500\% is not 5.

    >>> def equal(gold, answer):
    ...     return numbers_equal(parse_number(gold), parse_number(answer))
    >>> equal("0.333333", "1/3"), equal("1/3", "0.3333"), equal("9999", "10000")
    (True, False, False)
    >>> equal("1000000", "1000000.5"), equal(r"10\%", "0.1"), equal("5", r"500\%")
    (False, True, False)
    """
    exactly = gold.exact and answer.exact
    if tolerance <= TOLERANCE:
        integer = any(number.exact and number.value.denominator == 1 for number in (gold, answer))
        exactly = exactly or integer or gold.decimals == answer.decimals > 0
    close = Fraction(0) if exactly else tolerance
    pairs = [(gold.value, answer.value)]
    if gold.percent and not answer.percent:
        pairs.append((gold.value / 100, answer.value))
    if answer.percent and not gold.percent and abs(gold.value) <= 1:
        pairs.append((gold.value, answer.value / 100))
    return any(abs(one - other) <= close * max(abs(one), abs(other)) for one, other in pairs)

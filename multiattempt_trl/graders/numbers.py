r"""Plain numbers, compared as exact rationals: what needs no algebra, and what algebra systems round away."""

import re
from dataclasses import dataclass
from fractions import Fraction

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(,|\{,\}| )\d{3})(?:\1\d{3})*(?![\d])")
_FRACTION = rf"\\frac(?:\{{(?P<num>-?{_DECIMAL})\}}\{{(?P<den>-?{_DECIMAL})\}}|\s*(?P<num1>\d)\s*(?P<den1>\d))"
_POWER_OF_TEN = r"10\^(?:\{(?P<power>[-+]?\d+)\}|(?P<power1>\d))"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<decimal>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+))?|(?P<top>{_DECIMAL})/(?P<bottom>{_DECIMAL})"
    rf"|(?P<whole>\d*){_FRACTION}|(?:(?P<factor>{_DECIMAL})(?:\\times|\\cdot|\*))?{_POWER_OF_TEN})(?P<percent>\\?%)?",
    re.ASCII,
)
_MAX_EXPONENT = 400  # 10^400 as an integer costs nothing; 10^(10^9) would


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainNumber:
    """A number and how it was written."""

    value: Fraction
    """For a percentage the number before the sign."""
    exact: bool
    """Written as an integer or a fraction of integers: nothing was rounded."""
    percent: bool


def parse_number(key: str) -> PlainNumber | None:
    r"""The number that a string of `normalisation.key` writes; None for anything else.

    >>> texts = ("-1,234", r"\frac{3}{-4}", r"3\frac12", "-1./3", "4.5e3", r"2\times10^{-3}")
    >>> [str(parse_number(text).value) for text in texts]
    ['-1234', '-3/4', '7/2', '-1/3', '4500', '1/500']
    >>> parse_number("2,3") or parse_number("x") or parse_number("1/0") or parse_number("10^{999999999}")
    """
    text = _THOUSANDS.sub(lambda found: re.sub(r"[^\d]", "", found[0]), key)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    parts = match.groupdict()
    power = int(parts["e"] or parts["power"] or parts["power1"] or 0)
    bottom = Fraction(parts["bottom"] or parts["den"] or parts["den1"] or 1)
    if abs(power) > _MAX_EXPONENT or bottom == 0:
        return None
    top = Fraction(parts["decimal"] or parts["top"] or parts["num"] or parts["num1"] or parts["factor"] or 1)
    value = (int(parts["whole"] or 0) + top / bottom) * Fraction(10) ** power
    exact = "." not in text and parts["e"] is None
    value = -value if parts["sign"] == "-" else value
    return PlainNumber(value=value, exact=exact, percent=parts["percent"] is not None)


def numbers_equal(gold: PlainNumber, answer: PlainNumber, tolerance: Fraction) -> bool:
    r"""Exactly where both were written exactly, else within `tolerance` relative to the larger one.

    A percent sign may be missing on either side; where it stands on one side only, the other may also be the ratio
    that it means, if that is at most 1: `10\%` is 10 and 0.1, but 500\% is not 5.

    >>> def equal(gold, answer):
    ...     return numbers_equal(parse_number(gold), parse_number(answer), Fraction(1, 10**6))
    >>> equal("0.333333", "1/3"), equal("1/3", "0.3333"), equal("9999", "10000")
    (True, False, False)
    >>> equal(r"10\%", "0.1"), equal("5", r"500\%")
    (True, False)
    """
    close = Fraction(0) if gold.exact and answer.exact else tolerance
    pairs = [(gold.value, answer.value)]
    if gold.percent and not answer.percent and abs(answer.value) <= 1:
        pairs.append((gold.value / 100, answer.value))
    if answer.percent and not gold.percent and abs(gold.value) <= 1:
        pairs.append((gold.value, answer.value / 100))
    return any(abs(one - other) <= close * max(abs(one), abs(other)) for one, other in pairs)

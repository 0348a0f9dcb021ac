r"""Answers that no worker should be asked about: they would use up its whole time, and nobody means them.

This is to save time, not to be safe: what it does not see, the worker's limits end.
"""

import math
import re

MAX_DEPTH = 40
"""Brackets in brackets."""
MAX_STOREYS = 2
"""Exponents in brackets within exponents in brackets: e to the power of x^2 has one."""
MAX_DIGITS = 100
"""Digits of a number within an expression."""
MAX_EXPONENT = 100_000
"""An exponent, and the decimal digits of a power of numbers."""
MAX_FACTORIAL = 10_000
MAX_TERMS = 10_000
"""Terms of a sum or product written with its limits."""

_BRACKETS = re.compile(r"(?:\^|\*\*)?\s*[{}()\[\]]")
_LONG = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_WRAPPED = re.compile(r"[({]\s*(\d+)\s*[)}]")
_POWER = re.compile(r"(?<![\d.])(\d+)\s*(?:\^|\*\*)\s*-?(\d+)")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*-?(\d+)")
_FACTORIAL = re.compile(r"(?<![\d.])(\d+)!")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*(\d+)\s")
_TERMS = re.compile(r"\\(?:sum|prod)(?:_\{[^{}]*\}|_\w)?\s*\^\s*(\d+)|\\(?:sum|prod)\s*\^\s*(\d+)")
_LIMITS = (
    (_EXPONENT, MAX_EXPONENT),
    (_BINOMIAL, MAX_EXPONENT),
    (_FACTORIAL, MAX_FACTORIAL),
    (_TERMS, MAX_TERMS),
)
_HUGE = "9" * 12  # stands for any number that is too large for an exponent but no trouble itself


def too_expensive(cleaned: str) -> bool:
    r"""Whether an expression holds numbers, nests or sums beyond what any answer needs.

    >>> [too_expensive(text) for text in ("2^{2016}", r"\frac{1}{2004!}", "10^{100}", "x^{100}-1", "5!!")]
    [False, False, False, False, False]
    >>> texts = ("9^{9^{9^9}}", "(10^{100})!", "1.01^{10^{12}}", r"\sum_{k=1}^{1000000} k", "((5!)!)!")
    >>> [too_expensive(text) for text in texts]
    [True, True, True, True, True]
    """
    if _LONG.search(cleaned) or _depth(cleaned) > MAX_DEPTH or _storeys(cleaned) > MAX_STOREYS:
        return True
    text = cleaned
    for _ in range(MAX_DEPTH):  # from the inside out: each pass turns the innermost powers and factorials into numbers
        text = re.sub(r"(?<=[\^!*])\s+|\s+(?=[\^!*])", "", _WRAPPED.sub(r" \1 ", text))
        if any(int(found[found.lastindex or 0]) > limit for kind, limit in _LIMITS for found in kind.finditer(text)):
            return True
        if any(_power_digits(found) > MAX_EXPONENT for found in _POWER.finditer(text)):
            return True
        before, text = text, _FACTORIAL.sub(_factorial, _POWER.sub(_power, text))
        if before == text:
            break
    return False


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        depth += 1 if found[0][-1] in "{([" else -1
        deepest = max(deepest, depth)
    return deepest


def _storeys(text: str) -> int:
    """How high the tower of exponents is, whatever else stands in them."""
    exponents: list[bool] = []
    highest = 0
    for found in _BRACKETS.finditer(text):
        if found[0][-1] in "{([":
            exponents.append(len(found[0].strip()) > 1)
            highest = max(highest, sum(exponents))
        elif exponents:
            exponents.pop()
    return highest


def _power_digits(found: re.Match[str]) -> float:
    return int(found[2]) * math.log10(max(int(found[1]), 1))


def _power(found: re.Match[str]) -> str:
    return str(int(found[1]) ** int(found[2])) if _power_digits(found) < 10 else _HUGE


def _factorial(found: re.Match[str]) -> str:
    return str(math.factorial(int(found[1]))) if int(found[1]) <= 12 else _HUGE

r"""The value of a formula at two points, as a float: enough to see that two formulas differ, not that they are equal.

Most wrong answers are seen to be wrong here, a hundred times faster than by parsing them with math-verify. What this
cannot read for certain it does not read at all.
"""

import cmath
import re
from collections.abc import Iterator
from functools import lru_cache

from multiattempt_trl.graders.numbers import plain_number

LOST_DIGITS = 1e-6
"""A sum this much smaller than its terms has too few digits left to be compared."""
MAX_LENGTH = 300
"""Characters of a formula that is read here."""
_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|\\(frac|sqrt)(?![A-Za-z])|\\(cdot|times)(?![A-Za-z])|(\\[A-Za-z]+|[A-Za-z])|(.))"
)
_GREEK = frozenset(
    rf"\{name}"
    for name in "alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi omega zeta eta kappa".split()  # noqa: SIM905
)
_POINTS = ((0.7310585, 1.6180339, 2.2360679, 0.4142135, 1.3247179), (1.902113, 0.567143, 0.915965, 2.685452, 0.280169))
_MIXED = re.compile(r"\d\s*\\frac")  # three and a half, or three times a half
_SLASH = re.compile(r"/[^+\-*/]*[A-Za-z0-9)}]\s*(?=[A-Za-z(\\{])")  # 1/2x is x/2 to some and 1/(2x) to others

Token = tuple[str, str]


class UnreadableError(Exception):
    """Not a formula that is read here."""


def values_differ(gold: str, answer: str, margin: float = 1e-5) -> bool:
    r"""Whether two formulas have different values at some point, relatively by more than `margin`; False also where
    either cannot be read. All letters are positive.

    >>> values_differ(r"\frac{\sqrt{65}}{2}", "4"), values_differ(r"2\sqrt{2}", r"\sqrt{8}")
    (True, False)
    >>> values_differ("(x+1)^2", "x^2+1"), values_differ("f(x)", "2"), values_differ(r"\sin x", "2")
    (True, False, False)
    """
    pairs = zip(values(gold), values(answer), strict=False)
    return any(abs(one - other) > margin * max(abs(one), abs(other)) for one, other in pairs)


@lru_cache(maxsize=65_536)
def values(text: str) -> tuple[complex, ...]:
    r"""The values at all points; none where the text cannot be read.

    >>> [round(value.real, 6) for value in values(r"3\cdot 2^{-1} + e^{i\pi}")]
    [0.5, 0.5]
    >>> values("x_1"), values(r"3\frac{1}{2}x"), values("10^{400}"), values(r"\frac{1}{0}"), values("")
    ((), (), (), (), ())
    """
    if len(text) > MAX_LENGTH or _SLASH.search(text):
        return ()
    number = plain_number(text)
    if number is not None and not number.percent and abs(number.value) < 10**300:
        return (complex(float(number.value)),) * len(_POINTS)
    if _MIXED.search(text):
        return ()
    try:
        tokens = list(_tokens(text))
        return tuple(Formula(tokens, point).value() for point in _POINTS)
    except (UnreadableError, ArithmeticError, ValueError, RecursionError):
        return ()


def _tokens(text: str) -> Iterator[Token]:
    for number, function, times, letter, mark in _TOKEN.findall(text):
        if number:
            yield "number", number
        elif function:
            yield function, ""
        elif times or mark == "*":
            yield "*", ""
        elif letter:
            if len(letter) > 1 and letter != r"\pi" and letter not in _GREEK:
                raise UnreadableError
            yield "letter", letter
        elif mark in "+-/^(){}[]":
            yield mark, ""
        elif mark.strip():
            raise UnreadableError
    yield "end", ""


class Formula:
    """Reads a formula from left to right and computes on the way: sums of products of powers."""

    def __init__(self, tokens: list[Token], point: tuple[float, ...]) -> None:
        self.tokens, self.position, self.point = tokens, 0, point

    def value(self) -> complex:
        """The value of all of it. Raises `UnreadableError`, or `ArithmeticError` where there is none."""
        found = self.sum()
        self.take("end")
        if not cmath.isfinite(found):
            raise UnreadableError
        return found

    @property
    def kind(self) -> str:
        return self.tokens[self.position][0]

    def take(self, kind: str) -> str:
        if self.kind != kind:
            raise UnreadableError
        self.position += 1
        return self.tokens[self.position - 1][1]

    def sum(self) -> complex:
        total = self.product()
        largest = abs(total)
        while self.kind in "+-":
            term = self.product() if self.take_any() == "+" else -self.product()
            total, largest = total + term, max(largest, abs(term))
        if abs(total) < LOST_DIGITS * largest:
            raise UnreadableError
        return total

    def take_any(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1][0]

    def product(self) -> complex:
        sign = 1
        while self.kind in "+-":
            sign = -sign if self.take_any() == "-" else sign
        found = self.power()
        while self.kind in "*/" or self.kind in ("number", "letter", "frac", "sqrt", "(", "{"):
            operator = self.take_any() if self.kind in "*/" else "*"
            negative = self.kind == "-" and bool(self.take_any())
            factor = -self.power() if negative else self.power()
            found = found / factor if operator == "/" else found * factor
        return sign * found

    def power(self) -> complex:
        base = self.atom()
        if self.kind != "^":
            return base
        self.take("^")
        exponent = self.group() if self.kind == "{" else self.single()
        ambiguous = (base.real < 0 or base.imag) and exponent != int(exponent.real)  # which root is meant
        if self.kind == "^" or ambiguous or abs(exponent) > 1_000:
            raise UnreadableError
        return complex(base**exponent)

    def single(self) -> complex:
        """One digit or letter, as after a caret: `x^23` is `x^2 3` to TeX and x^23 to people."""
        if self.kind == "number" and len(self.tokens[self.position][1]) > 1:
            raise UnreadableError
        return self.atom()

    def group(self) -> complex:
        self.take("{")
        found = self.sum()
        self.take("}")
        return found

    def argument(self) -> complex:
        return self.group() if self.kind == "{" else self.single()

    def atom(self) -> complex:
        kind = self.kind
        if kind == "number":
            return complex(float(self.take("number")))
        if kind == "letter":
            return self.letter(self.take("letter"))
        if kind in "({":
            self.take(kind)
            found = self.sum()
            self.take({"(": ")", "{": "}"}[kind])
            return found
        self.take(kind)
        if kind == "frac":
            return self.argument() / self.argument()
        if kind == "sqrt":
            found = self.argument()
            if found.real > 0 and not found.imag:
                return cmath.sqrt(found)
        raise UnreadableError

    def letter(self, name: str) -> complex:
        constants = {r"\pi": cmath.pi, "e": cmath.e, "i": 1j}
        if name in constants:
            return complex(constants[name])
        if self.kind == "(":  # f(2) is no product
            raise UnreadableError
        code = sum(map(ord, name))
        return complex(self.point[code % len(self.point)] + (code % 13) / 7)

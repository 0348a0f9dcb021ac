r"""What math-verify is asked, and what is checked of its word. Runs in a worker process: sympy may never come back."""

import cmath
import re
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any

EXACT_TOLERANCE = 1e-300
"""Relative difference of two numbers without decimals that are taken for equal."""
DIGITS = 400
"""As many digits does sympy look at where the difference of two numbers nearly vanishes."""
INTEGER_POINTS = ((17.0, 101.0, 29.0, 53.0, 7.0), (100.0, 41.0, 997.0, 12.0, 64.0), (1009.0, 360.0, 23.0, 210.0, 19.0))
"""Points for formulas with floors, ceilings, factorials and the like, which small numbers do not tell apart."""
POINTS = (
    (0.7853164, 1.3190852, -0.4371926, 2.2360127, 0.5772491),
    (-1.2020731, 0.9159826, 1.6449413, -0.6931289, 1.1319937),
    (2.6854713, -0.3678541, -1.7320934, 0.4142671, -0.8346287),
    (-0.5641892, -1.4513917, 0.6180452, 1.0986731, 1.9021643),
)
"""Values of the letters, in the order of their names, where two expressions are compared; all signs occur."""
POINT_TOLERANCE = 1e-9
"""Relative difference of two values at such a point that comes from rounding."""
_DECIMAL = re.compile(r"\d\.\d|\.\d|\d[eE][-+]?\d")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_PRIMES = re.compile(r"(?<=[A-Za-z)}])\s*(?:\^\s*\{?\s*((?:\\prime\s*)+)\}?|('+))")
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*d\s*(?:\^\d)?\s*\\?[A-Za-z]+(?:_\w)?\s*\}\s*\{\s*d\s*[A-Za-z]\s*(?:\^\d)?\s*\}"
)
_EPSILON = re.compile(r"(?<![A-Za-z\\])[eE](?=_)")
_LETTER = re.compile(r"\\[A-Za-z]+|\{[a-z]{2,}\}|([A-Za-z])(?:_(?:\{([^{}]*)\}|(\w)))?")
_DEGREES = re.compile(r"\(?(\d+(?:\.\d+)?)\^\\circ\s*\)?")


class Outcome(StrEnum):
    """What a comparison came to. Nothing else leaves the worker: a sympy object is never printed or pickled."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASH = "crash"
    """Said by the client: the worker itself did not live to tell."""


Compare = Callable[[str, str, float], Outcome]
"""Of a gold answer, another answer, and the relative tolerance where one is written with decimals."""


def comparison() -> Compare:
    """Imports math-verify, which takes a while, and sets it up."""
    from math_verify import LatexExtractionConfig, parse, verify

    # Its list of units holds t, h, c and g: it would read 3t as 3. Ours are taken off before (`units.py`).
    normalization = replace(LatexExtractionConfig().normalization_config, units=False)
    # The box first: else a text inside the box such as "final answer is" would be read before the box itself. No
    # `ExprExtractionConfig`: where the LaTeX cannot be parsed it takes the last number of the text, any text, for it.
    targets = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)]

    def read(answer: str) -> list[Any]:
        found = parse(rf"\boxed{{{answer}}}", extraction_config=targets, parsing_timeout=None)
        return [_with_imaginary_unit(part) for part in found]

    def compare(gold: str, answer: str, tolerance: float) -> Outcome:
        try:
            return compared(gold, answer, tolerance)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # sympy raises anything on what a model may write
            return Outcome.UNPARSED

    def compared(gold: str, answer: str, tolerance: float) -> Outcome:
        parsed_gold, parsed_answer = map(read, apart(legible(gold), legible(answer)))
        if not all(parsed and not isinstance(parsed[0], str) for parsed in (parsed_gold, parsed_answer)):
            return Outcome.UNPARSED  # a string is what math-verify returns where it could not read the LaTeX
        if not (_DECIMAL.search(gold) or _DECIMAL.search(answer)):
            tolerance = EXACT_TOLERANCE
        equal = numerically_equal(parsed_gold[0], parsed_answer[0], tolerance)
        if equal is None:
            equal = equal_at_points(parsed_gold[0], parsed_answer[0], tolerance)
        if equal is None:
            equal = verify(parsed_gold, parsed_answer, strict=True, allow_set_relation_comp=True, timeout_seconds=None)
        return Outcome.EQUAL if equal else Outcome.DIFFERENT

    return compare


def legible(answer: str) -> str:
    r"""What math-verify would misread, written otherwise: degrees, primes, a subscript of e.

    >>> legible(r"2\cos 15^\circ"), legible(r"15^\circ"), legible("y'' + E_1"), legible(r"y^{\prime}")
    ('2\\cos (\\frac{15\\pi}{180})', '15^\\circ', 'y_{pp} + \\epsilon_1', 'y_{p}')
    """
    if _TRIGONOMETRY.search(answer):
        answer = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", answer)
    answer = _DERIVATIVE.sub(lambda found: rf"\Psi_{{{re.sub('[^A-Za-z0-9]', '', found[0])}}}", answer)
    answer = answer.replace("np.", "\\").replace(r"\odot", "o")
    answer = _PRIMES.sub(
        lambda found: f"_{{{'p' * (found[1] or found[2]).count('p' if found[1] else chr(39))}}}", answer
    )
    return _EPSILON.sub(r"\\epsilon", answer)


def apart(gold: str, answer: str) -> tuple[str, str]:
    r"""Renames capital letters where the small one is there too, since math-verify takes them for the same.

    >>> apart("mM_0", "m^2"), apart("3R^2", "3R^2")
    (('mM_{U0}', 'm^2'), ('3R^2', '3R^2'))
    """
    letters = {found[1] for text in (gold, answer) for found in _LETTER.finditer(text) if found[1]}
    both = {letter for letter in letters if letter.isupper() and letter.lower() in letters}

    def rename(found: re.Match[str]) -> str:
        return f"{found[1]}_{{U{found[2] or found[3] or ''}}}" if found[1] in both else found[0]

    return (_LETTER.sub(rename, gold), _LETTER.sub(rename, answer)) if both else (gold, answer)


def _with_imaginary_unit(parsed: Any) -> Any:
    """The letter i is read as a variable, so that e^{i pi} would not be -1."""
    from sympy import I

    for symbol in getattr(parsed, "free_symbols", ()):
        if symbol.name == "i":
            parsed = parsed.subs(symbol, I)
    return parsed


def numerically_equal(gold: Any, answer: Any, tolerance: float) -> bool | None:
    """Whether two numbers agree relatively; None for anything but two numbers.

    math-verify rounds to some decimal places, so that 1/2004! equals 1/2006! and 2^-99 equals 2^-98.
    """
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return None
    try:
        gold, answer = gold.doit(), answer.doit()
        difference = gold - answer
        if tolerance == EXACT_TOLERANCE and difference.is_zero is not None:
            return bool(difference.is_zero)  # so that 3^2017 and 3^2017 + 2 differ
        one, other, difference = (abs(number.evalf(15, maxn=DIGITS)) for number in (gold, answer, difference))
        if not all(number.is_Float or number.is_zero for number in (one, other, difference)):
            return None
        return bool(difference <= tolerance * max(one, other))
    except Exception:  # sympy raises anything on what a model may write; then math-verify's word stands
        return None


def equal_at_points(gold: Any, answer: Any, tolerance: float) -> bool | None:
    """Whether two expressions have the same values, or two equations the same solutions; None for anything else, and
    where too few values exist.

    Two formulas that agree at several points picked beforehand are the same one, for all that concerns an answer; and
    simplification, which math-verify would try, may take minutes where they differ. Equations are the same where the
    numerators of left minus right side are, up to a constant factor.
    """
    from sympy import Eq, Expr, fraction, together

    tolerance = max(tolerance, POINT_TOLERANCE)
    if isinstance(gold, Eq) and isinstance(answer, Eq):
        sides = [fraction(together(equation.lhs - equation.rhs))[0] for equation in (gold, answer)]
        pairs = _values(*sides)
        if len(pairs) < 2 or any(other == 0 for _, other in pairs):
            return None
        ratios = [one / other for one, other in pairs]
        return all(abs(ratio - ratios[0]) <= tolerance * abs(ratios[0]) for ratio in ratios[1:])
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        pairs = _values(gold, answer)
        if any(abs(one - other) > tolerance * max(abs(one), abs(other)) for one, other in pairs):
            return False
        return True if len(pairs) > 1 else None
    return None


def _values(gold: Any, answer: Any) -> list[tuple[complex, complex]]:
    """The values of two expressions at those points where both have one."""
    from sympy import Float, Mod, binomial, ceiling, factorial, floor

    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    found = []
    stepped = any(expression.has(floor, ceiling, Mod, factorial, binomial) for expression in (gold, answer))
    for point in INTEGER_POINTS if stepped else POINTS:
        values = {symbol: Float(point[k % len(point)] + k // len(point)) for k, symbol in enumerate(symbols)}
        try:
            one, other = (complex(expression.evalf(15, subs=values, maxn=50)) for expression in (gold, answer))
        except Exception:  # no number: as above
            continue
        if cmath.isfinite(one) and cmath.isfinite(other):
            found.append((one, other))
    return found

r"""Fresh arithmetic: multi-step integer expressions generated from a seed, which no training set can hold.

For models whose pre-training may have met the public sets. The idea is that of RandomCalculation (Wu et al.,
"Reasoning or Memorization? Unreliable Results of Reinforcement Learning Due to Data Contamination",
arXiv 2507.10532): arithmetic of any length, from a generator. Generator, levels and wording here are ours, and so are
the numbers: they compare with no number of that paper.

A question of level L has 2L operations out of +, -, \times, \div and the square, over integers from 2 to 99. Every
intermediate result is an integer of two to `LARGEST` in size, so that none is lost to a 0 or a 1, every division is
exact, and the answer is an integer. Brackets stand wherever a reader could take the expression in two ways, so two
expressions are never the same text.

There are about 15 million questions of level 1, 7e12 of level 2, 4e18 of level 3, and some 700 times as many with each
further operation. So one of level 1 may stand somewhere by chance, one of level 3 hardly. A set that was published can
be trained on: then take another seed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from multiattempt_trl.dialogue.episode import Question

NAME = "fresh-arithmetic"
SPELLING = f"{NAME}, {NAME}-seed7, {NAME}-n1000 or {NAME}-seed7-n1000"
SEED, SIZE = 0, 500
"""Of the set that goes by the bare name: never to be changed, since results are compared over it."""
MAX_SIZE = 100_000
LEVELS = 5
OPERATIONS_PER_LEVEL = 2
OPERANDS = range(2, 100)
LARGEST = 9_999
"""No intermediate result is larger in size, and none is smaller than 2."""
SQUARES = 0.08
"""Chance that an operation squares what it is done to."""

_SPEC = re.compile(rf"{NAME}(-seed(?P<seed>0|[1-9][0-9]{{0,17}}))?(-n(?P<size>[1-9][0-9]{{0,17}}))?", re.ASCII)
_SUM, _PRODUCT, _QUOTIENT, _ATOM = "+-", r"\times", r"\div", ""
_BINDING = {_SUM: 1, _PRODUCT: 2, _QUOTIENT: 2, _ATOM: 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """An expression in LaTeX with its value."""

    text: str
    value: int
    kind: str = _ATOM
    """What is done last in it: one of the keys of `_BINDING`."""


def fresh_arithmetic(spec: str) -> list[Question]:
    r"""The questions of a spec: the bare name, or with a seed and a number of questions (`SPELLING`).

    Their benchmark is the spec. Question i is of level 1 + i % 5, and the same whatever the number of questions, so
    that the first n of a larger set are the set of n, in balance.

    Raises `ValueError` for a spec that is none, or asks for more than `MAX_SIZE` questions.

    >>> question = fresh_arithmetic("fresh-arithmetic-n3")[2]
    >>> question.id, question.problem, question.answer, question.level
    ('fresh-arithmetic-seed0-2', 'Evaluate $94 + 27 + (45 \\times 29 - (52 + 35 + 62))$.', '1277', '3')
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(
            f"{spec!r} is not understood: write {SPELLING}, with the seed and the number of questions that you want"
        )
    seed, size = int(match["seed"] or SEED), int(match["size"] or SIZE)
    if size > MAX_SIZE:
        raise ValueError(f"{spec!r} asks for {size} questions, and at most {MAX_SIZE} are made; take a smaller number")
    return [
        Question(
            id=f"{NAME}-seed{seed}-{index}",
            problem=f"Evaluate ${expression.text}$.",
            answer=str(expression.value),
            benchmark=spec,
            level=str(level_of(index)),
        )
        for index, expression in enumerate(_distinct(seed, size))
    ]


def level_of(index: int) -> int:
    """The levels take turns."""
    return 1 + index % LEVELS


def _distinct(seed: int, size: int) -> Iterator[Expression]:
    seen: set[str] = set()
    for index in range(size):
        draw = Draw(f"{NAME} {seed} {index}")
        expression = draw.expression(OPERATIONS_PER_LEVEL * level_of(index))
        while expression is None or expression.text in seen:
            expression = draw.expression(OPERATIONS_PER_LEVEL * level_of(index))
        seen.add(expression.text)
        yield expression


class Draw:
    """Draws expressions. Of `Random` only the seeding with a text and `random()` are used: these are promised to stay
    the same in later versions of Python."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)

    def below(self, end: int) -> int:
        return int(self._random.random() * end)

    def expression(self, operations: int) -> Expression | None:
        """An expression with so many operations; None where it came to a result that is too large or too small."""
        if operations == 0:
            return leaf(OPERANDS[self.below(len(OPERANDS))])
        if self._random.random() < SQUARES:
            base = self.expression(operations - 1)
            return square(base) if base else None
        on_the_left = self.below(operations)
        left, right = self.expression(on_the_left), self.expression(operations - 1 - on_the_left)
        if left is None or right is None:
            return None
        found = [one for one in (plus(left, right), minus(left, right)) if one]
        # Products often come out too large and quotients seldom exact: where they can be had, they count twice.
        found += 2 * [one for one in (times(left, right), self._quotient(left, right)) if one]
        return found[self.below(len(found))] if found else None

    def _quotient(self, left: Expression, right: Expression) -> Expression | None:
        """One of the two over the other; an operand gives way to one with which the division is exact."""
        if right.text.isdecimal():
            right = self._one_of([n for n in OPERANDS if left.value % n == 0]) or right
        elif left.text.isdecimal():
            left = self._one_of([n for n in OPERANDS if n % right.value == 0]) or left
        return over(left, right)

    def _one_of(self, operands: list[int]) -> Expression | None:
        return leaf(operands[self.below(len(operands))]) if operands else None


def leaf(value: int) -> Expression:
    """An operand."""
    return Expression(text=str(value), value=value)


def plus(left: Expression, right: Expression) -> Expression | None:
    """The sum; like the other operations None where its size is not of 2 to `LARGEST`."""
    return _bounded(f"{_within(left, _SUM)} + {_within(right, _SUM, right=True)}", left.value + right.value, _SUM)


def minus(left: Expression, right: Expression) -> Expression | None:
    """The difference."""
    return _bounded(f"{_within(left, _SUM)} - {_within(right, _SUM, right=True)}", left.value - right.value, _SUM)


def times(left: Expression, right: Expression) -> Expression | None:
    """The product."""
    text = rf"{_within(left, _PRODUCT)} \times {_within(right, _PRODUCT, right=True)}"
    return _bounded(text, left.value * right.value, _PRODUCT)


def over(left: Expression, right: Expression) -> Expression | None:
    """The quotient; None too where it is not exact."""
    if left.value % right.value:
        return None
    text = rf"{_within(left, _QUOTIENT)} \div {_within(right, _QUOTIENT, right=True)}"
    return _bounded(text, left.value // right.value, _QUOTIENT)


def square(base: Expression) -> Expression | None:
    """The square, which in brackets may be squared again."""
    text = base.text if base.text.isdecimal() else f"({base.text})"
    return _bounded(f"{text}^2", base.value**2, _ATOM)


def _within(operand: Expression, kind: str, *, right: bool = False) -> str:
    r"""The operand as it stands in an operation of that kind, in brackets where it binds no tighter.

    Only sums, and products, are read from the left by everybody: a \div b \times c gets its brackets.
    """
    binds, must = _BINDING[operand.kind], _BINDING[kind]
    same = operand.kind == kind and kind != _QUOTIENT
    bare = binds > must or (binds == must and same and not right)
    return operand.text if bare else f"({operand.text})"


def _bounded(text: str, value: int, kind: str) -> Expression | None:
    return Expression(text=text, value=value, kind=kind) if 2 <= abs(value) <= LARGEST else None

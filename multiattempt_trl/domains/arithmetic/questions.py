"""The questions: greatest common divisors and remainders, in three splits that share no question.

A question's split follows from a hash of its key, so that "12 and 18" and "18 and 12" land together. There are 9,000
remainder keys but only 1,876 gcd keys (most of them with a small answer), so the lists do not enumerate: each takes as
many questions of either kind, drawn as the task says and kept at their first draw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from math import gcd
from random import Random
from typing import Literal, get_args

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains.made import Split

Kind = Literal["gcd", "mod"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ANSWER = "\\boxed{{{answer}}}"
"""What an answer looks like."""
LARGEST_OPERAND = 99
"""Of a gcd question; a remainder question divides a number from 100 to 999."""
SPLIT_ENDS: dict[Split, float] = {"test": 0.25, "validation": 0.40, "train": 1.0}
"""Where each split ends on the unit interval of the key's hash. The gcd keys are few, so test needs a quarter."""
QUESTIONS_PER_KIND: dict[Split, int] = {"test": 500, "validation": 300, "train": 2000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """One question's operands.

    >>> question = Arithmetic(kind="mod", a=437, b=7).question()
    >>> question.id, question.problem, question.answer
    ('mod-437-7', 'What is the remainder when 437 is divided by 7?', '3')
    """

    kind: Kind
    a: int
    b: int
    """The second number of a gcd, the divisor of a remainder."""

    @property
    def key(self) -> str:
        """What decides the split: the operands, in order for a remainder and sorted for a gcd."""
        a, b = (min(self.a, self.b), max(self.a, self.b)) if self.kind == "gcd" else (self.a, self.b)
        return f"{self.kind}-{a}-{b}"

    @property
    def split(self) -> Split:
        digest = blake2b(self.key.encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        return next(split for split, end in SPLIT_ENDS.items() if position < end)

    @property
    def answer(self) -> int:
        return gcd(self.a, self.b) if self.kind == "gcd" else self.a % self.b

    @property
    def response(self) -> str:
        """What answers it, in a box."""
        return ANSWER.format(answer=self.answer)

    def question(self, benchmark: str = "arithmetic") -> Question:
        if self.kind == "gcd":
            problem = f"What is the greatest common divisor of {self.a} and {self.b}?"
        else:
            problem = f"What is the remainder when {self.a} is divided by {self.b}?"
        return Question(
            id=f"{self.kind}-{self.a}-{self.b}", problem=problem, answer=str(self.answer), benchmark=benchmark
        )


def draw(kind: Kind, random: Random) -> Arithmetic:
    """Operands of any split: g from 2 to 12 and two of its multiples, or a three-digit number and a divisor."""
    if kind == "gcd":
        g = random.randint(2, 12)
        a, b = (g * random.randint(1, LARGEST_OPERAND // g) for _ in range(2))
        return Arithmetic(kind="gcd", a=a, b=b)
    return Arithmetic(kind="mod", a=random.randint(100, 999), b=random.randint(3, 12))


def draws(kind: Kind, split: Split, random: Random) -> Iterator[Arithmetic]:
    """Endless draws from one split, with repeats, distributed as the task is."""
    while True:
        operands = draw(kind, random)
        if operands.split == split:
            yield operands


@cache
def _listed(split: Split) -> tuple[Question, ...]:
    """Distinct questions, the kinds in turn, so that any prefix is balanced too."""
    benchmark = "arithmetic" if split == "test" else f"arithmetic-{split}"
    columns: list[list[Arithmetic]] = []
    for kind in KINDS:
        source = draws(kind, split, Random(f"arithmetic {split} {kind}"))
        distinct: dict[Arithmetic, None] = {}
        while len(distinct) < QUESTIONS_PER_KIND[split]:
            distinct.setdefault(next(source))
        columns.append(list(distinct))
    return tuple(operands.question(benchmark) for row in zip(*columns, strict=True) for operands in row)


def questions(split: Split) -> list[Question]:
    """The split's questions, always the same ones in the same order."""
    return list(_listed(split))

"""The questions: one list before and after a program of one or two operations, in three splits that share none.

A question's split follows from a hash of the list that is shown. Often more than one program fits what is shown: the
other lists, which the program is tested with, are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from random import Random

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains.blocks import block
from multiattempt_trl.domains.lists.language import BAR, NUMBERED, PLAIN, Digits, Operation, run
from multiattempt_trl.domains.lists.suites import Suite, written
from multiattempt_trl.domains.made import Split

KINDS = (1, 2)
"""How many operations the program has."""
NUMBERS = {"add": 3, "drop": 2, "take": 3}
"""The largest number of each operation that takes one."""
SHOWN = (4, 6)
"""Fewest and most digits of a list that is shown."""
HIDDEN = (5, 7)
"""And of the others, in which more digits are equal."""
HIDDEN_TESTS = 3
SPLIT_ENDS: dict[Split, float] = {"test": 0.25, "validation": 0.40, "train": 1.0}
"""Where each split ends on the unit interval of the hash."""
QUESTIONS_PER_KIND: dict[Split, int] = {"test": 500, "validation": 300, "train": 2000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Transformation:
    r"""One question: a list and the program that was meant.

    >>> one = Transformation(shown=(5, 2, 9), program=(Operation(name="sort"),))
    >>> one.question().id, one.question().problem
    ('529-259', 'Turn 529 into 259.')
    >>> one.response
    '```\nsort\n```'
    """

    shown: Digits
    program: tuple[Operation, ...]

    @property
    def key(self) -> tuple[Digits, Digits]:
        """What the question shows."""
        return self.shown, run(self.program, self.shown)

    @property
    def split(self) -> Split:
        digest = blake2b(written(self.shown).encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64
        return next(split for split, end in SPLIT_ENDS.items() if position < end)

    @property
    def text(self) -> str:
        return BAR.join(map(str, self.program))

    @property
    def response(self) -> str:
        """What answers it."""
        return block(self.text)

    def suite(self) -> Suite:
        """`HIDDEN_TESTS` lists and the one that is shown, with what becomes of them."""
        random = Random(f"lists {written(self.shown)} {self.text}")
        lists = [*(_digits(random, HIDDEN) for _ in range(HIDDEN_TESTS)), self.shown]
        return Suite(solution=self.text, tests=tuple((digits, run(self.program, digits)) for digits in lists))

    def question(self, benchmark: str = "lists") -> Question:
        before, after = map(written, self.key)
        return Question(
            id=f"{before}-{after}",
            problem=f"Turn {before} into {after}.",
            answer=self.suite().text,
            benchmark=benchmark,
            level=str(len(self.program)),
        )


def _digits(random: Random, lengths: tuple[int, int]) -> Digits:
    return tuple(random.randint(0, 9) for _ in range(random.randint(*lengths)))


def draw(operations: int, random: Random) -> Transformation:
    """A question of any split, whose operations all differ, change the list and leave something of it."""
    while True:
        shown = digits = _digits(random, SHOWN)
        program = tuple(
            Operation(name=name, number=random.randint(1, NUMBERS[name]) if name in NUMBERED else None)
            for name in random.sample([*PLAIN, *NUMBERED], operations)
        )
        for operation in program:
            before, digits = digits, operation(digits)
            if digits in (before, ()):
                break
        else:
            return Transformation(shown=shown, program=program)


def draws(operations: int, split: Split, random: Random) -> Iterator[Transformation]:
    """Endless draws from one split, with repeats."""
    while True:
        drawn = draw(operations, random)
        if drawn.split == split:
            yield drawn


@cache
def _listed(split: Split) -> tuple[Question, ...]:
    """Distinct questions, the kinds in turn, so that any prefix is balanced too."""
    benchmark = "lists" if split == "test" else f"lists-{split}"
    sources = [draws(operations, split, Random(f"lists {split} {operations}")) for operations in KINDS]
    distinct: dict[tuple[Digits, Digits], Transformation] = {}
    for _ in range(QUESTIONS_PER_KIND[split]):
        for source in sources:
            drawn = next(source)
            while drawn.key in distinct:
                drawn = next(source)
            distinct[drawn.key] = drawn
    return tuple(drawn.question(benchmark) for drawn in distinct.values())


def questions(split: Split) -> list[Question]:
    """The split's questions, always the same ones in the same order."""
    return list(_listed(split))

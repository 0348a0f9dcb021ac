"""The gold answer of a question: a program that is right, and the lists that any program is tested with."""

import re
from dataclasses import dataclass
from functools import lru_cache

from multiattempt_trl.domains.lists.language import Digits

NOTHING = "nothing"
"""How an empty list is written."""
_TEST = re.compile(rf"(\d+|{NOTHING}) -> (\d+|{NOTHING})")


def written(digits: Digits) -> str:
    """
    >>> written((5, 2, 9)), written(())
    ('529', 'nothing')
    """
    return "".join(map(str, digits)) or NOTHING


def _read(text: str) -> Digits:
    return () if text == NOTHING else tuple(map(int, text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """What a program is judged by; as text it can be read in a report.

    >>> Suite(solution="reverse", tests=(((1, 2), (2, 1)), ((3,), (3,)))).text
    'reverse\\n12 -> 21\\n3 -> 3'
    """

    solution: str
    tests: tuple[tuple[Digits, Digits], ...]
    """Lists, and what the program has to make of them. The last is shown in the question, so that the first that fails
    mostly tells something new."""

    @property
    def text(self) -> str:
        return "\n".join([self.solution, *(f"{written(before)} -> {written(after)}" for before, after in self.tests)])

    @classmethod
    @lru_cache(maxsize=1_024)
    def read(cls, text: str) -> "Suite":
        """What `text` wrote. Raises `ValueError` for anything else."""
        solution, *lines = text.split("\n")
        tests = [_TEST.fullmatch(line) for line in lines]
        if not tests or None in tests:
            raise ValueError(f"{text[:100]!r} is no set of tests: load the questions with the domain `lists`")
        return cls(solution=solution, tests=tuple((_read(test[1]), _read(test[2])) for test in tests if test))

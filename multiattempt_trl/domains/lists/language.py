"""A total language of list transformations: a program is a line of operations, and a list holds digits.

    sort | drop 1 | add 3       turns 5 2 9 into 8 2

Each operation makes a list of a list. There are no loops, names or files: whatever is written ends, within limits.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Digits = tuple[int, ...]

MAX_OPERATIONS = 16
"""Of a program."""
MAX_LENGTH = 64
"""Of a list, between operations too."""
BAR = " | "


class LimitError(ValueError):
    """A program that exceeds a limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation, with its number where it takes one."""

    name: str
    number: int | None = None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name} {self.number}"

    def __call__(self, digits: Digits) -> Digits:
        return PLAIN[self.name](digits) if self.number is None else NUMBERED[self.name](digits, self.number)


def _unique(digits: Digits) -> Digits:
    return tuple(dict.fromkeys(digits))


PLAIN: dict[str, Callable[[Digits], Digits]] = {
    "sort": lambda digits: tuple(sorted(digits)),
    "reverse": lambda digits: digits[::-1],
    "unique": _unique,
    "double": lambda digits: tuple(2 * digit % 10 for digit in digits),
    "repeat": lambda digits: digits + digits,
}
"""Operations without a number. `unique` keeps the first of equal digits; arithmetic is modulo 10."""
NUMBERED: dict[str, Callable[[Digits, int], Digits]] = {
    "add": lambda digits, number: tuple((digit + number) % 10 for digit in digits),
    "drop": lambda digits, number: digits[number:],
    "take": lambda digits, number: digits[:number],
}
"""Operations with a number from 1 to 9."""

_OPERATION = re.compile(rf"({'|'.join(PLAIN)})|({'|'.join(NUMBERED)}) ([1-9])")


def parse(text: str) -> tuple[tuple[Operation, ...], str | None]:
    r"""The operations of a program and None, or those before the first part that is no operation, and that part.

    >>> parse(" sort|add 3\n")
    ((Operation(name='sort', number=None), Operation(name='add', number=3)), None)
    >>> parse("sort|add"), parse("")
    (((Operation(name='sort', number=None),), 'add'), ((), ''))
    """
    operations: list[Operation] = []
    for part in text.split("|"):
        words = " ".join(part.split())
        match = _OPERATION.fullmatch(words)
        if match is None:
            return tuple(operations), words
        plain, name, number = match.groups()
        operations.append(Operation(name=plain) if plain else Operation(name=name, number=int(number)))
    return tuple(operations), None


def run(program: Sequence[Operation], digits: Digits) -> Digits:
    """What the program makes of a list. Raises `LimitError` for a program or a list that is too long."""
    if len(program) > MAX_OPERATIONS:
        raise LimitError(f"{len(program)} operations, and at most {MAX_OPERATIONS} are run")
    for operation in program:
        digits = operation(digits)
        if len(digits) > MAX_LENGTH:
            raise LimitError(f"a list of {len(digits)}, and at most {MAX_LENGTH} are held")
    return digits

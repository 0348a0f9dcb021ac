"""Plain data between the program and its judge: a line of JSON each way."""

from __future__ import annotations

import json
import os
from itertools import islice

TYPE_CHECKING = False  # `typing` and `collections.abc` are not loaded here: they cost as much as a small program
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Plain = Any
    """What JSON can hold."""

MESSAGE_BYTES = 2**24
"""The longest line between the two, as an argument or a returned value comes to."""
MAX_ITEMS = 100_000
"""Of an iterator that a program returns, which may have no end."""
TEXT = 500
"""Characters of what is said about a failure, or of a name."""
_SMALL = 2**53


def pack(value: Any) -> Plain:
    """A value as JSON can hold it and `unpack` can tell it: the plain types, and what derives from them as its base.

    Another iterable is sent as an iterator over its items, and anything else as the name of its type.
    """
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < _SMALL else {"int": hex(value)}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [pack(item) for item in value]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: value.hex()}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if hasattr(type(value), "__iter__"):
        items = list(islice(value, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise ValueError(f"an iterator of more than {MAX_ITEMS} items")
        return {"iterator": [pack(item) for item in items]}
    return {"other": type(value).__name__}


class Other:
    """Something that is no plain data: equal to nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "dict": lambda pairs: {unpack(key): unpack(item) for key, item in pairs},
    "tuple": lambda items: tuple(map(unpack, items)),
    "set": lambda items: set(map(unpack, items)),
    "frozenset": lambda items: frozenset(map(unpack, items)),
    "complex": lambda parts: complex(*parts),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda ends: range(*ends),
    "iterator": lambda items: iter([unpack(item) for item in items]),
    "other": lambda name: Other(str(name)[:TEXT]),
}


def unpack(value: Plain) -> Any:
    """What `pack` was given, of exactly the plain types. Raises some `Exception` where it was not packed."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if isinstance(value, dict):
        ((name, content),) = value.items()
        return _MAKERS[name](content)
    return value


class Channel:
    """One end of the pipes between the two: a line of JSON each way."""

    def __init__(self, reads: int, writes: int) -> None:
        self.reads, self.writes = os.fdopen(reads, "rb"), writes

    def send(self, message: Plain) -> None:
        rest = memoryview(json.dumps(message).encode("ascii") + b"\n")
        while rest:
            rest = rest[os.write(self.writes, rest) :]

    def receive(self) -> Plain:
        """The next message. Raises `EOFError` where there is none, or none that ends in time."""
        line = self.reads.readline(MESSAGE_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        return json.loads(line)

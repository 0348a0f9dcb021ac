"""A process of the sandbox: its limits, its pipes, and how it tells of an error."""

from __future__ import annotations

import os
import resource

from .wire import TEXT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

CPU_SECONDS = 6
"""CPU time of a program, and of its judge. Not wall-clock time: verdicts must not depend on what else is running."""
MEMORY_BYTES = 2**30
"""Address space."""
FILE_BYTES = 2**24
"""The longest file."""
OPEN_FILES = 64
PROCESSES = 64


def limit_process() -> None:
    """What holds from here on and cannot be raised again."""
    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        hard = resource.getrlimit(name)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (limit, limit + 1 if name == resource.RLIMIT_CPU and limit < hard else limit))


def take_pipes() -> tuple[int, int]:
    """What were standard input and output, which from here on lead nowhere, like the errors."""
    reads, writes, nowhere = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    return reads, writes


def describe(error: BaseException) -> str:
    """The error in one line, with the line of the program that it came from."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # a `__str__` of the program's own
        text = type(error).__name__
    line = line_in("program.py", error.__traceback__)
    return (f"line {line}: " if line else "") + text[:TEXT]


def line_in(file: str, trace: TracebackType | None) -> int | None:
    """The innermost line of that file in a traceback."""
    found = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found

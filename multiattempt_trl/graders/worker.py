"""A process that compares answers with math-verify, one JSON line in and one out, and can be killed at any moment.

Protocol: the worker writes `{"ready": true}` once it can compare; for each line `{"gold": ..., "answer": ...,
"tolerance": ...}` on stdin it writes `{"outcome": ..., "seconds": ..., "spent": ...}`. A comparison that uses up its
CPU time gets no line: the kernel ends the process. The worker leaves when stdin closes, or when its parent is gone.
"""

import json
import logging
import os
import resource
import select
import signal
import sys
import time
import warnings
from pathlib import Path

from multiattempt_trl.graders.symbolic import Compare, Outcome, comparison

CPU_SECONDS = 3.0
"""CPU time of one comparison. Not wall-clock time: a verdict must not depend on what else the machine does."""
MEMORY_BYTES = 2 * 2**30
"""Address space of the worker. The gold answers of all benchmarks, compared with each other, need 0.1 GB."""
SPENT_BYTES = MEMORY_BYTES // 2
"""Memory in use after a comparison from which on the worker asks to be replaced."""
IDLE_SECONDS = 5.0
"""How often an idle worker looks whether its parent still lives."""


def load_comparison() -> Compare:
    """Imports math-verify. Without gmpy2 and flint: verdicts should not depend on whether they happen to be installed,
    and where memory ends they abort the process.
    """
    os.environ["SYMPY_GROUND_TYPES"], os.environ["MPMATH_NOGMPY"] = "python", "1"
    for module in ("gmpy2", "flint"):
        sys.modules[module] = None  # type: ignore[assignment]  # documented: makes its import fail
    logging.disable()  # math-verify warns of timeouts that are off (ours are on), and logs what it could not parse
    warnings.simplefilter("ignore")
    return comparison()


def judge(compare: Compare, gold: str, answer: str, tolerance: float) -> tuple[Outcome, float]:
    """One comparison and the CPU seconds it took. After `CPU_SECONDS` it does not return: the kernel ends the process.

    An exception instead could come at any instruction, be swallowed, or leave caches and switches of sympy half set.
    """
    began = time.thread_time()  # `process_time` stands still between two ticks of the kernel while the timer runs
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        outcome = compare(gold, answer, tolerance)
    except (MemoryError, RecursionError):
        outcome = Outcome.MEMORY
    signal.setitimer(signal.ITIMER_PROF, 0)
    return outcome, time.thread_time() - began


def serve(requests: int, replies: int, compare: Compare) -> None:
    """Answers every line from the file descriptor `requests` until it closes or the parent is gone."""
    parent, pending = os.getppid(), b""
    os.write(replies, b'{"ready": true}\n')
    while os.getppid() == parent:
        # A child forked from the parent may keep the pipe open after it: closing alone does not tell of its death.
        if not select.select([requests], [], [], IDLE_SECONDS)[0]:
            continue
        piece = os.read(requests, 1 << 16)
        if not piece:
            return
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            outcome, seconds = judge(compare, **json.loads(line))
            spent = outcome is Outcome.MEMORY or memory_in_use() > SPENT_BYTES
            reply = {"outcome": outcome.value, "seconds": seconds, "spent": spent}
            os.write(replies, json.dumps(reply).encode("ascii") + b"\n")


def memory_in_use() -> int:
    """Resident memory of this process in bytes; `ru_maxrss` would begin with that of whoever started it."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def limit_process() -> None:
    """Sets what holds for all comparisons, whatever was inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our stdin
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that started us may have blocked any signal
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))


def main() -> None:
    """Takes the pipes, imports, tries itself out, and serves."""
    limit_process()
    # The pipes are ours alone: whatever a library prints, or reads, goes nowhere.
    requests, replies, nowhere = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    compare = load_comparison()
    if compare("x+1", "1+x", 0.0) is not Outcome.EQUAL:
        sys.exit("math-verify does not find 1+x equal to x+1: is it the version that pyproject.toml asks for?")
    os.dup2(nowhere, 2)  # only now: why a worker does not start must be seen, what an answer makes sympy say must not
    serve(requests, replies, compare)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # nobody reads the verdicts any more
        os._exit(0)

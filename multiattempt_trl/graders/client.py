"""The parent's end of a grading worker: starts it, asks it, and kills it when it does not answer in time."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from multiattempt_trl.graders.symbolic import Outcome
from multiattempt_trl.graders.worker import CPU_SECONDS

START_SECONDS = 120.0
"""Until a worker must have imported math-verify (0.6 s on an idle machine)."""
DEADLINE_SECONDS = 10.0
"""Until a comparison must be answered; the worker's own CPU limit ends it earlier unless the machine is overloaded."""


class WorkerDiedError(Exception):
    """The worker left without an answer, or never began."""


class Worker:
    """One worker process, for one thread at a time. Starting does not wait: the import of math-verify overlaps with
    whatever comes next.
    """

    def __init__(self) -> None:
        # What we import, the worker imports: like `multiprocessing` it gets our path, and -P keeps the current
        # directory, where anything may lie, off it.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "multiattempt_trl.graders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # The order of a set may decide what sympy does: with one hash seed every worker says the same.
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # a Ctrl-C in the terminal reaches the parent only
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._replies = self.process.stdin, self.process.stdout
        os.set_blocking(self._requests.fileno(), False)
        self._pending = b""
        self.ready = False
        """Whether it has ever been able to compare."""
        self.answers = 0
        self.spent = False
        """Whether it is over, or says that it is better replaced."""

    def ask(self, gold: str, answer: str, tolerance: float) -> tuple[Outcome, float]:
        """One comparison and the CPU seconds it took. The first one waits until the worker is ready.

        Raises `TimeoutError` after `DEADLINE_SECONDS` on the clock, and `WorkerDiedError` where the worker ended
        without an answer or did not start. After either it is of no more use.
        """
        self.spent = True  # until it has answered
        self._wait_ready()
        self.answers += 1
        request = json.dumps({"gold": gold, "answer": answer, "tolerance": tolerance})
        self._send(request.encode("ascii") + b"\n", DEADLINE_SECONDS)
        try:
            reply = self._read_line(DEADLINE_SECONDS)
        except WorkerDiedError:
            if self.process.returncode != -signal.SIGPROF:
                raise
            return Outcome.TIMEOUT, CPU_SECONDS  # ended by the kernel at its limit
        self.spent = reply["spent"]
        return Outcome(reply["outcome"]), reply["seconds"]

    def _wait_ready(self) -> None:
        if self.ready:
            return
        try:
            self.ready = bool(self._read_line(START_SECONDS)["ready"])
        except TimeoutError as error:
            raise WorkerDiedError("the grading worker did not start in time") from error

    def _send(self, line: bytes, seconds: float) -> None:
        rest, deadline = memoryview(line), time.monotonic() + seconds
        try:
            while rest:  # a long line does not fit into the pipe, and a stopped worker takes nothing out
                self._wait(self._requests.fileno(), select.POLLOUT, deadline)
                rest = rest[os.write(self._requests.fileno(), rest) :]
        except BrokenPipeError as error:
            raise WorkerDiedError("the grading worker was gone before it was asked") from error

    def _read_line(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            self._wait(self._replies.fileno(), select.POLLIN, deadline)
            piece = os.read(self._replies.fileno(), 1 << 16)
            if not piece:
                raise WorkerDiedError(f"the grading worker ended with code {self.process.wait()}")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError("no answer from the grading worker in time")

    def kill(self) -> None:
        """Ends the process now and reaps it. Harmless when it is over already."""
        self.process.kill()
        self.process.wait()
        self._requests.close()
        self._replies.close()

    def leave_to_parent(self) -> None:
        """Lets go of it in a child of `os.fork`, where an open pipe would hide the parent's death from it."""
        self._requests.close()
        self._replies.close()
        self.process.returncode = 0  # not our child: nothing to wait for

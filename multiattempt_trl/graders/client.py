"""The parent's end of a grading worker: starts it, asks it, and kills it when it does not answer in time."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from multiattempt_trl.graders.worker import Outcome

START_SECONDS = 120.0
"""Until a worker must have imported math-verify (0.7 s on an idle machine)."""
DEADLINE_SECONDS = 10.0
"""Until a comparison must be answered; the worker's own CPU limit ends it earlier unless the machine is overloaded."""


class WorkerDiedError(Exception):
    """The worker left without an answer, or never began."""


class Worker:
    """One worker process. Starting does not wait: the import of math-verify overlaps with whatever comes next."""

    def __init__(self) -> None:
        # What we import, the worker imports: like `multiprocessing` it gets our path, and -P keeps the current
        # directory, where anything may lie, off it.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "multiattempt_trl.graders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C in the terminal reaches the parent only
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._replies = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._replies, selectors.EVENT_READ)
        self._pending = b""
        self.ready = False
        """Whether it has ever been able to compare."""
        self.answers = 0

    def compare(self, gold: str, answer: str) -> Outcome:
        """Asks for one comparison, and first waits until the worker is ready for its first one.

        Raises `TimeoutError` after `DEADLINE_SECONDS`, or where the kernel ended the worker for its CPU time;
        `WorkerDiedError` where it ended for another reason or did not start. After either it is of no more use.
        """
        self._wait_ready()
        request = memoryview(json.dumps({"gold": gold, "answer": answer}).encode("ascii") + b"\n")
        try:
            while request:
                request = request[os.write(self._requests.fileno(), request) :]
        except BrokenPipeError as error:
            raise WorkerDiedError("the grading worker was gone before it was asked") from error
        self.answers += 1
        return Outcome(self._read_line(DEADLINE_SECONDS)["outcome"])

    def _wait_ready(self) -> None:
        if self.ready:
            return
        try:
            self.ready = bool(self._read_line(START_SECONDS)["ready"])
        except TimeoutError as error:
            raise WorkerDiedError("the grading worker did not start in time") from error

    def _read_line(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            if not self._selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError(f"no answer from the grading worker within {seconds:g} s")
            piece = os.read(self._replies.fileno(), 1 << 16)
            if not piece:
                if self.process.wait() == -signal.SIGXCPU:
                    raise TimeoutError("the grading worker used up its CPU time")
                raise WorkerDiedError(f"the grading worker ended with code {self.process.returncode}")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def kill(self) -> None:
        """Ends the process now and reaps it. Harmless when it is over already."""
        self.process.kill()
        self.process.wait()
        self._selector.close()
        self._requests.close()
        self._replies.close()

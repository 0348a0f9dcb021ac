"""The grader of programs: the last block of Python, run by the tests of its question in a sandbox."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from types import ModuleType, TracebackType
from typing import Any, Self

from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.domains.code.confine import INSIDE, UNSAFE, Sandbox, empty_folder, kill
from multiattempt_trl.domains.code.inside import judge, program
from multiattempt_trl.domains.code.programs import MAX_PROGRAM, last_program
from multiattempt_trl.domains.code.remarks import remarks
from multiattempt_trl.domains.code.suites import Suite
from multiattempt_trl.graders.pool import default_workers

DEADLINE_SECONDS = 10.0
"""By the clock, for all of a program's tests; its limit of CPU time ends it earlier unless it sleeps or the machine is
overloaded."""
SOON = 1.0
"""Until a process is gone whose pipes are closed."""
STARTS = 3
"""How often a sandbox is tried that does not begin."""
CLOSED = "the grader of programs is not open: use it inside `with CodeGrader() as grader:`"
_FOUND: dict[str, tuple[Verdict, str]] = {
    "passed": (Verdict.CORRECT, "passed"),
    "failed": (Verdict.WRONG, "failed test"),
    "raised": (Verdict.WRONG, "exception"),
    "ended": (Verdict.WRONG, "ended early"),
    "timeout": (Verdict.WRONG, "timeout"),
    "unparsed": (Verdict.INVALID, "not Python"),
}
"""What each outcome is worth, and its reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grading:
    """A verdict with all that is known of it; training sees the verdict and what `remarks.py` makes of the rest."""

    verdict: Verdict
    reason: str
    """`passed`, `failed test`, `exception`, `ended early`, `timeout`, `not Python`, `no program` or `too long`."""
    test: str = ""
    """The statement of the tests that was running when the program failed; empty where none was."""
    error: str = ""
    """What the program raised, in its own words: at most some hundred characters, and not to be trusted."""
    seconds: float = 0.0
    """By the clock."""


class CodeGrader:
    """Judges the last block of Python in a response; use it as a context manager, from any number of threads.

    `CORRECT`: all tests pass. `WRONG`: a test fails, the program raises or ends, or it exceeds its limits. `INVALID`:
    no closed block, or one that Python does not compile. Never raises on what a model wrote; `confine.Sandbox` raises
    `ValueError` where there is no bubblewrap, and a grader that is not open, or whose sandbox does not begin, raises
    `RuntimeError`.

    Args:
        workers: programs side by side; by default `pool.default_workers`.
        unsafe: do without bubblewrap; by default what the environment variable `confine.UNSAFE` says.
    """

    def __init__(self, workers: int | None = None, *, unsafe: bool | None = None) -> None:
        self.workers = default_workers() if workers is None else workers
        if self.workers < 1:
            raise ValueError(f"workers={workers}: the grader of programs needs at least one")
        self.unsafe = os.environ.get(UNSAFE) == "1" if unsafe is None else unsafe
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._judged = self._timeouts = 0

    def __enter__(self) -> Self:
        self._sandbox = Sandbox(unsafe=self.unsafe)
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="programs")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what is running; what is pending is cancelled, or raises `RuntimeError`."""
        with self._lock:
            threads, self._threads = self._threads, None
            for process in self._running:
                kill(process)
        assert threads is not None
        threads.shutdown(cancel_futures=True)

    def __call__(self, question: Question, response: str) -> Judgement:
        """The scheduler's protocol `rollout.live.Grade`: the answer is the program."""
        return self.submit(question, response).result()

    def submit(self, question: Question, response: str) -> Future[Judgement]:
        """The same without waiting."""

        def judged() -> Judgement:
            grading = self._judge(question.answer, response)
            failed = grading.verdict is not Verdict.CORRECT
            return Judgement(
                verdict=grading.verdict,
                remarks=remarks(grading.reason, grading.test, grading.error) if failed else {},
                answer=last_program(response) or "",
            )

        return self._open().submit(judged)

    def grade(self, answer: str, response: str) -> Grading:
        """Judges a whole response by the tests that a question's answer holds. Raises `ValueError` for other text."""
        return self._open().submit(self._judge, answer, response).result()

    def metrics(self) -> dict[str, float]:
        """What is worth a line in the log, since the last call (`docs/metrics.md`); empty where nothing was judged."""
        with self._lock:
            judged, timeouts, self._judged, self._timeouts = self._judged, self._timeouts, 0, 0
        return {"grading/timeouts": timeouts / judged} if judged else {}

    def _open(self) -> ThreadPoolExecutor:
        threads = self._threads
        if threads is None:
            raise RuntimeError(CLOSED)
        return threads

    def _judge(self, answer: str, response: str) -> Grading:
        grading = self._decide(Suite.read(answer), last_program(response))
        with self._lock:
            self._judged += 1
            self._timeouts += grading.reason == "timeout"
        return grading

    def _decide(self, suite: Suite, source: str | None) -> Grading:
        if source is None:
            return Grading(verdict=Verdict.INVALID, reason="no program")
        if len(source) > MAX_PROGRAM:
            return Grading(verdict=Verdict.WRONG, reason="too long")
        began = time.monotonic()
        for _ in range(STARTS):
            found = self._run(suite, source)
            if found["outcome"] != "no start":
                break
        else:
            raise RuntimeError("the sandbox does not begin; is the machine out of memory or of processes?")
        verdict, reason = _FOUND[found["outcome"]]
        seconds = time.monotonic() - began
        return Grading(
            verdict=verdict,
            reason=reason,
            test=suite.statement_at(found["line"]),
            error=found["error"],
            seconds=seconds,
        )

    def _run(self, suite: Suite, source: str) -> Mapping[str, Any]:
        """One program in one sandbox, its judge in another; what the judge found, or why it found nothing."""
        job = {"given": suite.given, "tests": suite.tests, "calls": suite.calls, "program": source}
        with ExitStack() as stack:
            folder = None if self._sandbox.bwrap else stack.enter_context(empty_folder())
            judged, tried = self._start(stack, folder)
            try:
                said, _ = judged.communicate(json.dumps(job).encode("ascii"), timeout=DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                return _nothing("timeout")
            _, began, reply = said.partition(judge.BEGAN)
            if reply:
                found: Mapping[str, Any] = json.loads(reply)
                return {**found, "outcome": "timeout"} if found["outcome"] == "ended" and _at_limit(tried) else found
            self._open()  # a judge that our closing has killed says nothing either
            # What a program returned can bring its judge to an end, but not before it has begun.
            return _nothing(("timeout" if _at_limit(judged) else "failed") if began else "no start")

    def _start(
        self, stack: ExitStack, folder: str | None
    ) -> tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]:
        """The judge and the program, with pipes between them, until the stack is unwound."""
        calls, asks = os.pipe()
        hears, answers = os.pipe()
        try:
            tried = self._sandbox.start(f"{_import_main(program)}; main()", stdin=calls, stdout=answers, folder=folder)
            stack.callback(self._end, tried)
            judged = self._sandbox.start(
                f"{_import_main(judge)}; main({hears}, {asks})",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(hears, asks),
                folder=folder,
            )
            stack.callback(self._end, judged)
        finally:
            for descriptor in (calls, asks, hears, answers):
                os.close(descriptor)
        with self._lock:
            self._running |= {tried, judged}
            if self._threads is None:  # closed before it could see them
                raise RuntimeError(CLOSED)
        return judged, tried

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._running.discard(process)


def _import_main(module: ModuleType) -> str:
    return f"from {INSIDE.name}.{module.__name__.rpartition('.')[2]} import main"


def _nothing(outcome: str) -> Mapping[str, Any]:
    return {"outcome": outcome, "line": None, "error": ""}


def _at_limit(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the kernel has ended a process at its limit of CPU time; bubblewrap says signals as a shell does."""
    try:
        return abs(process.wait(SOON)) % 128 in (signal.SIGXCPU, signal.SIGKILL)
    except subprocess.TimeoutExpired:
        return False

"""Comparisons side by side: a few worker processes, the queue before them, and a memory of what they said."""

import atexit
import os
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread
from types import TracebackType
from typing import NamedTuple, Self
from weakref import WeakSet

from multiattempt_trl.graders.client import DEADLINE_SECONDS, Worker, WorkerDiedError
from multiattempt_trl.graders.numbers import TOLERANCE
from multiattempt_trl.graders.symbolic import Outcome

RECYCLE_ANSWERS = 5_000
"""Comparisons of one worker process, so that what sympy caches and leaks does not grow for a whole training run."""
CACHE_SIZE = 50_000
"""Remembered comparisons: about 100 MB."""
JOIN_SECONDS = 5.0
"""How long closing waits for a thread whose worker was killed; only a callback of a future can keep it longer."""
CLOSED = "the grading pool is not open: use it inside `with WorkerPool() as pool:`"
NO_START = (
    "the grading worker does not start; its own message stands above. Check that math-verify is there: "
    "`python -m multiattempt_trl.graders.worker` should wait for input"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What a worker said of a gold answer and another one."""

    outcome: Outcome
    seconds: float
    """CPU time of the comparison, as the limit counts it, so that it does not depend on what else the machine does.
    `DEADLINE_SECONDS` where the worker was silent so long by the clock, and 0 where it crashed."""


class Question(NamedTuple):
    """What a worker is asked."""

    gold: str
    answer: str
    tolerance: float


class Job(NamedTuple):
    """A comparison to be made, and where to put it."""

    question: Question
    future: Future[Comparison]


def default_workers() -> int:
    """Two for each process, one where the cores do not suffice for all processes that were launched on this node."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(2, cores))


class WorkerPool:
    """Compares answers in worker processes; use it as a context manager, from any number of threads.

    What is in flight or remembered gives the same future again. After `os.fork` the child has the same
    pool with nothing in it: its workers start when it first submits, and those of the parent are left alone.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = default_workers() if workers is None else workers
        if self.workers < 1:
            raise ValueError(f"workers={workers}: a grading pool needs at least one")
        self.comparisons = 0
        """Questions answered by a worker."""
        self.cache_hits = 0
        """Questions that were in flight or remembered when they were submitted."""
        self.timeouts = 0
        """Comparisons that ran out of time."""
        self.crashes = 0
        """Worker processes that ended by themselves. Their comparison is tried once more, in the next one."""
        self.respawns = 0
        """Workers replaced before they had answered `RECYCLE_ANSWERS`."""
        self._refusal = CLOSED  # why nothing can be submitted; empty while the pool is open
        self._empty()
        _pools.add(self)

    def _empty(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._clerks: list[Clerk] = []
        self._futures: OrderedDict[Question, Future[Comparison]] = OrderedDict()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Launches all workers and does not wait for them: their import overlaps with what the caller does next."""
        with _lock:
            while len(self._clerks) < self.workers:
                clerk = Clerk(self, self._jobs)
                self._clerks.append(clerk)
                clerk.start()
            self._refusal = ""

    def submit(self, gold: str, answer: str, tolerance: float = float(TOLERANCE)) -> Future[Comparison]:
        """The comparison of two answers, at once or later. Never waits for a worker. `tolerance` is the relative one
        between numbers.

        Raises `RuntimeError` where the pool is not open. The future raises it where the pool is closed first, or a
        worker cannot start. It cannot be cancelled: others may wait for the same one.
        """
        with _lock:
            if self._refusal:
                raise RuntimeError(self._refusal)
            if not self._clerks:  # in a child of fork
                self.start()
            question = Question(gold, answer, tolerance)
            if question in self._futures:
                self.cache_hits += 1
                self._futures.move_to_end(question)
                return self._futures[question]
            job = Job(question, Future())
            job.future.set_running_or_notify_cancel()
            self._jobs.put(job)
            self._futures[question] = job.future
            if len(self._futures) > CACHE_SIZE:
                self._futures.popitem(last=False)
            return job.future

    def close(self) -> None:
        """Kills the workers. What is still pending gets a `RuntimeError`. Harmless when closed already."""
        self._end(CLOSED)

    def _end(self, reason: str) -> None:
        with _lock:
            self._refusal = self._refusal or reason
            clerks, jobs = self._clerks, self._jobs
            self._empty()
        for clerk in clerks:
            clerk.worker.process.kill()
        with suppress(Empty):
            while job := jobs.get_nowait():
                job.future.set_exception(RuntimeError(reason))
        for _ in clerks:
            jobs.put(None)
        for clerk in clerks:
            if clerk is not current_thread():
                clerk.join(JOIN_SECONDS)


class Clerk(Thread):
    """Takes jobs from the queue to its worker, one at a time, and replaces the worker when it is dead or spent."""

    def __init__(self, pool: WorkerPool, jobs: "SimpleQueue[Job | None]") -> None:
        super().__init__(name="grading", daemon=True)
        self.pool, self.jobs, self.worker = pool, jobs, Worker()

    def run(self) -> None:
        while job := self.jobs.get():
            try:
                comparison = self.compare(job)
            except Exception as error:  # not about the answer: closed meanwhile, no worker can start, or a bug of ours
                self.pool._end(str(error) or repr(error))
                job.future.set_exception(error)
            else:
                job.future.set_result(comparison)
        self.worker.kill()

    def compare(self, job: Job) -> Comparison:
        """The worker's word, counted. Raises `RuntimeError` where there is no worker to ask."""
        comparison = self.ask(job)
        with _lock:
            self.pool.comparisons += 1
            self.pool.timeouts += comparison.outcome is Outcome.TIMEOUT
        if self.worker.spent or self.worker.answers >= RECYCLE_ANSWERS:
            self.replace()
        return comparison

    def ask(self, job: Job) -> Comparison:
        """A worker that dies is replaced, and the next one asked, in case something else killed it."""
        deaths: list[bool] = []  # of every worker that died over this job, whether it had been ready
        while deaths.count(True) < 2 and deaths.count(False) < 2:
            try:
                outcome, seconds = self.worker.ask(*job.question)
                return Comparison(outcome=outcome, seconds=seconds)
            except TimeoutError:
                self.forget(job)
                return Comparison(outcome=Outcome.TIMEOUT, seconds=DEADLINE_SECONDS)
            except WorkerDiedError:
                deaths.append(self.worker.ready)
                self.replace()
                with _lock:
                    self.pool.crashes += 1
        if deaths.count(False) == 2:
            raise RuntimeError(NO_START)
        self.forget(job)
        return Comparison(outcome=Outcome.CRASH, seconds=0.0)

    def replace(self) -> None:
        """Ends the worker and launches the next. Raises `RuntimeError` where the pool has ended meanwhile."""
        self.worker.kill()
        with _lock:
            if self not in self.pool._clerks:
                raise RuntimeError(self.pool._refusal or CLOSED)
            self.pool.respawns += self.worker.answers < RECYCLE_ANSWERS
            self.worker = Worker()

    def forget(self, job: Job) -> None:
        """Has the same question asked again when it comes again: this time it may have been the machine's fault."""
        with _lock:
            self.pool._futures.pop(job.question, None)


_pools: WeakSet[WorkerPool] = WeakSet()
_lock = RLock()
"""One for all pools: held while a worker is launched, while a future is handed out, and over every `os.fork`, whose
child would otherwise begin in the midst of either."""


def _begin_anew() -> None:
    """In a child of `os.fork`, which has neither the threads of its parent nor any business with its workers."""
    for pool in _pools:
        for clerk in pool._clerks:
            clerk.worker.leave_to_parent()
        pool._empty()
    _lock.release()


@atexit.register
def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_anew)

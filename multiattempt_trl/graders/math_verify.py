r"""The grader for mathematics: the last box against the gold answer, cheap exact stages first, math-verify last."""

from collections import OrderedDict
from fractions import Fraction
from threading import Lock
from types import TracebackType
from typing import Self

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.graders.client import Worker, WorkerDiedError
from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean, key
from multiattempt_trl.graders.numbers import numbers_equal, parse_number
from multiattempt_trl.graders.worker import Outcome

RECYCLE_ANSWERS = 5_000
"""Comparisons of one worker process, so that what sympy caches and leaks does not grow for a whole training run."""
CACHE_SIZE = 50_000
"""Remembered comparisons; at worst (2 x 1,000 characters each) 100 MB, in practice a few."""
TOLERANCE = Fraction(1, 10**6)
"""Relative tolerance between numbers of which one was written as a decimal."""
BENCHMARK_TOLERANCE = {"minerva": Fraction(1, 10**4)}
"""Benchmarks whose gold answers are themselves rounded."""


class MathVerifyGrader:
    r"""Judges an attempt's last `\boxed{...}`; use it as a context manager, from any number of threads.

    `INVALID`: no closed, non-empty box at the end. `CORRECT`: the same string after normalisation, the same number,
    or equal by math-verify, which runs in a worker process under limits of CPU time and memory. `WRONG`: all else,
    also what cannot be parsed, is longer than `MAX_ANSWER` characters, runs into the limits or crashes the worker.
    Never raises on what a model wrote; raises `RuntimeError` where the worker cannot start.
    """

    def __init__(self) -> None:
        self.answers = 0
        """Attempts judged."""
        self.timeouts = 0
        """Comparisons that ran out of time; graded WRONG."""
        self.crashes = 0
        """Worker processes that ended by themselves. Their comparison is tried once more, then graded WRONG."""
        self._lock = Lock()
        self._worker: Worker | None = None
        self._cache: OrderedDict[tuple[str, str], Outcome] = OrderedDict()

    def __enter__(self) -> Self:
        self._worker = Worker()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._worker is not None:
                self._worker.kill()
            self._worker = None

    def __call__(self, question: Question, response: str) -> Verdict:
        with self._lock:
            self.answers += 1
        answer = last_boxed(response)
        if answer is None:
            return Verdict.INVALID
        if len(answer) > MAX_ANSWER:
            return Verdict.WRONG
        gold, answer = clean(question.answer), clean(answer)
        gold_key, answer_key = key(gold), key(answer)
        if not answer_key:
            return Verdict.INVALID
        if gold_key == answer_key:
            return Verdict.CORRECT
        gold_number, answer_number = parse_number(gold_key), parse_number(answer_key)
        if gold_number and answer_number:
            tolerance = BENCHMARK_TOLERANCE.get(question.benchmark, TOLERANCE)
            equal = numbers_equal(gold_number, answer_number, tolerance)
        else:
            equal = self._compare(gold, answer) is Outcome.EQUAL
        return Verdict.CORRECT if equal else Verdict.WRONG

    def _compare(self, gold: str, answer: str) -> Outcome:
        with self._lock:
            if (gold, answer) in self._cache:
                self._cache.move_to_end((gold, answer))
                return self._cache[gold, answer]
            outcome = self._ask(gold, answer)
            self._cache[gold, answer] = outcome
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
            return outcome

    def _ask(self, gold: str, answer: str) -> Outcome:
        """One comparison. A worker that dies is replaced, and the next one asked, in case something else killed it."""
        for _ in range(2):
            worker = self._worker
            if worker is None:
                raise RuntimeError("the grader is closed: use it inside `with MathVerifyGrader() as grade:`")
            try:
                outcome = worker.compare(gold, answer)
            except TimeoutError:
                outcome = Outcome.TIMEOUT
                self._replace(worker)
            except WorkerDiedError:
                self.crashes += 1
                started = worker.ready
                self._replace(worker)
                continue
            except BaseException:  # Ctrl-C: its answer would be taken for that of the next question
                self._replace(worker)
                raise
            if worker.answers >= RECYCLE_ANSWERS:
                self._replace(worker)
            self.timeouts += outcome is Outcome.TIMEOUT
            return outcome
        if not started:
            raise RuntimeError(
                "the grading worker does not start; its own message stands above. Check that math-verify is there: "
                "`python -m multiattempt_trl.graders.worker` should wait for input"
            )
        return Outcome.CRASH

    def _replace(self, worker: Worker) -> None:
        """Ends the worker and starts the next at once, so that its import overlaps with what the parent does next."""
        worker.kill()
        self._worker = Worker()

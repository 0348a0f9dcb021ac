r"""The grader for mathematics: the last box against the gold answer, cheap exact stages first, math-verify last."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from time import thread_time
from types import TracebackType
from typing import Self, TypeVar

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.dialogue.remarks import HINT
from multiattempt_trl.graders.cost import too_expensive
from multiattempt_trl.graders.counts import GradingCounts
from multiattempt_trl.graders.decision import Decision, Stage, Undecided
from multiattempt_trl.graders.exploits import SPECIAL_TOKEN, Exploit, exploits_in
from multiattempt_trl.graders.hints import hint
from multiattempt_trl.graders.normalisation import MAX_ANSWER, clean, key
from multiattempt_trl.graders.numbers import BENCHMARK_TOLERANCE, TOLERANCE
from multiattempt_trl.graders.pool import Comparison, WorkerPool
from multiattempt_trl.graders.rules import decide
from multiattempt_trl.graders.symbolic import Outcome

Found = tuple[Verdict, Stage, str]
Result = TypeVar("Result")
Other = TypeVar("Other")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grading:
    """A verdict with all that is known of it; training sees the verdict and the hint."""

    verdict: Verdict
    stage: Stage
    reason: str
    """A few words, such as `same number`, `different unit`, `several answers`, `timeout`; never the model's own."""
    seconds: float
    """CPU time, the worker's included; 0 for a comparison that was remembered."""
    exploits: tuple[Exploit, ...] = ()
    hint: str = ""
    """What may be said of it to who answered; empty where it is correct, or where there is nothing to say."""


class MathVerifyGrader:
    r"""Judges the content of a last `\boxed{...}`; use it as a context manager, from any number of threads.

    `INVALID`: no closed, non-empty box at the end. `CORRECT`: the same string after normalisation, the same number,
    equal by a rule, or equal by math-verify in a worker process under limits of CPU time and memory. `WRONG`: all
    else, also what cannot be parsed, is longer than `MAX_ANSWER` characters, runs into the limits or crashes two
    workers. Never raises on what a model wrote; raises `RuntimeError` where it is not open or a worker cannot start.

    Args:
        workers: worker processes; by default `pool.default_workers`.

    >>> with MathVerifyGrader() as grader:
    ...     grader.grade(r"\frac{\sqrt{2}}{2}", r"So it is \boxed{1/\sqrt{2}}.").verdict
    <Verdict.CORRECT: 'correct'>
    """

    def __init__(self, workers: int | None = None) -> None:
        self.pool = WorkerPool(workers)
        self.counts = GradingCounts()

    def __enter__(self) -> Self:
        self.pool.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close()

    def __call__(self, question: Question, response: str) -> Judgement:
        """The scheduler's protocol `rollout.play.Grade`."""
        return self.submit(question, response).result()

    def submit(self, question: Question, response: str) -> Future[Judgement]:
        """The same without waiting: most verdicts are there at once, the others come from the workers."""
        grading = self.start(question.answer, last_boxed(response), response, benchmark=question.benchmark)
        return _then(grading, lambda done: Judgement(verdict=done.verdict, remarks={HINT: done.hint}))

    def grade(self, gold: str, response: str, *, benchmark: str = "") -> Grading:
        """Judges a whole response. `benchmark` chooses the tolerance between decimals (`BENCHMARK_TOLERANCE`).

        Raises `ValueError` where the gold answer is empty.
        """
        return self.start(gold, last_boxed(response), response, benchmark=benchmark).result()

    def grade_answer(self, gold: str, answer: str, *, benchmark: str = "") -> Grading:
        """Judges what stands in a box; otherwise like `grade`."""
        return self.start(gold, answer, answer, benchmark=benchmark).result()

    def grade_all(self, pairs: Iterable[tuple[str, str]], *, benchmark: str = "") -> list[Grading]:
        """Judges many (gold, response) pairs at a time, in order, by all workers; equal ones once."""
        started = [self.start(gold, last_boxed(text), text, benchmark=benchmark) for gold, text in pairs]
        return [grading.result() for grading in started]

    def start(self, gold: str, answer: str | None, response: str, *, benchmark: str = "") -> Future[Grading]:
        """Judges `answer`, the content of the box that decides (None: there is none), out of `response`.

        Raises `ValueError` where the gold answer is empty, `RuntimeError` where the grader is not open.
        """
        began = thread_time()
        tolerance = BENCHMARK_TOLERANCE.get(benchmark, TOLERANCE)
        found = judge(_clean_gold(gold), answer, tolerance)
        own_seconds = thread_time() - began

        def record(found: Found, seconds: float) -> Grading:
            verdict, stage, reason = found
            exploits = exploits_in(response, reason)
            self.counts.add(stage, reason, exploits, seconds)
            said = "" if verdict is Verdict.CORRECT else hint(_clean_gold(gold), answer, reason)
            return Grading(verdict=verdict, stage=stage, reason=reason, seconds=seconds, exploits=exploits, hint=said)

        if not isinstance(found, Undecided):
            decided: Future[Grading] = Future()
            decided.set_result(record(found, own_seconds))
            return decided
        comparison = self.pool.submit(found.gold, found.answer, float(tolerance))
        remembered = comparison.done()

        def word(said: Comparison) -> Grading:
            verdict = Verdict.CORRECT if said.outcome is Outcome.EQUAL else Verdict.WRONG
            found = (verdict, Stage.MATH_VERIFY, said.outcome.value)
            return record(found, own_seconds + (0.0 if remembered else said.seconds))

        return _then(comparison, word)

    def metrics(self) -> dict[str, float]:
        """What is worth a line in the log, since the last call (`docs/metrics.md`); empty where nothing was judged."""
        shares = self.counts.collect()
        if not shares:
            return {}
        pool = self.pool
        return {
            **shares,
            "grading/crashes": pool.crashes,
            "grading/respawns": pool.respawns,
            "grading/cache_hits": pool.cache_hits / max(pool.cache_hits + pool.comparisons, 1),
        }


def judge(gold: str, answer: str | None, tolerance: Fraction) -> Found | Undecided:
    r"""All stages but the last: what the content of the last box, None for no box, is against a cleaned gold answer.

    >>> judge("5", None, TOLERANCE)[2], judge("5", r"\text{ }", TOLERANCE)[2], judge("5", "5<|im_end|>", TOLERANCE)[2]
    ('no box', 'empty box', 'special token')
    """
    if answer is None:
        return Verdict.INVALID, Stage.BOX, "no box"
    if len(answer) > MAX_ANSWER:
        return Verdict.WRONG, Stage.BOX, "too long"
    if SPECIAL_TOKEN.search(answer):
        return Verdict.WRONG, Stage.BOX, "special token"
    answer = clean(answer)
    if not key(answer):
        return Verdict.INVALID, Stage.BOX, "empty box"
    outcome = _decide(gold, answer, tolerance)
    if isinstance(outcome, Decision):
        return Verdict.CORRECT if outcome.equal else Verdict.WRONG, outcome.stage, outcome.reason
    if too_expensive(outcome.answer):
        return Verdict.WRONG, Stage.RULES, "too expensive"
    return outcome


_decide = lru_cache(maxsize=65_536)(decide)  # siblings of a group give the same answers


@lru_cache(maxsize=65_536)
def _clean_gold(gold: str) -> str:
    cleaned = clean(gold)
    if not key(cleaned):
        raise ValueError(f"the gold answer {gold!r} is empty; nothing can be graded against it")
    return cleaned


def _then(future: Future[Result], function: Callable[[Result], Other]) -> Future[Other]:
    """A future of what a function makes of another one's result."""
    after: Future[Other] = Future()

    def finish(done: Future[Result]) -> None:
        try:
            after.set_result(function(done.result()))
        except Exception as error:  # of the pool; whoever waits for the verdict must hear of it
            after.set_exception(error)

    future.add_done_callback(finish)
    return after

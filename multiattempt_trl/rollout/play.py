"""The scheduler: plays dialogues to their end over any backend. Training and evaluation both play through it."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol, runtime_checkable

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.rollout.requests import GenRequest, GenResult, RolloutBackend


class Grade(Protocol):
    """Judges one attempt's own text. Never raises on what a model wrote."""

    def __call__(self, question: Question, response: str) -> Verdict: ...


@runtime_checkable
class BackgroundGrade(Grade, Protocol):
    """A grader with workers of its own, which judges while the model goes on generating."""

    def submit(self, question: Question, response: str) -> Future[Verdict]: ...


@runtime_checkable
class CountingGrade(Grade, Protocol):
    """A grader that counts what it does."""

    def metrics(self) -> dict[str, float]:
        """What is worth a line in the log, since the last call."""
        ...


GRADING_POLL_SECONDS = 0.01
"""How long an eager backend may keep the scheduler from looking whether a verdict has come."""


def judge(grade: Grade, question: Question, response: str) -> Future[Verdict]:
    """The verdict, at once from a plain function or later from workers."""
    if isinstance(grade, BackgroundGrade):
        return grade.submit(question, response)
    verdict: Future[Verdict] = Future()
    verdict.set_result(grade(question, response))
    return verdict


class Dialogue:
    """One dialogue on its way: the environment, the attempts so far, and what the model reads next."""

    def __init__(self, env: Environment, renderer: Renderer, limits: Limits) -> None:
        self.env, self.renderer, self.limits = env, renderer, limits
        self.attempts: list[Attempt] = []
        self.prompt_ids = renderer.prompt_ids(env.first_messages())
        self.ending: Ending | None = None
        if env.budget > 1:  # a template with no place for our feedback should say so now, not after the first failure
            renderer.feedback_ids(env.feedback_message(1), ())
        if self.room < 1:
            raise ValueError(
                f"question {env.question.id!r} leaves no room for an answer: its prompt takes {len(self.prompt_ids)} "
                f"of {limits.context} tokens; raise the model's context or drop the question"
            )

    @property
    def room(self) -> int:
        return self.limits.room(len(self.prompt_ids), sum(attempt.tokens for attempt in self.attempts))

    def hand_in(self, result: GenResult, grade: Grade) -> Future[Verdict]:
        """Has what was generated judged; `advance` takes it from there."""
        self._result, self._response = result, self.renderer.response_text(result.token_ids)
        if result.finish_reason != "error":
            return judge(grade, self.env.question, self._response)
        failed: Future[Verdict] = Future()
        failed.set_result(Verdict.INVALID)
        return failed

    def advance(self, verdict: Verdict) -> None:
        """Records the attempt that was judged, then either ends the dialogue or appends the feedback to it."""
        result = self._result
        attempt = Attempt(
            prompt_ids=self.prompt_ids,
            response_ids=result.token_ids,
            response=self._response,
            verdict=Verdict(verdict),
            finish_reason=result.finish_reason,
            logprobs=result.logprobs,
        )
        self.attempts.append(attempt)
        self.ending = self.env.ending(self.attempts)
        if self.ending is None:
            message = self.env.feedback_message(len(self.attempts))
            self.prompt_ids += attempt.response_ids + self.renderer.feedback_ids(message, attempt.response_ids)
            if self.room < 1:
                self.ending = Ending.TRUNCATED

    def episode(self) -> Episode:
        assert self.ending is not None, "the dialogue is not over"
        return self.env.episode(self.attempts, self.ending)


def play(
    envs: Sequence[Environment],
    backend: RolloutBackend,
    grade: Grade,
    renderer: Renderer,
    limits: Limits,
    *,
    stop_at_box: bool = False,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Plays every dialogue to its end and returns the episodes in the order of `envs`.

    Attempts are judged while others are generated. To an eager backend the next attempt is submitted as soon as the
    last one is judged; for one in lock step all wait until the round is over, so that who is generated together with
    whom, and with that what is sampled, does not depend on how long a grader takes. Dialogues with the largest budget
    are admitted first, since they take the most rounds.

    Args:
        on_episode: called with each episode as it ends, in the order of their ends (a progress bar, a file).

    Raises `ValueError` before any generation where a prompt leaves no room for an answer, or where the chat template
    has no place for the feedback.
    """
    dialogues = [Dialogue(env, renderer, limits) for env in envs]
    order = sorted(range(len(dialogues)), key=lambda index: -dialogues[index].env.budget)

    def request(index: int) -> GenRequest:
        dialogue = dialogues[index]
        return GenRequest(
            request_id=index, prompt_ids=dialogue.prompt_ids, max_new_tokens=dialogue.room, stop_at_box=stop_at_box
        )

    with backend:
        running = generating = len(order)
        judging: dict[int, Future[Verdict]] = {}
        backend.submit([request(index) for index in order])
        while running:
            if generating:
                results = backend.poll(GRADING_POLL_SECONDS if judging else None)
                generating -= len(results)
                judging |= {one.request_id: dialogues[one.request_id].hand_in(one, grade) for one in results}
            again = []
            for index in judged(judging, generating, eager=backend.eager):
                dialogues[index].advance(judging.pop(index).result())
                if dialogues[index].ending is None:
                    again.append(index)
                    continue
                running -= 1
                if on_episode is not None:
                    on_episode(dialogues[index].episode())
            if again:
                generating += len(again)
                backend.submit([request(index) for index in again])
    return [dialogue.episode() for dialogue in dialogues]


def judged(judging: dict[int, Future[Verdict]], generating: int, *, eager: bool) -> list[int]:
    """The dialogues that can go on, in the order in which their attempts were generated."""
    if not eager:
        return [] if generating else list(judging)
    if not generating:
        wait(judging.values(), return_when=FIRST_COMPLETED)
    return [index for index, verdict in judging.items() if verdict.done()]

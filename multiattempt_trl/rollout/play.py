"""The scheduler: plays dialogues to their end over any backend. Training and evaluation both play through it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.rollout.requests import GenRequest, GenResult, RolloutBackend


class Grade(Protocol):
    """Judges one attempt's own text. Never raises on what a model wrote."""

    def __call__(self, question: Question, response: str) -> Verdict: ...


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

    def advance(self, result: GenResult, grade: Grade) -> None:
        """Records an attempt with its verdict, then either ends the dialogue or appends the feedback to it."""
        response = self.renderer.response_text(result.token_ids)
        failed = result.finish_reason == "error"
        attempt = Attempt(
            prompt_ids=self.prompt_ids,
            response_ids=result.token_ids,
            response=response,
            verdict=Verdict.INVALID if failed else Verdict(grade(self.env.question, response)),
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

    An attempt is submitted as soon as the one before it is judged; a lock-step backend then generates all that are
    waiting together. Dialogues with the largest budget are admitted first, since they take the most rounds.

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
        running = len(order)
        backend.submit([request(index) for index in order])
        while running:
            again = []
            for result in backend.poll():
                dialogue = dialogues[result.request_id]
                dialogue.advance(result, grade)
                if dialogue.ending is None:
                    again.append(result.request_id)
                    continue
                running -= 1
                if on_episode is not None:
                    on_episode(dialogue.episode())
            backend.submit([request(index) for index in again])
    return [dialogue.episode() for dialogue in dialogues]

"""One dialogue on its way, and the graders that judge its attempts."""

from concurrent.futures import Future
from typing import Protocol, cast, runtime_checkable

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Judgement, Question, Verdict
from multiattempt_trl.dialogue.remarks import feedback_tokens, sayable
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.dialogue.seeds import stable_seed
from multiattempt_trl.rollout.requests import GenRequest, GenResult


class Grade(Protocol):
    """Judges one attempt's own text: a verdict, or one with remarks. Never raises on what a model wrote."""

    def __call__(self, question: Question, response: str) -> Verdict | Judgement: ...


@runtime_checkable
class BackgroundGrade(Grade, Protocol):
    """A grader with workers of its own, which judges while the model goes on generating."""

    def submit(self, question: Question, response: str) -> Future[Verdict] | Future[Judgement]: ...


@runtime_checkable
class CountingGrade(Grade, Protocol):
    """A grader that counts what it does."""

    def metrics(self) -> dict[str, float]:
        """What is worth a line in the log, since the last call."""
        ...


def judge(grade: Grade, question: Question, response: str) -> Future[Verdict | Judgement]:
    """The verdict, at once from a plain function or later from workers."""
    if isinstance(grade, BackgroundGrade):
        return cast("Future[Verdict | Judgement]", grade.submit(question, response))
    said: Future[Verdict | Judgement] = Future()
    said.set_result(grade(question, response))
    return said


class Dialogue:
    """One dialogue on its way: the environment, the attempts so far, and what the model reads next."""

    def __init__(self, env: Environment, renderer: Renderer, limits: Limits) -> None:
        self.env, self.renderer, self.limits = env, renderer, limits
        self.attempts: list[Attempt] = []
        self.prompt_ids = renderer.prompt_ids(env.first_messages())
        self.ending: Ending | None = None
        self.failure = ""
        """What a failed request said."""
        # A template with no place for our feedback should say so now, not after the first failure.
        self.feedback = feedback_tokens(env, renderer)
        """Tokens that stand between two attempts, at most but for remarks."""
        if self.room < 1:
            raise ValueError(
                f"question {env.question.id!r} leaves no room for an answer: its prompt takes {len(self.prompt_ids)} "
                f"of {limits.context} tokens; raise the model's context or drop the question"
            )

    @property
    def room(self) -> int:
        return self.limits.room(len(self.prompt_ids), sum(attempt.tokens for attempt in self.attempts))

    @property
    def longest(self) -> int:
        """The most tokens that the dialogue can come to."""
        sampled = min(self.limits.episode, self.env.budget * self.limits.attempt)
        said = sum(feedback_tokens(self.env, self.renderer, self.limits.remark))
        return min(self.limits.context, len(self.prompt_ids) + said + sampled)

    def request(self, request_id: int, *, stop_at_box: bool, seed: int) -> GenRequest:
        """The next attempt. Its random numbers are its own: of the seed, the question, the sample and the attempt."""
        return GenRequest(
            request_id=request_id,
            prompt_ids=self.prompt_ids,
            max_new_tokens=self.room,
            stop_at_box=stop_at_box,
            seed=stable_seed(seed, self.env.question.id, self.env.sample, len(self.attempts) + 1),
        )

    def hand_in(self, result: GenResult, grade: Grade) -> Future[Verdict | Judgement]:
        """Has what was generated judged; `advance` takes it from there."""
        self._result, self._response = result, self.renderer.response_text(result.token_ids)
        if result.finish_reason != "error":
            return judge(grade, self.env.question, self._response)
        self.failure = result.error
        failed: Future[Verdict | Judgement] = Future()
        failed.set_result(Verdict.INVALID)
        return failed

    def advance(self, said: Verdict | Judgement) -> None:
        """Records the attempt that was judged, then either ends the dialogue or appends the feedback to it."""
        result, judged = self._result, Judgement.of(said)
        failed = judged.verdict is not Verdict.CORRECT  # nothing is said of a right answer, where it is denied neither
        used, remarks = len(self.attempts) + 1, judged.remarks if failed else {}
        attempt = Attempt(
            prompt_ids=self.prompt_ids,
            response_ids=result.token_ids,
            response=self._response,
            verdict=judged.verdict,
            finish_reason=result.finish_reason,
            logprobs=result.logprobs,
            remarks=sayable(self.env, self.renderer, used, remarks, self.limits.remark),
            judged_answer=judged.answer,
        )
        self.attempts.append(attempt)
        self.ending = self.env.ending(self.attempts)
        if self.ending is None:
            message = self.env.feedback_message(used, attempt.remarks)
            self.prompt_ids += attempt.response_ids + self.renderer.feedback_ids(message, attempt.response_ids)
            if self.room < 1:
                self.ending = Ending.TRUNCATED

    def episode(self) -> Episode:
        assert self.ending is not None, "the dialogue is not over"
        return self.env.episode(self.attempts, self.ending)

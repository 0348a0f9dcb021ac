"""The environment of one dialogue: what is said first, what is said after a failure, and when it is over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import NO_REMARKS, Message, PromptPreset, remark_styles

REMARK_TOKENS = 96
"""Of what a feedback says beyond the verdict, at most: a failed test or an error fits, and so does each of the four
feedbacks of five attempts in the 512 tokens of the small model of `arithmetic`."""
Count = Literal["shown", "hidden", "wrong"]
"""What the words say of the attempts that are left: how many, nothing (the sentences that name them are left out), or
a number that is always another one: half the budget further on, and round again, so that it is one of the usual."""


def check_count(count: str, preset: PromptPreset, feedback: str) -> None:
    """Raises `ValueError` for a count that is unknown, or leaves nothing of what is said in this feedback style."""
    if count not in get_args(Count):
        raise ValueError(f"count {count!r} is unknown; choose one of {', '.join(get_args(Count))}")
    if count == "hidden":
        preset.check_uncounted(feedback)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Our token limits, in tokens.

    Raises `ValueError` for a limit below 1, or an attempt that may not outgrow its episode.
    """

    attempt: int
    """Cap on one attempt's sampled tokens."""
    episode: int
    """Cap on the sampled tokens of all attempts together (published code: 3,000 in training, 8,000 in evaluation)."""
    context: int
    """Everything the model may read and write: prompt, attempts and feedback."""
    remark: int = REMARK_TOKENS
    """Cap on what remarks add to one feedback."""

    def __post_init__(self) -> None:
        for name in ("attempt", "episode", "context", "remark"):
            if getattr(self, name) < 1:
                raise ValueError(f"the {name} token limit must be at least 1, got {getattr(self, name)}")

    def room(self, prompt_tokens: int, sampled_tokens: int) -> int:
        """How many tokens the next attempt may sample; 0 or less where there is no room."""
        return min(self.attempt, self.episode - sampled_tokens, self.context - prompt_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """One question with its budget. Holds no state: what happens next follows from the attempts so far."""

    question: Question
    budget: int
    preset: PromptPreset
    feedback: str = "binary"
    """Feedback style, see `PromptPreset.feedback_message`."""
    sample: int = 0
    announced: int | None = None
    """The number of attempts that the words count from; None for the budget, which is what there are."""
    count: Count = "shown"
    deny_correct: bool = False
    """A probe of two attempts: a right first answer is said to be wrong, and any other first answer ends it."""

    def __post_init__(self) -> None:
        check_count(self.count, self.preset, self.feedback)
        if self.announced is not None and self.announced < self.budget:
            raise ValueError(
                f"announced={self.announced} attempts would run out before the {self.budget} that there are; announce "
                "at least as many"
            )
        if self.deny_correct and self.budget != 2:
            raise ValueError(f"deny_correct is a probe of 2 attempts, got a budget of {self.budget}")
        if self.budget < 1:
            raise ValueError(f"question {self.question.id!r} needs a budget of at least 1 attempt, got {self.budget}")

    def first_messages(self) -> list[Message]:
        return self.preset.first_messages(self.question.problem, self._said(0), counted=self._counted)

    def feedback_message(self, attempts_used: int, remarks: Mapping[str, str] = NO_REMARKS) -> Message:
        """What is said after an attempt that failed, with those of its remarks that the style asks for."""
        assert attempts_used < self.budget, "no feedback after the last attempt"
        left, problem = self._said(attempts_used), self.question.problem
        return self.preset.feedback_message(self.feedback, problem, left, remarks, counted=self._counted)

    @property
    def remark_styles(self) -> tuple[str, ...]:
        """Whose remarks the feedback says."""
        return remark_styles(self.feedback)

    def ending(self, attempts: Sequence[Attempt]) -> Ending | None:
        """Why the dialogue is over after these attempts; None where it goes on, tokens permitting."""
        last = attempts[-1]
        denied = self.deny_correct and len(attempts) == 1
        if last.verdict is Verdict.CORRECT:
            return None if denied else Ending.SOLVED
        if last.finish_reason == "error":
            return Ending.FAILED
        if denied or len(attempts) == self.budget:
            return Ending.TRUNCATED if last.finish_reason == "length" else Ending.EXHAUSTED
        return None

    @property
    def _counted(self) -> bool:
        return self.count != "hidden"

    def _said(self, attempts_used: int) -> int:
        """How many attempts the words say are left."""
        of = self.announced or self.budget
        left = of - attempts_used
        return (left + max(of // 2, 1) - 1) % max(of, 2) + 1 if self.count == "wrong" else left

    def episode(self, attempts: Sequence[Attempt], ending: Ending) -> Episode:
        return Episode(
            question=self.question, budget=self.budget, attempts=tuple(attempts), ending=ending, sample=self.sample
        )

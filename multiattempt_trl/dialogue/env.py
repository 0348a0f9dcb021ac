"""The environment of one dialogue: what is said first, what is said after a failure, and when it is over."""

from collections.abc import Sequence
from dataclasses import dataclass

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import Message, PromptPreset


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

    def __post_init__(self) -> None:
        for name in ("attempt", "episode", "context"):
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

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"question {self.question.id!r} needs a budget of at least 1 attempt, got {self.budget}")

    def first_messages(self) -> list[Message]:
        return self.preset.first_messages(self.question.problem, self.budget)

    def feedback_message(self, attempts_used: int) -> Message:
        left = self.budget - attempts_used
        assert left > 0, "no feedback after the last attempt"
        return self.preset.feedback_message(self.feedback, self.question.problem, left)

    def ending(self, attempts: Sequence[Attempt]) -> Ending | None:
        """Why the dialogue is over after these attempts; None where it goes on, tokens permitting."""
        last = attempts[-1]
        if last.verdict is Verdict.CORRECT:
            return Ending.SOLVED
        if last.finish_reason == "error":
            return Ending.FAILED
        if len(attempts) == self.budget:
            return Ending.TRUNCATED if last.finish_reason == "length" else Ending.EXHAUSTED
        return None

    def episode(self, attempts: Sequence[Attempt], ending: Ending) -> Episode:
        return Episode(
            question=self.question, budget=self.budget, attempts=tuple(attempts), ending=ending, sample=self.sample
        )

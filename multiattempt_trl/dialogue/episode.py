"""The records of a dialogue: facts only, frozen, saved as JSON lines. What they are worth is priced later."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from multiattempt_trl.dialogue.boxes import last_boxed


class Verdict(StrEnum):
    """What the grader says of one attempt."""

    CORRECT = "correct"
    WRONG = "wrong"
    INVALID = "invalid"
    """Not well formed: no closed, non-empty box at its end."""


class Ending(StrEnum):
    """Why an episode is over."""

    SOLVED = "solved"
    """The task's end: an attempt was correct."""
    EXHAUSTED = "exhausted"
    """The budget's end: no attempt left."""
    TRUNCATED = "truncated"
    """Our token limit's end: the last attempt was cut, or no room was left for another."""
    FAILED = "failed"
    """Nobody's end: a request was lost, so that the episode tells nothing of the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a grader says of an attempt, where the verdict alone is not all.

    >>> Judgement.of(Verdict.WRONG).remarks, Judgement(verdict=Verdict.WRONG, remarks={"hint": "Too high."}).answer
    ({}, None)
    """

    verdict: Verdict
    remarks: Mapping[str, str] = field(default_factory=dict)
    """By feedback style, what it tells the model: whole sentences. They may hold what the model wrote, unchecked."""
    answer: str | None = None
    """What was taken for the answer: None where it is the content of the last box, "" where there is none."""

    @classmethod
    def of(cls, said: "Verdict | Judgement") -> "Judgement":
        """What a grader returned; raises `ValueError` for anything but a verdict or a judgement."""
        return said if isinstance(said, Judgement) else cls(verdict=Verdict(said))


FINISH_REASONS = ("eos", "stop", "length", "error")
"""How an attempt's generation ended: end of turn, closed box, token cap, or a failed request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A problem with its known answer.

    >>> Question(id="gcd-12-18", problem="What is the greatest common divisor of 12 and 18?", answer="6").answer
    '6'
    """

    id: str
    """Stable across runs: the budget is drawn from it."""
    problem: str
    answer: str
    """The gold answer, as the grader compares it."""
    benchmark: str = ""
    level: str = ""
    """How hard it is, where its set says so ("5" of MATH-500)."""
    subject: str = ""
    """What it is about, where its set says so."""

    def __post_init__(self) -> None:
        if not self.problem.strip():
            raise ValueError(f"question {self.id!r} has an empty problem; drop the row or fill the column")
        if not self.answer.strip():
            raise ValueError(f"question {self.id!r} has an empty gold answer; drop the row or fill the column")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One answer of the model, with the exact tokens it was given and the exact tokens it sampled."""

    prompt_ids: tuple[int, ...]
    """Everything the model read: the prompt, its earlier attempts and the feedback to them."""
    response_ids: tuple[int, ...]
    """Everything it sampled, the stop token included."""
    response: str
    """`response_ids` as text, special tokens left out."""
    verdict: Verdict
    finish_reason: str
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    """The sampler's log-probability of each response id, where the backend gives it."""
    saved_tokens: int | None = field(default=None, repr=False)
    """How many tokens were sampled, where the attempt was read from a file, which keeps no ids."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """What the grader has to say of it, by feedback style; where feedback followed, as short as it was said there."""
    judged_answer: str | None = None
    """`Judgement.answer`."""

    @property
    def answer(self) -> str | None:
        """What the grader took for the answer, else what stands in the last box; None where there is none."""
        return last_boxed(self.response) if self.judged_answer is None else self.judged_answer or None

    @property
    def well_formed(self) -> bool:
        return self.verdict is not Verdict.INVALID

    @property
    def tokens(self) -> int:
        return len(self.response_ids) if self.saved_tokens is None else self.saved_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """A whole dialogue: at most `budget` attempts at one question."""

    question: Question
    budget: int
    attempts: tuple[Attempt, ...]
    ending: Ending
    sample: int = 0
    """Which of several dialogues about the same question this is."""

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Episode":
        """What `to_json` wrote. Its attempts have no ids, which are not saved.

        Raises `KeyError`, `TypeError` or `ValueError` for anything else.
        """
        question = Question(
            id=line["id"],
            problem=line["problem"],
            answer=line["gold"],
            benchmark=line["benchmark"],
            level=line["level"],
            subject=line["subject"],
        )
        attempts = tuple(map(_saved_attempt, line["attempts"]))
        ending = Ending(line["ending"])
        return cls(question=question, budget=line["budget"], attempts=attempts, ending=ending, sample=line["sample"])

    @property
    def attempts_used(self) -> int:
        return len(self.attempts)

    @property
    def sampled_tokens(self) -> int:
        return sum(attempt.tokens for attempt in self.attempts)

    def solved_within(self, k: int) -> bool:
        """Whether one of the first k attempts is correct."""
        return any(attempt.verdict is Verdict.CORRECT for attempt in self.attempts[:k])

    def repeats(self, k: int) -> bool:
        """Whether attempt k (from 1) gives an answer that an earlier attempt gave already."""
        answer = self.attempts[k - 1].answer
        return answer is not None and answer in [earlier.answer for earlier in self.attempts[: k - 1]]

    def to_json(self) -> dict[str, Any]:
        """One line of `episodes.jsonl`: text and facts, without token ids."""
        return {
            "benchmark": self.question.benchmark,
            "id": self.question.id,
            "level": self.question.level,
            "subject": self.question.subject,
            "budget": self.budget,
            "sample": self.sample,
            "problem": self.question.problem,
            "gold": self.question.answer,
            "attempts": [
                {
                    "response": attempt.response,
                    "answer": attempt.answer,
                    "verdict": attempt.verdict.value,
                    "finish_reason": attempt.finish_reason,
                    "tokens": attempt.tokens,
                    "remarks": dict(attempt.remarks),
                }
                for attempt in self.attempts
            ],
            "ending": self.ending.value,
        }


def _saved_attempt(saved: Mapping[str, Any]) -> Attempt:
    """As `Episode.to_json` writes one; files of earlier versions have no remarks."""
    response, boxed = saved["response"], last_boxed(saved["response"])
    answer = saved.get("answer", boxed)
    return Attempt(
        prompt_ids=(),
        response_ids=(),
        response=response,
        verdict=Verdict(saved["verdict"]),
        finish_reason=saved["finish_reason"],
        saved_tokens=saved["tokens"],
        remarks=dict(saved.get("remarks", {})),
        judged_answer=None if answer == boxed else answer or "",
    )

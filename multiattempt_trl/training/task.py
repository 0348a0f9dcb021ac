"""The fields of the multi-attempt task: how often the model may answer, what it is told, what that is worth."""

from dataclasses import dataclass, field
from typing import Any, get_args

from multiattempt_trl.dialogue.budgets import BudgetDraw, share_with_at_least
from multiattempt_trl.dialogue.env import REMARK_TOKENS, Count, Environment
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PromptPreset, check_feedback
from multiattempt_trl.dialogue.rewards import Prices, check_credit

PER_ATTEMPT_CREDIT = ("improvement", "attempt", "own")
"""Credit schemes under which GRPO's advantage differs between the attempts of one episode."""


@dataclass
class TaskFields:
    """What every training configuration has besides its trainer's own fields. The paper's values by default."""

    max_attempts: int = field(default=5, metadata={"help": "M: the most attempts a question can get (paper: 5)."})
    budget_draw: str = field(
        default="uniform",
        metadata={
            "help": "'uniform': N ~ U{1..M} per question and step (paper); 'fixed': always M; 'per_sample': uniform, "
            "and each sibling of a GRPO group draws its own.",
            "choices": list(get_args(BudgetDraw)),
        },
    )
    single_attempt_share: float = field(
        default=0.0,
        metadata={"help": "Share of the questions that get a single attempt, whatever is drawn (paper: none)."},
    )
    prompt_preset: str | None = field(
        default=None,
        metadata={
            "help": "Wording and roles: 'paper', 'paper-code' or one of the domain's own. Default: the domain's."
        },
    )
    feedback: str = field(
        default="binary",
        metadata={
            "help": "What a failed attempt is told: 'binary' (the preset's sentence), 'none' (the question again), or "
            "a sentence of your own with {problem}, {attempts} or {attempts_left} in it, or what the domain's grader "
            "has to say: 'hint' (arithmetic, maths), 'first_test' or 'error' (code, lists)."
        },
    )
    max_remark_tokens: int = field(
        default=REMARK_TOKENS, metadata={"help": "What a hint or an error may add to one feedback; the rest is cut."}
    )
    count: str = field(
        default="shown",
        metadata={
            "help": "What the words say of the attempts left: 'shown' (paper), 'hidden', or a 'wrong' number.",
            "choices": list(get_args(Count)),
        },
    )
    stop_at_box: bool = field(
        default=False,
        metadata={"help": "End an attempt at its first closed box (published code) rather than at the end of turn."},
    )
    max_episode_tokens: int | None = field(
        default=None,
        metadata={"help": "Cap on the sampled tokens of all attempts together. Default: M x max_completion_length."},
    )
    max_prompt_tokens: int | None = field(
        default=None,
        metadata={"help": "Questions whose first prompt is longer are dropped, and named in the log. Default: none."},
    )
    price_correct: float = field(default=1.0, metadata={"help": "Reward of a solved episode (paper: 1)."})
    price_wrong: float = field(
        default=-0.5, metadata={"help": "Reward of an unsolved episode with a well-formed answer (paper: -0.5)."}
    )
    price_invalid: float = field(default=-1.0, metadata={"help": "Reward of any other episode (paper: -1)."})
    well_formed_by: str = field(
        default="any",
        metadata={
            "help": "Which answer decides between wrong and invalid: 'any' or the 'last'.",
            "choices": ["any", "last"],
        },
    )
    credit: str = field(
        default="terminal",
        metadata={
            "help": "How the reward is spread over attempts: terminal (paper), discounted, improvement, attempt, own."
        },
    )
    attempt_discount: float = field(
        default=1.0,
        metadata={"help": "With credit=discounted: a success at attempt k is worth this to the power k-1."},
    )

    @property
    def prices(self) -> Prices:
        return Prices(
            correct=self.price_correct,
            wrong=self.price_wrong,
            invalid=self.price_invalid,
            well_formed_by=self.well_formed_by,  # type: ignore[arg-type]  # checked by Prices
        )

    def share_with_at_least(self, k: int) -> float:
        """P(N >= k) of a question in training."""
        draw: Any = self.budget_draw  # checked
        return share_with_at_least(k, self.max_attempts, draw, self.single_attempt_share)

    def environment(self, question: Question, budget: int, preset: PromptPreset, sample: int = 0) -> Environment:
        """The dialogue about a question, in these words."""
        count: Count = self.count  # type: ignore[assignment]  # checked
        return Environment(
            question=question, budget=budget, preset=preset, feedback=self.feedback, count=count, sample=sample
        )

    def check_task(self) -> None:
        """Raises `ValueError` for a value that cannot work."""
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        if not 0.0 <= self.single_attempt_share < 1.0:
            raise ValueError(
                f"single_attempt_share must be in [0, 1), got {self.single_attempt_share}; for single attempts alone "
                "set max_attempts: 1"
            )
        if self.budget_draw not in (known := get_args(BudgetDraw)):
            raise ValueError(f"budget_draw must be one of {', '.join(known)}, got {self.budget_draw!r}")
        if self.count not in get_args(Count):
            raise ValueError(f"count {self.count!r} is unknown; choose one of {', '.join(get_args(Count))}")
        for name in ("max_episode_tokens", "max_prompt_tokens", "max_remark_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        check_feedback(self.feedback, None)  # which styles there are, the domain says
        check_credit(self.credit, self.prices, self.attempt_discount)

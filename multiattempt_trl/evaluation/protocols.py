"""What an evaluation plays: the plan, and the runs that follow from it for each benchmark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, get_args

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PromptPreset, check_feedback
from multiattempt_trl.rollout.sampling import Sampling

Protocol = Literal["nested", "paper"]
"""`nested`: one run at budget K, whose first k attempts give accuracy within k. `paper`: one run for each budget
1 ... K, each with the prompt of its own budget (arXiv 2503.04808, section 4)."""

GREEDY = Sampling(temperature=0.0)
INDEPENDENT = Sampling(temperature=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPlan:
    """How a model is evaluated.

    Raises `ValueError` for a value that could not be played, or would tell nothing.
    """

    model: str
    """Its name in the report: a Hub id or a folder."""
    preset: PromptPreset
    limits: Limits
    budget: int = 7
    """K: the most attempts a question gets (paper: 7)."""
    protocol: Protocol = "nested"
    samples: int = 1
    """Dialogues for each question and budget; more than one only where they are sampled."""
    sampling: Sampling = GREEDY
    feedback: str = "binary"
    """Feedback style, see `PromptPreset.feedback_message`."""
    stop_at_box: bool = False
    """An attempt ends with its first closed box instead of with its turn."""
    independent: int | None = None
    """One-attempt dialogues for each question behind pass@k, the control with as many attempts and no feedback: None
    for K of them, 0 for no such control, or more than K for a steadier estimate."""
    independent_sampling: Sampling = INDEPENDENT
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"the evaluation budget must be at least 1 attempt, got {self.budget}")
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"protocol {self.protocol!r} is unknown; choose one of {', '.join(get_args(Protocol))}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.samples} greedy samples would all be the same; set a temperature, or samples=1")
        if self.independent_samples > 1 and self.independent_sampling.temperature == 0:
            raise ValueError("independent samples need a temperature above 0: greedy ones would all be the same")
        if 0 < self.independent_samples < self.budget:
            raise ValueError(
                f"pass@{self.budget} needs at least {self.budget} independent samples, got {self.independent_samples}"
            )
        check_feedback(self.feedback)

    @property
    def independent_samples(self) -> int:
        return self.budget if self.independent is None else self.independent

    @property
    def budgets(self) -> range:
        """The budgets that get a run of their own."""
        return range(self.budget if self.protocol == "nested" else 1, self.budget + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One pass over one benchmark."""

    benchmark: str
    label: str
    environments: list[Environment]
    sampling: Sampling
    independent: bool
    seed: int
    """Its own: what else is played before it does not change what it samples."""


def plan_runs(plan: EvalPlan, benchmark: str, questions: Sequence[Question]) -> Iterator[Run]:
    """The runs of one benchmark: one for each budget, then the independent samples."""

    def run(label: str, budget: int, samples: int, sampling: Sampling, independent: bool) -> Run:
        environments = [
            Environment(question=question, budget=budget, preset=plan.preset, feedback=plan.feedback, sample=sample)
            for sample in range(samples)
            for question in questions
        ]
        # `hash` is salted anew in every process.
        digest = blake2b(f"{plan.seed}\x00{benchmark}\x00{label}".encode(), digest_size=4).digest()
        return Run(
            benchmark=benchmark,
            label=label,
            environments=environments,
            sampling=sampling,
            independent=independent,
            seed=int.from_bytes(digest, "big"),
        )

    for budget in plan.budgets:
        label = plan.preset.attempts_text(budget)
        yield run(label, budget, plan.samples, plan.sampling, independent=False)
    if plan.independent_samples:
        label = f"{plan.independent_samples} independent"
        yield run(label, 1, plan.independent_samples, plan.independent_sampling, independent=True)

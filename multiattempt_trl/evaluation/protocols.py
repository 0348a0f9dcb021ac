"""What an evaluation plays: the plan, and the runs that follow from it for each benchmark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from multiattempt_trl.dialogue.env import Count, Environment, Limits, check_count
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PromptPreset, check_feedback
from multiattempt_trl.dialogue.seeds import stable_seed
from multiattempt_trl.evaluation.store import Key
from multiattempt_trl.rollout.sampling import Sampling

Protocol = Literal["nested", "paper", "sampled"]
"""`nested`: one run at budget K, whose first k attempts give accuracy within k. `paper`: one run for each budget
1 ... K, each with the prompt of its own budget (arXiv 2503.04808, section 4). `sampled`: as nested, with several
dialogues for each question, at a temperature."""

Probe = Literal["false_feedback", "hidden_count", "wrong_count", "announced"]
"""`false_feedback`: a right first answer is said to be wrong; is it given up? `hidden_count` and `wrong_count`: the
main run with the attempts left unsaid, or misstated; is the count used? `announced`: first attempts under each budget,
which is shown whatever the plan's count."""
PROBES: tuple[Probe, ...] = get_args(Probe)

GREEDY = Sampling(temperature=0.0)
INDEPENDENT = Sampling(temperature=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPlan:
    """How a model is evaluated.

    Raises `ValueError` for a value that could not be played, or would tell nothing.
    """

    model: str
    """Its name in the report: a Hub id or a folder."""
    base_model: str | None = None
    """What it was trained from, played under the same prompts; None for no such control."""
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
    count: Count = "shown"
    """What all words say of the attempts left."""
    stop_at_box: bool = False
    """An attempt ends with its first closed box instead of with its turn."""
    independent: int | None = None
    """One-attempt dialogues for each question behind pass@k and maj@k, the controls with as many attempts and no
    feedback: None for K of them, 0 for no such controls, or more than K for a steadier estimate."""
    independent_sampling: Sampling = INDEPENDENT
    probes: tuple[Probe, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"the evaluation budget must be at least 1 attempt, got {self.budget}")
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"protocol {self.protocol!r} is unknown; choose one of {', '.join(get_args(Protocol))}")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.sampling.temperature == 0 and (self.samples > 1 or self.protocol == "sampled"):
            raise ValueError(
                f"{self.samples} greedy samples would all be the same; set a temperature, or protocol nested"
            )
        if self.independent_samples > 1 and self.independent_sampling.temperature == 0:
            raise ValueError("independent samples need a temperature above 0: greedy ones would all be the same")
        if self.independent_samples < 0:
            raise ValueError(f"independent must be 0 for no such control or at least K, got {self.independent}")
        if 0 < self.independent_samples < self.budget:
            raise ValueError(
                f"pass@{self.budget} needs at least {self.budget} independent samples, got {self.independent_samples}"
            )
        unknown = [probe for probe in self.probes if probe not in PROBES]
        if unknown:
            raise ValueError(f"probe {unknown[0]!r} is unknown; choose among {', '.join(PROBES)}")
        if self.budget == 1 and "false_feedback" in self.probes:
            raise ValueError(
                "the probe 'false_feedback' asks again, so it needs a budget of at least 2 attempts, got 1"
            )
        check_feedback(self.feedback, None)  # which styles there are, the domain says
        for count in (self.count, *(["hidden"] if "hidden_count" in self.probes else [])):
            check_count(count, self.preset, self.feedback)

    @property
    def independent_samples(self) -> int:
        return self.budget if self.independent is None else self.independent

    @property
    def budgets(self) -> range:
        """The budgets that get a run of their own."""
        return range(1 if self.protocol == "paper" else self.budget, self.budget + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One pass over one benchmark."""

    benchmark: str
    name: str
    """Of its lines in `episodes.jsonl`: main, independent, base, or a probe's."""
    environments: list[Environment]
    sampling: Sampling
    seed: int
    """Its own: what else is played does not change what it samples."""

    @property
    def of_base(self) -> bool:
        """Whether the base model plays it."""
        return self.name == "base"


def plan_runs(plan: EvalPlan, benchmark: str, questions: Sequence[Question]) -> Iterator[Run]:
    """The runs of one benchmark: the main ones, the independent samples, the base model, the probes."""

    def run(name: str, budget: int, *, samples: int = 1, sampling: Sampling = plan.sampling, **changes: Any) -> Run:
        words: dict[str, Any] = {"preset": plan.preset, "feedback": plan.feedback, "count": plan.count}
        environments = [
            Environment(question=question, budget=budget, sample=sample, **(words | changes))
            for sample in range(samples)
            for question in questions
        ]
        seed = stable_seed(plan.seed, benchmark, name, budget)
        return Run(benchmark=benchmark, name=name, environments=environments, sampling=sampling, seed=seed)

    for budget in plan.budgets:
        yield run("main", budget, samples=plan.samples)
    if plan.independent_samples:
        yield run("independent", 1, samples=plan.independent_samples, sampling=plan.independent_sampling)
    if plan.base_model is not None:
        for budget in plan.budgets:  # the same prompts
            yield run("base", budget, samples=plan.samples)
    if "false_feedback" in plan.probes:
        yield run("false_feedback", 2, announced=plan.budget, deny_correct=True)
    for name, count in (("hidden_count", "hidden"), ("wrong_count", "wrong")):
        if name in plan.probes:
            yield run(name, plan.budget, samples=plan.samples, count=count)
    if "announced" in plan.probes:
        for announced in range(1, plan.budget + 1):
            yield run(f"announced_{announced}", 1, announced=announced, count="shown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Dialogues that are played together, whoever plays them.

    Who is generated beside whom decides how sums are rounded, and with that, once in a long while, a word. So the
    shards follow from the plan alone, and what was broken off in one is played again.
    """

    run: Run
    environments: list[Environment]

    @property
    def keys(self) -> list[Key]:
        """Of its episodes, see `store.key`."""
        name, benchmark = self.run.name, self.run.benchmark
        return [(name, benchmark, env.budget, env.sample, env.question.id) for env in self.environments]


def cut(run: Run, size: int) -> list[Shard]:
    """The shards of a run, of at most `size` dialogues each."""
    starts = range(0, len(run.environments), size)
    return [Shard(run=run, environments=run.environments[start : start + size]) for start in starts]

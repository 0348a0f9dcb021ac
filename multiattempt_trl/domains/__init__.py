"""Domains: each folder brings its questions, its words and its grader, as one `DOMAIN` record."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PromptPreset, get_preset
from multiattempt_trl.rollout.live import Grade


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRows:
    """Which rows of a training set are trained on. What is dropped, the log says."""

    evaluated: Sequence[Question] = ()
    """What the model will be judged by: training rows with the same problem are dropped."""
    keep_benchmark_rows: bool = False
    """Keep those, and what is known to stand in a benchmark in other words."""
    drop_unusable_gold: bool = False
    """Drop rows without a gold answer that can be graded against, instead of refusing the set."""


ALL_BUT_BENCHMARK_ROWS = TrainRows()
"""The default: a row without a usable gold answer is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusableGold:
    """A row that no answer can be graded against."""

    id: str
    row: int
    """Its index, from 0."""
    gold: str
    """As the row has it."""
    reason: str


class UnusableGoldError(ValueError):
    """Rows without a usable gold answer: all of them, with the questions of the other rows."""

    def __init__(self, message: str, unusable: Sequence[UnusableGold], usable: Sequence[Question]) -> None:
        super().__init__(message)
        self.unusable, self.usable = tuple(unusable), tuple(usable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """What training and evaluation need to know of a task."""

    name: str
    load_train: Callable[[str | None, TrainRows], list[Question]]
    """Training questions from a Hub id or a local file; None for the domain's own set."""
    load_benchmark: Callable[[str], list[Question]]
    """Test questions of a benchmark by name, by `name=path`, or by path (its stem is the name)."""
    benchmarks: tuple[str, ...]
    """What is evaluated by default."""
    grader: Callable[[], AbstractContextManager[Grade]]
    """Opens the grader (and its worker processes, where it has any)."""
    default_preset: str = "paper"
    presets: Mapping[str, PromptPreset] = field(default_factory=dict)
    """Presets of its own, besides `dialogue.prompts.PRESETS`."""
    max_attempt_tokens: int | None = None
    """Cap on one attempt in evaluation, for a model whose training left no settings; None for the episode's cap."""
    build_model: Callable[[int], Path] | None = None
    """Makes (or finds in its cache) the model to start from, for a seed; None where a model must be named."""

    def preset(self, name: str | None) -> PromptPreset:
        """The preset of that name, the domain's default for None; raises `ValueError` that lists the known ones."""
        return get_preset(name or self.default_preset, self.presets)


def domain_names() -> list[str]:
    """The folders of this room."""
    return sorted(module.name for module in iter_modules(__path__) if module.ispkg)


def get_domain(name: str) -> Domain:
    """The domain in the folder of that name; raises `ValueError` that lists the known ones."""
    if name not in domain_names():
        raise ValueError(f"domain {name!r} is unknown; choose one of {', '.join(domain_names())}")
    domain = import_module(f"{__name__}.{name}").DOMAIN
    assert isinstance(domain, Domain)
    return domain

"""Domains: each folder brings its questions, its words and its grader, as one `DOMAIN` record."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PromptPreset, check_feedback, get_preset
from multiattempt_trl.rollout.live import Grade

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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
    feedback_styles: Mapping[str, str] = field(default_factory=dict)
    """The remarks that its grader makes (`dialogue.episode.Judgement`): feedback style -> what it tells, in a line."""
    max_attempt_tokens: int | None = None
    """Cap on one attempt in evaluation, for a model whose training left no settings; None for the episode's cap."""
    build_model: Callable[[int], Path] | None = None
    """Makes (or finds in its cache) the model to start from, for a seed; None where a model must be named."""
    write_gold: Callable[[Question], str | None] | None = None
    """A response that the grader must accept, where an answer does not stand in a box; None for a question without."""
    model_config: "Callable[[], PreTrainedConfig] | None" = None
    """Its architecture, known without making it: what `multiattempt plan` counts with."""

    def gold_response(self, question: Question) -> str | None:
        """The gold answer as a model would give it; None where the question's set has none."""
        return rf"\boxed{{{question.answer}}}" if self.write_gold is None else self.write_gold(question)

    def check_stop_at_box(self, stop_at_box: bool) -> None:
        """Raises `ValueError` where attempts would end at a box in which no answer stands."""
        if stop_at_box and self.write_gold is not None:
            raise ValueError(
                f"stop_at_box ends an attempt at its first box, and in the domain {self.name!r} no answer stands in a "
                "box: set stop_at_box to false"
            )

    def preset(self, name: str | None) -> PromptPreset:
        """The preset of that name, the domain's default for None; raises `ValueError` that lists the known ones."""
        return get_preset(name or self.default_preset, self.presets)

    def check_feedback(self, style: str) -> None:
        """Raises `ValueError` that lists the styles where this is none of them, and no usable sentence."""
        check_feedback(style, self.feedback_styles)


def domain_names() -> list[str]:
    """The folders of this room."""
    return sorted(module.name for module in iter_modules(__path__) if module.ispkg)


def get_domain(name: str) -> Domain:
    """The domain in the folder of that name, or the `DOMAIN` of somebody else's module.

    A module is named by its file (`path/to/puzzles.py`) or as it is imported (`my_package.puzzles`); its code is run,
    so the name must come from the user. The record's own name becomes the one that it was asked for by.

    Raises `ValueError` that lists the known ones, or says what is wrong with the module.
    """
    if name in domain_names():
        module = import_module(f"{__name__}.{name}")
    elif name.endswith(".py"):
        module = _module_of_file(Path(name))
    elif "." in name:
        module = _module(name, f"domain {name!r}")
    else:
        raise ValueError(
            f"domain {name!r} is unknown; choose one of {', '.join(domain_names())}, or name a module of your own "
            "that has a DOMAIN: path/to/my_domain.py or my_package.my_domain"
        )
    domain = getattr(module, "DOMAIN", None)
    if not isinstance(domain, Domain):
        raise ValueError(f"domain {name!r}: the module has no DOMAIN = multiattempt_trl.domains.Domain(...)")
    return replace(domain, name=name)


def _module_of_file(path: Path) -> ModuleType:
    """Imports a file by its stem, with its folder among those that are searched, so that it finds its siblings."""
    if not path.is_file():
        raise ValueError(f"domain {str(path)!r}: there is no such file; paths count from the folder you are in")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = _module(path.stem, f"domain {str(path)!r}")
    if module.__file__ is None or Path(module.__file__).resolve() != path.resolve():
        raise ValueError(f"domain {str(path)!r}: another module is called {path.stem!r}; rename the file")
    return module


def _module(name: str, where: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{where} cannot be imported: {error}") from error

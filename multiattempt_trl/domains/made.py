"""Domains that make their own questions, in three splits: what is trained on, and what a benchmark is called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import TrainRows

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeQuestions:
    """The questions of such a domain, by the names under which they are asked for."""

    name: str
    """The domain's, and that of its test split."""
    of_split: Callable[[Split], list[Question]]
    """Always the same questions in the same order; splits share none."""

    @property
    def benchmarks(self) -> Mapping[str, Split]:
        return {self.name: "test", f"{self.name}-validation": "validation"}

    def load_train(self, source: str | None, _rows: TrainRows | None = None) -> list[Question]:
        """The train split, all of it: it shares no question with the others. Raises `ValueError` for any source."""
        if source is not None:
            raise ValueError(
                f"{self.name} makes its own questions, so it cannot read {source!r}; leave the data set out"
            )
        return self.of_split("train")

    def load_benchmark(self, name: str) -> list[Question]:
        """The test split by the domain's name, or the validation split; raises `ValueError` for anything else."""
        if name not in self.benchmarks:
            raise ValueError(
                f"benchmark {name!r} is unknown: {self.name} makes its own questions and reads no files; "
                f"choose one of {', '.join(self.benchmarks)}"
            )
        return self.of_split(self.benchmarks[name])

"""Progress bars of an evaluation, one for each benchmark, on stderr."""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from multiattempt_trl.dialogue.episode import Ending, Episode
from multiattempt_trl.evaluation.protocols import Shard


class Bars:
    """Counts the dialogues of this process, and of the run that is played how many were solved.

    Args:
        shards: all that this process will play.
    """

    def __init__(self, shards: Sequence[Shard], *, shown: bool) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[run]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        totals: Counter[str] = Counter()
        for shard in shards:
            totals[shard.run.benchmark] += len(shard.environments)
        self._tasks = {name: self._progress.add_task(name, start=False, total=n, run="") for name, n in totals.items()}
        self._done: Counter[tuple[str, str]] = Counter()
        self._solved: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def begin(self, shard: Shard) -> None:
        """A benchmark's clock starts with its first shard."""
        self._progress.start_task(self._tasks[shard.run.benchmark])

    def advance(self, shard: Shard, episode: Episode) -> None:
        """One dialogue is over."""
        run = shard.run
        which = (run.benchmark, run.name)
        self._done[which] += 1
        self._solved[which] += episode.ending is Ending.SOLVED
        said = f"{run.name}: {self._solved[which]} of {self._done[which]} solved"
        self._progress.update(self._tasks[run.benchmark], advance=1, run=said)

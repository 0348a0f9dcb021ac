"""What a rollout shows: a bar while it is under way, and its numbers for the log."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from tqdm import tqdm

from multiattempt_trl.dialogue.episode import Episode
from multiattempt_trl.dialogue.metrics import observations
from multiattempt_trl.rollout.live import CountingGrade, Grade
from multiattempt_trl.rollout.play import Progress

REFRESH_SECONDS = 0.2
"""An eager backend is asked at every token."""


@contextmanager
def rollout_bar(dialogues: int, *, shown: bool) -> Iterator[Callable[[Progress], None]]:
    """Takes what `play` tells as it goes. Below the Trainer's own bar, on a terminal alone, gone when it is over."""
    began = told_at = monotonic()
    with tqdm(total=dialogues, desc="rollout", unit="dialogue", leave=False, disable=None if shown else True) as bar:

        def advance(now: Progress) -> None:
            nonlocal told_at
            time = monotonic()
            if time - told_at < REFRESH_SECONDS:
                return
            told_at, bar.n = time, now.done
            bar.set_postfix_str(
                f"{now.running} running, {now.solved} solved, {now.tokens / (time - began):,.0f} tokens/s"
            )

        yield advance


def observed(
    episodes: Sequence[Episode], prices: Sequence[Sequence[float]], seconds: float, grade: Grade
) -> Iterator[tuple[str, float]]:
    """Every number of a rollout for the log, under its key of docs/metrics.md; several of one key are averaged."""
    for key, values in observations(episodes).items():
        yield from ((key, float(value)) for value in values)
    for row in prices:
        yield from ((f"reward/attempt_{k}", value) for k, value in enumerate(row, start=1))
    yield "rollout/seconds", seconds
    yield "rollout/tokens_per_second", sum(episode.sampled_tokens for episode in episodes) / seconds
    if isinstance(grade, CountingGrade):
        yield from grade.metrics().items()

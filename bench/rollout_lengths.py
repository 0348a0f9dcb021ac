"""The dialogues that `bench/rollout_sim.py` plays: of lengths drawn by a named distribution, or recorded in a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

Answer = tuple[int, bool]
"""The tokens that an attempt would take, and whether it is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a dialogue may take, by the names that recipes use."""

    max_attempts: int
    budget_draw: str
    max_episode_tokens: int

    def budgets(self, rng: np.random.Generator, count: int) -> list[int]:
        """N of each dialogue: uniform on {1, ..., max_attempts}, or always max_attempts."""
        drawn: list[int] = rng.integers(1, self.max_attempts + 1, count).tolist()
        return [self.max_attempts] * count if self.budget_draw == "fixed" else drawn

    def played(self, answers: Sequence[Answer], budget: int) -> list[int]:
        """Tokens of the attempts that come about: until one is right, no attempt is left, or no token is."""
        tokens: list[int] = []
        for wanted, right in answers[:budget]:
            tokens.append(min(wanted, self.max_episode_tokens - sum(tokens)))
            if right or sum(tokens) == self.max_episode_tokens:
                break
        return tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogues:
    """A rollout, as policies are told of it."""

    budgets: list[int]
    attempts: list[list[int]]
    """Sampled tokens of each attempt of each dialogue."""

    @property
    def tokens(self) -> int:
        return sum(map(sum, self.attempts))


class Source(Protocol):
    """Where answers come from."""

    def draw(self, rng: np.random.Generator, count: int, attempts: int) -> list[list[Answer]]:
        """The answers of each dialogue, as many as it has up to `attempts`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LogNormal:
    """Attempts of independent log-normal lengths, all of the mean length where sigma is 0."""

    right: int
    """Mean tokens of a right answer, before the cap on the episode."""
    wrong: int
    sigma: float
    success: Sequence[float]
    """Probability that the first, second, ... attempt is right; the last one holds for all that follow."""

    def draw(self, rng: np.random.Generator, count: int, attempts: int) -> list[list[Answer]]:
        chances = [self.success[min(k, len(self.success) - 1)] for k in range(attempts)]
        right = rng.random((count, attempts)) < chances
        spread = rng.lognormal(-(self.sigma**2) / 2, self.sigma, (count, attempts))  # of mean 1
        tokens = np.ceil(np.where(right, self.right, self.wrong) * spread).astype(int)
        return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), right.tolist(), strict=True)]


def named(success: Sequence[float]) -> dict[str, Source]:
    """The distributions that are played where no episodes are given."""
    return {
        "log-normal, mean 600": LogNormal(right=600, wrong=600, sigma=0.6, success=success),
        "short, mean 150": LogNormal(right=150, wrong=150, sigma=0.6, success=success),
        "heavy tail, right 450, wrong 900": LogNormal(right=450, wrong=900, sigma=1.0, success=success),
        "constant, 600": LogNormal(right=600, wrong=600, sigma=0.0, success=success),
    }


class Recorded:
    """The dialogues of an `episodes.jsonl`, drawn with replacement, each as a whole.

    One that was given fewer than `max_attempts` attempts is left out, since what would have come next is not known. So
    is one with a failed request, which has no tokens. Raises `ValueError` where none is left.
    """

    def __init__(self, path: Path, max_attempts: int) -> None:
        self.dialogues: list[list[Answer]] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            episode = json.loads(line)
            answers = [(one["tokens"], one["verdict"] == "correct") for one in episode["attempts"]]
            if episode["budget"] >= max_attempts and all(tokens for tokens, _ in answers):
                self.dialogues.append(answers)
        if not self.dialogues:
            raise ValueError(f"no dialogue of {path} was given {max_attempts} attempts; lower --max-attempts")

    def draw(self, rng: np.random.Generator, count: int, attempts: int) -> list[list[Answer]]:
        return [self.dialogues[index][:attempts] for index in rng.integers(len(self.dialogues), size=count)]


def deal(source: Source, count: int, task: Task, seed: int) -> Dialogues:
    """The dialogues of one rollout; the same for the same seed."""
    rng = np.random.default_rng(seed)
    budgets = task.budgets(rng, count)
    drawn = source.draw(rng, count, task.max_attempts)
    attempts = [task.played(answers, budget) for answers, budget in zip(drawn, budgets, strict=True)]
    return Dialogues(budgets=budgets, attempts=attempts)

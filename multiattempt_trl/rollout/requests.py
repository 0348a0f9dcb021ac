"""The joint between the scheduler and whatever generates: requests in, results out."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class GenRequest:
    """One attempt to be generated."""

    request_id: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop_at_box: bool = False
    """End the attempt with the token that closes its first non-empty box."""
    seed: int = 0
    """Of the attempt's own random numbers, where the backend draws attempt by attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenResult:
    """What was sampled for one request, the stop token included and nothing after it."""

    request_id: int
    token_ids: tuple[int, ...]
    finish_reason: str
    """One of `dialogue.episode.FINISH_REASONS`."""
    logprobs: tuple[float, ...] | None = None
    """The log-probability that each token was sampled with, where the backend gives it."""
    error: str = ""
    """Why a request failed."""


class RolloutBackend(Protocol):
    """Generates. As a context manager it gets the model ready for one rollout and puts it back after."""

    @property
    def eager(self) -> bool:
        """Whether it takes requests at any time; where False, it generates all that were submitted in lock step,
        perhaps in several chunks, one for each `poll`, and then the next round."""
        ...

    @property
    def capacity(self) -> int | None:
        """The most attempts that it can have under way together; None where it takes all and sees to it itself."""
        ...

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        """Told before a rollout how many tokens each dialogue may come to, and how many stand between two attempts.

        Raises `ValueError` where one could outgrow what the backend can hold.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def submit(self, requests: list[GenRequest]) -> None: ...
    def poll(self, timeout: float | None = None) -> list[GenResult]:
        """Finished requests, at least one where any is running; waits at most `timeout` seconds (None: no limit)."""
        ...


@runtime_checkable
class SharedBackend(RolloutBackend, Protocol):
    """One on which other processes may generate too, who then can take no step without us."""

    def step_for_others(self) -> bool:
        """Takes one step while nothing of ours is generated; False where there are no others."""
        ...

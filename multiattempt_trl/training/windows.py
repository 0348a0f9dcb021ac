"""The smoothed log of a run: windows of thousands of dialogues, in which a number moves because the policy did."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

WINDOW, WINDOW_ROLLOUTS = 2048, 4
"""Dialogues and rollouts that a window has at least: few enough to be in time, enough for the thresholds of
`training/signatures.py` to be no noise."""
FIRST, FIRST_ROLLOUTS = 512, 2
"""The same of the first window, the run's start: short, since a run can fail within its first thousands."""
PATIENCE = 4
"""Full windows after which training had its time to leave the level that it began at."""

SHARES = (
    "accuracy/within_1",
    "episode/solved",
    "episode/truncated",
    "grading/exploits/box_spam",
    "repeat_rate/attempt_2",
    "truncated/attempt_1",
    "well_formed/attempt_1",
    "wrong_to_right",
)
"""Keys of the log that are averaged over a window."""
LEVELS = ("entropy", "kl")
"""Those of which the median counts, which a spike does not move."""
EPISODES = "episodes_total"
"""The key that only the log of a rollout has."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The log of some rollouts in a row."""

    first_step: int
    last_step: int
    values: dict[str, float]
    """By key of the log: the mean of `SHARES`, the median of `LEVELS`. A key that was not logged is absent."""

    def __getitem__(self, key: str) -> float:
        return self.values[key]


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run has shown so far."""

    windows: Sequence[Window]
    """In order, none left out; the first is the run's start."""
    probes: Mapping[str, Sequence[float]]
    """By benchmark, one value for each evaluation: right first answers given up under false feedback."""

    def having(self, *keys: str) -> list[Window]:
        """The windows with all these keys; none where the newest one lacks one, or has nothing to be compared with."""
        found = [window for window in self.windows if all(key in window.values for key in keys)]
        return found if len(found) > 1 and found[-1] is self.windows[-1] else []

    @property
    def settled(self) -> bool:
        """Whether the run had its time to leave the level that it began at."""
        return len(self.windows) > PATIENCE


class Recorder:
    """Takes logs one by one and makes windows of them; its state is JSON."""

    def __init__(self) -> None:
        self._windows: list[Window] = []
        self._probes: dict[str, list[float]] = {}
        self._open: dict[str, list[float]] = defaultdict(list)
        """Of the window under way: what was logged, by key."""
        self._step, self._episodes, self._rollouts = 0, 0.0, 0
        """Step and dialogues when it began, and its rollouts so far."""

    @property
    def history(self) -> History:
        return History(windows=self._windows, probes=self._probes)

    def add(self, step: int, logs: Mapping[str, Any]) -> bool:
        """Whether something is new in the history: a window ended, or there was an evaluation."""
        probes = _probes(logs)
        for name, share in probes.items():
            self._probes.setdefault(name, []).append(share)
        for key in (*SHARES, *LEVELS):
            if _is_number(logs.get(key)):
                self._open[key].append(logs[key])
        return (EPISODES in logs and self._close(step, logs[EPISODES])) or bool(probes)

    def _close(self, step: int, episodes: float) -> bool:
        """Ends the window under way where it is long enough."""
        self._rollouts += 1
        wanted, rollouts = (WINDOW, WINDOW_ROLLOUTS) if self._windows else (FIRST, FIRST_ROLLOUTS)
        if episodes - self._episodes < wanted or self._rollouts < rollouts:
            return False
        values = {key: (median if key in LEVELS else fmean)(logged) for key, logged in self._open.items()}
        self._windows.append(Window(first_step=self._step + 1, last_step=step, values=values))
        self._open.clear()
        self._step, self._episodes, self._rollouts = step, episodes, 0
        return True

    def state(self) -> dict[str, Any]:
        return {
            "windows": [asdict(window) for window in self._windows],
            "probes": {name: list(shares) for name, shares in self._probes.items()},
            "open": {key: list(values) for key, values in self._open.items()},
            "since": [self._step, self._episodes, self._rollouts],
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> "Recorder":
        """The one whose `state` it was."""
        recorder = cls()
        recorder._windows = [Window(**window) for window in state["windows"]]
        recorder._probes = {name: list(shares) for name, shares in state["probes"].items()}
        recorder._open.update({key: list(values) for key, values in state["open"].items()})
        recorder._step, recorder._episodes, recorder._rollouts = state["since"]
        return recorder


def _probes(logs: Mapping[str, Any]) -> dict[str, float]:
    """By benchmark; the average alone where there is one, since a small benchmark has few right first answers."""
    shares = {key: value for key, value in logs.items() if key.startswith("eval_") and key.endswith("/abandoned")}
    named = {key.removeprefix("eval_").removesuffix("/abandoned"): value for key, value in shares.items()}
    named = {"average": named["average"]} if "average" in named else named
    return {name: value for name, value in named.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    """Infinity is one: a KL can overflow, and its median is still told."""
    return isinstance(value, int | float) and not math.isnan(value)

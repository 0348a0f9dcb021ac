"""The failure monitor: reads what a run logs, and says in plain words when it begins to show a failure signature."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from multiattempt_trl.training.signatures import SIGNATURES
from multiattempt_trl.training.windows import Recorder

logger = logging.getLogger(__name__)

QUIET = 3
"""Readings without a signature after which it is gone, so that a number about its threshold warns once."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A signature that a run begins to show."""

    name: str
    step: int
    message: str


class FailureMonitor(TrainerCallback, ExportableState):
    """Warns where a run begins to show a failure signature, and again only once it was gone.

    All processes see the same log; the main one warns. What was seen is saved in checkpoints, so that a resumed run
    warns as it would have.
    """

    def __init__(self, *, on: bool = True) -> None:
        self.on = on
        self._since: dict[str, int] = {}
        """Readings since each signature was last seen, 0 for those that the newest shows; none that is gone."""
        self._recorder = Recorder()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up what the checkpoint that the run resumes from had seen."""
        callbacks: Any = state.stateful_callbacks  # by name, once the state is a run's
        saved = callbacks.get(type(self).__name__, self.state())["attributes"]
        self._since, self._recorder = dict(saved["since"]), Recorder.load(saved["recorder"])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.on:
            return
        for alarm in self.read(state.global_step, kwargs["logs"]):
            if state.is_world_process_zero:
                logger.warning("alarm %s at step %d: %s", alarm.name, alarm.step, alarm.message)

    def read(self, step: int, logs: Mapping[str, Any]) -> list[Alarm]:
        """Takes one log and gives the alarms that begin with it."""
        if not self._recorder.add(step, logs):
            return []
        history = self._recorder.history
        found = {name: sentence for name, signature in SIGNATURES.items() if (sentence := signature(history))}
        begun = [Alarm(name=name, step=step, message=found[name]) for name in found if name not in self._since]
        waning = {name: readings + 1 for name, readings in self._since.items() if readings + 1 < QUIET}
        self._since = waning | dict.fromkeys(found, 0)
        return begun

    def metrics(self) -> dict[str, list[float]]:
        """For the next log, as TRL collects it: 1 for each signature that shows, 0 for the others."""
        return {f"alarm/{name}": [float(self._since.get(name) == 0)] for name in SIGNATURES} if self.on else {}

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"since": dict(self._since), "recorder": self._recorder.state()}}


def replay(lines: Iterable[Mapping[str, Any]]) -> list[Alarm]:
    """The alarms of a run from the lines of its `metrics.jsonl`."""
    monitor = FailureMonitor()
    return [alarm for line in lines for alarm in monitor.read(line["step"], line)]

"""Evaluation while training by something of our own, in place of TRL's sampled and priced rollouts."""

from abc import abstractmethod
from typing import Any

from transformers import TrainerCallback


class Watcher(TrainerCallback):
    """A callback that is a run's evaluation: at every evaluation the Trainer takes its numbers for its own."""

    @abstractmethod
    def watch(self, trainer: Any) -> dict[str, float]:
        """Numbers under keys that begin with `eval_`, the same in all processes."""


class Watched:
    """Mixed into a Trainer: where it has a `Watcher`, that one evaluates.

    So its numbers are logged, a checkpoint can be chosen by them (`metric_for_best_model`), and all else of
    `eval_strategy` holds.
    """

    args: Any
    state: Any
    control: Any
    model: Any
    callback_handler: Any

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's; with a `Watcher` its arguments have no meaning."""
        watcher = next((one for one in self.callback_handler.callbacks if isinstance(one, Watcher)), None)
        if watcher is None:
            return super().evaluate(*args, **kwargs)  # type: ignore[misc, no-any-return]
        metrics = watcher.watch(self)
        training = self.model.training
        self.model.eval()  # by the model's mode TRL tells whose averages to add to a log
        try:
            self.log(dict(metrics))  # type: ignore[attr-defined]
        finally:
            self.model.train(training)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

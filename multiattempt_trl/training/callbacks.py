"""Callbacks: counters that survive a resume, metrics as JSON lines, a readable progress bar, an early check."""

import json
from math import lcm
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, ProgressCallback

from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.dataset import ResumableSampler


class EpisodeCounter(TrainerCallback, ExportableState):
    """Counts what was sampled so far, so that runs can be compared at equal sampled tokens; saved in checkpoints."""

    def __init__(self) -> None:
        self.episodes = self.sampled_tokens = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up the counts of the checkpoint that the run resumes from."""
        callbacks: Any = state.stateful_callbacks  # by name, once the state is a run's
        saved = callbacks.get(type(self).__name__, self.state())["attributes"]
        self.episodes, self.sampled_tokens = saved["episodes"], saved["sampled_tokens"]

    def add(self, *, episodes: int, sampled_tokens: int) -> None:
        self.episodes += episodes
        self.sampled_tokens += sampled_tokens

    def metrics(self) -> dict[str, list[float]]:
        """For the next log, as TRL collects it."""
        return {"sampled_tokens_total": [self.sampled_tokens], "episodes_total": [self.episodes]}

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"episodes": self.episodes, "sampled_tokens": self.sampled_tokens}}


class EpochOrder(TrainerCallback):
    """Tells the sampler its epoch.

    The Trainer does, but where several processes resume within an epoch accelerate wraps the sampler once more than it
    looks into, and they would go on in the order of the first epoch (accelerate 1.15).
    """

    sampler: ResumableSampler | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.sampler is not None:
            self.sampler.set_epoch(int(state.epoch or 0))


class WholeRollouts(TrainerCallback):
    """Refuses a checkpoint interval that would cut a rollout in two: resuming would sample it anew."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert isinstance(args, MultiAttemptGRPOConfig), "it is added by our trainers alone"
        micro_steps = args.steps_per_generation * args.num_iterations
        updates = lcm(micro_steps, args.gradient_accumulation_steps) // args.gradient_accumulation_steps
        if args.save_strategy == "no":
            return
        for name in ("save_steps", "max_steps"):  # a checkpoint is also saved at the very end
            steps = int(getattr(state, name))
            if (name == "max_steps" or args.save_strategy == "steps") and steps % updates:
                raise ValueError(
                    f"{name}={steps} would save in the middle of a rollout, which lasts {updates} optimizer steps: "
                    f"a resumed run would differ. Use a multiple of {updates}"
                )


class JsonLines(TrainerCallback):
    """Writes every log as one line of `metrics.jsonl` in the output folder; a resumed run drops what it will redo."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step] if state.global_step else []
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **kwargs["logs"]}) + "\n")


class Progress(ProgressCallback):
    """The Trainer's bar with the few numbers worth watching beside it, instead of sixty printed at every log."""

    SHOWN: ClassVar[dict[str, str]] = {
        "reward": "reward",
        "accuracy/within_1": "acc@1",
        "attempts/used": "attempts",
        "kl": "kl",
    }

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is None or logs is None:
            return
        shown = dict(self.SHOWN)
        budgets = [int(key.rpartition("_")[2]) for key in logs if key.startswith("accuracy/within_")]
        if budgets:
            shown[f"accuracy/within_{max(budgets)}"] = f"acc@{max(budgets)}"
        numbers = {label: f"{logs[key]:.3g}" for key, label in shown.items() if logs.get(key) is not None}
        if numbers:
            self.training_bar.set_postfix(numbers)

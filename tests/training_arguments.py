"""Training arguments small enough for a test, and a grader that has something to reward in an untrained model."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.domains.arithmetic.questions import questions
from multiattempt_trl.training.dataset import to_dataset


def arguments(folder: Path, **overrides: Any) -> dict[str, Any]:
    """16 dialogues a rollout in 4 minibatches."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "steps_per_generation": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-3,
        "beta": 0.04,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "seed": 3,
    } | overrides


def train_set(rows: int = 64) -> Dataset:
    return to_dataset(questions("train")[:rows])


def grade_by_length(question: Question, response: str) -> Verdict:
    """A verdict that an untrained model gets in all three kinds, and that depends on the question."""
    mark = (len(response) + len(question.answer)) % 5
    return Verdict.CORRECT if mark == 0 else Verdict.WRONG if mark < 3 else Verdict.INVALID


def logged(trainer: Any, *keys: str) -> dict[str, list[float]]:
    """What was logged under each key, step by step."""
    return {key: [entry[key] for entry in trainer.state.log_history if key in entry] for key in keys}

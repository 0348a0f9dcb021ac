"""Questions as the rows TRL trains on, and back, in an order that a resumed run keeps."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from multiattempt_trl.dialogue.env import REMARK_TOKENS, Environment, Limits
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.remarks import feedback_tokens
from multiattempt_trl.dialogue.rendering import Renderer

logger = logging.getLogger(__name__)

REQUIRED = ("problem", "answer")


class ResumableSampler(RepeatSampler):
    """TRL's sampler, whose n-th epoch has the same order in a run that was resumed as in one that was not.

    `RepeatSampler` draws each epoch's order from one generator, and a resumed run starts that generator anew: it would
    see the first epoch's order again (TRL 1.16).
    """

    @classmethod
    def like(cls, stock: RepeatSampler) -> "ResumableSampler":
        """With the settings of TRL's own."""
        return cls(
            stock.data_source,
            mini_repeat_count=stock.mini_repeat_count,
            batch_size=stock.batch_size,
            repeat_count=stock.repeat_count,
            shuffle=stock.shuffle,
            seed=stock.seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Puts the generator where `epoch` whole epochs leave it; called by the Trainer before each epoch."""
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(epoch):
                torch.randperm(self.num_samples, generator=self.generator)


def to_dataset(questions: list[Question]) -> Dataset:
    """Columns `id`, `problem` and `answer`."""
    rows = [{"id": question.id, "problem": question.problem, "answer": question.answer} for question in questions]
    return Dataset.from_list(rows)


def to_question(row: dict[str, Any]) -> Question:
    """The question in a row; one without an `id` is known by a hash of its problem."""
    problem, answer = ("" if row[name] is None else str(row[name]) for name in REQUIRED)
    name = row.get("id")
    if name is None:
        name = blake2b(problem.encode(), digest_size=8).hexdigest()
    return Question(id=str(name), problem=problem, answer=answer)


def prepare_dataset(dataset: Dataset) -> Dataset:
    """Checks every row and adds the `prompt` column that TRL asks for and shows in its logs.

    Raises `ValueError` for a missing column, an empty problem or an empty gold answer, naming it.
    """
    missing = [name for name in REQUIRED if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"the dataset has no column {missing[0]!r} (it has {', '.join(dataset.column_names)}); rename the column "
            "that holds it with dataset.rename_column"
        )
    prompts = []
    for number, row in enumerate(dataset):
        try:
            question = to_question(row)
        except ValueError as error:
            raise ValueError(f"row {number} of the dataset: {error}") from None
        prompts.append([{"role": "user", "content": question.problem}])
    if "prompt" in dataset.column_names:
        dataset = dataset.remove_columns("prompt")
    return dataset.add_column("prompt", prompts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """What an episode of a question costs besides what is sampled, in tokens, at its largest budget."""

    question: Question
    prompt: int
    feedback: int


def drop_long_prompts(
    dataset: Dataset,
    environment: Callable[[Question], Environment],
    renderer: Renderer,
    longest: int | None,
    remark_tokens: int = REMARK_TOKENS,
) -> tuple[Dataset, Overhead]:
    """The rows whose first prompt has at most `longest` tokens (None: all), and the largest overhead among them.

    Remarks may add `remark_tokens` to each feedback.

    Raises `ValueError` where none is left.
    """
    kept, dropped = [], []
    largest: Overhead | None = None
    for number, row in enumerate(dataset):
        overhead = _overhead(environment(to_question(row)), renderer, remark_tokens)
        if longest is not None and overhead.prompt > longest:
            dropped.append(overhead)
            continue
        kept.append(number)
        if largest is None or overhead.prompt + overhead.feedback > largest.prompt + largest.feedback:
            largest = overhead
    if largest is None:
        raise ValueError(f"no question has a prompt of at most max_prompt_tokens={longest} tokens: raise the limit")
    if not dropped:
        return dataset, largest
    names = ", ".join(f"{overhead.question.id} ({overhead.prompt})" for overhead in dropped[:5])
    logger.warning(
        "dropped %d of %d questions whose prompt is longer than %s tokens: %s%s",
        *(len(dropped), len(dataset), longest, names, ", ..." if len(dropped) > 5 else ""),
    )
    return dataset.select(kept), largest


def _overhead(env: Environment, renderer: Renderer, remark_tokens: int) -> Overhead:
    feedback = feedback_tokens(env, renderer, remark_tokens)
    prompt = len(renderer.prompt_ids(env.first_messages()))
    return Overhead(question=env.question, prompt=prompt, feedback=sum(feedback))


def check_room(largest: Overhead, limits: Limits, budget: int) -> None:
    """Raises `ValueError` where the longest possible episode would not fit the model's context."""
    sampled = min(limits.episode, budget * limits.attempt)
    needed = largest.prompt + largest.feedback + sampled
    if needed > limits.context:
        raise ValueError(
            f"an episode of question {largest.question.id!r} can need {needed} tokens ({largest.prompt} prompt, "
            f"{largest.feedback} feedback, {sampled} sampled), but the model's context is {limits.context}: lower "
            "max_episode_tokens, max_completion_length, max_attempts, max_prompt_tokens or, where the feedback says "
            "more than a verdict, max_remark_tokens"
        )

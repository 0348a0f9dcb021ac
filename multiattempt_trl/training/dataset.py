"""Questions as the rows TRL trains on, and back, in an order that a resumed run keeps."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.rendering import Renderer

REQUIRED = ("problem", "answer")


class ResumableSampler(RepeatSampler):
    """TRL's sampler, whose n-th epoch has the same order in a run that was resumed as in one that was not.

    `RepeatSampler` draws each epoch's order from one generator, and a resumed run starts that generator anew: it would
    see the first epoch's order again (TRL 1.16).
    """

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
    problem, answer = str(row["problem"] or ""), str(row["answer"] or "")
    fallback = blake2b(problem.encode(), digest_size=8).hexdigest()
    return Question(id=str(row.get("id") or fallback), problem=problem, answer=answer)


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


def check_room(
    environments: Iterable[Environment], renderer: Renderer, limits: Limits, max_prompt_tokens: int | None
) -> None:
    """Raises `ValueError` where a question's longest episode would not fit the model's context.

    Counts the first prompt, all the tokens that the episode may sample, and the feedback between its attempts.
    """
    for env in environments:
        prompt = len(renderer.prompt_ids(env.first_messages()))
        if max_prompt_tokens is not None and prompt > max_prompt_tokens:
            raise ValueError(
                f"the prompt of question {env.question.id!r} has {prompt} tokens, more than max_prompt_tokens="
                f"{max_prompt_tokens}: drop the row or raise the limit"
            )
        feedback = [len(renderer.feedback_ids(env.feedback_message(used), ())) for used in range(1, env.budget)]
        sampled = min(limits.episode, env.budget * limits.attempt)
        if prompt + sum(feedback) + sampled > limits.context:
            raise ValueError(
                f"an episode of question {env.question.id!r} can need {prompt + sum(feedback) + sampled} tokens "
                f"({prompt} prompt, {sum(feedback)} feedback, {sampled} sampled), but the model's context is "
                f"{limits.context}: lower max_episode_tokens, max_completion_length or max_attempts"
            )

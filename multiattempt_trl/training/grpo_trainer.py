"""GRPO over whole dialogues: stock `GRPOTrainer` whose completions are multi-attempt episodes."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from multiattempt_trl.dialogue.budgets import draw_budget
from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.dialogue.prompts import PromptPreset, get_preset
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.dialogue.rewards import price
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.adapters import check_adapter, mend_quantised
from multiattempt_trl.training.advantages import group_relative, returns_to_go
from multiattempt_trl.training.callbacks import EpisodeCounter, EpochOrder, WholeRollouts
from multiattempt_trl.training.checkpoints import WholeCheckpoints
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.dataset import (
    ResumableSampler,
    check_room,
    drop_long_prompts,
    prepare_dataset,
    to_question,
)
from multiattempt_trl.training.drift import DriftCheck, teacher_forced
from multiattempt_trl.training.generation import compute_type, generate_episodes, tells_logprobs
from multiattempt_trl.training.launch import check_launch
from multiattempt_trl.training.model_card import PAPER, describe_training
from multiattempt_trl.training.monitor import FailureMonitor
from multiattempt_trl.training.progress import observed
from multiattempt_trl.training.scoring import ScoringByLength
from multiattempt_trl.training.sequences import TokenSequence, collate, flatten, spread
from multiattempt_trl.training.task import PER_ATTEMPT_CREDIT
from multiattempt_trl.training.totals import Totals
from multiattempt_trl.training.watching import Watched


def _rollout_of(_prompts: list[Any], trainer: "MultiAttemptGRPOTrainer") -> dict[str, Any]:
    """TRL's hook. The prompts it hands over lack the answers, so the trainer keeps the rows."""
    return trainer._rollout()


class MultiAttemptGRPOTrainer(WholeCheckpoints, ScoringByLength, Totals, Watched, GRPOTrainer):
    """`GRPOTrainer` on multi-attempt episodes. With `max_attempts=1` it equals the stock trainer step for step.

    What differs from TRL:
    - `rollout_func` plays dialogues through `rollout.play`, so feedback stands in the completion, masked.
    - `_generate_and_score_completions` remembers the rows (TRL hands a rollout the prompts alone), and for
      `PER_ATTEMPT_CREDIT` replaces the advantages by one per attempt.
    - the sampler's order survives a resume, and a crash leaves a whole checkpoint (`WholeCheckpoints`).
    - `forward_batch_size` leaves out padding (`ScoringByLength`), a `Watcher` evaluates, a `FailureMonitor` reads.
    - the reward function prices each episode; there are no others.

    Args:
        model: path, Hub id or model; with `beta > 0` an in-memory model must have been saved (TRL reloads it by name).
        args: the configuration.
        train_dataset, eval_dataset: columns `problem`, `answer` and, where rows have names, `id`.
        grade: judges one attempt.
        preset: the words; by default the one that `args.prompt_preset` names.
        processing_class: tokenizer with a chat template; loaded from the model's path where None.

    Raises `ValueError`, before the model is loaded where it can, for a launch, dataset, template or token budget that
    cannot work.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "multi-attempt-grpo"]
    _name = "Multi-attempt GRPO"
    _paper = PAPER

    eos_token_ids: list[int]
    _rows: list[dict[str, Any]]
    """The rows of the rollout under way."""
    _sequences: list[TokenSequence]
    """Its episodes as tokens, row by row."""
    _prices: list[list[float]]
    """What each of their attempts is worth."""

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MultiAttemptGRPOConfig,
        train_dataset: Dataset,
        grade: Grade,
        *,
        preset: PromptPreset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        check_launch(args, adapted=peft_config is not None, quantised=quantization_config is not None)
        check_adapter(model, peft_config, quantization_config, args)
        self.grade = grade
        self.preset = preset or get_preset(args.prompt_preset or "paper")
        if processing_class is None:
            processing_class = load_tokenizer(model if isinstance(model, str) else model.config._name_or_path)
        renderer = Renderer(processing_class)  # a template that rewrites history is refused before a model is loaded
        datasets = [train_dataset] if eval_dataset is None else [train_dataset, eval_dataset]
        prepared = [
            drop_long_prompts(
                prepare_dataset(dataset),
                lambda question: args.environment(question, args.max_attempts, self.preset),
                renderer,
                args.max_prompt_tokens,
                args.max_remark_tokens,
            )
            for dataset in datasets
        ]
        self._episode_counter, self._order = EpisodeCounter(), EpochOrder()
        self._monitor = FailureMonitor(on=args.monitor)
        super().__init__(
            model=model,
            reward_funcs=self.episode_reward,
            args=args,
            train_dataset=prepared[0][0],
            eval_dataset=None if eval_dataset is None else prepared[1][0],
            processing_class=processing_class,
            callbacks=[WholeRollouts(), self._order, self._episode_counter, self._monitor, *(callbacks or [])],
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
            rollout_func=_rollout_of,
        )
        mend_quantised(self.model)
        self.renderer = Renderer(processing_class, self.eos_token_ids)
        # The template's end-of-turn token ends a completion for TRL's metrics too.
        self.eos_token_ids = list(self.renderer.stop_ids)
        self.limits = Limits(
            attempt=args.max_completion_length,
            episode=args.episode_tokens,
            context=self.model.config.get_text_config().max_position_embeddings,
            remark=args.max_remark_tokens,
        )
        self._drift = DriftCheck(self.accelerator.reduce)
        for _, largest in prepared:
            check_room(largest, self.limits, args.max_attempts)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> ResumableSampler:
        self._order.sampler = ResumableSampler.like(super()._get_train_sampler(dataset))
        return self._order.sampler

    # ---- rollout ------------------------------------------------------------------------------------------------

    def _rollout(self) -> dict[str, Any]:
        """Plays one dialogue per row and hands TRL its tokens; `env_mask` is 1 on policy tokens."""
        questions = [to_question(row) for row in self._rows]
        envs = [
            self.args.environment(one, self._budget(one, n), self.preset, sample=n) for n, one in enumerate(questions)
        ]
        episodes, self._rollout_seconds = generate_episodes(self, envs)
        self._sequences = [flatten(episode) for episode in episodes]
        prices, credit, discount = self.args.prices, self.args.credit, self.args.attempt_discount
        self._prices = [price(one, prices, credit, discount) for one in episodes]  # type: ignore[arg-type]  # checked
        if self.model.training:
            self._count(episodes)
        return {
            "prompt_ids": [sequence.prompt_ids for sequence in self._sequences],
            "completion_ids": [sequence.completion_ids for sequence in self._sequences],
            # Where they are None, TRL computes the old log-probabilities itself, on these very ids.
            "logprobs": [one.sampled_logprobs for one in self._sequences] if self.use_vllm else None,
            "env_mask": [sequence.policy_mask for sequence in self._sequences],
            "episode": episodes,
        }

    def _budget(self, question: Question, row: int) -> int:
        """N, drawn in training and M in evaluation; a group may span processes."""
        args, step = self.args, self.state.global_step
        if not self.model.training:
            return int(args.max_attempts)
        sibling = (self.accelerator.process_index * len(self._rows) + row) % self.num_generations
        draw: Any = args.budget_draw  # one of those that the configuration lets through
        share = args.single_attempt_share
        return draw_budget(args.seed, step, question.id, args.max_attempts, draw, sibling, share)

    # ---- reward and advantages ----------------------------------------------------------------------------------

    def episode_reward(self, episode: list[Episode], log_metric: Any, log_extra: Any, **_: Any) -> list[float | None]:
        """The sum of an episode's prices, None for a failed one, which TRL leaves out of its group's baseline.

        Logs what the dialogues show. TRL averages each key over the processes.
        """
        for key, value in observed(episode, self._prices, self._rollout_seconds, self.grade):
            log_metric(key, value)
        log_extra("budget", [one.budget for one in episode])
        log_extra("verdicts", [" ".join(attempt.verdict for attempt in one.attempts) for one in episode])
        return [sum(prices) if prices else None for prices in self._prices]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self._metrics["train"].update(self._episode_counter.metrics() | self._monitor.metrics())
            step = self.state.global_step
            if tells_logprobs(self.args) and self._drift.due(step):
                drift = self._drift(self._sequences, teacher_forced(self, batch), compute_type(self), step)
                for key, value in drift.items():
                    self._metrics["train"][key].append(value)
        return batch | self._advantages(batch)

    def _advantages(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """What replaces TRL's own advantages (B,) in the batch, all of shape (B, T); nothing where they are meant.

        Each token gets the advantage of its attempt over the siblings that reached it.
        """
        index = self._attempt_index(batch)
        if self.args.credit not in PER_ATTEMPT_CREDIT:
            self._log_spread(batch["advantages"].unsqueeze(1).expand(index.shape), index > 0)
            return {}
        prices = self._price_matrix()
        reached = collate([[1.0] * len(row) for row in self._prices], prices.size(1), torch.float32)
        group = self.num_generations if self.model.training else self.num_generations_eval
        # A group may span processes: all see all prices, and each keeps its own rows.
        everyones = self.accelerator.gather(torch.stack([prices, reached.to(prices.device)], dim=1))
        returns = everyones[:, 0] if self.args.credit == "own" else returns_to_go(everyones[:, 0])
        advantages = group_relative(returns, everyones[:, 1].bool(), group, scale=self.scale_rewards == "group")
        first = self.accelerator.process_index * len(prices)
        mine = spread(advantages[first : first + len(prices)], index)
        self._log_spread(mine, index > 0)
        return {"advantages": mine}

    def _price_matrix(self) -> torch.Tensor:
        """(B, K): one price per attempt."""
        return collate(self._prices, self.args.max_attempts, torch.float32).to(self.accelerator.device)

    def _attempt_index(self, batch: dict[str, Any]) -> torch.Tensor:
        """(B, T): whose token each is."""
        completion_ids = batch["completion_ids"]
        index = [sequence.attempt_index for sequence in self._sequences]
        return collate(index, completion_ids.size(1), torch.long).to(completion_ids.device)

    # ---- surroundings -------------------------------------------------------------------------------------------

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL's card, which cites the paper, with a line that says how the model was trained."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            describe_training(Path(self.args.output_dir), self.args, self.preset)

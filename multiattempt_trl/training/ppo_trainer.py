"""PPO over whole dialogues: the paper's method, with a critic and GAE in place of the group's baseline."""

from typing import Any, ClassVar

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel
from trl.trainer.utils import disable_dropout_in_model, get_config_model_id

from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.training.adapters import CriticIsNotThePolicys
from multiattempt_trl.training.advantages import explained_variance, gae, moments, whiten
from multiattempt_trl.training.configs import MultiAttemptPPOConfig
from multiattempt_trl.training.critic import Critic
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.losses import clipped_value_loss
from multiattempt_trl.training.sequences import ends_of_attempts, forward_by_length, place_rewards
from multiattempt_trl.training.value_model import load_value_model


class MultiAttemptPPOTrainer(MultiAttemptGRPOTrainer):
    """`MultiAttemptGRPOTrainer` whose advantages come from a critic.

    What differs from it:
    - `_advantages` puts whitened GAE advantages (B, T) into the batch, with the returns and values at rollout time;
      TRL's loss takes them as they are.
    - `training_step` trains the critic on the same minibatch after the policy; during `critic_warmup_steps` the
      policy's gradient is dropped.
    - checkpoints, resume and export carry the critic, its optimiser and its schedule.

    Arguments as `MultiAttemptGRPOTrainer`. With `peft_config` the critic gets an adapter of its own on its own base.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "multi-attempt-ppo"]
    _name = "Multi-attempt PPO"
    args: MultiAttemptPPOConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: MultiAttemptPPOConfig,
        train_dataset: Dataset,
        grade: Grade,
        *,
        quantization_config: Any = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        adapters = {"quantization_config": quantization_config, "peft_config": peft_config}
        super().__init__(model, args, train_dataset, grade, **adapters, **kwargs)
        name = args.critic_model_name_or_path or get_config_model_id(self.model.config)
        init_kwargs = {
            "dtype": self.model.dtype,
            "trust_remote_code": args.trust_remote_code,
            **(args.model_init_kwargs or {}),
        }
        if args.critic_model_name_or_path:
            init_kwargs.pop("revision", None)  # it is the policy's
        critic_model = load_value_model(name, **adapters, **init_kwargs)
        if args.disable_dropout:
            disable_dropout_in_model(critic_model)
        self.critic = Critic(critic_model, args, self.accelerator)
        self.add_callback(CriticIsNotThePolicys())

    # ---- rollout ------------------------------------------------------------------------------------------------

    def _advantages(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """GAE, whitened over the rollout, with the returns and the values that the critic is trained on."""
        attempt_index = self._attempt_index(batch)
        policy_mask = attempt_index > 0
        values = self._rollout_values(batch)
        rewards = place_rewards(self._price_matrix(), attempt_index)
        ends = ends_of_attempts(attempt_index) if self.args.credit == "own" else None
        advantages, returns = gae(rewards, values, policy_mask, self.args.gamma, self.args.lam, ends)
        metrics = self._metrics["train" if self.model.training else "eval"]
        explained = explained_variance(values, returns, policy_mask, self._sum)
        metrics["value/explained_variance"].append(explained)
        metrics["value/mean"].append(moments(values, policy_mask, self._sum)[0].item())
        self._log_spread(advantages, policy_mask)
        if self.args.whiten_advantages:
            advantages = whiten(advantages, policy_mask, self._sum)
        return {"advantages": advantages, "returns": returns, "old_values": values}

    @torch.no_grad()
    def _rollout_values(self, batch: dict[str, Any]) -> torch.Tensor:
        """(B, T): the critic's values of the rollout, computed in chunks of a training batch."""
        size = self.args.per_device_train_batch_size
        rows = range(0, batch["completion_ids"].size(0), size)
        self.critic.model.eval()  # an adapter's dropout has no place in the values
        try:
            return torch.cat([self._values({key: batch[key][row : row + size] for key in _TOKENS}) for row in rows])
        finally:
            self.critic.model.train()

    def _values(self, batch: dict[str, Any]) -> torch.Tensor:
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        width, rows = batch["completion_ids"].size(1), self.args.forward_batch_size or input_ids.size(0)
        return forward_by_length(self.critic.values, input_ids, attention_mask, width, rows)

    # ---- update -------------------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        slot = self._step % self.args.steps_per_generation  # the minibatch that TRL is about to take
        if self.state.global_step < self.args.critic_warmup_steps:
            loss: torch.Tensor = self._idle_policy_step(model, inputs)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        assert self._buffered_inputs is not None
        self._critic_step(self._buffered_inputs[slot])
        return loss

    def _idle_policy_step(self, model: torch.nn.Module, inputs: Any) -> torch.Tensor:
        """The policy's loss for the log. Without a gradient the optimizer skips the policy, its moments included."""
        model.train()
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: torch.Tensor = self.compute_loss(model, batch)
        self._step += 1
        return loss

    def _critic_step(self, batch: dict[str, Any]) -> None:
        mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
        metrics, last = self._metrics["train"], self.accelerator.sync_gradients
        rate = self.critic.learning_rate
        with self.critic.accumulating(last=last):
            loss, clipped = clipped_value_loss(
                self._values(batch), batch["old_values"], batch["returns"], mask, clip=self.args.value_clip
            )
            norm = self.critic.update(loss / self.current_gradient_accumulation_steps, last=last)
        metrics["value/loss"].append(self._mean(loss))
        metrics["value/clip_fraction"].append(self._mean(clipped))
        if norm is not None:
            metrics["value/learning_rate"].append(rate)
            metrics["value/grad_norm"].append(norm)

    def _mean(self, value: torch.Tensor) -> float:
        """Of one number in each process."""
        return float(self.accelerator.reduce(value.detach(), "mean"))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        self.critic.start(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    # ---- files --------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.critic.export(output_dir or self.args.output_dir)
        super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.critic.save_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.critic.load_weights(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.critic.load_state(checkpoint)


_TOKENS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")

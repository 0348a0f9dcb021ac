"""PPO over whole dialogues: the paper's method, with a critic and GAE in place of the group's baseline."""

from typing import Any, ClassVar

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel
from trl.trainer.utils import disable_dropout_in_model, get_config_model_id

from multiattempt_trl.rollout.play import Grade
from multiattempt_trl.training.advantages import explained_variance, gae, whiten
from multiattempt_trl.training.configs import MultiAttemptPPOConfig
from multiattempt_trl.training.critic import Critic
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.losses import clipped_value_loss
from multiattempt_trl.training.sequences import forward_by_length, place_rewards
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
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, train_dataset, grade, peft_config=peft_config, **kwargs)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError("the critic runs in one plain process for now: launch without DeepSpeed and FSDP")
        name = args.critic_model_name_or_path or get_config_model_id(self.model.config)
        init_kwargs = {
            "dtype": self.model.dtype,
            "trust_remote_code": args.trust_remote_code,
            **(args.model_init_kwargs or {}),
        }
        if args.critic_model_name_or_path:
            init_kwargs.pop("revision", None)  # it is the policy's
        critic_model = load_value_model(name, peft_config, **init_kwargs)
        if args.disable_dropout:
            disable_dropout_in_model(critic_model)
        self.critic = Critic(critic_model.to(self.accelerator.device), args)

    # ---- rollout ------------------------------------------------------------------------------------------------

    def _advantages(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """GAE, whitened over the rollout, with the returns and the values that the critic is trained on."""
        attempt_index = self._attempt_index(batch)
        policy_mask = attempt_index > 0
        values = self._rollout_values(batch)
        rewards = place_rewards(self._price_matrix().to(values.device), attempt_index)
        advantages, returns = gae(rewards, values, policy_mask, self.args.gamma, self.args.lam)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["value/explained_variance"].append(explained_variance(values, returns, policy_mask))
        self._metrics[mode]["value/mean"].append(values[policy_mask].mean().item())
        self._metrics[mode]["advantage/std"].append(advantages[policy_mask].std(correction=0).item())
        if self.args.whiten_advantages:
            advantages = whiten(advantages, policy_mask, lambda x: self.accelerator.reduce(x, "sum"))
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
        with self.accelerator.autocast():
            return forward_by_length(self.critic.values, input_ids, attention_mask, width, rows)

    # ---- update -------------------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        slot = self._step % self.args.steps_per_generation  # the minibatch that TRL is about to take
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.state.global_step < self.args.critic_warmup_steps:
            # Without a gradient the optimiser skips the policy, its moments included.
            model.zero_grad(set_to_none=True)
        assert self._buffered_inputs is not None
        self._critic_step(self._buffered_inputs[slot])
        return loss

    def _critic_step(self, batch: dict[str, Any]) -> None:
        mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
        loss, clipped = clipped_value_loss(
            self._values(batch), batch["old_values"], batch["returns"], mask, clip=self.args.value_clip
        )
        (loss / self.current_gradient_accumulation_steps).backward()
        metrics = self._metrics["train"]
        metrics["value/loss"].append(loss.item())
        metrics["value/clip_fraction"].append(clipped.item())
        if self.accelerator.sync_gradients:
            metrics["value/learning_rate"].append(self.critic.learning_rate)
            metrics["value/grad_norm"].append(self.critic.step())

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        self.critic.create_scheduler(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    # ---- files --------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.args.should_save:
            self.critic.export(output_dir or self.args.output_dir)
        super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.critic.save_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.critic.load_weights(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.critic.load_state(checkpoint)


_TOKENS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")

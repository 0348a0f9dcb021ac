"""PPO's critic: its own model with its own optimiser, schedule, clipping and files."""

from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel, get_scheduler

from multiattempt_trl.training.configs import MultiAttemptPPOConfig

FOLDER = "critic"
"""Where a checkpoint keeps the critic; loads with `AutoModelForTokenClassification.from_pretrained`."""


class Critic:
    """The value model as an engine of its own, for one process.

    Args:
        model: from `value_model.load_value_model`, on its device.
        args: learning rate, clipping, Adam's constants and the shape of the schedule.
    """

    def __init__(self, model: PreTrainedModel, args: MultiAttemptPPOConfig) -> None:
        self.model, self.args = model.train(), args  # transformers checkpoints activations in this mode alone
        if args.gradient_checkpointing:
            model.activation_checkpointing_enable(args.gradient_checkpointing_kwargs)
            model.enable_input_require_grads()
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=args.critic_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    def create_scheduler(self, num_training_steps: int) -> None:
        """The policy's schedule, scaled to the critic's learning rate."""
        if self.scheduler is None:
            self.scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                optimizer=self.optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )

    def values(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, width: int) -> torch.Tensor:
        """V of the state in which each of the last `width` tokens was sampled.

        The state of the token at t is everything before it, so its value is read at t - 1.

        Args: input_ids, attention_mask: (B, P + T). Returns: (B, T) in float32.
        """
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits[:, -width - 1 : -1, 0].float()

    def step(self) -> float:
        """Clips, steps the optimiser and the schedule, clears the gradients; returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.critic_max_grad_norm)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def export(self, folder: str | Path) -> None:
        """Writes the weights to `folder`/critic."""
        self.model.save_pretrained(Path(folder) / FOLDER)

    def save_state(self, folder: str | Path) -> None:
        """Writes optimiser and schedule beside the exported weights."""
        assert self.scheduler is not None, "training has not begun"
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        torch.save(state, Path(folder) / FOLDER / "state.pt")

    def load_weights(self, folder: str | Path) -> None:
        """Reads what `export` wrote.

        Raises `ValueError` where the checkpoint has no critic, names the file, and says what to do.
        """
        path = Path(folder) / FOLDER
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            raise ValueError(
                f"checkpoint {str(folder)!r} has no critic ({path} is missing), so PPO cannot resume from it; resume "
                "from a checkpoint of a PPO run, or start anew with --model_name_or_path"
            )
        if (path / "adapter_config.json").exists():
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(self.model, load_peft_weights(str(path)))
            return
        saved = AutoModelForTokenClassification.from_pretrained(path, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def load_state(self, folder: str | Path) -> None:
        """Reads what `save_state` wrote; raises `ValueError` where it is missing."""
        path = Path(folder) / FOLDER / "state.pt"
        if not path.exists():
            raise ValueError(f"checkpoint {str(folder)!r} has no critic optimiser ({path} is missing): cannot resume")
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        assert self.scheduler is not None, "training has not begun"
        self.scheduler.load_state_dict(state["scheduler"])

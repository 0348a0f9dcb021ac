"""PPO's critic: its own model with its own optimizer, schedule, clipping and files."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import AutoModelForTokenClassification, PreTrainedModel, get_scheduler

from multiattempt_trl.training.configs import MultiAttemptPPOConfig
from multiattempt_trl.training.engines import DeepSpeedEngine, Engine, PlainEngine, offloaded

FOLDER = "critic"
"""Where a checkpoint keeps the critic; loads with `AutoModelForTokenClassification.from_pretrained`."""

SCHEDULER_FILE = "scheduler.pt"


class Critic:
    """The value model as an engine of its own: in one process, under DDP, or under DeepSpeed.

    Args:
        model: from `value_model.load_value_model`.
        args: learning rate, clipping, Adam's constants and the shape of the schedule.
        accelerator: the policy's.
    """

    def __init__(self, model: PreTrainedModel, args: MultiAttemptPPOConfig, accelerator: Accelerator) -> None:
        self.model, self.args = model.train(), args  # transformers checkpoints activations in this mode alone
        self.accelerator = accelerator
        self.is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        if args.gradient_checkpointing:
            model.activation_checkpointing_enable(args.gradient_checkpointing_kwargs)
            model.enable_input_require_grads()
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=args.critic_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
        self.engine: Engine | None = None
        if not self.is_deepspeed:
            self.engine = PlainEngine(model, self.optimizer, args.critic_max_grad_norm, accelerator)
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    def start(self, num_training_steps: int) -> None:
        """Makes what has to wait for the Trainer: DeepSpeed's settings are complete only once it has the policy.

        The schedule is the policy's, scaled to the critic's learning rate.
        """
        if self.scheduler is not None:
            return
        if self.engine is None:
            self.optimizer = offloaded(self.optimizer, self.accelerator)
            self.engine = DeepSpeedEngine(self.model, self.optimizer, self.args.critic_max_grad_norm, self.accelerator)
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
        logits: torch.Tensor = self._engine.module(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits[:, -width - 1 : -1, 0].float()

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Stands around the forward pass and `update` of a micro-batch; `last` says that the optimizer steps then."""
        return self._engine.accumulating(last=last)

    def update(self, loss: torch.Tensor, *, last: bool) -> float | None:
        """Adds the gradient of `loss`. After the last micro-batch of an update clips, steps optimizer and schedule,
        clears the gradients and returns the norm before clipping.
        """
        norm = self._engine.backward(loss, last=last)
        if last and self.scheduler is not None:
            self.scheduler.step()
        return norm

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def _engine(self) -> Engine:
        if self.engine is None:
            raise RuntimeError("under DeepSpeed the critic has values only once training has begun")
        return self.engine

    # ---- files --------------------------------------------------------------------------------------------------

    def export(self, folder: str | Path) -> None:
        """Writes the weights to `folder`/critic; called in all processes."""
        weights = self.engine.weights() if self.engine is not None else None
        if self.args.should_save:
            self.model.save_pretrained(Path(folder) / FOLDER, state_dict=weights)

    def save_state(self, folder: str | Path) -> None:
        """Writes optimizer and schedule beside the exported weights; called in all processes."""
        assert self.scheduler is not None, "training has not begun"
        self._engine.save(Path(folder) / FOLDER)
        if self.args.should_save:
            torch.save(self.scheduler.state_dict(), Path(folder) / FOLDER / SCHEDULER_FILE)

    def load_weights(self, folder: str | Path) -> None:
        """Reads what `export` wrote, outside DeepSpeed, whose state holds the weights as well.

        Raises `ValueError` where the checkpoint has no critic, names the file, and says what to do.
        """
        path = self.check(folder)
        if (path / "adapter_config.json").exists():
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(self.model, load_peft_weights(str(path), device="cpu"))
            return
        saved = AutoModelForTokenClassification.from_pretrained(path, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def load_state(self, folder: str | Path) -> None:
        """Reads what `save_state` wrote; raises `ValueError` where it is missing."""
        path = self.check(folder)
        self._engine.load(path)
        assert self.scheduler is not None, "training has not begun"
        self.scheduler.load_state_dict(torch.load(path / SCHEDULER_FILE, weights_only=True))

    @staticmethod
    def check(folder: str | Path) -> Path:
        """The critic's place in a checkpoint; raises `ValueError` where it is none of a PPO run."""
        path = Path(folder) / FOLDER
        if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
            raise ValueError(
                f"checkpoint {str(folder)!r} has no critic ({path} is missing), so PPO cannot resume from it; resume "
                "from a checkpoint of a PPO run, or start anew with --model_name_or_path"
            )
        return path

"""PPO's critic: its own model with its own optimiser, schedule, clipping and files."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel, get_scheduler
from transformers.utils import logging

from multiattempt_trl.training.configs import MultiAttemptPPOConfig

FOLDER = "critic"
"""Where a checkpoint keeps the critic; loads with `AutoModelForTokenClassification.from_pretrained`."""


def load_critic_model(name_or_path: str, peft_config: PeftConfig | None = None, **kwargs: Any) -> PreTrainedModel:
    """A value model over the weights at `name_or_path`: a token classifier with one label.

    A new head starts near zero, N(0, 1 / (hidden + 1)) as in the published code, so that the first values do not drown
    the rewards. With `peft_config` the base is frozen and the critic gets an adapter of its own and a trained head.
    """
    config = AutoConfig.from_pretrained(name_or_path, **_only(kwargs, "revision", "trust_remote_code"))
    is_critic = "TokenClassification" in "".join(getattr(config, "architectures", None) or [])
    config.num_labels = 1
    config.classifier_dropout = 0.0  # the default of 0.1 would make the values noisy
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a new head is meant, and no reason for a warning
    try:
        model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(name_or_path, config=config, **kwargs)
    finally:
        logging.set_verbosity(verbosity)
    if not is_critic:
        head: Any = model.score if hasattr(model, "score") else model.classifier
        torch.nn.init.normal_(head.weight, std=1 / (model.config.get_text_config().hidden_size + 1))
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)
    if peft_config is not None:
        peft_config = copy.deepcopy(peft_config)
        peft_config.task_type = TaskType.TOKEN_CLS  # PEFT then trains and saves the head whole, beside the adapter
        if peft_config.target_modules == "all-linear":
            theirs = peft_config.exclude_modules or []
            peft_config.exclude_modules = (
                rf"(?:{theirs})|(?:.*\.)?(?:score|classifier)"
                if isinstance(theirs, str)
                else sorted({*theirs, "score", "classifier"})
            )
        model = get_peft_model(model, peft_config)
    return model


def _only(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}


class Critic:
    """The value model as an engine of its own, for one process.

    Args:
        model: from `load_critic_model`, on its device.
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

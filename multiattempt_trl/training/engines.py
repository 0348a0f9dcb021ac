"""What moves the critic's weights: autograd and an optimizer in plain processes, or a DeepSpeed engine of its own."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

OPTIMIZER_FILE = "optimizer.pt"


class Engine(Protocol):
    """One model with its optimizer, in however many processes.

    Each method is called in all processes alike, and so is `module` as often in one as in the others.
    """

    module: torch.nn.Module
    """What to call for a forward pass."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Stands around the forward and backward pass of a micro-batch; `last` is the one that `step` follows."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> float | None:
        """Adds the gradient of `loss`; after the last micro-batch clips and steps, and returns the norm before it."""
        ...

    def weights(self) -> dict[str, torch.Tensor] | None:
        """What to export, where the module does not hold it whole."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what a resumed run needs besides the exported weights."""
        ...

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        ...


class PlainEngine:
    """One process, or several that each hold the whole model and average its gradient (DDP)."""

    def __init__(
        self, model: PreTrainedModel, optimizer: torch.optim.Optimizer, max_grad_norm: float, accelerator: Accelerator
    ) -> None:
        self.module = accelerator.prepare_model(model)  # on its device, under autocast, averaged: as it was launched
        self.optimizer, self.max_grad_norm, self.accelerator = optimizer, max_grad_norm, accelerator

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.accelerator.no_sync(self.module)

    def backward(self, loss: torch.Tensor, *, last: bool) -> float | None:
        loss.backward()
        if not last:
            return None
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def weights(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        if self.accelerator.is_main_process:
            torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_FILE)

    def load(self, folder: Path) -> None:
        """Raises `ValueError` where the file is missing."""
        path = folder / OPTIMIZER_FILE
        if not path.exists():
            raise ValueError(f"the checkpoint has no critic optimizer ({path} is missing): cannot resume")
        self.optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


class DeepSpeedEngine:
    """A ZeRO engine beside the policy's, by the same configuration but for the clipping.

    The policy's cannot serve both: one engine clips all its parameters together, and takes them all in one step.
    """

    def __init__(
        self, model: PreTrainedModel, optimizer: torch.optim.Optimizer, max_grad_norm: float, accelerator: Accelerator
    ) -> None:
        import deepspeed

        config: dict[str, Any] = copy.deepcopy(accelerator.deepspeed_plugin.deepspeed_config)
        config["gradient_clipping"] = max_grad_norm
        self.module, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self.accelerator, self.is_adapter = accelerator, hasattr(model, "peft_config")
        self.is_sharded = config["zero_optimization"]["stage"] == 3

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        self.module.set_gradient_accumulation_boundary(is_boundary=last)
        return nullcontext()

    def backward(self, loss: torch.Tensor, *, last: bool) -> float | None:
        self.module.backward(loss, scale_wrt_gas=False)
        if not last:
            return None
        self.module.step()
        return float(self.module.get_global_grad_norm())

    def weights(self) -> dict[str, torch.Tensor] | None:
        if not self.is_sharded:
            return None
        # As the Trainer saves the policy; despite the name in the type it is trained in.
        whole: dict[str, torch.Tensor] = self.module._zero3_consolidated_16bit_state_dict(
            exclude_frozen_parameters=self.is_adapter
        )
        return whole

    def save(self, folder: Path) -> None:
        self.module.save_checkpoint(str(folder), exclude_frozen_parameters=self.is_adapter)

    def load(self, folder: Path) -> None:
        """Weights included. Raises `ValueError` where the folder holds no state of an engine."""
        path, _ = self.module.load_checkpoint(str(folder), load_module_strict=not self.is_adapter)
        if path is None:
            raise ValueError(f"the checkpoint has no DeepSpeed state of the critic in {folder}: cannot resume")


def offloaded(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> torch.optim.Optimizer:
    """The optimizer, or its counterpart on the CPU where DeepSpeed is told to keep its state there."""
    config = accelerator.deepspeed_plugin.deepspeed_config
    device = config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    if device == "none" or not config.get("zero_force_ds_cpu_optimizer", True):
        return optimizer
    from accelerate.utils import map_pytorch_optim_to_deepspeed

    mapped: torch.optim.Optimizer = map_pytorch_optim_to_deepspeed(optimizer)
    return mapped

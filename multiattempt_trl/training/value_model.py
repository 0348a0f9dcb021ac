"""The model behind PPO's critic: a token classifier with one label over the weights that the policy starts from."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging


def load_value_model(name_or_path: str, peft_config: PeftConfig | None = None, **kwargs: Any) -> PreTrainedModel:
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
        with _whole(head):
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


def _whole(module: torch.nn.Module) -> AbstractContextManager[Any]:
    """Inside, each process has the module's weights whole; after it, what the first one wrote to them."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(module.parameters(), modifier_rank=0)
    return gathered


def _only(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}

"""The model behind PPO's critic: a token classifier with one label over the weights that the policy starts from."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForTokenClassification, BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging

from multiattempt_trl.training.adapters import mend_quantised, refuse_adapter_folder

HEADS = ["score", "classifier"]
"""What transformers calls the head of a token classifier, depending on the architecture."""


def load_value_model(
    name_or_path: str,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """A value model over the weights at `name_or_path`: a token classifier with one label.

    A new head starts near zero, N(0, 1 / (hidden + 1)) as in the published code, so that the first values do not drown
    the rewards. With `peft_config` the base is frozen, quantised as `quantization_config` says, and the critic gets an
    adapter of its own and a trained head, which is float32 and never quantised.
    """
    refuse_adapter_folder(name_or_path)
    config = AutoConfig.from_pretrained(name_or_path, **_only(kwargs, "revision", "trust_remote_code"))
    is_critic = "TokenClassification" in "".join(getattr(config, "architectures", None) or [])
    config.num_labels = 1
    config.classifier_dropout = 0.0  # the default of 0.1 would make the values noisy
    if quantization_config is not None:
        kwargs["quantization_config"] = _sparing_the_head(quantization_config)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a new head is meant, and no reason for a warning
    try:
        model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(name_or_path, config=config, **kwargs)
    finally:
        logging.set_verbosity(verbosity)
    head: Any = model.score if hasattr(model, "score") else model.classifier
    if not is_critic:
        with _whole(head):
            torch.nn.init.normal_(head.weight, std=1 / (model.config.get_text_config().hidden_size + 1))
            if head.bias is not None:
                torch.nn.init.zeros_(head.bias)
    return model if peft_config is None else _with_adapter(model, head, peft_config)


def _with_adapter(model: PreTrainedModel, head: Any, peft_config: PeftConfig) -> PreTrainedModel:
    sharded = is_deepspeed_zero3_enabled()  # which has one type for all that it shards
    if not sharded:
        head.float()
    head.register_forward_pre_hook(_as_the_weights_are)
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type = TaskType.TOKEN_CLS  # PEFT then trains and saves the head whole, beside the adapter
    if isinstance(whole := getattr(peft_config, "modules_to_save", None), list):  # a value model has no lm_head
        found = [name for name, _ in model.named_modules()]
        peft_config.modules_to_save = [one for one in whole if any(f".{name}".endswith(f".{one}") for name in found)]
    if peft_config.target_modules == "all-linear":
        theirs = peft_config.exclude_modules or []
        peft_config.exclude_modules = (
            rf"(?:{theirs})|(?:.*\.)?(?:{'|'.join(HEADS)})" if isinstance(theirs, str) else sorted({*theirs, *HEADS})
        )
    adapted: PreTrainedModel = get_peft_model(model, peft_config, autocast_adapter_dtype=not sharded)
    mend_quantised(adapted)
    return adapted


def _as_the_weights_are(head: torch.nn.Linear, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (args[0].to(head.weight.dtype),)


def _sparing_the_head(quantization_config: BitsAndBytesConfig) -> BitsAndBytesConfig:
    """Transformers leaves out a causal model's head by itself, and would quantise this one."""
    spared = copy.deepcopy(quantization_config)
    spared.llm_int8_skip_modules = [*(spared.llm_int8_skip_modules or []), *HEADS]
    return spared


def _whole(module: torch.nn.Module) -> AbstractContextManager[Any]:
    """Inside, each process has the module's weights whole; after it, what the first one wrote to them."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(module.parameters(), modifier_rank=0)
    return gathered


def _only(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}

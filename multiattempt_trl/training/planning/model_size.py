"""How large a model is, from its configuration alone: counted on the meta device, where no memory is taken."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, Qwen2Config

_QWEN25_1_5B: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-Math-1.5B": {**_QWEN25_1_5B, "max_position_embeddings": 4096},
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": {**_QWEN25_1_5B, "max_position_embeddings": 32_768},
}
"""Architectures that can be planned without their files: the recipes' models, as each `config.json` has it."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What memory depends on. All are numbers of elements, none of them bytes."""

    parameters: int
    """Tied weights count once; the output matrix is left out where it is not tied and `has_head` is False."""
    linear: int
    """Those in the linear layers of the blocks: what autocast casts and bitsandbytes quantises."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    has_head: bool = True
    """Whether it ends in the vocabulary (a policy), or in one number per token (a critic)."""

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Self:
        """Counted on a model that is built without weights."""
        text = config.get_text_config()
        model = _empty(config)
        head = model.get_output_embeddings()
        linear = sum(
            module.weight.numel()
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        )
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            linear=linear,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
            context=text.max_position_embeddings,
        )


def critic_size(config: PreTrainedConfig) -> ModelSize:
    """Of the token classifier over the same blocks: one weight per hidden unit and a bias in place of a vocabulary."""
    policy = ModelSize.of(config)
    untied = 0 if config.get_text_config().tie_word_embeddings else policy.vocabulary * policy.hidden
    parameters = policy.parameters - untied + policy.hidden + 1
    return ModelSize(**{**vars(policy), "parameters": parameters, "has_head": False})


@dataclass(frozen=True, kw_only=True)
class AdapterSize:
    """A LoRA adapter, in elements."""

    parameters: int
    inputs: int
    """Of all modules that carry it together: a token's activations that are kept for the adapter's gradient."""
    ranks: int
    """Of all those modules together."""
    dropout: bool


def adapter_size(config: PreTrainedConfig, peft_config: PeftConfig) -> AdapterSize:
    """Counted on an adapter around a model without weights; raises `ValueError` where PEFT finds nothing to adapt."""
    model = _empty(config)
    try:
        with torch.device("meta"):
            adapted = get_peft_model(model, peft_config)
    except ValueError as error:
        raise ValueError(f"LoRA cannot be put on this model: {error}") from error
    trained = {name: each for name, each in adapted.named_parameters() if each.requires_grad}
    down = [each for name, each in trained.items() if ".lora_A." in name]
    return AdapterSize(
        parameters=sum(each.numel() for each in trained.values()),
        inputs=sum(each.shape[1] for each in down),
        ranks=sum(each.shape[0] for each in down),
        dropout=getattr(peft_config, "lora_dropout", 0.0) > 0,
    )


def read_config(
    name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """The architecture of a folder, of a model that is cached or can be fetched, or of one in `KNOWN`.

    Raises `ValueError` where there is none.
    """
    if not Path(name_or_path).is_dir() and name_or_path in KNOWN:
        return Qwen2Config(**KNOWN[name_or_path])
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            name_or_path, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        known = ", ".join(KNOWN)
        raise ValueError(
            f"the architecture of {name_or_path!r} is not at hand: pass a folder with its config.json as "
            f"--model_name_or_path (without files only {known} is known)"
        ) from error
    return config


def _empty(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)

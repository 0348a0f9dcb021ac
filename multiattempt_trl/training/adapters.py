"""LoRA and QLoRA: what is refused before weights are loaded, and what a model with an adapter needs to be trained."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import cast_adapter_dtype
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, TrainerCallback
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from multiattempt_trl.training.configs import MultiAttemptGRPOConfig

MERGE = (
    "merge it first (AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(another)), "
    "or go on with its run by --resume_from_checkpoint"
)


def check_adapter(
    model: str | PreTrainedModel,
    peft_config: PeftConfig | None,
    quantization_config: Any,
    args: MultiAttemptGRPOConfig,
) -> None:
    """Refuses what PEFT and transformers would find late, or pass over in silence.

    Raises `ValueError`, before any weight is loaded.
    """
    if isinstance(model, str):
        refuse_adapter_folder(model)
    if peft_config is None:
        if quantization_config is not None:
            raise ValueError(
                "a quantised model is trained by an adapter only: add --use_peft to load_in_4bit or load_in_8bit, or "
                "leave them out"
            )
        return
    if quantization_config is not None:
        _check_quantisation(quantization_config)
    if getattr(peft_config, "bias", "none") != "none":
        raise ValueError(
            f"bias={peft_config.bias!r} would train biases of the base model, which is the KL's reference: use "
            "bias='none'"
        )
    if isinstance(model, str):
        model = _without_weights(model, args)
    _check_names(model, peft_config)


def refuse_adapter_folder(name_or_path: str) -> None:
    """Raises `ValueError` where an adapter was saved without the model that it belongs to."""
    folder = Path(name_or_path)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"{name_or_path!r} holds an adapter, not a model to start from: {MERGE}")


class CriticIsNotThePolicys(TrainerCallback):
    """Takes the critic's adapter from the policy.

    A Trainer that resumes takes each sub-folder with an adapter for one of the policy's, `critic/` as well. It would
    save it again with the policy's own, over what the critic has written.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if "critic" in getattr(model, "peft_config", {}):
            model.delete_adapter("critic")


def mend_quantised(model: Any) -> None:
    """Makes a quantised model with an adapter train as it should; leaves any other as it is."""
    if not getattr(model, "is_quantized", False):
        return
    # TRL puts QLoRA's adapter into bfloat16, where updates of 1e-5 are mostly lost, and a resume has it in float32.
    cast_adapter_dtype(model, "default")
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such a CPU bitsandbytes repacks weights that are read in eval mode, and has no backward from then on.
            module.support_avx512bf16_for_cpu = False


def _check_quantisation(quantization_config: Any) -> None:
    if not isinstance(quantization_config, BitsAndBytesConfig):
        kind = type(quantization_config).__name__
        raise ValueError(f"quantization_config must be a transformers BitsAndBytesConfig, got a {kind}")
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "load_in_4bit and load_in_8bit need bitsandbytes: pip install 'multiattempt_trl[quantization]', or leave "
            "them out"
        )


def _without_weights(name_or_path: str, args: MultiAttemptGRPOConfig) -> PreTrainedModel:
    trust, given = args.trust_remote_code, args.model_init_kwargs or {}
    config = AutoConfig.from_pretrained(name_or_path, revision=given.get("revision"), trust_remote_code=trust)
    plugin = args.deepspeed_plugin
    unset_hf_deepspeed_config()  # ZeRO-3 would shard this one too
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    finally:
        if getattr(plugin, "dschf", None) is not None:
            set_hf_deepspeed_config(plugin.dschf)
    return model


def _check_names(model: PreTrainedModel, peft_config: PeftConfig) -> None:
    """PEFT adapts what it finds and says nothing of the other names."""
    names = [name for name, _ in model.named_modules()]
    linear = {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    found = ", ".join(sorted(linear - {"lm_head"}))  # which TRL takes no adapter for
    for field in ("target_modules", "modules_to_save"):
        wanted = getattr(peft_config, field, None) or []
        if wanted == "all-linear":
            continue
        if isinstance(wanted, str):
            if not any(re.fullmatch(wanted, name) for name in names):
                raise ValueError(
                    f"lora_{field}={wanted!r} matches no module: PEFT reads a single name as a regular expression "
                    rf"over a module's whole name. Write '.*\.{wanted}', or all-linear; linear modules are {found}"
                )
            continue
        missing = [one for one in sorted(wanted) if not any(f".{name}".endswith(f".{one}") for name in names)]
        if missing:
            raise ValueError(
                f"lora_{field}: the model has no module named {', '.join(missing)}; its linear modules are {found}"
            )

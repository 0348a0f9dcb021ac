"""Opens a checkpoint: the tokenizer it was saved with, and the model, adapters included."""

import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""What transformers calls a tokenizer that is all in its `tokenizer.json`, before and since its version 5."""


def load_tokenizer(
    path: str | Path, chat_template: str | None = None, *, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder or of a Hub id, padding on the left.

    A folder saved under a generic class is opened with that class. `AutoTokenizer` would go by the model type beside
    it, and put that model's own pre-tokenizer in place of the saved one without a word.

    Args:
        revision: of a Hub id.
        chat_template: replaces the tokenizer's own: a file, or the name of one that TRL ships (`qwen2_5`, ...).

    Raises `ValueError` for a folder without a tokenizer, a name that is neither, or an unknown chat template.
    """
    folder = Path(path)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
            raise ValueError(f"{str(path)!r} holds no tokenizer (no tokenizer.json); name a saved checkpoint")
        loader = PreTrainedTokenizerFast if _saved_class(folder) in GENERIC_CLASSES else AutoTokenizer
        tokenizer = loader.from_pretrained(folder, padding_side="left")
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path), padding_side="left", revision=revision or "main")
        except OSError as error:
            raise ValueError(_not_found(path)) from error
    if chat_template is not None:
        tokenizer.chat_template = read_chat_template(chat_template)
    return tokenizer


def read_chat_template(name: str) -> str:
    """Text of a chat template: a file's, or that of one TRL ships."""
    import trl

    shipped = Path(trl.__file__).parent / "chat_templates"
    for candidate in (Path(name), shipped / f"{name}.jinja"):
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    known = ", ".join(sorted(file.stem for file in shipped.glob("*.jinja")))
    raise ValueError(f"chat_template {name!r} is neither a file nor one that TRL ships; those are {known}")


def load_model(path: str | Path, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """The causal language model of a folder or a Hub id, in evaluation mode; an adapter comes on its base model.

    Raises `ValueError` where there is no checkpoint.
    """
    folder = Path(path)
    model: PreTrainedModel
    try:
        if (folder / "adapter_config.json").is_file():
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=dtype)
        elif folder.is_dir() and not (folder / "config.json").is_file():
            raise ValueError(f"{str(path)!r} is not a checkpoint (no config.json, no adapter_config.json)")
        else:
            model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype)
    except OSError as error:
        raise ValueError(_not_found(path)) from error
    model.eval()
    return model


def _saved_class(folder: Path) -> str | None:
    config = folder / "tokenizer_config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.is_file() else None


def _not_found(path: str | Path) -> str:
    return (
        f"no checkpoint could be opened at {str(path)!r}: there is no such folder, or it is incomplete, and no model "
        "of that name is cached or can be fetched from the Hub"
    )

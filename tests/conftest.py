"""What the tests share: a tiny untrained arithmetic model on disk, and training arguments that run in seconds."""

import os
import signal
from pathlib import Path

# Before transformers is imported: no test reaches a hub, and every number comes from one thread.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"

# A shell has what it starts in the background ignore Ctrl-C, and children would inherit that from us.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
"""Real questions and the real Qwen2.5 tokenizer, where they lie beside the checkout."""


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared, with the real questions and tokenizer, is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained arithmetic model and its tokenizer."""
    from multiattempt_trl.domains.arithmetic import PRESET
    from multiattempt_trl.domains.arithmetic.tokenizer import build_tokenizer
    from multiattempt_trl.domains.small_model import build_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = build_tokenizer(PRESET)
    torch.manual_seed(0)
    model = build_model(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that says varied things, some of them right, and its tokenizer."""
    from talkers import TOKENIZER, talker

    folder = tmp_path_factory.mktemp("talker") / "model"
    talker().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder

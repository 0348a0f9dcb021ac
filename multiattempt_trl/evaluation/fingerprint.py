"""What decides the episodes of an evaluation, in a form that can be compared: the plan, the questions, the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import remark_styles
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.evaluation.protocols import EvalPlan

WEIGHTS = ("*.safetensors", "*.bin", "adapter_config.json", "config.json", "tokenizer.json")
SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Of a large file this many pieces are read: training moves every weight."""


def asked(
    plan: EvalPlan,
    benchmarks: Mapping[str, Sequence[Question]],
    renderer: Renderer,
    *,
    weights: str,
    base_weights: str | None,
    **settings: Any,
) -> dict[str, Any]:
    """As JSON. Models are known by their weights, not by the names of their folders, which may be moved.

    Args:
        renderer: its chat template and the ids that end a turn decide what the model reads.
        settings: of whatever else decides: backend, dtype, how many dialogues stand in a shard.
    """
    of_plan = asdict(plan)
    del of_plan["model"], of_plan["base_model"]
    if not remark_styles(plan.feedback):
        del of_plan["limits"]["remark"]  # decides nothing
    sets = {
        name: {"questions": len(questions), "digest": _digest(*map(repr, questions))}
        for name, questions in benchmarks.items()
    }
    words = {"chat_template": _digest(str(renderer.tokenizer.chat_template)), "stop_ids": list(renderer.stop_ids)}
    return {**of_plan, **settings, **words, "benchmarks": sets, "weights": weights, "base_weights": base_weights}


def weights_of(model: str) -> str:
    """A digest of the files in a model's folder, or the commit of a Hub model.

    Raises `OSError` where there is no such model.
    """
    folder = Path(model)
    if not folder.is_dir():
        return str(AutoConfig.from_pretrained(model)._commit_hash)
    files = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)})
    return _digest(*(part for path in files for part in (path.name, _sampled(path))))


def _sampled(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            return file.read()
        pieces = [size.to_bytes(8, "big")]
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            pieces.append(file.read(SAMPLE_BYTES))
    return b"".join(pieces)


def _digest(*parts: str | bytes) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        content = part.encode(errors="replace") if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()

"""The arguments that are not TRL's: the task of a training run, and how a model is evaluated."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import get_args

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from multiattempt_trl.dialogue.env import REMARK_TOKENS, Count
from multiattempt_trl.domains import domain_names
from multiattempt_trl.evaluation.backends import KINDS
from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.protocols import PROBES, Protocol

SETTINGS_FILE = "multi_attempt.json"
"""Beside a trained model: how it was spoken to, so that evaluation says the same words."""


@dataclass
class TaskArguments:
    """What is trained on."""

    domain: str = field(
        default="maths",
        metadata={"help": "arithmetic or lists (which make their questions), maths, code, or your own: my_domain.py."},
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Training questions: a Hub id or a local file. Default: the domain's own."}
    )
    drop_unusable_gold: bool = field(
        default=False,
        metadata={"help": "Drop training rows whose gold answer is empty or too long, instead of refusing the set."},
    )
    keep_benchmark_rows: bool = field(
        default=False,
        metadata={"help": "Train also on questions that stand in a benchmark of this run, or are known to."},
    )
    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "With eval_strategy: a benchmark of the domain, `name=path` or a path."}
    )
    watch: str | None = field(
        default=None,
        metadata={
            "help": "With eval_strategy: benchmarks played as multiattempt eval does, by which to choose the best."
        },
    )
    watch_limit: int = field(default=100, metadata={"help": "Only the first this many questions of each."})
    watch_budget: int | None = field(default=None, metadata={"help": "Attempts they get. Default: max_attempts."})
    watch_independent: int = field(
        default=0,
        metadata={"help": "Independent samples per question behind pass@k and maj@k; 0 for no such control."},
    )
    watch_probes: str = field(default="", metadata={"help": "Probes played too, see probes."})
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "A file, or the name of one that TRL ships (qwen2_5, llama3, ...). Default: the tokenizer's."
        },
    )
    skip_eval: bool = field(default=False, metadata={"help": "Do not evaluate after training."})


@dataclass
class EvalArguments:
    """How a model is evaluated, after training or by `multiattempt eval`."""

    benchmarks: str | None = field(
        default=None,
        metadata={"help": "Comma-separated names, `name=path`, paths or Hub ids. Default: all of the domain."},
    )
    budget: int = field(default=7, metadata={"help": "K: accuracy is reported at 1 to K attempts (paper: 7)."})
    protocol: str = field(
        default="nested",
        metadata={
            "help": "nested: one run at budget K. paper: one run per budget. sampled: as nested, at a temperature.",
            "choices": list(get_args(Protocol)),
        },
    )
    eval_samples: int | None = field(
        default=None, metadata={"help": "Dialogues per question. Default: 1, or 4 if sampled."}
    )
    eval_temperature: float | None = field(
        default=None, metadata={"help": "0 is greedy (paper). Default: 0, or 1 if sampled."}
    )
    independent: int | None = field(
        default=None,
        metadata={
            "help": "Independent one-attempt samples per question behind pass@k and maj@k. Default: K; 0 for none."
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "Played beside the model, under the same prompts. Default: what it was trained from; none."},
    )
    probes: str = field(
        default="", metadata={"help": f"Comma-separated: {', '.join(PROBES)}; or all. Default: no such runs."}
    )
    eval_count: str | None = field(
        default=None,
        metadata={
            "help": "What all prompts say of the attempts left. Default: as in training.",
            "choices": list(get_args(Count)),
        },
    )
    eval_limit: int | None = field(default=None, metadata={"help": "Only the first this many questions of each."})
    eval_batch_size: int = field(
        default=256, metadata={"help": "Dialogues played together by a process, and lost at most where it is killed."}
    )
    eval_backend: str = field(
        default="transformers",
        metadata={
            "help": "transformers (lock step), continuous, vllm, or vllm-server; after training one of the first two.",
            "choices": list(KINDS),
        },
    )
    eval_memory_gib: float = field(
        default=8.0, metadata={"help": "Bound on the cache of keys and values of the backend continuous."}
    )
    eval_max_attempt_tokens: int | None = field(
        default=None, metadata={"help": "Cap on one attempt. Default: that of training, or the episode's."}
    )
    eval_max_episode_tokens: int = field(
        default=8000, metadata={"help": "Cap on the sampled tokens of all attempts together (published code: 8,000)."}
    )

    def __post_init__(self) -> None:
        for name in ("eval_limit", "eval_max_attempt_tokens", "eval_samples", "eval_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.eval_memory_gib <= 0:
            raise ValueError(f"eval_memory_gib must be above 0, got {self.eval_memory_gib}")

    def check_after_training(self) -> None:
        """Raises `ValueError` for what only `multiattempt eval` can do."""
        if self.eval_backend.startswith("vllm"):
            raise ValueError(
                f"eval_backend {self.eval_backend!r} evaluates a saved model, by multiattempt eval: choose "
                "'transformers' or 'continuous' here"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is spoken to; saved beside it by training."""

    domain: str = "maths"
    prompt_preset: str | None = None
    feedback: str = "binary"
    max_remark_tokens: int = REMARK_TOKENS
    count: str = "shown"
    stop_at_box: bool = False
    max_attempt_tokens: int | None = None
    base_model: str | None = None
    """What it was trained from."""
    seed: int = 0
    """Of its training; an evaluation samples by it too."""

    def but(self, told: object) -> "Settings":
        """With what a command was told instead: its fields of the same names that are not None."""
        given = {one.name: getattr(told, one.name, None) for one in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def save(self, folder: str | Path) -> None:
        write_json(Path(folder) / SETTINGS_FILE, asdict(self))

    @classmethod
    def of_model(cls, model: str | Path) -> "Settings":
        """What training saved with this model, in its folder, above its checkpoint, or on the Hub; else defaults.

        Raises `ValueError` for a file that is not such settings.
        """
        folder = Path(model)
        if not folder.is_dir():
            return cls._read(_from_hub(str(model)))
        above = [folder.parent] if folder.name.startswith("checkpoint-") else []
        found = (place / SETTINGS_FILE for place in (folder, *above))
        return cls._read(next((path for path in found if path.is_file()), None))

    def domain_to_open(self, asked_for: str | None) -> str:
        """The domain's name. Raises `ValueError` where it is code of somebody's own that the user did not name.

        A model's folder may come from anywhere, and must not have code run.
        """
        if asked_for is None and self.domain not in domain_names():
            raise ValueError(
                f"the model was trained in the domain {self.domain!r}, which is code outside this package: to run it, "
                "name it with --domain"
            )
        return asked_for or self.domain

    @classmethod
    def _read(cls, path: Path | None) -> "Settings":
        if path is None:
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} does not hold the settings of a training run: {error}") from error


def _from_hub(model: str) -> Path | None:
    try:
        return Path(hf_hub_download(model, SETTINGS_FILE))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):  # not on the Hub, or not one of ours
        return None

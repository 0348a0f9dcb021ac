"""The warm start: trains the small model of a domain on its lessons, once for each seed, and keeps it."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from hashlib import blake2b
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import multiattempt_trl
from multiattempt_trl.dialogue.rendering import ChatTokenizer, Renderer
from multiattempt_trl.domains.course import Course, Lesson, WarmStart, lessons

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# PyTorch, transformers and TRL are imported where they are used: the domain's record must load quickly.

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "ACCELERATE_")
"""Environment variables, by prefix, that would make the build one rank of the launch that asked for it."""

MICRO_BATCHES = 4
"""Forward passes per optimizer step: a batch sorted by length pads half as many tokens in four parts as in one."""

RECIPE = 2
"""Raise it with any change of the training code, so that no cached model of the old code is taken for the new one."""


def build_warm_start(
    course: Course, seed: int, cache_dir: Path = Path("outputs/warm_start"), settings: WarmStart | None = None
) -> Path:
    """The folder of the trained model and its tokenizer; made on first use, in about a minute on one CPU thread.

    Its name holds the seed and a hash of the recipe. It is written beside and renamed into place, so that processes
    may race for it. A child process trains, which leaves the caller's random state, threads and accelerator untouched
    and keeps out of the caller's process group.

    Raises `ValueError` where the course's module does not have it as `COURSE`, by which the child finds it.
    """
    settings = settings or course.settings
    target = Path(cache_dir) / f"seed{seed}-{fingerprint(course, settings, seed)}"
    if target.is_dir():
        return target
    root = _root(course)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
        built = Path(scratch) / "model"
        given = {"course": course.module, "root": root, "settings": asdict(settings), "seed": seed}
        code = f"from {__name__} import train_in_child; train_in_child()"
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps({**given, "folder": str(built.resolve())}),
            text=True,
            check=True,
            env=_child_environment(),
            stdout=subprocess.DEVNULL,  # the trainer's summary; its progress bar goes to standard error
        )
        try:
            built.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same model
                raise
    return target


def fingerprint(course: Course, settings: WarmStart, seed: int) -> str:
    """Hash of all that shapes the model: settings, tokenizer, architecture, and lessons with their wording."""
    tokenizer = course.tokenizer()
    renderer = Renderer(cast(ChatTokenizer, tokenizer))
    recipe = {
        "recipe": RECIPE,
        "settings": asdict(settings),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "template": tokenizer.chat_template,
        "model": course.architecture().to_diff_dict(),
        "lessons": [lesson.input_ids for lesson in islice(lessons(course, settings, renderer, seed), 256)],
    }
    return blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=6).hexdigest()


def _root(course: Course) -> str:
    """The folder from which the course's module is imported, which only this process may know."""
    module = import_module(course.module)
    if not isinstance(getattr(module, "COURSE", None), Course) or module.__file__ is None:
        raise ValueError(f"the module {course.module!r} has no COURSE: a Course needs module=__name__ and that name")
    file = Path(module.__file__).resolve()
    return str(file.parents[course.module.count(".") + (file.stem == "__init__")])


def _child_environment() -> dict[str, str]:
    """Ours without the launcher's variables, on one thread and on the CPU, so that every machine gets one recipe."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
    package = str(Path(multiattempt_trl.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package, kept.get("PYTHONPATH"))))
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        # SFTConfig turns gradient checkpointing on, and transformers 5.23 deprecates the name that turns it off.
        "PYTHONWARNINGS": "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
    }
    if os.environ.get("LOCAL_RANK", "0") != "0":
        quiet["TQDM_DISABLE"] = "1"
    return {**kept, **quiet, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def train_in_child() -> None:
    """Entry point of the child process: reads its arguments from standard input."""
    arguments = json.loads(sys.stdin.read())
    sys.path.append(arguments["root"])  # last, as a domain's file has it
    course: Course = import_module(arguments["course"]).COURSE
    train(course, WarmStart(**arguments["settings"]), arguments["seed"], Path(arguments["folder"]))


def train(course: Course, settings: WarmStart, seed: int, folder: Path) -> None:
    """Trains with TRL's `SFTTrainer` and saves model and tokenizer. Deterministic for a seed on one thread."""
    import torch
    from datasets import Dataset
    from tqdm.auto import tqdm  # type: ignore[import-untyped]
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from multiattempt_trl.domains.small_model import build_model

    disable_progress_bar()  # of model files; the trainer's own bar stays
    torch.set_num_threads(1)
    tokenizer = course.tokenizer()
    source = lessons(course, settings, Renderer(cast(ChatTokenizer, tokenizer)), seed)
    rows: list[Lesson] = []
    for _ in tqdm(range(settings.steps), desc="warm start, drawing lessons", leave=False):
        # By length inside a batch, so that a micro-batch of single answers is not padded to the longest retry.
        rows += sorted(islice(source, settings.batch_size), key=lambda lesson: len(lesson.input_ids))
    dataset = Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})
    set_seed(seed)
    model = build_model(tokenizer, course.context)
    _fit(model, tokenizer, dataset, settings, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _fit(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", dataset: "Dataset", settings: WarmStart, seed: int
) -> None:
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size // MICRO_BATCHES,
            gradient_accumulation_steps=MICRO_BATCHES,
            train_sampling_strategy="sequential",
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=settings.warmup_steps,
            max_length=None,
            packing=False,
            pad_to_multiple_of=None,
            dataset_kwargs={"skip_prepare_dataset": True},  # rows are token ids with their labels already
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=False,  # the quiet verbosity of the child would turn the bar off
            use_cpu=True,
            seed=seed,
        )
        SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer).train()

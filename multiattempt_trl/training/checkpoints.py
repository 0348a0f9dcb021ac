"""Checkpoints that are whole or not there: a manifest, written last by any process, names every file and its size."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints, sort_checkpoints

from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.launch import Launch

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"


def seal(folder: Path, args: MultiAttemptGRPOConfig) -> None:
    """Declares a checkpoint whole; a folder without this file is one that a crash left behind."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    manifest = {
        "launch": asdict(Launch.of(args)),
        "batches": _batches(args),
        "weights_only": args.save_only_model,
        "files": files,
    }
    beside = folder / f".{MANIFEST}"
    beside.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    beside.replace(folder / MANIFEST)


def discard(folder: Path) -> None:
    """Removes a checkpoint, its manifest first, so that a half-removed one is never taken for whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def to_resume(wanted: str | bool | None, args: MultiAttemptGRPOConfig) -> str | None:
    """The checkpoint to go on from: `True` (or "true") is the newest whole one of the output folder.

    Raises `ValueError` where there is none, where it is not whole, and where its shards do not fit this launch.
    """
    check_shared(args)
    if wanted is None or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() != "true":
        check(Path(str(wanted)), args)
        return str(wanted)
    found = [Path(path) for path in reversed(sort_checkpoints(args.output_dir))]
    for folder in found:
        if (folder / MANIFEST).is_file():
            check(folder, args)
            return str(folder)
        logger.warning("%s was not written to its end; going on from the one before", folder)
    raise ValueError(
        f"resume_from_checkpoint is true, but {args.output_dir!r} holds no {'whole ' if found else ''}checkpoint; "
        "leave it out to start anew"
    )


def check_shared(args: MultiAttemptGRPOConfig) -> None:
    """Raises `ValueError` in all processes where some do not see the output folder of the first: a checkpoint would be
    in pieces.
    """
    if args.world_size == 1 or args.save_strategy == "no":
        return
    token = Path(args.output_dir) / ".shared"
    if args.process_index == 0:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    PartialState().wait_for_everyone()
    seen = gather_object([token.exists()])
    if args.process_index == 0:
        token.unlink()
    if not all(seen):
        raise ValueError(
            f"processes {[rank for rank, sees in enumerate(seen) if not sees]} do not see the folder "
            f"{args.output_dir!r} of process 0: give all machines one output_dir, on a disk that they share"
        )


def check(folder: Path, args: MultiAttemptGRPOConfig) -> None:
    """Raises `ValueError` unless the folder holds a whole checkpoint that this launch can go on from."""
    if not (folder / "trainer_state.json").is_file():
        raise ValueError(
            f"resume_from_checkpoint {str(folder)!r} is not a checkpoint (it has no trainer_state.json); "
            "name a checkpoint-N folder, or true for the newest"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, batches, launch = manifest["files"], manifest["batches"], Launch(**manifest["launch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint {str(folder)!r} was not written to its end ({MANIFEST}: {error}); resume from an earlier one"
        ) from error
    for name, size in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
            raise ValueError(
                f"checkpoint {str(folder)!r} is corrupt: {name} {found}, not {size}; resume from an earlier one"
            )
    if manifest.get("weights_only"):
        raise ValueError(
            f"checkpoint {str(folder)!r} was written with save_only_model, without what a run goes on from: start "
            f"anew from its weights: {_anew(folder)}"
        )
    _check_fit(folder, launch, batches, args)
    done = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    if 0 < args.max_steps <= done:  # the Trainer would take one step more
        raise ValueError(
            f"checkpoint {str(folder)!r} is {done} steps old and max_steps={args.max_steps}, so nothing is left to "
            f"train: raise --max_steps, or evaluate it: multiattempt eval --model {folder}"
        )


def _check_fit(folder: Path, written: Launch, batches: dict[str, int], args: MultiAttemptGRPOConfig) -> None:
    """Whole weights and optimizer states go on in any number of processes, shards only where they were written."""
    now = Launch.of(args)
    if now == written:
        return
    if now.backend != written.backend or now.backend != "plain":
        raise ValueError(
            f"checkpoint {str(folder)!r} was written by {written} and its shards fit no other launch, this one is "
            f"{now}: launch as it was, or start anew from its weights, with new optimizers: {_anew(folder)}"
        )
    if batches != _batches(args):
        raise ValueError(
            f"checkpoint {str(folder)!r} was written by {written} with rollouts and updates of {batches}, this launch "
            f"of {now} has {_batches(args)}: set generation_batch_size and update_batch_size to what they were"
        )
    logger.warning("%s was written by %s, now it is %s: what is sampled will differ", folder, written, now)


def _anew(folder: Path) -> str:
    critic = f" --critic_model_name_or_path {folder}/critic" if (folder / "critic").is_dir() else ""
    return f"--model_name_or_path {folder}{critic}"


def _batches(args: MultiAttemptGRPOConfig) -> dict[str, int]:
    """Dialogues over all processes."""
    at_once = args.per_device_train_batch_size * args.world_size
    return {"rollout": int(args.generation_batch_size or 0), "update": at_once * args.gradient_accumulation_steps}


class WholeCheckpoints:
    """Mixed into a Trainer: writes a checkpoint so that a crash at any moment leaves the one before it usable."""

    args: MultiAttemptGRPOConfig
    accelerator: Any
    state: Any

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. Raises `ValueError` for a checkpoint that this launch cannot go on from."""
        return super().train(to_resume(resume_from_checkpoint, self.args), *args, **kwargs)  # type: ignore[misc]

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Waits until the checkpoint is whole."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            discard(folder)
        self.accelerator.wait_for_everyone()
        # The Trainer would remove the oldest one as soon as the first process is done, not the last.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(folder, self.args)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(folder))  # type: ignore[misc]
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint, use_mtime=True)

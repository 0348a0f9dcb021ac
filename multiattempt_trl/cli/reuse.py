"""What makes two runs the same, and the finished run that stands beside and is the same as a missing one."""

import json
import os
from pathlib import Path
from typing import Any

from multiattempt_trl.evaluation.results import SUMMARY_FILE

COMMAND_FILE = "command.json"
"""In the folder of a run: what was run, so that a run with other settings is not taken for done."""
MODEL = ("--model_name_or_path", "--model")
"""Before the model that a training starts from, or that is evaluated."""

Essence = dict[str, Any]


def essence(identity: dict[str, Any], start: Essence | None) -> Essence:
    """What decides the result of a run: its command and what its recipe says, without where either stands.

    Args:
        identity: what `COMMAND_FILE` holds.
        start: the essence of the run whose model it starts from, which takes the place of that model's path.

    >>> command = ["ppo", "--config", "a.yaml", "--seed", "0", "--output_dir", "out/seed0/a"]
    >>> essence({"command": command, "recipe": {"lam": 0.99, "output_dir": "out/a"}}, None)
    {'command': ['ppo', '--seed', '0'], 'recipe': {'lam': 0.99}}
    """
    words: list[Any] = list(identity["command"])
    for place in ("--output_dir", "--config"):
        if place in words:
            del words[words.index(place) : words.index(place) + 2]
    if start is not None:
        words[_model(words)] = start
    recipe = {name: value for name, value in (identity["recipe"] or {}).items() if name != "output_dir"}
    return {"command": words, "recipe": recipe}


def saved_essence(folder: Path) -> Essence | None:
    """Of the run in a folder; None where there is none, or what is there is no run of ours.

    A model in a folder beside it, of the same experiment and seed, is that of a run, wherever the experiment was then.
    """
    try:
        identity = json.loads((folder / COMMAND_FILE).read_text(encoding="utf-8"))
        words, beside = identity["command"], folder.resolve().parent
        place = _model(words)
        model = Path(words[place]) if place else None
        start = saved_essence(beside / model.name) if model and model.parent.name == beside.name else None
        return essence(identity, start)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finished_twin(folder: Path, wanted: Essence) -> Path | None:
    """The folder of a finished run of this essence, in this experiment or in one whose folder stands beside it.

    Args:
        folder: of the run, `<experiments>/<experiment>/seed<S>/<cell>`; it need not be there.
    """
    experiments, seed = folder.parent.parent.parent, folder.parent.name
    for command in sorted(experiments.glob(f"*/{seed}/*/{COMMAND_FILE}")):
        done = (command.parent / "eval" / SUMMARY_FILE).is_file()
        if done and saved_essence(command.parent) == wanted:
            return command.parent.resolve()
    return None


def link(folder: Path, to: Path) -> bool:
    """Makes `folder` a relative link to `to`; False where another process was faster to make something there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.symlink_to(os.path.relpath(to, folder.parent.resolve()), target_is_directory=True)
    except FileExistsError:
        return False
    return True


def _model(words: list[Any]) -> int:
    """Where the model stands in a command; 0 where it names none."""
    return next((at + 1 for at, word in enumerate(words) if word in MODEL), 0)

"""What makes two runs the same, and the finished run that stands beside and is the same as a missing one."""

import json
import os
import re
from hashlib import blake2b
from pathlib import Path
from typing import Any

from multiattempt_trl.cli.experiment_file import words
from multiattempt_trl.domains.sources import Place
from multiattempt_trl.evaluation.results import SUMMARY_FILE

COMMAND_FILE = "command.json"
"""In the folder of a run: what was run, so that a run with other settings is not taken for done."""
MODEL = ("model_name_or_path", "model")
"""The model that a training starts from, or that is evaluated."""
PLACES = ("output_dir", "config")
"""Where a run and its recipe stand, which decides nothing."""
SETS = ("dataset_name", "eval_dataset_name", "benchmarks", "watch")
"""Options that may name files with questions."""
OPTION = re.compile(r"--(\w+)")

Essence = dict[str, Any]


def options_of(identity: dict[str, Any]) -> dict[str, Any]:
    """Every option of a run with its words: what the recipe says, and what the command says instead.

    Args:
        identity: what `COMMAND_FILE` holds.

    >>> command = ["ppo", "--config", "a.yaml", "--lam", "0.9", "--betas", "1", "2"]
    >>> options_of({"command": command, "recipe": {"lam": 0.99, "use_cpu": True}})
    {'lam': ['0.9'], 'use_cpu': ['true'], 'config': ['a.yaml'], 'betas': ['1', '2']}
    """
    options = {name: words({name: value})[1:] for name, value in (identity["recipe"] or {}).items()}
    name = ""
    for word in identity["command"][1:]:
        if option := OPTION.fullmatch(word):
            name = option[1]
            options[name] = []
        else:
            options[name].append(word)
    return options


def essence(identity: dict[str, Any]) -> Essence:
    """What decides the result of a run: its options, without where it and its recipe stand.

    The essence of the run whose model it starts from takes the place of that model's path.

    >>> command = ["ppo", "--config", "a.yaml", "--seed", "1", "--output_dir", "out/seed1/a"]
    >>> essence({"command": command, "recipe": {"lam": 0.99, "seed": 0, "output_dir": "out/a"}, "start": None})
    {'command': 'ppo', 'options': {'lam': ['0.99'], 'seed': ['1']}}
    """
    options = {name: value for name, value in options_of(identity).items() if name not in PLACES}
    start = identity.get("start")
    if start is not None:
        options |= {name: start for name in MODEL if name in options}
    more = {key: value for key, value in identity.items() if key not in ("command", "recipe", "start")}
    return {"command": identity["command"][0], "options": options, **more}


def saved_essence(folder: Path) -> Essence | None:
    """Of the run in a folder; None where there is none, or what is there is no run of ours."""
    try:
        return essence(json.loads((folder / COMMAND_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def local_files(identity: dict[str, Any]) -> dict[str, str]:
    """The files and folders here that the options name, with a digest of what stands in each."""
    options = options_of(identity)
    specs = {spec.strip() for name in SETS for word in options.get(name, ()) for spec in (word, *word.split(","))}
    named = [place.path for spec in specs if (place := Place.of(spec, "")) and place.path]
    named += [Path(word) for word in options.get("chat_template", ()) if Path(word).is_file()]
    named += [Path(word) for word in options.get("domain", ()) if word.endswith(".py")]
    return {str(path): _digest(path) for path in sorted(set(named))}


def _digest(path: Path) -> str:
    whole = blake2b(digest_size=16)
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            whole.update(blake2b(file.read_bytes()).digest())
    return whole.hexdigest()


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


def link(folder: Path, to: Path) -> None:
    """Makes `folder`, which is not there, a relative link to `to`."""
    folder.symlink_to(os.path.relpath(to, folder.parent.resolve()), target_is_directory=True)

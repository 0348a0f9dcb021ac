"""Commands of this project as child processes, each with a folder: run once, gone on with where it was broken off."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml
from rich.console import Console
from transformers.trainer_utils import sort_checkpoints

from multiattempt_trl.cli.reuse import COMMAND_FILE, Essence, essence, finished_twin, link, local_files, saved_essence
from multiattempt_trl.cli.train import METRICS_FILE
from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.numbers.statistics import Block
from multiattempt_trl.evaluation.results import SUMMARY_FILE
from multiattempt_trl.training.checkpoints import MANIFEST

TIME_FILE = "took.json"
"""Beside it, where it ran without a break: seconds."""
LOG_FILE = "log.txt"
LEFTOVERS = (LOG_FILE, COMMAND_FILE, ".lock")
"""What a run leaves that never began; earlier versions kept the lock there."""
OF_TRAINING = (MANIFEST, "optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin")
"""Of a checkpoint: files that are no part of the model."""


class RunFailedError(ValueError):
    """A child process ended badly; the message names the run and its log."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One command with its folder, which it evaluates a model into."""

    label: str
    folder: Path
    command: list[str]
    """All that decides the result, with what its recipe says."""
    evaluation: list[str]
    """The command that evaluates a `--model` that is trained already, but for the model."""
    start: "Run | None" = None
    """The run whose model it starts from."""
    processes: int = 1
    """That train together: each has a batch of its own."""
    reuse: bool = False
    """Whether a finished run beside that is the same stands for it."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for the run to be the same: all that it is begun with, and from."""
        is_recipe = self.command[1] == "--config"
        recipe = yaml.safe_load(Path(self.command[2]).read_text(encoding="utf-8")) if is_recipe else None
        identity = {"command": self.command, "recipe": recipe, "start": self.start.essence if self.start else None}
        # Only where there are any, so that other runs are what they were before these were told.
        more = {"processes": self.processes if self.processes > 1 else None, "files": local_files(identity)}
        return identity | {key: value for key, value in more.items() if value}

    @property
    def essence(self) -> Essence:
        return essence(self.identity)

    @property
    def place(self) -> Path:
        """Where it stands: in its folder, or while nothing was begun there, where a finished run is the same."""
        own = not self.folder.is_symlink() and self.folder.is_dir()
        begun = own and any(path.name not in LEFTOVERS for path in self.folder.iterdir())
        if begun or not self.reuse or self.is_done():
            return self.folder
        return finished_twin(self.folder, self.essence) or self.folder

    def is_done(self) -> bool:
        """Whether it is finished in its folder, or where that leads as a link.

        Raises `ValueError` where the folder holds what another command has made; it is left as it is. A link that
        leads to such a run is as none.
        """
        done = (self.folder / "eval" / SUMMARY_FILE).is_file()
        if self.folder.is_symlink():
            return done and saved_essence(self.folder) == self.essence
        begun = done or (self.folder / METRICS_FILE).is_file() or bool(sort_checkpoints(str(self.folder)))
        if begun and saved_essence(self.folder) != self.essence:
            raise ValueError(
                f"{self.label}: {self.folder} holds a run with other settings; remove it, or name another --output_dir"
            )
        return done

    def next_command(self) -> list[str]:
        """What is left to do: all, the training from its newest whole checkpoint on, or the evaluation."""
        whole = [Path(path) for path in sort_checkpoints(str(self.folder)) if (Path(path) / MANIFEST).is_file()]
        if not whole:
            return self.command
        state = json.loads((whole[-1] / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] < state["max_steps"]:
            return [*self.command, "--resume_from_checkpoint", "true"]
        _take_model(whole[-1], self.folder)  # it may have been killed while it saved it there
        return [*self.evaluation, "--model", str(self.folder)]

    def block(self) -> Block:
        """The numbers, averaged over benchmarks."""
        numbers: dict[str, Block] = json.loads((self.folder / "eval" / SUMMARY_FILE).read_text(encoding="utf-8"))
        return numbers["average"]

    def seconds(self) -> float | None:
        """What it took; None where it was broken off in between."""
        path = self.place / TIME_FILE
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else None


class Runner:
    """Runs commands, several at a time from as many threads, and ends them all when it is ended itself."""

    def __init__(self, console: Console, launcher: Sequence[str] = ("-m",)) -> None:
        """`launcher`: what stands between the interpreter and the package, such as accelerate's launcher."""
        self.console, self.launcher = console, list(launcher)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, run: Run) -> None:
        """Does what is left of the run; raises `RunFailedError` where that fails, `ValueError` as `Run.is_done`."""
        if run.is_done():
            self._say(f"{run.label} is done already")
            return
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._alone(run) as held:
            if run.is_done():  # by who had it before
                self._say(f"{run.label} is done by now")
                return
            if run.folder.is_symlink():  # what it leads to is another's, and nothing is written there
                to = run.folder.readlink()
                self._say(f"{run.label}: {run.folder} led to {to}, where no such run is finished: link removed")
                run.folder.unlink(missing_ok=True)
            if (twin := run.place) != run.folder:
                _clear(run.folder)
                link(run.folder, twin)
                self._say(f"{run.label} is done in {twin}: linked")
                return
            run.folder.mkdir(exist_ok=True)
            self._go_on(run, held)

    def _go_on(self, run: Run, held: int) -> None:
        command = run.next_command()
        anew = command == run.command
        self._say(f"{run.label} {'...' if anew else 'goes on ...'}")
        first = anew and not (run.folder / METRICS_FILE).is_file()
        write_json(run.folder / COMMAND_FILE, run.identity)
        start = perf_counter()
        self._call(run, command, held)
        if first:
            write_json(run.folder / TIME_FILE, {"seconds": round(perf_counter() - start, 1)})

    def stop(self) -> None:
        """Ends all children and starts no more."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.terminate()

    @contextmanager
    def ended_with_us(self) -> Iterator[None]:
        """Around the runs, in the main thread: whatever breaks it off, SIGTERM included, ends the children."""
        before = signal.signal(signal.SIGTERM, _leave)
        try:
            yield
        except BaseException:
            self.stop()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def _call(self, run: Run, command: list[str], held: int) -> None:
        # Runs share the cores: one thread each, unless the user says otherwise.
        environment = {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **os.environ}
        path = run.folder / LOG_FILE
        call = [sys.executable, *self.launcher, "multiattempt_trl", *command]
        with path.open("ab") as log:
            with self._lock:
                if self._stopped:
                    raise RunFailedError(f"{run.label} was not begun")
                child = subprocess.Popen(call, stdout=log, stderr=log, env=environment, pass_fds=(held,))
                self._children.add(child)
            status = child.wait()
            self._children.discard(child)
        if status:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "it is empty")
            raise RunFailedError(f"{run.label} failed with status {status}; see {path}, which ends: {last[:200]}")

    @contextmanager
    def _alone(self, run: Run) -> Iterator[int]:
        """Waits until no other process has the folder. The child inherits the lock, and keeps it if we are killed.

        It stands beside the folder, which may have to become a link.
        """
        with (run.folder.parent / f".{run.folder.name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"{run.label} is being run by another process: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)


def _clear(folder: Path) -> None:
    """Removes what a run left that never began."""
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _take_model(checkpoint: Path, folder: Path) -> None:
    """Copies the model and the tokenizer, without what only training needs."""
    for file in checkpoint.iterdir():
        if file.is_file() and file.name not in OF_TRAINING and not file.name.startswith("rng_state"):
            shutil.copy(file, folder)


def _leave(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def rollouts(folder: Path) -> list[dict[str, Any]]:
    """What a training run logged of its rollouts, in order."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "sampled_tokens_total" in line]


def sampled_tokens(folder: Path) -> int | None:
    """In training, in all; None for a run that trained nothing."""
    logged = rollouts(folder)
    return int(logged[-1]["sampled_tokens_total"]) if logged else None

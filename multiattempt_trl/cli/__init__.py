"""The commands, one module each: YAML and command line in, objects out, run."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from signal import SIGINT, SIGPIPE

import multiattempt_trl

COMMANDS = {
    "ppo": "train with PPO, the paper's method: --config recipes/.../ppo/....yaml [--any_field value]",
    "grpo": "train with GRPO: --config recipes/.../grpo/....yaml [--any_field value]",
    "eval": "evaluate a checkpoint or Hub model at 1 to K attempts: --model ... [--benchmarks ...] [--budget 7]",
    "play": "ask a model a question and watch its attempts: [--model ...] [--benchmark math500 --question 3]",
    "plan": "what a run will need, and whether it fits: --config ... [--accelerate ...] [--gpu 24GB]",
    "grade": "grade an answer, or a file of them: --gold ... --answer ..., or --cases cases.jsonl",
    "validate": "check that the gold answers of question sets can be graded: --data math500 [--data name=path]",
    "experiment": "cells over seeds, what is missing of them, side by side: --config recipes/experiments/....yaml",
    "reproduce": "warm start, single-turn RL and multi-attempt RL side by side: [--seeds 0 1 2]",
}

USAGE = "\n".join(
    [
        "usage: multiattempt COMMAND [options]",
        "",
        "Multi-attempt reinforcement learning: a language model learns from its own failed attempts.",
        "",
        *(f"  {name:<11}{text}" for name, text in COMMANDS.items()),
        "",
        "multiattempt COMMAND --help lists all options of a command.",
    ]
)


def main(argv: list[str] | None = None) -> None:
    """Runs one command; a mistake in what the user gave ends in one line that says so, with exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
        return
    if argv[0] not in COMMANDS:
        sys.exit(f"multiattempt: unknown command {argv[0]!r}; choose one of {', '.join(COMMANDS)}")
    try:
        import_module(f"multiattempt_trl.cli.{argv[0]}").main(argv[1:])
    except (ValueError, OSError) as error:
        if not _said_by_us(error):
            raise
        sys.stderr.write(f"multiattempt {argv[0]}: error: {error}\n")
        sys.exit(2)


@contextmanager
def quiet_end() -> Iterator[None]:
    """Around what may be broken off at any time: Ctrl-C, and a reader such as `head` that leaves, end it silently.

    The exit status is the one that a shell gives to a command that such a signal ended.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + SIGINT)
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go, and Python would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + SIGPIPE)


def _said_by_us(error: BaseException) -> bool:
    """Whether our own code, or the recipe's parser, raised it: then the message says all, else the trace is needed."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = Path(multiattempt_trl.__file__).parent
    return raised_in.is_relative_to(ours) or raised_in.parts[-3:] == ("trl", "scripts", "utils.py")

"""`multiattempt reproduce`: warm start, single-turn RL and multi-attempt RL side by side, at equal sampled tokens.

It only calls the other commands, one process for each run, and runs what is missing: an arm that has its summary is
not run again. The multi-attempt arm goes first, since its tokens say how long the single-turn arm may train.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from trl import TrlParser

from multiattempt_trl.cli.evaluator import NO_BASE
from multiattempt_trl.cli.train import METRICS_FILE
from multiattempt_trl.domains import get_domain
from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.numbers.statistics import Block, SeedBlocks, over_seeds
from multiattempt_trl.evaluation.pages.figures import Series, draw_accuracy_by_attempt
from multiattempt_trl.evaluation.pages.report import print_table

ARMS = {
    "warm_start": "Warm start",
    "single_turn": "Single-turn RL",
    "multi_attempt": "Multi-attempt RL",
}
COMMAND_FILE = "command.json"
"""In the folder of an arm: what was run, so that an arm with other settings is not taken for done."""


@dataclass
class ReproduceArguments:
    """What is run."""

    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds, each a warm start of its own."}
    )
    algorithm: str = field(default="ppo", metadata={"help": "ppo or grpo.", "choices": ["ppo", "grpo"]})
    output_dir: str = field(default="outputs/reproduce", metadata={"help": "Where everything goes."})
    benchmark: str = field(
        default="arithmetic", metadata={"help": "arithmetic (the test split) or arithmetic-validation."}
    )
    budget: int = field(default=7, metadata={"help": "Accuracy is reported at 1 to this many attempts."})
    max_steps: int | None = field(default=None, metadata={"help": "Of the multi-attempt arm. Default: the recipe's."})
    jobs: int = field(
        default_factory=lambda: min(2, os.cpu_count() or 1), metadata={"help": "Seeds run at the same time."}
    )


def main(argv: list[str]) -> None:
    """Runs all arms of all seeds, writes `summary.json` and `accuracy_by_attempt.png`, and prints the table."""
    (arguments,) = TrlParser((ReproduceArguments,), prog="multiattempt reproduce").parse_args_and_config(argv)
    if len(set(arguments.seeds)) < len(arguments.seeds) or not arguments.seeds:
        raise ValueError(f"seeds must be distinct, and at least one, got {arguments.seeds}")
    console = Console(stderr=True)
    with ThreadPoolExecutor(max(arguments.jobs, 1)) as pool:
        runs = [pool.submit(Seed(seed, arguments, console).run) for seed in arguments.seeds]
        blocks = {str(seed): run.result() for seed, run in zip(arguments.seeds, runs, strict=True)}
    arms = {arm: over_seeds({seed: by_arm[arm] for seed, by_arm in blocks.items()}) for arm in ARMS}
    folder = Path(arguments.output_dir)
    draw_accuracy_by_attempt(picture(arms), folder / "accuracy_by_attempt.png")
    tokens = {seed: {arm: _sampled(folder / f"seed{seed}" / arm) for arm in list(ARMS)[1:]} for seed in blocks}
    write_json(folder / "summary.json", {**arms, "sampled_tokens": tokens, "algorithm": arguments.algorithm})
    print_table({ARMS[arm]: arms[arm]["mean"] for arm in ARMS}, title=f"Mean of {len(blocks)} seeds")
    console.print(f"Picture: {folder / 'accuracy_by_attempt.png'}")


class Seed:
    """The three arms of one seed, one after the other."""

    def __init__(self, seed: int, arguments: ReproduceArguments, console: Console) -> None:
        self.seed, self.arguments, self.console = seed, arguments, console
        self.folder = Path(arguments.output_dir) / f"seed{seed}"

    def run(self) -> dict[str, Block]:
        build_model = get_domain("arithmetic").build_model
        assert build_model is not None
        warm_start = str(build_model(self.seed))
        self._arm("warm_start", ["eval", "--model", warm_start, "--domain", "arithmetic", "--device", "cpu"])
        multi = self._training("multi_attempt", warm_start, self.arguments.max_steps)
        self._arm("multi_attempt", multi)
        single = self._training("single_attempt", warm_start, self._equal_steps())
        self._arm("single_turn", single)
        return {arm: self._block(arm) for arm in ARMS}

    def _training(self, recipe: str, model: str, max_steps: int | None) -> list[str]:
        algorithm = self.arguments.algorithm
        steps = [] if max_steps is None else ["--max_steps", str(max_steps)]
        config = f"recipes/arithmetic/{algorithm}/{recipe}.yaml"
        if not Path(config).is_file():
            raise ValueError(f"{config} is not here: run this from the root of the repository")
        return [algorithm, "--config", config, "--model_name_or_path", model, "--save_strategy", "no", *steps]

    def _equal_steps(self) -> int:
        """Optimizer steps after which the single-turn arm will have sampled as many tokens as the other did.

        A single turn is as long as a first attempt, whose mean length the other arm logged.
        """
        rollouts = _rollouts(self.folder / "multi_attempt")
        total, episodes = rollouts[-1]["sampled_tokens_total"], rollouts[-1]["episodes_total"]
        first: float = sum(line["tokens/attempt_1"] for line in rollouts) / len(rollouts)
        steps_per_rollout = rollouts[-1]["step"] / len(rollouts)
        episodes_per_rollout = episodes / len(rollouts)
        return int(round(total / (first * episodes_per_rollout)) * round(steps_per_rollout))

    def _arm(self, arm: str, command: list[str]) -> None:
        """Runs one command in a process of its own, unless its summary is there already."""
        folder = self.folder / arm
        # The warm start is an arm of its own, so that none needs it beside it.
        options = ["--benchmarks", self.arguments.benchmark, "--budget", str(self.arguments.budget)]
        options += ["--base_model", NO_BASE]
        command = [*command, *options, "--seed", str(self.seed), "--output_dir", str(folder)]
        recipe = Path(command[2]).read_text(encoding="utf-8") if command[1] == "--config" else None
        run = {"command": command, "recipe": recipe}
        if (folder / "eval" / "summary.json").is_file():
            saved = folder / COMMAND_FILE
            if not saved.is_file() or json.loads(saved.read_text(encoding="utf-8")) != run:
                raise ValueError(f"{folder} holds a run with other settings; remove it, or name another --output_dir")
            self.console.print(f"seed {self.seed}: {ARMS[arm]} is done already")
            return
        self.console.print(f"seed {self.seed}: {ARMS[arm]} ...")
        write_json(folder / COMMAND_FILE, run)
        # Seeds share the cores: one thread each, unless the user says otherwise.
        environment = {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **os.environ}
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            call = [sys.executable, "-m", "multiattempt_trl", *command]
            done = subprocess.run(call, stdout=log, stderr=log, check=False, env=environment)
        if done.returncode:
            raise ValueError(f"seed {self.seed}: {ARMS[arm]} failed with status {done.returncode}; see {log.name}")

    def _block(self, arm: str) -> Block:
        path = self.folder / arm / "eval" / "summary.json"
        block: Block = json.loads(path.read_text(encoding="utf-8"))["average"]
        return block


def _rollouts(folder: Path) -> list[dict[str, Any]]:
    """What a training run logged of its rollouts, in order."""
    lines = map(json.loads, (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "sampled_tokens_total" in line]


def _sampled(folder: Path) -> int:
    return int(_rollouts(folder)[-1]["sampled_tokens_total"])


def picture(arms: dict[str, SeedBlocks]) -> list[Series]:
    """A curve for each arm with its interval, a thin line for each seed, and the warm start's pass@k."""
    hues = dict(zip(ARMS, (0, 2, 1), strict=True))
    lines: list[Series] = []
    for arm, label in ARMS.items():
        mean: Any = arms[arm]["mean"]
        lines.append(Series(label=label, accuracy=mean["accuracy"], ci95=mean["ci95"], hue=hues[arm]))
        lines += [
            Series(label="", accuracy=block["accuracy"], style="thin", hue=hues[arm])
            for block in arms[arm]["seeds"].values()
            if len(arms[arm]["seeds"]) > 1
        ]
    control = arms["warm_start"]["mean"]["pass_at_k"]
    lines.append(Series(label="Warm start, independent samples (pass@k)", accuracy=control, style="dashed"))
    return lines

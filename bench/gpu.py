"""Measures one configuration of `bench/gpu.sh` in this process, by the real recipe and the real trainer.

    python bench/gpu.py RESULT.json --name ppo-lora --recipe recipes/... --card 24 --lengths caps --model FOLDER \
        [--small] [--any_field_of_the_recipe VALUE ...]

A first rollout of a few tokens and its updates bring the optimizers' states into being; the second one, at full
length, is measured with its updates. What plan says is computed twice: for the recipe at its caps, as a user is told,
and for the lengths that were played, which shows how far off its formulae are.
"""

import argparse
import json
import traceback
from dataclasses import dataclass, replace
from math import ceil, lcm
from pathlib import Path
from typing import Any

import torch
from gpu_meter import Meter, Played, hardware, states, watch_generation, watched
from gpu_model import QUESTIONS_FILE, TEMPLATE

from multiattempt_trl.cli.plan import make_plan
from multiattempt_trl.cli.plan_report import Plan
from multiattempt_trl.cli.train import run
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.planning.memory import Lengths
from multiattempt_trl.training.planning.phases import CONTEXT_BYTES, GIB, Phase, phases
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer

ALGORITHMS = {
    "ppo": (MultiAttemptPPOConfig, MultiAttemptPPOTrainer),
    "grpo": (MultiAttemptGRPOConfig, MultiAttemptGRPOTrainer),
}
UPDATES = 2
"""In a rollout, so that the old log-probabilities are computed, as they are in the recipes."""
MEAN_TOKENS = 600
"""Of each of two attempts, with `--lengths mean`."""
SMALL = [
    *("--per_device_train_batch_size", "2", "--rollout_batch_size", "4"),
    *("--max_completion_length", "60", "--max_episode_tokens", "60"),
]
ON_CPU = ["--bf16", "false", "--use_cpu", "true"]


@dataclass(frozen=True, kw_only=True)
class PlayedLengths(Lengths):
    """Lengths that were seen, in place of those that could be."""

    seen: Played

    @property
    def trained(self) -> int:
        return self.seen.trained_width

    @property
    def last_prompt(self) -> int:
        return self.seen.prompt_width

    @property
    def rollout(self) -> int:
        return self.seen.columns


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """What is measured, and what is said to the recipe besides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--card", type=int, required=True, help="GB that the process may take")
    parser.add_argument("--lengths", choices=["caps", "mean"], required=True)
    parser.add_argument("--model", type=Path, required=True, help="from bench/gpu_model.py")
    parser.add_argument("--small", action="store_true")
    return parser.parse_known_args()


def recipe_words(told: argparse.Namespace, more: list[str]) -> list[str]:
    """The recipe over this model, as a user would run it; tiny where `--small` says so."""
    words = ["--config", str(told.recipe), "--model_name_or_path", str(told.model), "--chat_template", TEMPLATE]
    words += ["--dataset_name", str(told.model / QUESTIONS_FILE), *more, *(SMALL if told.small else [])]
    return words if torch.cuda.is_available() else words + ON_CPU


def short_words(plan: Plan, lengths: str, folder: Path) -> list[str]:
    """A rollout of no more dialogues than are generated together, twice, and nothing but training.

    All dialogues have two attempts. At the caps the first takes nearly all tokens, so that the second reads, and the
    update trains, as many as there can be.
    """
    together = lcm(UPDATES * plan.schedule.per_device, plan.schedule.samples)
    rollout = ceil(plan.setup.rollout_rows / together) * together
    sampled = plan.setup.lengths.sampled
    first = sampled - max(sampled // 30, 1)
    if lengths == "mean":
        first = min(MEAN_TOKENS, sampled // 3)
        sampled = 2 * first
    words = ["--generation_batch_size", rollout, "--update_batch_size", rollout // UPDATES]
    words += ["--max_steps", 2 * UPDATES, "--budget_draw", "fixed", "--shuffle_dataset", "false"]
    words += ["--max_completion_length", first, "--max_episode_tokens", sampled, "--output_dir", folder]
    words += ["--skip_eval", "true", "--save_strategy", "no", "--logging_steps", 1, "--disable_tqdm", "true"]
    return [str(word) for word in words]


def cap(card: int) -> int | None:
    """Leaves this process as much as such a card would; None where this one has no more, or there is none."""
    if not torch.cuda.is_available():
        return None
    total = torch.cuda.get_device_properties(0).total_memory
    if card * GIB >= total:
        return None
    allowed = int(card * GIB - CONTEXT_BYTES)  # the cap does not count what CUDA takes for itself
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    return allowed


def measure(told: argparse.Namespace, more: list[str], found: dict[str, Any]) -> None:
    """Runs it and puts into `found` what there is to say, also where it fails half-way."""
    algorithm = told.recipe.parent.name
    config_class, trainer_class = ALGORITHMS[algorithm]
    words = recipe_words(told, more)
    plan = make_plan([*words, "--gpu", f"{told.card}GB"])
    short = [*words, *short_words(plan, told.lengths, told.model.parent / "run")]
    small_plan = make_plan(short)
    found |= {"arguments": short[2:], "fits": plan.fits, "planned": totals(plan.phases), "cap": cap(told.card)}
    meter, played = Meter(), Played()
    watch_generation(played)
    try:
        with meter.watching_optimizers():
            run(algorithm, config_class, watched(trainer_class, meter, played), short)
        found["outcome"] = "ended"
    except Exception as error:
        found |= {"outcome": outcome_of(error), "failed_in": meter.failed_in}
        found["error"] = traceback.format_exc(limit=-12)
    found |= {"rollouts": played.rollouts, "rounds": played.rounds, "measured": by_phase(meter)}
    if found["outcome"] != "ended":
        return
    setup = small_plan.setup
    lengths = PlayedLengths(**vars(setup.lengths), seen=played)
    as_played = phases(replace(setup, lengths=lengths))
    found |= {"planned_as_played": totals(as_played), "speed": speed(meter, played)}
    held = {
        name: {"bytes": size, "planned": as_played[0].items[name]} for name, size in states(played.trainer).items()
    }
    found["states"] = held


def totals(planned: tuple[Phase, ...]) -> dict[str, int]:
    """Bytes by phase."""
    return {phase.name: phase.total for phase in planned}


def outcome_of(error: Exception) -> str:
    """The allocator's error, or cuBLAS's or bitsandbytes', which ask CUDA themselves."""
    said = str(error).lower()
    full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "alloc_failed" in said
    return "out of memory" if full else "error"


def by_phase(meter: Meter) -> dict[str, dict[str, int | float]]:
    """Peaks and seconds; nothing on the CPU, whose time says nothing."""
    if not torch.cuda.is_available():
        return {}
    return {
        name: {"allocated": meter.allocated[name], "reserved": meter.reserved[name], "seconds": seconds}
        for name, seconds in meter.seconds.items()
    }


def speed(meter: Meter, played: Played) -> dict[str, float] | None:
    """Of the measured rollout and the updates on it."""
    if not torch.cuda.is_available():
        return None
    assert played.trainer is not None
    # The update under way when the rollout began is not yet counted.
    updates = played.trainer.state.global_step - played.began_at
    rollout = meter.seconds["rollout"]
    training = sum(meter.seconds[name] for name in ("policy update", "critic update", "optimizer step", "between"))
    return {
        "sampled_tokens": played.sampled,
        "rollout_seconds": rollout,
        "tokens_per_second": played.sampled / rollout,
        "scoring_seconds": meter.seconds["scoring"],
        "update_seconds": training / updates,
        "train_tokens_per_second": played.sampled / (training + meter.seconds["scoring"]),
    }


def main() -> None:
    """Writes the result; exits with 1 for an error, and with 0 where the memory did not do."""
    told, more = read_arguments()
    found: dict[str, Any] = {"name": told.name, "lengths": told.lengths, "card": told.card, "small": told.small}
    found |= {"recipe": told.recipe.as_posix(), "hardware": hardware(), "outcome": "cut off"}
    told.result.write_text(json.dumps(found), encoding="utf-8")  # what is left where it is killed
    print(f"{told.name}, {told.lengths}, {told.card} GB ...", flush=True)
    try:
        if not told.small and not torch.cuda.is_available():
            raise ValueError("there is no CUDA card to measure: --small shows on the CPU that everything runs")
        measure(told, more, found)
    except Exception:
        found |= {"outcome": "error", "error": traceback.format_exc(limit=-12)}
    told.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{told.name}: {found['outcome']}", found.get("failed_in") or "", flush=True)
    if found["outcome"] == "error":
        raise SystemExit(found["error"])


if __name__ == "__main__":
    main()

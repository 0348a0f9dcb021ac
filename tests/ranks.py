"""One process of a launch that trains the arithmetic recipe: started by `accelerate launch`, it writes what it saw.

    accelerate launch --config_file accelerate_configs/cpu_zero3.yaml tests/ranks.py OUT MODEL ppo [--any_field value]

Dialogues are ragged on purpose: the first process solves every question at once, the others none, so that one plays a
single round of a rollout and the others all of them.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from peft import LoraConfig
from trl import TrlParser

from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.domains.arithmetic.questions import questions
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.dataset import to_dataset
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer

ROOT = Path(__file__).resolve().parent.parent
TRAINERS = {
    "ppo": (MultiAttemptPPOConfig, MultiAttemptPPOTrainer),
    "grpo": (MultiAttemptGRPOConfig, MultiAttemptGRPOTrainer),
}
# Six questions' worth of a recipe: 8 dialogues a rollout in each process, in two minibatches.
SMALL = {
    **{
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "forward_batch_size": 2,
        "max_completion_length": 6,
    },
    **{
        "max_steps": 6,
        "warmup_steps": 2,
        "save_strategy": "no",
        "save_total_limit": 9,
        "logging_steps": 1,
        "disable_tqdm": True,
    },
    **{"budget_draw": "fixed", "max_attempts": 5},
}


def skip_compiling() -> None:
    """DeepSpeed builds a shared-memory all-reduce for two minutes at its first start; gloo does as well here."""
    import deepspeed  # noqa: F401

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def ragged(question: Question, response: str) -> Verdict:
    if PartialState().process_index == 0:
        return Verdict.CORRECT
    if os.environ.get("RANKS_FAIL"):
        sys.stderr.write(f"FAILING AT {time.time()}\n")
        raise RuntimeError("the grader of this process is broken")
    return Verdict.WRONG if (len(response) + len(question.answer)) % 3 else Verdict.INVALID


class Whitened:
    """Sums up the advantages of this process's policy tokens in each rollout: count, sum, and sum of squares."""

    def __init__(self, trainer: Any) -> None:
        self.moments: list[list[float]] = []
        self.advantages, trainer._advantages = trainer._advantages, self

    def __call__(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        found = self.advantages(batch)
        if "returns" in found:
            kept = found["advantages"][(batch["completion_mask"] * batch["tool_mask"]).bool()].double()
            self.moments.append([float(len(kept)), float(kept.sum()), float((kept**2).sum())])
        return found


class Budgets:
    """Writes down the question and N of each dialogue of this process, in order."""

    def __init__(self, trainer: Any) -> None:
        self.drawn: list[tuple[int, str, int]] = []
        self.trainer, self.draw, trainer._budget = trainer, trainer._budget, self

    def __call__(self, question: Question, row: int) -> int:
        budget = self.draw(question, row)
        self.drawn.append((self.trainer.state.global_step, question.id, budget))
        return budget


class Rounds:
    """Counts how often this process called `generate`."""

    def __init__(self, model: Any) -> None:
        self.calls, self.generate = 0, model.generate
        model.generate = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.generate(*args, **kwargs)


def die_at_write(number: int, folder: Path) -> None:
    """Kills this process as it opens a file below `folder` for the `number`-th time to write to it."""
    left = [number]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if (
            event != "open"
            or not isinstance(args[0], str | os.PathLike)
            or not os.fspath(args[0]).startswith(str(folder))
        ):
            return
        if args[2] & (os.O_WRONLY | os.O_RDWR):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def build(out: Path, model: str, algorithm: str, overrides: list[str]) -> MultiAttemptGRPOTrainer:
    config_class, trainer_class = TRAINERS[algorithm]
    recipe = yaml.safe_load((ROOT / f"recipes/arithmetic/{algorithm}/multi_attempt.yaml").read_text(encoding="utf-8"))
    recipe.pop("domain")
    critic = {"critic_warmup_steps": 2} if algorithm == "ppo" else {"num_generations": 4}
    given = dict(zip((name.removeprefix("--") for name in overrides[::2]), overrides[1::2], strict=True))
    peft = LoraConfig(task_type="CAUSAL_LM", **json.loads(given.pop("lora"))) if "lora" in given else None
    seed, fatal = given.pop("scramble", None), given.pop("die_at_write", None)
    values = recipe | SMALL | critic | {"output_dir": str(out)} | given
    (args,) = TrlParser((config_class,)).parse_args_and_config(
        [item for name, value in values.items() for item in (f"--{name}", str(value))]
    )
    watched = to_dataset(questions("validation")[:10]) if args.eval_strategy != "no" else None
    trainer = trainer_class(
        model,
        args,
        to_dataset(questions("train")[:48]),
        ragged,
        preset=PRESET,
        eval_dataset=watched,
        peft_config=peft,
    )
    if fatal is not None:
        die_at_write(int(fatal), out)
    if seed is not None:
        torch.manual_seed(int(seed))  # whatever state a new process is in
    return trainer


def main() -> None:
    out, model, algorithm, *overrides = sys.argv[1:]
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        skip_compiling()
    trainer = build(Path(out), model, algorithm, overrides)
    rounds, whitened, budgets = Rounds(trainer.model), Whitened(trainer), Budgets(trainer)
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model(out)
    state = PartialState()
    seen = {
        "log": trainer.state.log_history,
        "rounds": rounds.calls,
        "advantages": whitened.moments,
        "budgets": budgets.drawn,
        "backend": type(trainer.model_wrapped).__name__,
        "deepspeed": trainer.is_deepspeed_enabled,
    }
    (Path(out) / f"rank{state.process_index}.json").write_text(json.dumps(seen), encoding="utf-8")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main()

"""Evaluation while training: benchmarks played as `multiattempt eval` plays them, whenever the Trainer evaluates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.evaluation.backends import borrowed, open_models
from multiattempt_trl.evaluation.numbers.statistics import Block, average, block
from multiattempt_trl.evaluation.protocols import EvalPlan
from multiattempt_trl.evaluation.run import Evaluation, evaluate
from multiattempt_trl.training.generation import holds_whole_policy, policy_to_generate
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.watching import Watcher


class EvalCallback(Watcher):
    """Plays a plan on benchmarks whenever the Trainer evaluates, in place of TRL's own evaluation.

    The numbers go to the trackers and to `metrics.jsonl`, and a checkpoint can be chosen by them:
    `metric_for_best_model: math500/within_2`. Keys are `eval_<benchmark>/within_k`, `.../pass_at_k` and `.../maj_at_k`
    where the plan has independent samples, `.../repeats_k`, with the probes `.../abandoned`, `.../hidden_count_k`,
    `.../wrong_count_k` and `.../announced_k`, and the same under `eval_average/` where there are several benchmarks.

    All processes share the dialogues out. Nothing is written, and no random state is touched, so that training goes on
    as it would have.

    Args:
        plan: what is played; without a base model.
        benchmarks: questions by name.
        batch_size: dialogues played together by a process.
    """

    def __init__(self, plan: EvalPlan, benchmarks: Mapping[str, Sequence[Question]], *, batch_size: int = 256) -> None:
        self.plan, self.benchmarks, self.batch_size = replace(plan, base_model=None), dict(benchmarks), batch_size

    def watch(self, trainer: MultiAttemptGRPOTrainer) -> dict[str, float]:
        """Raises `ValueError` where no process holds the whole policy."""
        if not holds_whole_policy(trainer):
            raise ValueError(
                "benchmarks cannot be watched with ds3_gather_for_generation=false, since no process holds the whole "
                "policy: leave out watch, or set it to true"
            )
        return numbers(self._evaluate(trainer))

    def check_metric(self, name: str | None) -> None:
        """Raises `ValueError` where the best checkpoint is to be chosen by a number that there will not be."""
        sets = [*self.benchmarks, *(["average"] if len(self.benchmarks) > 1 else [])]
        kinds = ["within", *(["pass_at", "maj_at"] if self.plan.independent_samples else [])]
        known = [f"{of}/{kind}_{k}" for of in sets for kind in kinds for k in range(1, self.plan.budget + 1)]
        if name is not None and name.removeprefix("eval_") not in known:
            raise ValueError(
                f"metric_for_best_model {name!r} is none of what is watched: {', '.join(known[: self.plan.budget])}"
                f"{', ...' if len(known) > self.plan.budget else ''}"
            )

    def _evaluate(self, trainer: MultiAttemptGRPOTrainer) -> Evaluation:
        with policy_to_generate(trainer) as model, borrowed(model):
            open_backend = open_models(
                "continuous" if trainer.args.use_transformers_continuous_batching else "transformers",
                model,
                no_base,
                trainer._tokenizer,
                trainer.renderer,
                batch_size=self.batch_size,
                memory_gib=trainer.args.rollout_memory_gib,
            )
            plan = replace(self.plan, limits=replace(self.plan.limits, context=trainer.limits.context))
            return evaluate(
                plan,
                self.benchmarks,
                open_backend,
                trainer.grade,
                trainer.renderer,
                shard_size=self.batch_size,
                progress=not trainer.args.disable_tqdm,
            )


def numbers(evaluation: Evaluation) -> dict[str, float]:
    """What is logged, under the Trainer's prefix for evaluations."""
    blocks = {name: block(runs, evaluation.plan.budget) for name, runs in evaluation.episodes.items()}
    if len(blocks) > 1:
        blocks["average"] = average(list(blocks.values()))
    return {f"eval_{name}/{key}": value for name, one in blocks.items() for key, value in _curves(one)}


def _curves(one: Block) -> Sequence[tuple[str, float]]:
    found = [(f"within_{k}", share) for k, share in one["accuracy"].items()]
    found += [(f"pass_at_{k}", share) for k, share in one["pass_at_k"].items()]
    found += [(f"maj_at_{k}", share) for k, share in one["maj_at_k"].items()]
    found += [(f"repeats_{k}", share) for k, share in one["repeat_rate"].items()]
    found += [(f"announced_{k}", share) for k, share in one["announced"].items()]
    probes = one["probes"]
    for name in ("hidden_count", "wrong_count"):
        if name in probes:
            found += [(f"{name}_{k}", share) for k, share in probes[name]["accuracy"].items()]  # type: ignore[literal-required]
    return [*found, ("abandoned", probes["abandoned"]["share"])] if "abandoned" in probes else found


def no_base() -> Any:
    """There is no base model to be loaded while another is trained."""
    raise AssertionError("the plan has none")

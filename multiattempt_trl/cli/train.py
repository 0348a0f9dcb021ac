"""What `ppo` and `grpo` share: from a recipe to a trained, saved and evaluated model."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from accelerate import PartialState
from rich.console import Console
from transformers.trainer_callback import ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from multiattempt_trl.cli.arguments import EvalArguments, Settings, TaskArguments
from multiattempt_trl.cli.eval_callback import EvalCallback
from multiattempt_trl.cli.evaluator import NO_BASE, Evaluator
from multiattempt_trl.dialogue.env import check_count
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import Domain, TrainRows, get_domain
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.callbacks import JsonLines, Progress
from multiattempt_trl.training.checkpoints import to_resume
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.dataset import to_dataset
from multiattempt_trl.training.generation import holds_whole_policy, policy_to_generate
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer

METRICS_FILE = "metrics.jsonl"


def run(
    command: str,
    config_class: type[MultiAttemptGRPOConfig],
    trainer_class: type[MultiAttemptGRPOTrainer],
    argv: list[str],
) -> None:
    """Trains, saves, pushes where asked, evaluates, and prints where the time went.

    Raises `ValueError` for an unknown key of the recipe and for values that cannot work.
    """
    # TRL 1.16 reads an attribute that transformers 5.23 has renamed.
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # DeepSpeed 0.19 calls collectives that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", message=r"`torch.distributed.\w+` is deprecated", category=FutureWarning)
    disable_progress_bar()  # of loading and saving weights: the training bar is the one to watch
    parser = TrlParser((TaskArguments, EvalArguments, config_class, ModelConfig), prog=f"multiattempt {command}")
    task, evaluation, args, model_args = parser.parse_args_and_config(argv)
    domain = get_domain(task.domain)
    if not model_args.model_name_or_path and domain.build_model is None:
        raise ValueError(f"domain {domain.name!r} has no model of its own: set --model_name_or_path")
    domain.check_feedback(args.feedback)
    check_count(args.count, domain.preset(args.prompt_preset), args.feedback)
    resume = to_resume(args.resume_from_checkpoint, args)
    domain.check_stop_at_box(args.stop_at_box)
    settings = _settings(domain, args)
    if task.watch or not task.skip_eval:
        evaluation.check_after_training()
    evaluator = None
    if not task.skip_eval:  # whatever is wrong with the evaluation is found now, not after days of training
        evaluator = Evaluator.prepare(evaluation, settings, domain, model_name=args.output_dir)

    watching = _watching(domain, task, evaluation, settings, args)

    clock = {"start": perf_counter()}
    model = model_args.model_name_or_path or _starting_model(domain, args.seed)
    clock["warm start"] = perf_counter()
    settings = replace(settings, base_model=model)
    with domain.grader() as grade:
        trainer = _build(trainer_class, model, domain, grade, task, evaluator, watching, args, model_args)
        if args.process_index == 0:
            settings.save(args.output_dir)  # before training, so that a checkpoint of it can be evaluated
        trainer.train(resume_from_checkpoint=resume)
        _save(trainer)
        clock["training"] = perf_counter()
        if evaluator is not None:
            _evaluate(trainer, evaluator.beside(settings.base_model), grade)
            clock["evaluation"] = perf_counter()
    spans = [f"{name} {now - before:.0f} s" for (_, before), (name, now) in pairwise(clock.items())]
    _say("Time: " + ", ".join(spans))
    trainer.accelerator.wait_for_everyone()  # a process that leaves while another still writes could end in an abort
    trainer.end()


def _evaluate(trainer: MultiAttemptGRPOTrainer, evaluator: Evaluator, grade: Grade) -> None:
    folder = trainer.args.output_dir
    if not holds_whole_policy(trainer):
        _say(f"The policy does not fit one process, so it is not evaluated here: multiattempt eval --model {folder}")
        return
    if trainer._dist.is_zero3:
        # A second model would be opened as shards, which cannot generate alone.
        _say(f"Under ZeRO-3 the base model is not played here: multiattempt eval --model {folder} --output_dir ...")
        evaluator = evaluator.beside(NO_BASE)
    with policy_to_generate(trainer) as model:
        evaluator.run(model, trainer.processing_class, grade, folder, replace_other=True)


def _say(line: str) -> None:
    if PartialState().is_main_process:
        Console(stderr=True).print(line)


def _settings(domain: Domain, args: MultiAttemptGRPOConfig) -> Settings:
    return Settings(
        domain=domain.name,
        prompt_preset=domain.preset(args.prompt_preset).name,
        feedback=args.feedback,
        max_remark_tokens=args.max_remark_tokens,
        count=args.count,
        stop_at_box=args.stop_at_box,
        max_attempt_tokens=args.max_completion_length,
        seed=args.seed,
    )


def _build(
    trainer_class: type[MultiAttemptGRPOTrainer],
    model: str,
    domain: Domain,
    grade: Grade,
    task: TaskArguments,
    evaluator: Evaluator | None,
    watching: EvalCallback | None,
    args: MultiAttemptGRPOConfig,
    model_args: ModelConfig,
) -> MultiAttemptGRPOTrainer:
    watched = _watched(domain, task, watching, args)
    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    judged_by = [watched, *(evaluator.benchmarks.values() if evaluator else ())]
    trainer = trainer_class(
        model,
        args,
        to_dataset(domain.load_train(task.dataset_name, _train_rows(task, judged_by))),
        grade,
        preset=domain.preset(args.prompt_preset),
        eval_dataset=to_dataset(watched) if watched else None,
        processing_class=load_tokenizer(model, task.chat_template, revision=model_args.model_revision),
        callbacks=[JsonLines(Path(args.output_dir) / METRICS_FILE), *([watching] if watching else [])],
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    if not args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Progress())
    return trainer


def _starting_model(domain: Domain, seed: int) -> str:
    assert domain.build_model is not None, "checked before"
    _say(f"[bold]Warm start[/] (seed {seed}, cached once made)")
    return str(domain.build_model(seed))


def _watching(
    domain: Domain, task: TaskArguments, evaluation: EvalArguments, settings: Settings, args: MultiAttemptGRPOConfig
) -> EvalCallback | None:
    """What plays benchmarks while training; nothing without `watch`."""
    if task.watch is None:
        return None
    if args.eval_strategy == "no":
        raise ValueError(f"watch={task.watch!r} needs eval_strategy, which says when: steps, with eval_steps")
    if task.eval_dataset_name is not None:
        raise ValueError(
            f"watch={task.watch!r} and eval_dataset_name={task.eval_dataset_name!r} are two evaluations: choose one"
        )
    asked = replace(
        evaluation,
        benchmarks=task.watch,
        protocol="nested",
        budget=task.watch_budget or args.max_attempts,
        independent=task.watch_independent,
        probes=task.watch_probes,
        eval_limit=task.watch_limit,
        eval_samples=None,
        eval_temperature=None,
        base_model=NO_BASE,
    )
    prepared = Evaluator.prepare(asked, settings, domain, model_name=args.output_dir)
    watching = EvalCallback(prepared.plan, prepared.benchmarks, batch_size=evaluation.eval_batch_size)
    watching.check_metric(args.metric_for_best_model)
    return watching


def _watched(
    domain: Domain, task: TaskArguments, watching: EvalCallback | None, args: MultiAttemptGRPOConfig
) -> list[Question]:
    """The questions of the evaluation while training; none without `eval_strategy`."""
    if args.eval_strategy == "no":
        return []
    if watching is not None:  # the Trainer asks for a set, though it will not evaluate
        return [question for questions in watching.benchmarks.values() for question in questions]
    if task.eval_dataset_name is not None:
        return domain.load_benchmark(task.eval_dataset_name)
    raise ValueError(
        f"eval_strategy={args.eval_strategy} needs watch or eval_dataset_name, with benchmarks of the domain"
    )


def _train_rows(task: TaskArguments, benchmarks: Sequence[Sequence[Question]]) -> TrainRows:
    return TrainRows(
        evaluated=[question for questions in benchmarks for question in questions],
        keep_benchmark_rows=task.keep_benchmark_rows,
        drop_unusable_gold=task.drop_unusable_gold,
    )


def _save(trainer: MultiAttemptGRPOTrainer) -> None:
    trainer.save_model(trainer.args.output_dir)
    trainer.create_model_card(model_name=Path(trainer.args.output_dir).name)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()

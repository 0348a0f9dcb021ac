"""`multiattempt plan`: what a run will need, before it is begun: dialogues, tokens, steps, memory on each GPU."""

import sys
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from peft import LoraConfig
from trl import ModelConfig, TrlParser

from multiattempt_trl.cli.arguments import EvalArguments, TaskArguments
from multiattempt_trl.cli.plan_inputs import (
    PlanArguments,
    mean_lengths,
    model_config,
    number_of_questions,
    to_setup,
    with_vllm,
)
from multiattempt_trl.cli.plan_report import Plan, as_json, show
from multiattempt_trl.dialogue.env import check_count
from multiattempt_trl.domains import get_domain
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.planning.layout import Layout
from multiattempt_trl.training.planning.model_size import adapter_size
from multiattempt_trl.training.planning.phases import GIB, fits
from multiattempt_trl.training.planning.remedies import Batches, find_remedy
from multiattempt_trl.training.planning.schedule import Schedule, planned

ALGORITHMS = {"ppo": MultiAttemptPPOConfig, "grpo": MultiAttemptGRPOConfig}


def main(argv: list[str]) -> None:
    """Prints the plan; exits with 1 where it does not fit the GPU that was named."""
    # TRL 1.16 reads an attribute that transformers 5.23 has renamed.
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    plan = make_plan(argv)
    sys.stdout.write(as_json(plan)) if plan.as_json else show(plan)
    if plan.fits is False:
        sys.exit(1)


def make_plan(argv: list[str]) -> Plan:
    """Raises `ValueError` for a recipe, a layout or a card that cannot be planned."""
    layout = _layout(argv)
    config_class = planned(ALGORITHMS[_algorithm(argv)], layout.processes)
    parser = TrlParser(
        (TaskArguments, EvalArguments, config_class, ModelConfig, PlanArguments), prog="multiattempt plan"
    )
    try:
        task, _, args, model_args, told = parser.parse_args_and_config(argv)
    except ValueError as error:
        raise ValueError(f"for {layout.processes} processes: {error}") from error
    card = None if told.gpu is None else read_card(told.gpu)
    notes: list[str] = []
    domain = get_domain(task.domain)
    domain.check_feedback(args.feedback)
    check_count(args.count, domain.preset(args.prompt_preset), args.feedback)
    config = model_config(domain, model_args)
    setup = with_vllm(to_setup(args, model_args, config, layout, notes), args, card, notes)
    mean_attempts, mean_tokens = mean_lengths(args, told, notes)
    schedule = Schedule.of(
        args,
        processes=layout.processes,
        questions=number_of_questions(task, told, notes),
        mean_attempts=mean_attempts,
        mean_attempt_tokens=mean_tokens,
    )
    fit = None if card is None else fits(setup, card)
    remedy = None
    if card is not None and not fit:
        lora = LoraConfig(r=model_args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
        batches = Batches(
            accumulation=args.gradient_accumulation_steps,
            steps_per_generation=args.steps_per_generation,
            over_all_processes=args.update_batch_size is not None,
        )
        remedy = find_remedy(setup, card, adapter_size(config, lora), batches)
    return Plan(
        schedule=schedule,
        setup=setup,
        card_bytes=card,
        fits=fit,
        remedy=remedy,
        notes=tuple(notes),
        tokens_per_second=told.tokens_per_second,
        train_tokens_per_second=told.train_tokens_per_second,
        as_json=told.json,
    )


def read_card(text: str) -> int:
    """Bytes of a card that is called so. As for cards, GB and GiB are both 2 to the power of 30.

    Raises `ValueError` for anything that is no size.
    """
    number = text.strip().lower()
    for unit in ("gib", "gb", "g"):
        number = number.removesuffix(unit)
    try:
        size = float(number)
    except ValueError:
        size = 0.0
    if not 0 < size < 10_000:
        raise ValueError(f"--gpu {text!r} is not the size of a card: say 24GB, 80GB, or a number of gigabytes")
    return int(size * GIB)


def _value(argv: list[str], name: str) -> str | None:
    """What is given for an option, before anything is parsed."""
    for word, following in pairwise([*argv, ""]):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _layout(argv: list[str]) -> Layout:
    """As `accelerate launch` has it, the number of processes on the command line wins over that in the file."""
    path, processes = _value(argv, "--accelerate"), _value(argv, "--num_processes")
    layout = Layout.read(path) if path else Layout()
    if processes is None:
        return layout
    if not processes.isdecimal() or int(processes) < 1:
        raise ValueError(f"--num_processes must be a number above 0, got {processes!r}")
    return replace(layout, processes=int(processes))


def _algorithm(argv: list[str]) -> str:
    recipe = _value(argv, "--config")
    if recipe is not None and not Path(recipe).is_file():
        raise ValueError(f"there is no recipe {recipe!r}")
    said = _value(argv, "--algorithm") or (Path(recipe).resolve().parent.name if recipe else "")
    if not said and {"-h", "--help"} & set(argv):
        return "ppo"  # which has every field that there is
    if said not in ALGORITHMS:
        raise ValueError(
            f"algorithm {said!r} is unknown: say --algorithm ppo or grpo, or name a recipe in such a folder"
        )
    return said

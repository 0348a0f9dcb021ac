"""`multiattempt eval`: accuracy at 1 to K attempts of a checkpoint or Hub model, with a report."""

import sys
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import TrlParser

from multiattempt_trl.cli.arguments import EvalArguments, Settings
from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import Domain, get_domain
from multiattempt_trl.evaluation.protocols import EvalPlan
from multiattempt_trl.evaluation.report import print_table, write_evaluation
from multiattempt_trl.evaluation.run import evaluate_model
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.loading import load_model, load_tokenizer
from multiattempt_trl.rollout.sampling import Sampling

MEET_WITHIN = timedelta(hours=12)
"""How long a process may wait for the others, which meet once in each pass over a benchmark."""


@dataclass
class EvalCommandArguments:
    """What is evaluated, and with which words; by default those of its training."""

    model: str = field(metadata={"help": "A checkpoint folder or a Hub id."})
    domain: str | None = field(default=None, metadata={"help": "Default: that of training, or maths."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Default: the model's own folder, or outputs/eval."}
    )
    seed: int = field(default=0, metadata={"help": "For whatever is sampled."})
    dtype: str = field(default="auto", metadata={"help": "auto (as saved), float32 or bfloat16."})
    device: str | None = field(default=None, metadata={"help": "Default: cuda where there is one, else cpu."})
    chat_template: str | None = field(default=None, metadata={"help": "A file, or the name of one that TRL ships."})
    prompt_preset: str | None = field(default=None, metadata={"help": "Default: that of training, or the domain's."})
    feedback: str | None = field(default=None, metadata={"help": "binary, none or a sentence of your own."})
    stop_at_box: bool | None = field(default=None, metadata={"help": "End an attempt at its first closed box."})


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A checked evaluation that waits for its model: everything that can be wrong with it was found by now."""

    plan: EvalPlan
    benchmarks: dict[str, list[Question]]
    batch_size: int

    @classmethod
    def prepare(
        cls, arguments: EvalArguments, settings: Settings, domain: Domain, *, model_name: str, seed: int
    ) -> "Evaluator":
        """Raises `ValueError` for benchmarks that cannot be read and for values that cannot be played."""
        episode_tokens = arguments.eval_max_episode_tokens
        attempt_tokens = arguments.eval_max_attempt_tokens or settings.max_attempt_tokens or domain.max_attempt_tokens
        plan = EvalPlan(
            model=model_name,
            preset=domain.preset(settings.prompt_preset),
            limits=Limits(attempt=attempt_tokens or episode_tokens, episode=episode_tokens, context=sys.maxsize),
            budget=arguments.budget,
            protocol=arguments.protocol,  # type: ignore[arg-type]  # checked by the plan
            samples=arguments.eval_samples,
            sampling=Sampling(temperature=arguments.eval_temperature),
            feedback=settings.feedback,
            stop_at_box=settings.stop_at_box,
            independent=arguments.independent,
            seed=seed,
        )
        return cls(plan=plan, benchmarks=load_benchmarks(domain, arguments), batch_size=arguments.eval_batch_size)

    def run(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, grade: Grade, folder: str) -> None:
        """Plays it within the model's context, writes `folder`/eval and prints the table."""
        context = model.config.get_text_config().max_position_embeddings
        plan = replace(self.plan, limits=replace(self.plan.limits, context=context))
        evaluation = evaluate_model(plan, self.benchmarks, model, tokenizer, grade, batch_size=self.batch_size)
        if PartialState().is_main_process:
            write_evaluation(evaluation, Path(folder) / "eval")
            print_table(evaluation.blocks, title=f"{plan.model}, {plan.protocol} protocol")


def main(argv: list[str]) -> None:
    """Loads the model, evaluates it, prints the table and writes the report; several processes share the questions."""
    parser = TrlParser((EvalCommandArguments, EvalArguments), prog="multiattempt eval")
    command, arguments = parser.parse_args_and_config(argv)
    given = {name: getattr(command, name) for name in ("domain", "prompt_preset", "feedback", "stop_at_box")}
    settings = replace(
        Settings.of_model(command.model), **{name: value for name, value in given.items() if value is not None}
    )
    domain = get_domain(settings.domain)
    evaluator = Evaluator.prepare(arguments, settings, domain, model_name=command.model, seed=command.seed)
    is_folder = Path(command.model).is_dir()
    folder = command.output_dir or (command.model if is_folder else f"outputs/eval/{command.model.replace('/', '--')}")
    with domain.grader() as grade:  # its workers start while the model is loaded
        tokenizer = load_tokenizer(command.model, command.chat_template)
        model = load_model(command.model, dtype=command.dtype)
        on_cpu = command.device == "cpu" or not torch.cuda.is_available()
        processes = PartialState(cpu=on_cpu, timeout=MEET_WITHIN)
        alone = processes.num_processes == 1
        model.to((alone and command.device) or processes.device)  # type: ignore[arg-type]
        evaluator.run(model, tokenizer, grade, folder)
    processes.wait_for_everyone()
    processes.destroy_process_group()  # a process that just left could end in an abort


def load_benchmarks(domain: Domain, arguments: EvalArguments) -> dict[str, list[Question]]:
    """The questions of each benchmark that was asked for, under its name.

    Raises `ValueError` for one that is unknown, unreadable or named twice.
    """
    specs = [spec.strip() for spec in (arguments.benchmarks or ",".join(domain.benchmarks)).split(",") if spec.strip()]
    loaded: dict[str, list[Question]] = {}
    for spec in specs:
        name, _, path = spec.partition("=")
        name = name if path else Path(spec).stem
        if name in loaded:
            raise ValueError(f"benchmark {name!r} is named twice in {arguments.benchmarks!r}; write name=path")
        loaded[name] = domain.load_benchmark(spec)[: arguments.eval_limit]
    return loaded

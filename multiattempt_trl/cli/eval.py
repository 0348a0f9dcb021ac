"""`multiattempt eval`: accuracy at 1 to K attempts of a checkpoint or Hub model, with a report; and `--compare`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoConfig, GenerationConfig
from trl import TrlParser

from multiattempt_trl.cli.arguments import EvalArguments, Settings
from multiattempt_trl.cli.compare import compare_folders
from multiattempt_trl.cli.evaluator import Evaluator
from multiattempt_trl.domains import get_domain
from multiattempt_trl.evaluation.backends import open_vllm, renderer_for
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.loading import load_model, load_tokenizer
from multiattempt_trl.rollout.vllm_engine import VLLMEngine, check_vllm

MEET_WITHIN = timedelta(hours=48)
"""How long a process may wait for the others, which meet at the end."""


@dataclass
class EvalCommandArguments:
    """What is evaluated, and with which words; by default those of its training."""

    model: str | None = field(default=None, metadata={"help": "A checkpoint folder or a Hub id."})
    compare: list[str] | None = field(
        default=None,
        metadata={"help": "Instead of a model: two or more folders with evaluations, to be drawn and compared."},
    )
    domain: str | None = field(default=None, metadata={"help": "Default: that of training, or maths."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Default: the model's own folder, or outputs/eval; outputs/compare to compare."},
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Lose what output_dir/eval holds of another evaluation."}
    )
    seed: int | None = field(
        default=None, metadata={"help": "For whatever is sampled. Default: that of training, or 0."}
    )
    dtype: str = field(default="auto", metadata={"help": "auto (as saved), float32 or bfloat16."})
    device: str | None = field(default=None, metadata={"help": "Default: cuda where there is one, else cpu."})
    chat_template: str | None = field(default=None, metadata={"help": "A file, or the name of one that TRL ships."})
    prompt_preset: str | None = field(default=None, metadata={"help": "Default: that of training, or the domain's."})
    feedback: str | None = field(
        default=None, metadata={"help": "binary, none, a style of the domain or a sentence of your own."}
    )
    max_remark_tokens: int | None = field(
        default=None, metadata={"help": "What a hint or an error may add to one feedback. Default: as in training."}
    )
    stop_at_box: bool | None = field(default=None, metadata={"help": "End an attempt at its first closed box."})
    vllm_server_base_url: str = field(
        default="http://localhost:8000", metadata={"help": "Where `vllm serve MODEL` listens (backend vllm-server)."}
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "Share of the GPU's memory for the engine of the backend vllm."}
    )
    vllm_tensor_parallel_size: int = field(default=1, metadata={"help": "GPUs of one engine of the backend vllm."})


def main(argv: list[str]) -> None:
    """Evaluates a model, prints the table and writes the report; several processes share the questions."""
    parser = TrlParser((EvalCommandArguments, EvalArguments), prog="multiattempt eval")
    command, arguments = parser.parse_args_and_config(argv)
    if command.compare is not None:
        if command.model is not None:
            raise ValueError("give a model to evaluate, or folders to compare, not both")
        compare_folders(command.compare, Path(command.output_dir or "outputs/compare"))
        return
    if command.model is None:
        raise ValueError("name the --model to evaluate, or folders with evaluations to --compare")
    settings = Settings.of_model(command.model).but(command)
    on_vllm = arguments.eval_backend.startswith("vllm")
    if on_vllm:
        arguments = _without_base(arguments)
    if arguments.eval_backend == "vllm":
        check_vllm()
    domain = get_domain(settings.domain_to_open(command.domain))
    evaluator = Evaluator.prepare(arguments, settings, domain, model_name=command.model)
    with domain.grader() as grade, _meeting(command):  # its workers start while the model is loaded
        (_evaluate_on_vllm if on_vllm else _evaluate)(evaluator, command, grade)


def _evaluate(evaluator: Evaluator, command: EvalCommandArguments, grade: Grade) -> None:
    assert command.model is not None
    tokenizer = load_tokenizer(command.model, command.chat_template)
    model = load_model(command.model, dtype=command.dtype)
    state = PartialState()
    alone = state.num_processes == 1
    model.to((alone and command.device) or state.device)  # type: ignore[arg-type]
    evaluator.run(
        model,
        tokenizer,
        grade,
        _folder(command),
        dtype=command.dtype,
        replace_other=command.overwrite_output_dir,
    )


def _evaluate_on_vllm(evaluator: Evaluator, command: EvalCommandArguments, grade: Grade) -> None:
    assert command.model is not None
    tokenizer = load_tokenizer(command.model, command.chat_template)
    context = AutoConfig.from_pretrained(command.model).get_text_config().max_position_embeddings
    renderer = renderer_for(tokenizer, _generation_config(command.model))
    batch, engine, url = evaluator.arguments.eval_batch_size, None, None
    if evaluator.arguments.eval_backend == "vllm":
        engine = VLLMEngine(
            command.model,
            sequences=batch,
            context=context,
            dtype=command.dtype,
            gpu_memory_utilization=command.vllm_gpu_memory_utilization,
            tensor_parallel_size=command.vllm_tensor_parallel_size,
            processes=PartialState().num_processes,
        )
    else:
        url = command.vllm_server_base_url
    open_backend = open_vllm(engine, tokenizer, renderer, server_url=url, batch_size=batch)
    folder, replace_other = _folder(command), command.overwrite_output_dir
    evaluator.play(
        open_backend, renderer, grade, folder, context=context, dtype=command.dtype, replace_other=replace_other
    )


@contextmanager
def _meeting(command: EvalCommandArguments) -> Iterator[None]:
    """Sets up what processes meet by, and leaves it in order: one that just left could end in an abort."""
    on_cpu = command.device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=MEET_WITHIN)
    yield
    state.wait_for_everyone()
    state.destroy_process_group()


def _folder(command: EvalCommandArguments) -> str:
    assert command.model is not None
    own = command.model if Path(command.model).is_dir() else f"outputs/eval/{command.model.replace('/', '--')}"
    return command.output_dir or own


def _generation_config(model: str) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:  # the model brings none
        return None


def _without_base(arguments: EvalArguments) -> EvalArguments:
    """vLLM holds one model. Raises `ValueError` where a base model was asked for."""
    if arguments.base_model not in (None, "none"):
        raise ValueError(
            f"the backend {arguments.eval_backend!r} holds one model: evaluate {arguments.base_model!r} by a command "
            "of its own, and draw both by --compare"
        )
    return replace(arguments, base_model="none")

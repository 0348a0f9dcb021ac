"""What can be wrong with a cell of an experiment and is told before anything is run, without a model or the Hub."""

from dataclasses import fields, replace

from trl import ModelConfig

from multiattempt_trl.cli.arguments import EvalArguments, Settings, TaskArguments
from multiattempt_trl.cli.evaluator import NO_BASE, eval_plan, named_benchmarks
from multiattempt_trl.cli.experiment_file import Cell
from multiattempt_trl.domains import Domain, get_domain
from multiattempt_trl.domains.sources import Place
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig

WORDS_TOLD = ("prompt_preset", "feedback", "max_remark_tokens", "stop_at_box")
"""What a cell that only evaluates may change besides the evaluation's own fields."""


def check_cell(
    cell: Cell,
    task: TaskArguments,
    evaluation: EvalArguments,
    args: MultiAttemptGRPOConfig,
    model_args: ModelConfig,
    started_from: MultiAttemptGRPOConfig | None,
    *,
    from_adapter: bool,
) -> None:
    """Raises `ValueError` for what a training or an evaluation of the cell would refuse.

    Args:
        started_from: how the cell of `model_of` was trained.
        from_adapter: whether that leaves an adapter.
    """
    if task.skip_eval:
        raise ValueError("skip_eval leaves nothing to report")
    if args.load_best_model_at_end:
        raise ValueError("load_best_model_at_end cannot be gone on with where it was broken off: leave it out")
    if cell.train:
        evaluation.check_after_training()
        if from_adapter:
            raise ValueError(f"model_of {cell.model_of!r} leaves an adapter, which no training can start from")
    domain = get_domain(task.domain)
    if cell.model_of is None and not model_args.model_name_or_path and domain.build_model is None:
        raise ValueError(f"domain {task.domain!r} has no model of its own: name model_name_or_path in the recipe")
    if not cell.train:
        known = {*(field.name for field in fields(EvalArguments)), *WORDS_TOLD}
        unknown = [name for name in cell.own if name not in known]
        if unknown:
            raise ValueError(f"it trains nothing, and {unknown[0]!r} is no field of an evaluation")
    # A model that another cell has trained is spoken to as it was then, but for what this cell says itself.
    trained = args if cell.train or started_from is None else started_from
    words = {name: getattr(args if name in cell.own else trained, name) for name in WORDS_TOLD}
    settings = Settings(domain=task.domain, max_attempt_tokens=trained.max_completion_length, **words)
    eval_plan(replace(evaluation, base_model=NO_BASE), settings, domain, model_name=cell.name)
    _check_benchmarks(domain, evaluation)


def _check_benchmarks(domain: Domain, evaluation: EvalArguments) -> None:
    """Reads those that are files here or made; what may stand on the Hub is not asked for."""
    for spec in named_benchmarks(domain, evaluation).values():
        place = Place.of(spec, "")
        if spec not in domain.benchmarks and (place is None or place.hub is None):
            domain.load_benchmark(spec)

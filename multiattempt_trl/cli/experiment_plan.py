"""The commands of an experiment's cells, and what they will cost: steps, dialogues, tokens, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn, Self

from trl import ModelConfig, TrlParser

from multiattempt_trl.cli.arguments import EvalArguments, Settings, TaskArguments
from multiattempt_trl.cli.experiment_check import WORDS_TOLD, check_cell
from multiattempt_trl.cli.experiment_file import Cell, Experiment, words
from multiattempt_trl.cli.plan import ALGORITHMS
from multiattempt_trl.cli.plan_inputs import PlanArguments, mean_lengths, number_of_questions
from multiattempt_trl.cli.runs import Run, rollouts
from multiattempt_trl.domains import get_domain
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.planning.schedule import Schedule, planned

Key = tuple[str, int]
"""Cell and seed."""


@dataclass(frozen=True, kw_only=True)
class CellPlan:
    """A cell whose recipe was read."""

    cell: Cell
    task: TaskArguments
    evaluation: EvalArguments
    args: MultiAttemptGRPOConfig
    model_args: ModelConfig
    schedule: Schedule
    """Of its training; with `tokens_of` about as many tokens as that cell's."""
    start: "CellPlan | None"
    """Of `model_of`."""
    reference: "CellPlan | None"
    """Of `tokens_of`."""
    shortened: Mapping[str, float]
    """The option that makes its training as long as `length` says."""
    processes: int
    """That train together."""
    reuse: bool
    """Whether finished runs of experiments beside are linked."""

    @classmethod
    def of(cls, cell: Cell, above: Mapping[str, "CellPlan"], processes: int, reuse: bool) -> Self:
        """Raises `ValueError` for fields that do not exist, and for values that cannot work."""
        config_class = planned(ALGORITHMS[cell.algorithm], processes)
        records = (TaskArguments, EvalArguments, config_class, ModelConfig)
        parser = TrlParser(records)
        parser.error = _refuse  # type: ignore[method-assign]  # instead of ending the process with its usage
        unknown_steps = {} if cell.tokens_of is None else {"max_steps": -1}
        line = ["--config", cell.recipe, *words({**cell.options, **unknown_steps})]
        try:
            known = {field.name for record in records for field in fields(record)}
            if unknown := [name for name in cell.options if name not in known]:  # argparse would take a beginning
                raise ValueError(f"unknown field {unknown[0]!r}")
            task, evaluation, args, model_args = parser.parse_args_and_config(line)
            start, reference = (above[name] if name else None for name in (cell.model_of, cell.tokens_of))
            started_from, from_adapter = (start.args, start.model_args.use_peft) if start else (None, False)
            check_cell(cell, task, evaluation, args, model_args, started_from, from_adapter=from_adapter)
        except ValueError as error:
            raise ValueError(f"cell {cell.name!r}: {error}") from error
        told = PlanArguments()
        attempts, tokens = mean_lengths(args, told, [])
        questions = number_of_questions(task, told, []) if args.max_steps <= 0 and cell.train else 0
        schedule = _schedule(args, processes, max(questions, args.generation_batch_size), attempts, tokens)
        if (reference or cell.length) and schedule.rollout * schedule.iterations % schedule.update:
            raise ValueError(
                f"cell {cell.name!r}: an update takes {schedule.update} dialogues, which must divide those of a "
                f"rollout, {schedule.rollout} x {schedule.iterations}, for tokens_of and length"
            )
        shortened = {} if cell.length is None else _shortened(args, schedule, cell.length)
        for name, value in shortened.items():
            setattr(args, name, value)
        if reference:
            args.max_steps = _steps_of_tokens(schedule, reference.schedule.expected_tokens, schedule.mean_tokens)
        if reference or shortened:
            schedule = _schedule(args, processes, schedule.questions, attempts, tokens)
        read: dict[str, Any] = {"task": task, "evaluation": evaluation, "args": args, "model_args": model_args}
        read |= {"start": start, "reference": reference, "shortened": shortened}
        return cls(cell=cell, **read, schedule=schedule, processes=processes, reuse=reuse)

    def run(self, seed: int, output: Path) -> Run:
        """The run with this seed in the experiment's folder, once those are done that it follows from."""
        cell, folder = self.cell, run_folder(output, seed, self.cell.name)
        place = ["--seed", str(seed), "--output_dir", str(folder)]
        start = self.start.run(seed, output) if self.start else None
        if cell.train:
            options = {**cell.options, **self.shortened}
            if self.reference:
                options["max_steps"] = self.equal_steps(self.reference.run(seed, output).place)
            model = ["--model_name_or_path", str(start.folder)] if start else []
            command = [cell.algorithm, "--config", cell.recipe, *words(options), *model, *place]
        else:
            model = ["--model", str(start.folder) if start else self._start(seed)]
            command = [*self._evaluation(untrained=start is None), *model, *place]
        label = f"seed {seed}: {cell.name}"
        again = [*self._evaluation(untrained=False), *place, "--overwrite_output_dir", "true"]
        # An evaluation plays the same dialogues however many processes share them.
        processes = self.processes if cell.train else 1
        return Run(
            label=label,
            folder=folder,
            command=command,
            evaluation=again,
            start=start,
            processes=processes,
            reuse=self.reuse,
        )

    def equal_steps(self, reference: Path) -> int:
        """Optimizer steps after which this training will have sampled about as many tokens as that one did.

        How long its dialogues will be is taken from what the other logged: with w(k) its accuracy within k attempts
        and t(k) the tokens of an attempt k, means over its rollouts, a dialogue takes
        sum over k of P(N >= k) (1 - w(k - 1)) t(k). A k that it never reached is taken to be as its last one. For a
        single attempt that is t(1), whatever the other has learnt.
        """
        logged = rollouts(reference)
        reach, expected = 1.0, 0.0
        length = 0.0
        for k in range(1, self.args.max_attempts + 1):
            length = _mean(logged, f"tokens/attempt_{k}", length)
            expected += self.args.share_with_at_least(k) * reach * length
            reach = 1 - _mean(logged, f"accuracy/within_{k}", 1 - reach)
        return _steps_of_tokens(self.schedule, int(logged[-1]["sampled_tokens_total"]), expected)

    def _evaluation(self, *, untrained: bool) -> list[str]:
        """The command that evaluates a model as this cell does. A trained one knows itself which words it was told."""
        options = {
            field.name: getattr(self.evaluation, field.name)
            for field in fields(EvalArguments)
            if getattr(self.evaluation, field.name) != field.default
        }
        told = {name: getattr(self.args, name) for name in WORDS_TOLD if untrained or name in self.cell.own}
        if untrained and "eval_max_attempt_tokens" not in options:
            told["eval_max_attempt_tokens"] = self.args.max_completion_length
        if untrained and "eval_count" not in options:
            told["eval_count"] = self.args.count
        if untrained and self._starts_untold():
            usual = {"max_remark_tokens": Settings.max_remark_tokens, "eval_count": Settings.count}
            told = {name: value for name, value in told.items() if usual.get(name) != value}
        told |= {"chat_template": self.task.chat_template, "domain": self.task.domain}
        told |= {"device": "cpu"} if self.args.use_cpu else {}
        return ["eval", *words({**options, **{name: value for name, value in told.items() if value is not None}})]

    def _starts_untold(self) -> bool:
        """Whether the model it starts from says nothing of how it is spoken to, so that the defaults hold.

        One on the Hub is not asked.
        """
        named = self.model_args.model_name_or_path
        return named is None or (Path(named).is_dir() and Settings.of_model(named) == Settings())

    def _start(self, seed: int) -> str:
        """The model that a training would start from."""
        build_model = get_domain(self.task.domain).build_model
        named = self.model_args.model_name_or_path
        assert named or build_model is not None, "checked before"
        return named or str(build_model(seed))  # type: ignore[misc]


def run_folder(output: Path, seed: int, cell: str) -> Path:
    """Where the run of a cell with a seed stands."""
    return output / f"seed{seed}" / cell


def plan_cells(experiment: Experiment, processes: int = 1, *, reuse: bool = True) -> list[CellPlan]:
    """Every cell with its recipe read; raises `ValueError` that names the cell of which something is wrong.

    Args:
        processes: that train together.
        reuse: whether finished runs of experiments whose folders stand beside are linked instead of run.
    """
    plans: dict[str, CellPlan] = {}
    for cell in experiment.cells:
        plans[cell.name] = CellPlan.of(cell, plans, processes, reuse)
    return list(plans.values())


def done_runs(plans: Sequence[CellPlan], seeds: Sequence[int], output: Path) -> dict[Key, Run]:
    """The runs that are done, here or beside; raises `ValueError` where a folder holds a run with other settings.

    An evaluation of what all start from is not looked for beside: its path would have to be made first.
    """
    done: dict[Key, Run] = {}
    for plan in plans:
        for seed in seeds:
            nothing = not run_folder(output, seed, plan.cell.name).exists()
            unknown = nothing and not plan.cell.train and plan.start is None
            if not unknown and all((name, seed) in done for name in plan.cell.follows):
                run = plan.run(seed, output)
                if run.is_done() or run.place != run.folder:
                    done[plan.cell.name, seed] = run
    return done


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _schedule(
    args: MultiAttemptGRPOConfig, processes: int, questions: int, attempts: float, tokens: float
) -> Schedule:
    return Schedule.of(
        args, processes=processes, questions=questions, mean_attempts=attempts, mean_attempt_tokens=tokens
    )


def _steps(schedule: Schedule, rollouts: float) -> int:
    """Of as many rollouts, made whole, and at least one."""
    return max(round(rollouts), 1) * schedule.steps_of_rollout


def _steps_of_tokens(schedule: Schedule, tokens: float, per_dialogue: float) -> int:
    return _steps(schedule, tokens / (per_dialogue * schedule.rollout))


def _shortened(args: MultiAttemptGRPOConfig, schedule: Schedule, length: float) -> dict[str, float]:
    """Steps of whole rollouts; or a share of the epochs, which are rounded where they are counted."""
    if args.max_steps <= 0:
        return {"num_train_epochs": float(f"{args.num_train_epochs * length:.10g}")}
    return {"max_steps": _steps(schedule, length * args.max_steps / schedule.steps_of_rollout)}


def _mean(logged: Sequence[Mapping[str, Any]], key: str, otherwise: float) -> float:
    values = [line[key] for line in logged if key in line]
    return fmean(values) if values else otherwise

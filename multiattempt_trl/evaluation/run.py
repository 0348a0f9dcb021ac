"""Plays a plan over benchmarks and keeps the episodes, from which every number follows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from multiattempt_trl.dialogue.episode import Ending, Episode, Question
from multiattempt_trl.dialogue.rendering import ChatTokenizer, Renderer
from multiattempt_trl.evaluation import statistics
from multiattempt_trl.evaluation.protocols import EvalPlan, Run, plan_runs
from multiattempt_trl.evaluation.statistics import Block
from multiattempt_trl.rollout.live import Dialogue, Grade
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.requests import RolloutBackend
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.transformers_backend import TransformersBackend

OpenBackend = Callable[[Sampling, int], RolloutBackend]
"""Makes the backend of one run from how it samples and its seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was played, by benchmark."""

    plan: EvalPlan
    episodes: dict[str, list[Episode]]
    """Every dialogue of the main runs: budget by budget, sample by sample, in the order of the questions."""
    independent: dict[str, list[Episode]]
    """The one-attempt dialogues behind pass@k; no entry where that control was not played."""

    @property
    def blocks(self) -> dict[str, Block]:
        """The numbers of each benchmark."""
        return {
            name: statistics.block(episodes, self.plan.budget, statistics.pass_counts(self.independent.get(name, ())))
            for name, episodes in self.episodes.items()
        }

    @property
    def average(self) -> Block:
        """The unweighted mean over benchmarks."""
        return statistics.average(list(self.blocks.values()))


def evaluate(
    plan: EvalPlan,
    benchmarks: Mapping[str, Sequence[Question]],
    open_backend: OpenBackend,
    grade: Grade,
    renderer: Renderer,
    *,
    progress: bool = True,
) -> Evaluation:
    """Plays every run of the plan on every benchmark, with a progress bar for each on stderr.

    Several processes share the dialogues out, and each returns all of them.

    Raises `ValueError`, before anything is generated, for an empty benchmark, a question id that comes twice in one,
    or a prompt that leaves no room for an answer.
    """
    if not benchmarks:
        raise ValueError("name at least one benchmark to evaluate on")
    runs = [run for name, questions in benchmarks.items() for run in plan_runs(plan, name, _filed(name, questions))]
    for run in runs:
        for env in run.environments:
            if env.sample == 0:
                Dialogue(env, renderer, plan.limits)  # raises where there is no room
    done = Evaluation(plan=plan, episodes={name: [] for name in benchmarks}, independent={})
    processes = PartialState()
    rank, ranks = processes.process_index, processes.num_processes
    with _bars(progress and rank == 0) as bars:
        for run in runs:
            backend = open_backend(run.sampling, run.seed + rank)
            mine = run.environments[rank::ranks]
            episodes = play(
                mine,
                backend,
                grade,
                renderer,
                plan.limits,
                stop_at_box=plan.stop_at_box,
                on_episode=_bar(bars, run, len(mine)),
            )
            kept = done.independent.setdefault(run.benchmark, []) if run.independent else done.episodes[run.benchmark]
            kept += _everyones(episodes, rank, ranks)
    return done


def _everyones(mine: list[Episode], rank: int, ranks: int) -> list[Episode]:
    """The episodes of all processes, in the order in which they were dealt out."""
    dealt = gather_object(list(zip(range(rank, rank + ranks * len(mine), ranks), mine, strict=True)))
    return [episode for _, episode in sorted(dealt, key=lambda item: item[0])]


def evaluate_model(
    plan: EvalPlan,
    benchmarks: Mapping[str, Sequence[Question]],
    model: PreTrainedModel,
    tokenizer: ChatTokenizer,
    grade: Grade,
    *,
    batch_size: int,
    progress: bool = True,
) -> Evaluation:
    """`evaluate` through Hugging Face `generate`, `batch_size` attempts at a time.

    The same plan on the same model gives the same numbers. Afterwards the model is back in the mode (training or not)
    it came in, and torch's random state is as it was.
    """
    eos: int | list[int] | None = model.generation_config.eos_token_id if model.generation_config else None
    renderer = Renderer(tokenizer, [eos] if isinstance(eos, int) else eos or ())
    pad: Any = getattr(tokenizer, "pad_token_id", None)

    def open_backend(sampling: Sampling, seed: int) -> RolloutBackend:
        torch.manual_seed(seed)
        return TransformersBackend.for_model(
            model,
            tokenizer,
            pad_token_id=renderer.stop_ids[0] if pad is None else pad,
            stop_ids=renderer.stop_ids,
            sampling=sampling,
            batch_size=batch_size,
        )

    with _borrowed(model):
        return evaluate(plan, benchmarks, open_backend, grade, renderer, progress=progress)


@contextmanager
def _borrowed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and a random state of our own, both put back at the end."""
    training = model.training
    device = model.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def _filed(benchmark: str, questions: Sequence[Question]) -> list[Question]:
    """The questions under the name they are evaluated as."""
    if not questions:
        raise ValueError(f"benchmark {benchmark!r} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"benchmark {benchmark!r} has the question id {question.id!r} twice; make ids unique")
        seen.add(question.id)
    return [replace(question, benchmark=benchmark) for question in questions]


def _bars(shown: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[solved]} solved"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


def _bar(bars: Progress, run: Run, total: int) -> Callable[[Episode], None]:
    task = bars.add_task(f"{run.benchmark} · {run.label}", total=total, solved=0)
    solved = 0

    def advance(episode: Episode) -> None:
        nonlocal solved
        solved += episode.ending is Ending.SOLVED
        bars.update(task, advance=1, solved=solved)

    return advance

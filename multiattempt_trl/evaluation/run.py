"""Plays a plan over benchmarks and keeps the episodes, from which every number follows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.evaluation.backends import OpenBackend
from multiattempt_trl.evaluation.bars import Bars
from multiattempt_trl.evaluation.protocols import EvalPlan, Run, Shard, cut, plan_runs
from multiattempt_trl.evaluation.store import EpisodeStore, Key, Played, from_line, key, to_line
from multiattempt_trl.rollout.live import Dialogue, Grade
from multiattempt_trl.rollout.play import play

Runs = dict[str, list[Episode]]
"""The episodes of one benchmark by the name of their run, in the order in which they were planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was played, by benchmark."""

    plan: EvalPlan
    episodes: dict[str, Runs]


def evaluate(
    plan: EvalPlan,
    benchmarks: Mapping[str, Sequence[Question]],
    open_backend: OpenBackend,
    grade: Grade,
    renderer: Renderer,
    *,
    shard_size: int,
    store: EpisodeStore | None = None,
    progress: bool = True,
) -> Evaluation:
    """Plays every run of the plan on every benchmark, with a progress bar for each benchmark on stderr.

    Several processes share the shards out, and each returns all episodes. The same plan gives the same ones in any
    number of processes.

    Args:
        shard_size: dialogues in a shard, at most.
        store: begun once all can be played; it keeps what is played, and what it holds is not played again.

    Raises `ValueError`, before anything is generated, for an empty benchmark, a question id that comes twice in one,
    a prompt that leaves no room for an answer, or a store whose folder holds another evaluation.
    """
    if shard_size < 1:
        raise ValueError(f"the evaluation batch size must be at least 1, got {shard_size}")
    runs = planned(plan, benchmarks, renderer)
    state = PartialState()
    known: dict[Key, Played] = {}
    if store is not None and state.is_main_process:
        store.begin()
        known = store.read()
    known = _to_all(known)  # and none keeps anything before that
    shards = [shard for run in runs for shard in cut(run, shard_size)]
    missing = [number for number, shard in enumerate(shards) if not all(one in known for one in shard.keys)]
    mine = missing[state.process_index :: state.num_processes]
    played: list[Played] = []
    with Bars([shards[number] for number in mine], shown=progress and state.is_main_process) as bars:
        for number in mine:
            played += _play(shards[number], plan, open_backend, grade, renderer, store, bars)
    known |= {key(*one): one for one in gather_object(played)}
    ordered = [known[one] for run in runs for one in Shard(run=run, environments=run.environments).keys]
    if store is not None and state.is_main_process:
        store.finish(ordered)
    return Evaluation(plan=plan, episodes=filed(ordered))


def planned(plan: EvalPlan, benchmarks: Mapping[str, Sequence[Question]], renderer: Renderer) -> list[Run]:
    """All runs, those of the base model last, since another model must be loaded for them; errors as in `evaluate`."""
    if not benchmarks:
        raise ValueError("name at least one benchmark to evaluate on")
    runs = [run for name, questions in benchmarks.items() for run in plan_runs(plan, name, _named(name, questions))]
    for run in runs:
        for env in run.environments:
            if env.sample == 0:
                Dialogue(env, renderer, plan.limits)  # raises where there is no room
    return sorted(runs, key=lambda run: run.of_base)


def filed(played: Iterable[Played]) -> dict[str, Runs]:
    """Episodes by their benchmark and run."""
    episodes: dict[str, Runs] = {}
    for name, episode in played:
        episodes.setdefault(episode.question.benchmark, {}).setdefault(name, []).append(episode)
    return episodes


def _play(
    shard: Shard,
    plan: EvalPlan,
    open_backend: OpenBackend,
    grade: Grade,
    renderer: Renderer,
    store: EpisodeStore | None,
    bars: Bars,
) -> list[Played]:
    """The episodes as a file would give them back, so that fresh ones and kept ones are alike."""
    name, process = shard.run.name, PartialState().process_index

    def keep(episode: Episode) -> None:
        if store is not None:
            store.append((name, episode), process=process)
        bars.advance(shard, episode)

    bars.begin(shard)
    episodes = play(
        shard.environments,
        open_backend(shard.run),
        grade,
        renderer,
        plan.limits,
        stop_at_box=plan.stop_at_box,
        seed=shard.run.seed,
        on_episode=keep,
    )
    return [from_line(to_line(name, episode)) for episode in episodes]


def _to_all(known: dict[Key, Played]) -> dict[Key, Played]:
    """What the main process has, in every process."""
    if PartialState().num_processes == 1:
        return known
    box = [known]
    broadcast_object_list(box)
    return box[0]


def _named(benchmark: str, questions: Sequence[Question]) -> list[Question]:
    """The questions under the name they are evaluated as."""
    if not questions:
        raise ValueError(f"benchmark {benchmark!r} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"benchmark {benchmark!r} has the question id {question.id!r} twice; make ids unique")
        seen.add(question.id)
    return [replace(question, benchmark=benchmark) for question in questions]

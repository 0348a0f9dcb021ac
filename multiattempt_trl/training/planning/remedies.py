"""What to change where a run does not fit a card: every proposal is planned anew, none is guessed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from multiattempt_trl.training.planning.layout import Layout
from multiattempt_trl.training.planning.memory import Setup
from multiattempt_trl.training.planning.model_size import AdapterSize
from multiattempt_trl.training.planning.phases import fits, peak

ALTERS = 100
"""The cost of a change after which another thing is learnt."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting. The run stays the same but for its memory and speed, unless `alters` is set."""

    flags: tuple[str, ...]
    """As words of the command line."""
    kind: str
    """Changes of one kind exclude each other."""
    sets: Mapping[str, Any]
    """The fields of the setup."""
    cost: int
    """What is tried first costs least: half a batch counts 1, more communication a little more, offloading 8."""

    @property
    def alters(self) -> bool:
        """Whether what is learnt changes too."""
        return self.cost >= ALTERS

    def __str__(self) -> str:
        return " ".join(self.flags)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One or two changes after which the run fits."""

    changes: tuple[Change, ...]
    setup: Setup

    @property
    def peak_bytes(self) -> int:
        return peak(self.setup).total

    def __str__(self) -> str:
        return " ".join(str(change) for change in self.changes)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """What keeps the optimizer's batch and the rollout as they are when a micro-batch is made smaller."""

    accumulation: int
    steps_per_generation: int
    over_all_processes: bool
    """Whether the recipe names both over all processes, so that nothing else needs to be changed."""


def find_remedy(setup: Setup, card_bytes: int, adapter: AdapterSize, batches: Batches) -> Remedy | None:
    """The cheapest change, or pair of changes of different kinds, that fits; None where none does.

    What costs speed alone comes before what changes the learning, which is LoRA.

    Args:
        adapter: what LoRA would train, for a setup without it.
    """
    proposals = list(_proposals(setup, adapter, batches))
    pairs = [pair for pair in combinations(proposals, 2) if pair[0].kind != pair[1].kind]
    singles = [(proposal,) for proposal in proposals]
    for changes in sorted([*singles, *pairs], key=lambda some: sum(change.cost for change in some)):
        changed = setup
        for change in changes:
            changed = replace(changed, **change.sets)
        if fits(changed, card_bytes):
            return Remedy(changes=changes, setup=changed)
    return None


def _proposals(setup: Setup, adapter: AdapterSize, batches: Batches) -> Iterator[Change]:
    if not setup.checkpointing:
        flags: tuple[str, ...] = ("--activation_checkpointing", "true")
        yield Change(flags=flags, kind="checkpointing", sets={"checkpointing": True}, cost=2)
    if setup.vllm_bytes and not setup.vllm_sleeps:
        flags = ("--vllm_enable_sleep_mode", "true")
        yield Change(flags=flags, kind="vllm", sets={"vllm_sleeps": True}, cost=1)
    for cost, rows in enumerate(_halves(setup.rollout_rows) if setup.vllm_bytes is None else (), start=1):
        flags = ("--rollout_batch_size", str(rows))
        yield Change(flags=flags, kind="rollout", sets={"rollout_rows": rows}, cost=cost)
    for cost, rows in enumerate(_halves(setup.micro_batch), start=1):
        flags = _micro_batch(setup, rows, batches)
        yield Change(flags=flags, kind="micro-batch", sets={"micro_batch": rows}, cost=cost)
    for name, cost, layout in _layouts(setup):
        flags = ("--accelerate", f"accelerate_configs/{name}.yaml", "--num_processes", str(layout.processes))
        yield Change(flags=flags, kind="layout", sets={"layout": layout}, cost=cost)
    half = ("--dtype", "bfloat16")
    if setup.adapter:
        if setup.weight_bytes == 4:
            yield Change(flags=half, kind="dtype", sets={"weight_bytes": 2}, cost=ALTERS)
        return
    flags = ("--use_peft", "true", "--lora_target_modules", "all-linear")
    yield Change(flags=flags, kind="lora", sets={"adapter": adapter}, cost=ALTERS)
    if setup.weight_bytes == 4:
        yield Change(flags=flags + half, kind="lora", sets={"adapter": adapter, "weight_bytes": 2}, cost=ALTERS + 1)


def _halves(rows: int) -> Iterator[int]:
    while rows % 2 == 0:
        rows //= 2
        yield rows


def _micro_batch(setup: Setup, rows: int, batches: Batches) -> tuple[str, ...]:
    flags = ("--per_device_train_batch_size", str(rows))
    if batches.over_all_processes:
        return flags
    times = setup.micro_batch // rows
    return (
        *flags,
        *("--gradient_accumulation_steps", str(batches.accumulation * times)),
        *("--steps_per_generation", str(batches.steps_per_generation * times)),
    )


def _layouts(setup: Setup) -> Iterator[tuple[str, int, Layout]]:
    """Those that shard more than the present one, over as many processes, with their cost."""
    now = setup.layout
    if now.processes == 1 or now.engine == "fsdp" or setup.quantised:
        return
    known = {"zero2": (2, False, 2), "zero3": (3, False, 3), "zero3_offload": (3, True, 8)}
    for name, (stage, offload, cost) in known.items():
        layout = replace(now, engine="deepspeed", stage=stage, offload_optimizer=offload)
        if (stage, offload) > (now.stage, now.offload_optimizer):
            yield name, cost, layout

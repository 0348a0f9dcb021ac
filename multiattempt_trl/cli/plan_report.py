"""A plan as tables for people and as JSON for programs."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from multiattempt_trl.training.planning.memory import Setup, host_bytes
from multiattempt_trl.training.planning.phases import CONTEXT_BYTES, FRAGMENTATION, GIB, Phase, phases, usable
from multiattempt_trl.training.planning.remedies import Remedy
from multiattempt_trl.training.planning.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is printed."""

    schedule: Schedule
    setup: Setup
    card_bytes: int | None
    fits: bool | None
    """None where no card was named."""
    remedy: Remedy | None
    notes: tuple[str, ...]
    """What was assumed."""
    tokens_per_second: float | None
    train_tokens_per_second: float | None
    as_json: bool = False

    @property
    def phases(self) -> tuple[Phase, ...]:
        return phases(self.setup)

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def gpu_hours(self) -> float | None:
        """Over all GPUs together; None where no speed was given."""
        if self.tokens_per_second is None:
            return None
        return self.schedule.gpu_hours(self.tokens_per_second, self.train_tokens_per_second)


def as_json(plan: Plan) -> str:
    """All sizes in bytes on each GPU."""
    schedule, remedy = plan.schedule, plan.remedy
    counts = ("update", "micro_batches", "episodes", "most_tokens", "expected_tokens")
    data: dict[str, Any] = {
        "layout": asdict(plan.setup.layout),
        "model": asdict(plan.setup.policy),
        "schedule": asdict(schedule) | {name: getattr(schedule, name) for name in counts},
        "phases": {phase.name: phase.items | {"total": phase.total} for phase in plan.phases},
        "peak": {"phase": plan.peak.name, "bytes": plan.peak.total},
        "host_bytes": host_bytes(plan.setup),
        "card": None if plan.card_bytes is None else {"bytes": plan.card_bytes, "usable": usable(plan.card_bytes)},
        "fits": plan.fits,
        "remedy": None,
        "gpu_hours": plan.gpu_hours,
        "assumed": list(plan.notes),
    }
    if remedy is not None:
        words = [word for change in remedy.changes for word in change.flags]
        data["remedy"] = {"arguments": words, "bytes": remedy.peak_bytes}
    return json.dumps(data, indent=2) + "\n"


def show(plan: Plan) -> None:
    """Prints the plan."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(_schedule_table(plan.schedule))
    console.print(_memory_table(plan))
    for line in [*_verdict(plan), *_time(plan)]:
        console.print(line)
    if plan.notes:
        console.print("Assumed: " + "; ".join(plan.notes) + ".", style="dim")


def _schedule_table(schedule: Schedule) -> Table:
    table = Table(title="What the run does", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    per_question = f"{schedule.samples} of each" if schedule.samples > 1 else "one of each"
    rows = {
        "questions": f"{schedule.questions:,}",
        "processes": f"{schedule.processes:,}",
        f"dialogues in a rollout ({per_question} question)": f"{schedule.rollout:,}",
        "dialogues in an optimizer step": f"{schedule.update:,}",
        "  = micro-batch x accumulation x processes": " x ".join(
            str(factor) for factor in (schedule.per_device, schedule.accumulation, schedule.processes)
        ),
        "rollouts": f"{schedule.rollouts:,}",
        "optimizer steps": f"{schedule.steps:,}",
        "micro-batches in each process": f"{schedule.micro_batches:,}",
        "dialogues in all": f"{schedule.episodes:,}",
        f"sampled tokens, at most ({schedule.episode_tokens:,} each)": f"{schedule.most_tokens:,}",
        f"sampled tokens, at a mean of {schedule.mean_tokens:,.0f} each": f"{schedule.expected_tokens:,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _memory_table(plan: Plan) -> Table:
    table = Table(title=f"Memory on each GPU in GiB: {plan.setup.layout}", title_justify="left")
    table.add_column("", no_wrap=True)
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    for item in dict.fromkeys(item for phase in plan.phases for item in phase.items):
        table.add_row(item, *(_gib(phase.items[item]) if item in phase.items else "" for phase in plan.phases))
    table.add_section()
    table.add_row("total", *(_gib(phase.total) for phase in plan.phases), style="bold")
    return table


def _verdict(plan: Plan) -> list[str]:
    lines = [f"Peak: {_gib(plan.peak.total)} GiB, in the phase {plan.peak.name!r}, with all dialogues at their caps."]
    if host := host_bytes(plan.setup):
        lines.append(f"In the CPU's memory: {_gib(host)} GiB for each process.")
    if plan.card_bytes is None:
        return [*lines, "Name a card, as in --gpu 24GB, to see whether it fits."]
    room = (
        f"{_gib(plan.card_bytes)} GiB, of which {_gib(usable(plan.card_bytes))} are planned with "
        f"({_gib(CONTEXT_BYTES)} for CUDA and {FRAGMENTATION:.0%} for fragmentation are left free)"
    )
    if plan.fits:
        return [*lines, f"[green]It fits[/] {room}."]
    lines.append(f"[red]It does not fit[/] {room}.")
    if plan.remedy is None:
        return [*lines, "No change of two settings that was tried makes it fit: more or larger GPUs are needed."]
    learning = ", which changes what is learnt" if any(change.alters for change in plan.remedy.changes) else ""
    return [*lines, f"It does with {plan.remedy}{learning}: {_gib(plan.remedy.peak_bytes)} GiB."]


def _time(plan: Plan) -> list[str]:
    hours = plan.gpu_hours
    if hours is None:
        return ["Time: not estimated; measure the tokens per second of one GPU and say --tokens_per_second."]
    part = "generation and training" if plan.train_tokens_per_second else "generation alone, without training"
    processes = plan.schedule.processes
    return [f"Time: {hours:,.1f} GPU-hours ({part}), {hours / processes:,.1f} hours on {processes} GPUs."]


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"

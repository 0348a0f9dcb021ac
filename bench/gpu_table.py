"""The results of `bench/gpu.sh` as one JSON file and as tables.

python bench/gpu_table.py FOLDER      # reads FOLDER/*gb.json, writes FOLDER/gpu.json and FOLDER/gpu.md
"""

import json
import sys
from pathlib import Path
from typing import Any

GIB = 1024**3
NOT_THERE = "n/a"
PHASES = ("rollout", "scoring", "policy update", "critic update", "optimizer step")
LENGTHS = {"caps": "two attempts that take all tokens", "mean": "two attempts of 600 tokens"}


def gib(size: float | None) -> str:
    """With two decimals."""
    return NOT_THERE if size is None else f"{size / GIB:.2f}"


def number(value: float | None, digits: int = 0) -> str:
    """With commas."""
    return NOT_THERE if value is None else f"{value:,.{digits}f}"


def off(planned: float | None, measured: float | None) -> str:
    """How far the plan is above what was measured."""
    return NOT_THERE if not planned or not measured else f"{planned / measured - 1:+.1%}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """In markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def label(found: dict[str, Any]) -> str:
    """A configuration's first cell."""
    return f"{found['name']}, {found['lengths']}, {found['card']} GB"


def peak(by_phase: dict[str, Any], key: str | None = None) -> tuple[str, float] | tuple[None, None]:
    """The phase that takes most, and how much."""
    sizes = {name: each[key] if key else each for name, each in by_phase.items()}
    return max(sizes.items(), key=lambda one: one[1]) if sizes else (None, None)


def outcome(found: dict[str, Any]) -> str:
    """How it ended, and where it did not, in which phase."""
    where = found.get("failed_in")
    early = " of the warm-up" if found.get("rollouts") == 1 else ""
    return str(found["outcome"]) + (f" ({where}{early})" if where else "")


def memory_row(found: dict[str, Any]) -> list[str]:
    """The peak as measured and as planned."""
    measured, played = found.get("measured", {}), found.get("planned_as_played", {})
    phase, allocated = peak(measured, "allocated")
    _, reserved = peak(measured, "reserved")
    told_phase, told = peak(found.get("planned", {}))
    _, as_played = peak(played)
    fits = "yes" if found.get("fits") else NOT_THERE if "fits" not in found else "no"
    cells = [label(found), outcome(found), phase or NOT_THERE, gib(allocated), gib(reserved)]
    return [*cells, gib(as_played), off(as_played, allocated), f"{gib(told)} ({told_phase or NOT_THERE})", fits]


def phase_row(found: dict[str, Any]) -> list[str]:
    """Measured, planned for the lengths that were played, and how far that is off."""
    cells = []
    for name in PHASES:
        planned = found["planned_as_played"].get(name)
        measured = found["measured"].get(name, {}).get("allocated")
        cells.append("" if planned is None else f"{gib(measured)} / {gib(planned)} / {off(planned, measured)}")
    return [label(found), *cells]


def speed_row(found: dict[str, Any]) -> list[str]:
    """Time of a rollout and of an update."""
    speed = found.get("speed") or {}
    rounds = ", ".join(f"{rows} x ({read} + {sampled})" for rows, read, sampled in found["rounds"])
    cells = [label(found), rounds, number(speed.get("rollout_seconds"), 1), number(speed.get("tokens_per_second"))]
    return [*cells, number(speed.get("update_seconds"), 1), number(speed.get("train_tokens_per_second"))]


def states_row(found: dict[str, Any], names: list[str]) -> list[str]:
    """Bytes of what stays, counted and planned."""
    held = found["states"]
    cells = [
        f"{number(held[name]['bytes'])} / {number(held[name]['planned'])}" if name in held else "" for name in names
    ]
    return [label(found), *cells]


def page(results: list[dict[str, Any]]) -> str:
    """All tables."""
    hardware = results[0]["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in hardware["versions"].items() if number)
    card = NOT_THERE
    if "card" in hardware:
        card = (
            f"{hardware['card']}, {gib(hardware['bytes'])} GiB, driver {hardware['driver']}, CUDA {hardware['cuda']}"
        )
    ended = [one for one in results if one["outcome"] == "ended"]
    names = list(dict.fromkeys(name for one in ended for name in one["states"]))
    lengths = "; ".join(f"{name}: {meaning}" for name, meaning in LENGTHS.items())
    small = ["**`--small`: a tiny model, which shows only that everything runs.**\n"] if results[0]["small"] else []
    heads = [
        "",
        "outcome",
        "peak in",
        "allocated",
        "reserved",
        "planned as played",
        "off",
        "plan, at its caps",
        "fits",
    ]
    parts = [f"Card: {card}. {versions}.\n", *small, f"Lengths: {lengths}. Sizes in GiB.\n", "## Memory\n"]
    parts += [table(heads, [memory_row(one) for one in results])]
    if any(one["measured"] for one in ended):
        rows = [phase_row(one) for one in ended]
        parts += ["## By phase: allocated / planned as played / off\n", table(["", *PHASES], rows)]
    heads = ["", "rows x (read + sampled)", "rollout, s", "tokens/s", "update, s", "trained tokens/s"]
    parts += ["## Speed\n", table(heads, [speed_row(one) for one in ended])]
    rows = [states_row(one, names) for one in ended]
    return "\n".join([*parts, "## Bytes that stay: counted / planned\n", table(["", *names], rows)])


def main(folder: Path) -> None:
    """Writes both files and prints the tables."""
    files = sorted(folder.glob("*gb.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise SystemExit(f"no configuration was measured in {folder}")
    results = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(results), encoding="utf-8")
    print(page(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The mean of blocks, over benchmarks or over seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from multiattempt_trl.evaluation.numbers.blocks import (
    Abandoned,
    Block,
    ByAttempt,
    Curve,
    Intervals,
    Probes,
    Refinement,
    SeedBlocks,
)
from multiattempt_trl.evaluation.numbers.intervals import mover

Combine = Callable[[Sequence[float], Sequence[Sequence[float]]], list[float]]
"""(shares, the interval of each) -> the interval of their mean."""


def average(blocks: Sequence[Block]) -> Block:
    """Unweighted mean over benchmarks, each of which counts the same however many questions it has.

    Intervals are combined by `mover`, since benchmarks share no questions; `n` is the sum. Curves and controls are
    averaged at the k that all benchmarks have; what dialogues do at attempt k, and the probes, over the benchmarks
    that have them. Tokens for each solved dialogue are mean tokens over mean solved share: a mean of ratios would
    leave out a benchmark that solves nothing, and look cheap for it.
    """
    if len(blocks) == 1:
        return {**blocks[0], "levels": {}, "subjects": {}}  # to the last digit
    return _mean_block(blocks, sum(block["n"] for block in blocks), mover)


def over_seeds(blocks: Mapping[str, Block]) -> SeedBlocks:
    """Blocks of several seeds on the same questions, with their mean.

    The mean's interval has the mean lower and the mean upper limit. That is MOVER for fully correlated shares, the
    cautious choice where all seeds answer the same questions. It speaks of other questions, not of other seeds: for
    those, look at the seeds side by side.

    Raises `ValueError` where the seeds answered different numbers of questions.
    """
    each = list(blocks.values())
    sizes = sorted({block["n"] for block in each})
    if len(sizes) != 1:
        raise ValueError(f"seeds are averaged over the same questions, got {sizes} questions")

    def limits(_: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float]:
        return [fmean(interval[side] for interval in intervals) for side in (0, 1)]

    return {"seeds": dict(blocks), "mean": _mean_block(each, sizes[0], limits)}


def _mean_block(blocks: Sequence[Block], n: int, combine: Combine) -> Block:
    budgets = [len(block["accuracy"]) for block in blocks]
    if len(set(budgets)) != 1:
        raise ValueError(f"only blocks of one budget can be averaged, got budgets {budgets}")
    accuracy, ci95 = _curve(((block["accuracy"], block["ci95"]) for block in blocks), combine)
    pass_at_k, pass_ci95 = _curve(((block["pass_at_k"], block["pass_ci95"]) for block in blocks), combine)
    maj_at_k, maj_ci95 = _curve(((block["maj_at_k"], block["maj_ci95"]) for block in blocks), combine)
    base_accuracy, base_ci95 = _curve(((block["base_accuracy"], block["base_ci95"]) for block in blocks), combine)
    return {
        "n": n,
        "failed": sum(block["failed"] for block in blocks),
        "accuracy": accuracy,
        "ci95": ci95,
        "pass_at_k": pass_at_k,
        "pass_ci95": pass_ci95,
        "maj_at_k": maj_at_k,
        "maj_ci95": maj_ci95,
        "base_accuracy": base_accuracy,
        "base_ci95": base_ci95,
        "solved_after_failures": _mean_seen(block["solved_after_failures"] for block in blocks),
        "repeat_rate": _mean_seen(block["repeat_rate"] for block in blocks),
        "distinct_answers": _mean_seen(block["distinct_answers"] for block in blocks),
        "truncated": _mean_seen(block["truncated"] for block in blocks),
        "well_formed_rate": fmean(block["well_formed_rate"] for block in blocks),
        "mean_attempts": fmean(block["mean_attempts"] for block in blocks),
        "mean_tokens": fmean(block["mean_tokens"] for block in blocks),
        "tokens_per_solved": _mean_cost([(block["mean_tokens"], block["tokens_per_solved"]) for block in blocks]),
        "attempts_per_solved": _mean_cost(
            [(block["mean_attempts"], block["attempts_per_solved"]) for block in blocks]
        ),
        "announced": _mean_shared([block["announced"] for block in blocks]),
        "refinement": _refinement([block.get("refinement") for block in blocks], combine),  # earlier versions had none
        "probes": _probes([block["probes"] for block in blocks], combine),
        "levels": {},
        "subjects": {},
    }


def _mean_shared(parts: Sequence[ByAttempt]) -> ByAttempt:
    """The mean at each k that all parts have: a curve, whose points must be of the same benchmarks."""
    return {k: fmean(part[k] for part in parts) for k in parts[0] if all(k in part for part in parts)}


def _mean_seen(parts: Iterable[ByAttempt]) -> ByAttempt:
    """The mean at each k over the parts that have it."""
    seen: dict[str, list[float]] = {}
    for part in parts:
        for k, value in part.items():
            seen.setdefault(k, []).append(value)
    return {k: fmean(seen[k]) for k in sorted(seen, key=int)}


def _curve(parts: Iterable[tuple[ByAttempt, Intervals]], combine: Combine) -> tuple[ByAttempt, Intervals]:
    shares, intervals = map(list, zip(*parts, strict=True))
    means = _mean_shared(shares)
    return means, {k: combine([of[k] for of in shares], [of[k] for of in intervals]) for k in means}


def _mean_cost(costs: Sequence[tuple[float, float | None]]) -> float | None:
    """Mean spent over mean solved share, from what each part spends on a dialogue and for each solved one."""
    solved = fmean(0.0 if cost is None else spent / cost for spent, cost in costs)
    return fmean(spent for spent, _ in costs) / solved if solved else None


def _refinement(each: Sequence[Refinement | None], combine: Combine) -> Refinement | None:
    """Over the parts that have it; None where none has."""
    there = [part for part in each if part is not None]
    if not there:
        return None
    shares, ci95 = _curve(((part["shares"], part["ci95"]) for part in there), combine)
    differences = _curve(((part["differences"], part["differences_ci95"]) for part in there), combine)
    return {
        "n": sum(part["n"] for part in there),
        "without_other": fmean(part["without_other"] for part in there),
        "shares": shares,
        "ci95": ci95,
        "differences": differences[0],
        "differences_ci95": differences[1],
    }


def _probes(each: Sequence[Probes], combine: Combine) -> Probes:
    """Each probe over the parts that have it."""
    probes: Probes = {}
    if told := [part["abandoned"] for part in each if "abandoned" in part]:
        probes["abandoned"] = _abandoned(told, combine)
    if hidden := [part["hidden_count"] for part in each if "hidden_count" in part]:
        probes["hidden_count"] = _mean_curve(hidden, combine)
    if wrong := [part["wrong_count"] for part in each if "wrong_count" in part]:
        probes["wrong_count"] = _mean_curve(wrong, combine)
    return probes


def _abandoned(told: Sequence[Abandoned], combine: Combine) -> Abandoned:
    shares = [part["share"] for part in told]
    return {
        "n": sum(part["n"] for part in told),
        "share": fmean(shares),
        "ci95": combine(shares, [part["ci95"] for part in told]),
    }


def _mean_curve(curves: Sequence[Curve], combine: Combine) -> Curve:
    accuracy, ci95 = _curve(((curve["accuracy"], curve["ci95"]) for curve in curves), combine)
    return {"accuracy": accuracy, "ci95": ci95}

"""From episodes to the numbers of a benchmark, and the door to all that is computed from them: pure functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.evaluation.numbers import explain
from multiattempt_trl.evaluation.numbers.averages import average, over_seeds
from multiattempt_trl.evaluation.numbers.blocks import Block, Curve, Group, Probes, SeedBlocks
from multiattempt_trl.evaluation.numbers.intervals import share_interval
from multiattempt_trl.evaluation.numbers.refinement import refinement
from multiattempt_trl.evaluation.numbers.shares import (
    Runs,
    Shares,
    base_by_attempts,
    lost,
    main_by_attempts,
    majority_shares,
    pass_shares,
    played,
    solved_shares,
)

__all__ = ["Block", "Runs", "SeedBlocks", "average", "block", "over_seeds"]


def block(runs: Runs, budget: int) -> Block:
    """The numbers of one benchmark from its runs, of which "main" must be there, at budget K.

    Everything from `solved_after_failures` to `attempts_per_solved` is of the main dialogues of budget K.

    Raises `ValueError` where the main run has other budgets than K, or than 1 ... K, or lost all dialogues of one.
    """
    by_attempts = main_by_attempts(runs, budget)
    longest = by_attempts[budget]
    independent = played(runs, "independent")
    main = _curve(by_attempts)
    passes = _means(pass_shares(independent, budget))
    majority = _means(majority_shares(independent, budget))
    base = _curve(base_by_attempts(runs, budget))
    return {
        "n": len({episode.question.id for episode in longest}),
        "failed": lost(runs),
        **main,
        "pass_at_k": passes["accuracy"],
        "pass_ci95": passes["ci95"],
        "maj_at_k": majority["accuracy"],
        "maj_ci95": majority["ci95"],
        "base_accuracy": base["accuracy"],
        "base_ci95": base["ci95"],
        "solved_after_failures": explain.by_attempt(explain.solves, longest, budget),
        "repeat_rate": explain.by_attempt(Episode.repeats, longest, budget, first=2),
        "distinct_answers": explain.by_attempt(explain.distinct_answers, longest, budget),
        "truncated": explain.by_attempt(explain.is_cut, longest, budget),
        "well_formed_rate": explain.well_formed_rate(longest),
        "mean_attempts": fmean(episode.attempts_used for episode in longest),
        "mean_tokens": fmean(episode.sampled_tokens for episode in longest),
        "tokens_per_solved": explain.per_solved(lambda episode: episode.sampled_tokens, longest),
        "attempts_per_solved": explain.per_solved(lambda episode: episode.attempts_used, longest),
        "announced": explain.announced(runs, budget),
        "refinement": refinement(longest, independent),
        "probes": _probes(runs, budget),
        "levels": _groups(by_attempts, lambda question: question.level),
        "subjects": _groups(by_attempts, lambda question: question.subject),
    }


def _means(shares: Mapping[int, Shares]) -> Curve:
    """Means and intervals over questions; a k that no question has is absent."""
    there = {str(k): list(of.values()) for k, of in shares.items() if of}
    return {
        "accuracy": {k: fmean(values) for k, values in there.items()},
        "ci95": {k: share_interval(values) for k, values in there.items()},
    }


def _curve(by_attempts: Mapping[int, Iterable[Episode]]) -> Curve:
    return _means({k: solved_shares(episodes, k) for k, episodes in by_attempts.items()})


def _groups(by_attempts: Mapping[int, Sequence[Episode]], of: Callable[[Question], str]) -> dict[str, Group]:
    longest = by_attempts[max(by_attempts)]
    names = sorted({of(episode.question) for episode in longest} - {""}, key=_numbers_first)
    groups: dict[str, Group] = {}
    for name in names:
        within = {k: [each for each in episodes if of(each.question) == name] for k, episodes in by_attempts.items()}
        n = len({episode.question.id for episode in within[max(within)]})
        groups[name] = {"n": n, **_curve(within)}
    return groups


def _numbers_first(name: str) -> tuple[bool, float, str]:
    """Order of levels: "9" before "10", and numbers before words."""
    return not name.isdecimal(), float(name) if name.isdecimal() else 0.0, name


def _probes(runs: Runs, budget: int) -> Probes:
    probes: Probes = {}
    told = explain.abandoned(runs)
    if told:
        probes["abandoned"] = {"n": told[0], "share": told[1], "ci95": told[2]}
    if hidden := played(runs, "hidden_count"):
        probes["hidden_count"] = _curve(dict.fromkeys(range(1, budget + 1), hidden))
    if wrong := played(runs, "wrong_count"):
        probes["wrong_count"] = _curve(dict.fromkeys(range(1, budget + 1), wrong))
    return probes

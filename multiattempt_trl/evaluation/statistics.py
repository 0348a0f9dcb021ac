"""From episodes to numbers with intervals, all fractions in [0, 1]: pure functions, standard library only."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import comb, sqrt
from statistics import NormalDist, fmean
from typing import TypedDict

from multiattempt_trl.dialogue.episode import Episode, Verdict

Z95 = NormalDist().inv_cdf(0.975)
"""1.96: a normal variable stays within this many standard deviations 95 % of the time."""


class Block(TypedDict):
    """All numbers of one model on one benchmark (or averaged over several), as `summary.json` holds them."""

    n: int
    """Questions."""
    accuracy: dict[str, float]
    """"k" -> share of questions solved within k attempts, for k = 1 ... K."""
    ci95: dict[str, list[float]]
    """"k" -> [lower, upper], the 95 % interval of that share over questions."""
    repeat_rate: dict[str, float]
    """"k" -> `repeat_rate` at attempt k, from "2"; a k that no dialogue reached is absent."""
    well_formed_rate: float
    mean_attempts: float
    pass_at_k: dict[str, float]
    """"k" -> share of questions that k independent attempts solve; empty where that control was not played."""


class SeedBlocks(TypedDict):
    """One block for each seed, and their mean."""

    seeds: dict[str, Block]
    mean: Block


def accuracy_within(episodes: Iterable[Episode], k: int) -> float:
    """Share of questions solved within k attempts: the mean over questions of the mean over a question's samples."""
    solved: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        solved[episode.question.id].append(episode.solved_within(k))
    return fmean(fmean(samples) for samples in solved.values())


def wilson(share: float, n: int) -> list[float]:
    """95 % score interval [lower, upper] of a share over n questions (Wilson 1927).

    Where a question has several samples, `share` is the mean of the questions' own shares and n still counts
    questions. A share's variance is at most that of one yes or no, p (1 - p), so the interval is then conservative.
    """
    if n < 1:
        raise ValueError(f"an interval needs at least one question, got n={n}")
    shrink = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # The exact limits at a share of 0 and 1 are 0 and 1; rounding must not step over them, nor over the share.
    return [max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))]


def mover(shares: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float]:
    """95 % interval of the unweighted mean of independent shares, from the interval of each.

    MOVER, "method of variance estimates recovery" (Zou & Donner 2008, Statistics in Medicine 27): with m shares p_i in
    [l_i, u_i] and their mean p, lower = p - sqrt(sum (p_i - l_i)^2) / m and upper = p + sqrt(sum (u_i - p_i)^2) / m.
    """
    mean, count = fmean(shares), len(shares)
    pairs = list(zip(shares, intervals, strict=True))
    below = sqrt(sum((share - lower) ** 2 for share, (lower, _) in pairs)) / count
    above = sqrt(sum((upper - share) ** 2 for share, (_, upper) in pairs)) / count
    return [mean - below, mean + above]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate that one of k attempts is correct, from n of which c are: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), equation 1. Raises `ValueError` where k attempts cannot be drawn from n.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}")
    return 1 - comb(n - c, k) / comb(n, k)


def pass_counts(episodes: Iterable[Episode]) -> list[tuple[int, int]]:
    """(attempts, correct attempts) of each question, from independent one-attempt dialogues."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        counts[episode.question.id].append(episode.solved_within(1))
    return [(len(samples), sum(samples)) for samples in counts.values()]


def repeat_rate(episodes: Iterable[Episode], k: int) -> float | None:
    """Share of k-th attempts whose answer stands in an earlier attempt of the dialogue; None where none reached k."""
    reached = [episode.repeats(k) for episode in episodes if episode.attempts_used >= k]
    return fmean(reached) if reached else None


def well_formed_rate(episodes: Iterable[Episode]) -> float:
    """Share of attempts, over all dialogues, that end in a closed, non-empty box."""
    return fmean(attempt.verdict is not Verdict.INVALID for episode in episodes for attempt in episode.attempts)


def mean_attempts(episodes: Iterable[Episode]) -> float:
    """Attempts used in a dialogue, on average."""
    return fmean(episode.attempts_used for episode in episodes)


def block(episodes: Sequence[Episode], budget: int, counts: Sequence[tuple[int, int]] = ()) -> Block:
    """The numbers of one benchmark.

    Args:
        episodes: dialogues of budget K alone (protocol `nested`: accuracy within k is that of their first k attempts),
            or of every budget 1 ... K (protocol `paper`: accuracy within k is that of the dialogues of budget k).
            Repeat rates, well-formedness and attempts used are those of budget K in both.
        budget: K.
        counts: `pass_counts` of the independent attempts, at least K a question; empty where none were played.

    Raises `ValueError` where the episodes have other budgets than these.
    """
    budgets = {episode.budget for episode in episodes}
    if budgets not in ({budget}, set(range(1, budget + 1))):
        raise ValueError(f"expected episodes of budget {budget}, or of every budget up to it, got {sorted(budgets)}")
    longest = [episode for episode in episodes if episode.budget == budget]
    n = len({episode.question.id for episode in longest})
    ks = range(1, budget + 1)
    runs = {k: [episode for episode in episodes if episode.budget == k] or longest for k in ks}
    accuracy = {str(k): accuracy_within(runs[k], k) for k in ks}
    repeats = {str(k): repeat_rate(longest, k) for k in ks[1:]}
    return {
        "n": n,
        "accuracy": accuracy,
        "ci95": {k: wilson(share, n) for k, share in accuracy.items()},
        "repeat_rate": {k: rate for k, rate in repeats.items() if rate is not None},
        "well_formed_rate": well_formed_rate(longest),
        "mean_attempts": mean_attempts(longest),
        "pass_at_k": {str(k): fmean(pass_at_k(n, c, k) for n, c in counts) for k in ks} if counts else {},
    }


def average(blocks: Sequence[Block]) -> Block:
    """Unweighted mean over benchmarks, each of which counts the same however many questions it has.

    Intervals are combined by `mover`, since benchmarks share no questions; `n` is the sum. A repeat rate is averaged
    over the benchmarks that have it.
    """
    if len(blocks) == 1:
        return blocks[0]  # to the last digit
    ci95 = {
        k: mover([block["accuracy"][k] for block in blocks], [block["ci95"][k] for block in blocks])
        for k in _budget_keys(blocks)
    }
    return _mean_block(blocks, sum(block["n"] for block in blocks), ci95)


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
    ci95 = {k: [fmean(block["ci95"][k][side] for block in each) for side in (0, 1)] for k in _budget_keys(each)}
    return {"seeds": dict(blocks), "mean": _mean_block(each, sizes[0], ci95)}


def _budget_keys(blocks: Sequence[Block]) -> list[str]:
    """The attempts "1" ... "K" of blocks that must share them."""
    keys = [list(block["accuracy"]) for block in blocks]
    if not keys or any(other != keys[0] for other in keys):
        raise ValueError(f"only blocks of one budget can be averaged, got budgets {[len(each) for each in keys]}")
    return keys[0]


def _mean_block(blocks: Sequence[Block], n: int, ci95: dict[str, list[float]]) -> Block:
    ks = _budget_keys(blocks)
    repeats = {k: [block["repeat_rate"][k] for block in blocks if k in block["repeat_rate"]] for k in ks}
    controlled = all(block["pass_at_k"] for block in blocks)
    return {
        "n": n,
        "accuracy": {k: fmean(block["accuracy"][k] for block in blocks) for k in ks},
        "ci95": ci95,
        "repeat_rate": {k: fmean(rates) for k, rates in repeats.items() if rates},
        "well_formed_rate": fmean(block["well_formed_rate"] for block in blocks),
        "mean_attempts": fmean(block["mean_attempts"] for block in blocks),
        "pass_at_k": {k: fmean(block["pass_at_k"][k] for block in blocks) for k in ks} if controlled else {},
    }

"""What each question tells: the share of its dialogues that solve it, alone in the set or beside its controls."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from multiattempt_trl.dialogue.episode import Ending, Episode
from multiattempt_trl.evaluation.numbers.controls import count_votes, maj_at_k, pass_at_k

Runs = Mapping[str, Sequence[Episode]]
"""Run name -> its dialogues on one benchmark: "main", "independent", "base", "false_feedback", "hidden_count",
"wrong_count", "announced_1" ...; a run that was not played is absent or empty."""
Shares = dict[str, float]
"""Question id -> share in [0, 1]."""


def played(runs: Runs, name: str) -> list[Episode]:
    """The dialogues of a run, without those that lost a request and so tell nothing of the model."""
    return [episode for episode in runs.get(name, ()) if episode.ending is not Ending.FAILED]


def lost(runs: Runs) -> int:
    """Dialogues of all runs that lost a request."""
    return sum(episode.ending is Ending.FAILED for episodes in runs.values() for episode in episodes)


def base_by_attempts(runs: Runs, budget: int) -> dict[int, list[Episode]]:
    """As `main_by_attempts`, of the base model under the same prompts; empty lists where it was not played."""
    base = played(runs, "base")
    by_budget = {k: [episode for episode in base if episode.budget == k] for k in range(1, budget + 1)}
    return {k: episodes or by_budget[budget] for k, episodes in by_budget.items()}


def main_by_attempts(runs: Runs, budget: int) -> dict[int, list[Episode]]:
    """k -> the dialogues whose first k attempts give accuracy within k, for k = 1 ... `budget`.

    Dialogues of budget K alone (protocols `nested` and `sampled`) serve for every k, those of every budget 1 ... K
    (protocol `paper`) each for its own.

    Raises `ValueError` where the main run has other budgets than these, or lost all dialogues of one.
    """
    main = played(runs, "main")
    budgets = {episode.budget for episode in runs.get("main", ())}
    ks = range(1, budget + 1)
    if budgets not in ({budget}, set(ks)):
        raise ValueError(f"expected episodes of budget {budget}, or of every budget up to it, got {sorted(budgets)}")
    by_budget = {of: [episode for episode in main if episode.budget == of] for of in budgets}
    gone = [str(of) for of, episodes in sorted(by_budget.items()) if not episodes]
    if gone:
        raise ValueError(
            f"every dialogue of budget {', '.join(gone)} lost a request, so nothing can be said of the model; "
            "evaluate again once the backend answers"
        )
    return {k: by_budget.get(k, by_budget[budget]) for k in ks}


def solved_shares(episodes: Iterable[Episode], k: int) -> Shares:
    """Question -> share of its samples that are solved within k attempts."""
    solved: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        solved[episode.question.id].append(episode.solved_within(k))
    return {name: fmean(samples) for name, samples in solved.items()}


def pass_shares(independent: Iterable[Episode], most: int) -> dict[int, Shares]:
    """k -> question -> pass@k, for k = 1 ... `most`; a question with fewer than k samples is left out at k."""
    solved: dict[str, list[bool]] = defaultdict(list)
    for episode in independent:
        solved[episode.question.id].append(episode.solved_within(1))
    counts = {name: (len(samples), sum(samples)) for name, samples in solved.items()}
    return {k: {name: pass_at_k(n, c, k) for name, (n, c) in counts.items() if n >= k} for k in range(1, most + 1)}


def majority_shares(independent: Iterable[Episode], most: int) -> dict[int, Shares]:
    """k -> question -> maj@k, for k = 1 ... `most`; a question with fewer than k samples is left out at k."""
    samples: dict[str, list[Episode]] = defaultdict(list)
    for episode in independent:
        samples[episode.question.id].append(episode)
    shares: dict[int, Shares] = {k: {} for k in range(1, most + 1)}
    for name, episodes in samples.items():
        votes = count_votes(episode.attempts[0] for episode in episodes)
        for k, share in enumerate(maj_at_k(votes, min(most, votes.n)), start=1):
            shares[k][name] = share
    return shares

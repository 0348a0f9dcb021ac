"""Numbers that explain a curve: what dialogues of budget K do at attempt k, what they cost, and what probes find.

All of them are over dialogues, or over attempts; none is over questions.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from multiattempt_trl.dialogue.episode import Episode, Verdict
from multiattempt_trl.evaluation.numbers.intervals import wilson
from multiattempt_trl.evaluation.numbers.shares import Runs, played, solved_shares


def by_attempt(
    measure: Callable[[Episode, int], float], episodes: Sequence[Episode], budget: int, *, first: int = 1
) -> dict[str, float]:
    """ "k" -> mean of `measure(dialogue, k)` over the dialogues that reached attempt k; absent where none did."""
    means = {}
    for k in range(first, budget + 1):
        values = [measure(episode, k) for episode in episodes if episode.attempts_used >= k]
        if values:
            means[str(k)] = fmean(values)
    return means


def solves(episode: Episode, k: int) -> bool:
    """Whether attempt k is correct. Attempts before it are not, or the dialogue would have ended."""
    return episode.attempts[k - 1].verdict is Verdict.CORRECT


def distinct_answers(episode: Episode, k: int) -> int:
    """How many different answers the first k attempts gave, as strings; an attempt without a box gives none."""
    return len({attempt.answer for attempt in episode.attempts[:k]} - {None})


def is_cut(episode: Episode, k: int) -> bool:
    """Whether attempt k was cut by a token limit."""
    return episode.attempts[k - 1].finish_reason == "length"


def well_formed_rate(episodes: Sequence[Episode]) -> float:
    """Share of attempts, over all dialogues, that end in a closed, non-empty box."""
    return fmean(attempt.well_formed for episode in episodes for attempt in episode.attempts)


def per_solved(amount: Callable[[Episode], int], episodes: Sequence[Episode]) -> float | None:
    """`amount` (of tokens, of attempts) spent on all dialogues, for each that is solved; None where none is."""
    solved = sum(episode.solved_within(episode.budget) for episode in episodes)
    return sum(map(amount, episodes)) / solved if solved else None


def announced(runs: Runs, budget: int) -> dict[str, float]:
    """ "b" -> accuracy of the first attempt where the prompt announced b attempts; {} where that was not played.

    From the runs "announced_b", or from the main ones where those are of every budget 1 ... K (protocol `paper`).
    """
    main = played(runs, "main")
    every = len({episode.budget for episode in main}) > 1
    shares = {}
    for of in range(1, budget + 1):
        episodes = played(runs, f"announced_{of}")
        if not episodes and every:
            episodes = [episode for episode in main if episode.budget == of]
        if episodes:
            shares[str(of)] = fmean(solved_shares(episodes, 1).values())
    return shares


def abandoned(runs: Runs) -> tuple[int, float, list[float]] | None:
    """Of the right first answers that were told "wrong": how many, the share given up, and its 95 % interval.

    Given up is one whose second answer is not correct. The interval counts questions, of which a second sample is
    not another. None where no right answer was told so.
    """
    told = [
        episode for episode in played(runs, "false_feedback") if episode.solved_within(1) and episode.attempts_used > 1
    ]
    if not told:
        return None
    share = fmean(not solves(episode, 2) for episode in told)
    return len(told), share, wilson(share, len({episode.question.id for episode in told}))

"""The few dialogues a report shows without being asked: solved at once, solved later, never solved."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest

from multiattempt_trl.dialogue.episode import Ending, Episode

EACH = 2
"""Dialogues shown of each kind."""

KINDS: dict[str, Callable[[Episode], bool]] = {
    "Solved at the first attempt": lambda episode: episode.solved_within(1),
    "Solved at a later attempt": lambda episode: episode.solved_within(episode.budget) > episode.solved_within(1),
    "Never solved": lambda episode: not episode.solved_within(episode.budget),
}


def choose_examples(
    evaluation: Mapping[str, Mapping[str, Sequence[Episode]]], budget: int
) -> dict[str, list[Episode]]:
    """The first main dialogues of each kind among those with the whole budget, taking benchmarks in turn.

    The first ones, not the best ones: nobody picks them. A kind that does not occur is absent.
    """
    mains = ([episode for episode in runs.get("main", ()) if episode.budget == budget] for runs in evaluation.values())
    mixed = [
        episode
        for episode in chain.from_iterable(zip_longest(*mains))
        if episode is not None and episode.ending is not Ending.FAILED
    ]
    chosen = {kind: [episode for episode in mixed if belongs(episode)][:EACH] for kind, belongs in KINDS.items()}
    return {kind: found for kind, found in chosen.items() if found}


def figure_3(evaluation: Mapping[str, Mapping[str, Sequence[Episode]]]) -> int | None:
    """The first main dialogue whose second attempt is its first correct one, like the paper's Figure 3.

    Its number among all dialogues, benchmark by benchmark and run by run; None where there is none.
    """
    every = ((run, episode) for runs in evaluation.values() for run, each in runs.items() for episode in each)
    for number, (run, episode) in enumerate(every):
        if run == "main" and episode.solved_within(2) > episode.solved_within(1):
            return number
    return None

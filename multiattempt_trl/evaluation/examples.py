"""The few dialogues a report shows: solved at once, solved later, never solved."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest

from multiattempt_trl.dialogue.episode import Episode

EACH = 2
"""Dialogues shown of each kind."""

KINDS: dict[str, Callable[[Episode], bool]] = {
    "Solved at the first attempt": lambda episode: episode.solved_within(1),
    "Solved at a later attempt": lambda episode: episode.solved_within(episode.budget) > episode.solved_within(1),
    "Never solved": lambda episode: not episode.solved_within(episode.budget),
}


def choose_examples(episodes: Mapping[str, Sequence[Episode]], budget: int) -> dict[str, list[Episode]]:
    """The first dialogues of each kind among those with the whole budget, taking benchmarks in turn.

    The first ones, not the best ones: nobody picks them. A kind that does not occur is absent.
    """
    rounds = zip_longest(*([episode for episode in each if episode.budget == budget] for each in episodes.values()))
    mixed = [episode for episode in chain.from_iterable(rounds) if episode is not None]
    chosen = {kind: [episode for episode in mixed if belongs(episode)][:EACH] for kind, belongs in KINDS.items()}
    return {kind: found for kind, found in chosen.items() if found}

"""Numbers that explain episodes: lists of one value per episode or attempt, to be averaged by whoever logs them."""

from collections import defaultdict
from collections.abc import Iterable

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Verdict


def observations(episodes: Iterable[Episode]) -> dict[str, list[float]]:
    """Every training metric that follows from the dialogues alone, as the values whose mean it is.

    Keys are documented in `docs/metrics.md`. A rate over attempts k counts only the episodes that reached attempt k,
    and `accuracy/within_k` only those whose budget allowed k attempts. A failed episode counts as failed, and for
    nothing else.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        values["episode/failed"].append(episode.ending is Ending.FAILED)
        if episode.ending is Ending.FAILED:
            continue
        values["attempts/used"].append(episode.attempts_used)
        values["attempts/budget"].append(episode.budget)
        values["episode/solved"].append(episode.ending is Ending.SOLVED)
        values["episode/truncated"].append(episode.ending is Ending.TRUNCATED)
        values["episode/sampled_tokens"].append(episode.sampled_tokens)
        for k in range(1, episode.budget + 1):
            values[f"accuracy/within_{k}"].append(episode.solved_within(k))
        for k, attempt in enumerate(episode.attempts, start=1):
            _observe_attempt(values, k, attempt)
            if k > 1:
                values[f"repeat_rate/attempt_{k}"].append(episode.repeats(k))
                values["wrong_to_right"].append(attempt.verdict is Verdict.CORRECT)
    return dict(values)


def _observe_attempt(values: dict[str, list[float]], k: int, attempt: Attempt) -> None:
    values[f"well_formed/attempt_{k}"].append(attempt.well_formed)
    values[f"truncated/attempt_{k}"].append(attempt.finish_reason == "length")
    values[f"tokens/attempt_{k}"].append(attempt.tokens)

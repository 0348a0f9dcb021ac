"""The numbers of an evaluation as `summary.json` holds them."""

from typing import NotRequired, TypedDict

ByAttempt = dict[str, float]
"""Attempts, from "1" -> a number."""
Intervals = dict[str, list[float]]
"""Attempts, from "1" -> [lower, upper], the 95 % interval over questions (`share_interval`)."""


class Curve(TypedDict):
    """Accuracy by attempts."""

    accuracy: ByAttempt
    ci95: Intervals


class Group(Curve):
    """The questions of one level or subject."""

    n: int


class Abandoned(TypedDict):
    """Right first answers that were told "wrong"."""

    n: int
    share: float
    """Of which the second answer is not correct."""
    ci95: list[float]


class Probes(TypedDict):
    """What was played on the side; an absent key was not."""

    abandoned: NotRequired[Abandoned]
    hidden_count: NotRequired[Curve]
    """The words hide how many attempts there are."""
    wrong_count: NotRequired[Curve]
    """The words state a wrong count."""


class Refinement(TypedDict):
    """Second answers against what the model knows once its first one is refuted (`numbers/refinement.py`)."""

    n: int
    """Questions whose first answer was wrong."""
    without_other: float
    """Share of them of which no independent sample gives another answer."""
    shares: dict[str, float]
    """"refined", "best_other", "chance", "independent", "excluding" -> share of them that are right."""
    ci95: Intervals
    differences: dict[str, float]
    """Control -> "refined" minus it, on the same questions."""
    differences_ci95: Intervals


class Block(TypedDict):
    """All numbers of one model on one benchmark (or averaged over several), as `summary.json` holds them.

    Shares are in [0, 1]. Dialogues that lost a request count in `failed` and in nothing else.
    """

    n: int
    """Questions."""
    failed: int
    """Dialogues that lost a request, of any run."""
    accuracy: ByAttempt
    """"k" -> share of questions solved within k attempts, for k = 1 ... K."""
    ci95: Intervals
    pass_at_k: ByAttempt
    """"k" -> share of questions that k independent attempts solve; empty where that control was not played."""
    pass_ci95: Intervals
    maj_at_k: ByAttempt
    """"k" -> share of questions that a majority vote over k independent attempts solves; empty as above."""
    maj_ci95: Intervals
    base_accuracy: ByAttempt
    """As `accuracy`, of the base model under the same prompt; empty where it was not played."""
    base_ci95: Intervals
    solved_after_failures: ByAttempt
    """"k" -> share of k-th attempts, each after k - 1 failures, that are correct. Here and below, a k that no dialogue
    of budget K reached is absent."""
    repeat_rate: ByAttempt
    """"k" -> share of k-th attempts whose answer stands in an earlier attempt of the dialogue, from "2"."""
    distinct_answers: ByAttempt
    """"k" -> different answers in the first k attempts, the mean over dialogues that reached attempt k."""
    truncated: ByAttempt
    """"k" -> share of k-th attempts that a token limit cut."""
    well_formed_rate: float
    mean_attempts: float
    mean_tokens: float
    """Sampled tokens in a dialogue."""
    tokens_per_solved: float | None
    """Sampled tokens in all dialogues for each solved one; None where none is."""
    attempts_per_solved: float | None
    announced: ByAttempt
    """"b" -> accuracy of the first attempt where the prompt announced b attempts; empty where that was not played."""
    refinement: Refinement | None
    """None where there is no second attempt, no independent sample, or no wrong first answer."""
    probes: Probes
    levels: dict[str, Group]
    """Empty where the set has none, and in every mean."""
    subjects: dict[str, Group]


class SeedBlocks(TypedDict):
    """One block for each seed, and their mean."""

    seeds: dict[str, Block]
    mean: Block

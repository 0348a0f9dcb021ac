"""What the stages say of an answer: equal or not, by which stage, and why."""

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """What decided about an answer."""

    BOX = "box"
    """The last box: missing, empty, or too long to be read."""
    STRING = "string"
    """Equal as strings after normalisation."""
    NUMBER = "number"
    """Two plain numbers."""
    RULES = "rules"
    """A rule for units, letters, bases, times, words, lists or inequalities."""
    MATH_VERIFY = "math_verify"
    """math-verify, in a worker process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Equal or not, by which stage, and why."""

    equal: bool
    stage: Stage
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Undecided:
    """What math-verify is asked instead: both sides without what the rules understood."""

    gold: str
    answer: str


def by_rule(equal: bool, what: str) -> Decision:
    """A decision of a rule about `what`."""
    return Decision(equal=equal, stage=Stage.RULES, reason=f"{'same' if equal else 'different'} {what}")


def wrong(reason: str) -> Decision:
    """A rule's refusal."""
    return Decision(equal=False, stage=Stage.RULES, reason=reason)

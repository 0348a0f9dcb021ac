"""What seeds say of each other: the mean of a number over trainings, and how far another set of seeds may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean, stdev

from multiattempt_trl.evaluation.numbers.bootstrap import Difference, widening
from multiattempt_trl.evaluation.numbers.intervals import Z95

# Abramowitz & Stegun, table 26.10 (A = 0.95), for 1 to 14 degrees of freedom.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)


@dataclass(frozen=True, kw_only=True, slots=True)
class OverSeeds:
    """A number's mean over seeds."""

    mean: float
    ci95: tuple[float, float] | None
    """Of the mean over other seeds, on the same questions; None for a single seed."""


def student(degrees: int) -> float:
    """The 97.5 % point of Student's t; raises `ValueError` for less than one degree of freedom."""
    if degrees < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {degrees}")
    if degrees <= len(T975):
        return T975[degrees - 1]
    return widening(degrees + 1) * Z95 * sqrt(degrees / (degrees + 1))


def over_seeds_interval(values: Sequence[float]) -> OverSeeds:
    """Mean and 95 % interval of one value for each seed: mean ± t s / sqrt(n), t of n - 1 degrees of freedom.

    It supposes that seeds scatter about normally. With three of them t is 4.3: little is sure. Limits are not cut to
    [0, 1], since a difference has others.
    """
    mean, n = fmean(values), len(values)
    if n < 2:
        return OverSeeds(mean=mean, ci95=None)
    half = student(n - 1) * stdev(values) / sqrt(n)
    return OverSeeds(mean=mean, ci95=(mean - half, mean + half))


def over_both(seeds: OverSeeds, questions: Difference) -> tuple[float, float] | None:
    """95 % interval of a difference over other seeds on other questions; None for a single seed.

    The distances to the limits of either interval are added as squares (MOVER, see `intervals.mover`). What a question
    does under one seed alone is in both, so that this one is a little wide rather than narrow.

    >>> questions = Difference(mean=0.0, ci95=(-4.0, 8.0), questions=100, left_out=0)
    >>> over_both(OverSeeds(mean=0.0, ci95=(-3.0, 6.0)), questions)
    (-5.0, 10.0)
    """
    if seeds.ci95 is None:
        return None
    of_both = ((seeds.mean, seeds.ci95), (questions.mean, questions.ci95))
    below, above = (hypot(*(limits[side] - mean for mean, limits in of_both)) for side in (0, 1))
    return seeds.mean - below, seeds.mean + above

"""What a comparison found, as records with a verdict in plain words.

Numbers in sentences are percentage points, with the 95 % interval in brackets. Each interval is right for itself: of
twenty differences that are none, one will look like one.
"""

from dataclasses import dataclass
from typing import Literal

from multiattempt_trl.evaluation.numbers.bootstrap import FEW, Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """B against the reference A within k attempts."""

    a: str
    b: str
    k: int
    difference: Difference
    """B's accuracy within k minus A's."""
    above_pass: Difference | None
    """B's accuracy within k minus pass@k of A: what B gains over as many independent samples of A. None where A has
    none."""
    above_own_pass: Difference | None
    """B's accuracy within k minus pass@k of B itself. None where B has none."""

    @property
    def sentence(self) -> str:
        """The verdict in plain words.

        At one attempt it says nothing of pass@1, which differs from the first attempt in how it is sampled alone.
        """
        said = f"{self.b} - {self.a} at {_attempts(self.k)}: {_points(self.difference)}"
        if self.difference.left_out:
            said += f" over the {self.difference.questions} questions that both answered"
        if not self.difference.told:
            return f"{said}; {_untold(self.difference)}"
        if self.difference.mean < 0:
            return f"{said}; {self.a} is better"
        return said if self.k == 1 else f"{said}; {self._explained}{self._own}"

    @property
    def _explained(self) -> str:
        above, k = self.above_pass, self.k
        samples = f"{k} independent samples of {self.a}"
        if above is None:
            return f"not known whether pass@{k} explains it: {self.a} was evaluated without independent samples"
        if above.told and above.mean > 0:
            return f"not explained by pass@{k}: {_points(above, sign=False)} above what {samples} solve"
        if above.told:
            return f"explained by pass@{k}: {samples} solve {_points(above, sign=False, flip=True)} more"
        if above.mean <= 0:
            return f"explained by pass@{k}: {samples} do as well ({self.b} against them: {_points(above)})"
        return (
            f"may be explained by pass@{k}: that {samples} do as well cannot be ruled out "
            f"({self.b} against them: {_points(above)})"
        )

    @property
    def _own(self) -> str:
        if self.above_own_pass is None:
            return f"; {self.b} was evaluated without independent samples of its own"
        return f"; against its own pass@{self.k}: {_points(self.above_own_pass)}"


Against = Literal["first", "pass", "maj", "base"]
REFERENCES: dict[Against, tuple[str, str]] = {
    "first": ("the first attempt alone", "a first attempt alone"),
    "pass": ("{k} independent samples", "independent samples"),
    "maj": ("a majority vote over {k} independent samples", "independent samples to vote"),
    "base": ("the base model within {attempts}", "the base model"),
}
"""What a gain is against: in a sentence, and where it was not played."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """One evaluation within k attempts against something of its own: its first attempt, a control, its base model."""

    label: str
    k: int
    against: Against
    difference: Difference | None
    """Accuracy within k minus the reference; None where the reference was not played."""

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        text, absent = REFERENCES[self.against]
        reference = text.format(k=self.k, attempts=_attempts(self.k))
        difference = self.difference
        if difference is None:
            return f"{self.label}: evaluated without {absent}, so how far that explains the gain is not known"
        within = f"{self.label}: within {_attempts(self.k)}"
        if not difference.told:
            return f"{within} {_points(difference)} percentage points against {reference}; {_untold(difference)}"
        more = difference.mean > 0
        points = _points(difference, sign=False, flip=not more)
        return f"{within} {points} percentage points {'more' if more else 'fewer'} are solved than by {reference}"


def _attempts(k: int) -> str:
    return f"{k} attempt{'' if k == 1 else 's'}"


def _points(difference: Difference, *, sign: bool = True, flip: bool = False) -> str:
    """In percentage points, "+6.1 [3.9, 8.4]"; `flip` is A - B."""
    lower, upper = difference.ci95
    mean = difference.mean
    if flip:
        mean, lower, upper = -mean, -upper, -lower
    # + 0.0 makes a negative zero, which a rounded -0.04 is, one without a sign.
    mean, lower, upper = (round(100 * value, 1) + 0.0 for value in (mean, lower, upper))
    return f"{mean:{'+' if sign else ''}.1f} [{lower:.1f}, {upper:.1f}]"


def _untold(difference: Difference) -> str:
    if difference.questions < FEW:
        return f"{difference.questions} questions are too few to tell a difference"
    return "no difference can be told from these questions"

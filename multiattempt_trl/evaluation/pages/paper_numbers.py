"""The numbers that the paper prints (arXiv 2503.04808), and where they do not agree with each other."""

from dataclasses import dataclass
from statistics import fmean

NAMES = {
    "math500": "MATH-500",
    "aime24": "AIME 2024",
    "amc23": "AMC 2023",
    "minerva": "Minerva Math",
    "olympiadbench": "OlympiadBench",
}
"""The five benchmarks, in the order of the paper's Table 1."""

QUESTIONS = {"math500": 500, "aime24": 30, "amc23": 40, "minerva": 272, "olympiadbench": 675}


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperModel:
    """One of the paper's two models, both Qwen2.5-Math-1.5B after RL; shares in percent as printed."""

    name: str
    average: dict[str, float]
    """"k" -> average over the five benchmarks within k attempts, from the text (Figure 1 itself has no numbers)."""
    single: dict[str, float]
    """benchmark -> share solved at one attempt, from Table 1."""
    stated_average: float
    """What Table 1 gives as the average of that row."""

    @property
    def mean_of_row(self) -> float:
        return fmean(self.single.values())


MULTI_ATTEMPT = PaperModel(
    name="multi-attempt",
    average={"1": 45.6, "2": 52.5, "4": 53.8},
    single={"math500": 73.4, "aime24": 20.0, "amc23": 65.0, "minerva": 35.3, "olympiadbench": 33.9},
    stated_average=45.4,
)
BASELINE = PaperModel(
    name="single-turn baseline",
    average={"1": 42.3, "2": 43.2},
    single={"math500": 75.4, "aime24": 13.3, "amc23": 55.0, "minerva": 35.3, "olympiadbench": 37.5},
    stated_average=43.5,
)
MODELS = (MULTI_ATTEMPT, BASELINE)


def disagreements() -> list[str]:
    """One sentence for each model whose average stands in the paper with several values.

    >>> print(disagreements()[0])
    Multi-attempt at one attempt: 45.6 in the text, 45.4 in Table 1, while the five numbers of that table average 45.5.
    """
    return [
        f"{model.name.capitalize()} at one attempt: {model.average['1']:.1f} in the text, "
        f"{model.stated_average:.1f} in Table 1, while the five numbers of that table average {model.mean_of_row:.1f}."
        for model in MODELS
    ]

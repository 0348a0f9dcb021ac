"""Arithmetic without a data set: gcd and remainder questions, and a small model that is made for them on the spot."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from multiattempt_trl.dialogue.prompts import PAPER, PromptPreset
from multiattempt_trl.dialogue.remarks import HINT
from multiattempt_trl.domains import Domain
from multiattempt_trl.domains.arithmetic.grading import judge_exactly
from multiattempt_trl.domains.arithmetic.questions import KINDS, Arithmetic, draws, questions
from multiattempt_trl.domains.course import Course
from multiattempt_trl.domains.made import MadeQuestions
from multiattempt_trl.rollout.live import Grade

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PRESET = PromptPreset(
    name="arithmetic",
    system=None,
    # No word of the box: the warm start has taught it, and every token costs time on a CPU.
    user="{problem} You have {attempts}.",
    feedback_role=PAPER.feedback_role,
    feedback=PAPER.feedback,
)

QUESTIONS = MadeQuestions(name="arithmetic", of_split=questions)


@contextmanager
def open_grader() -> Iterator[Grade]:
    """Comparing two strings needs no worker process, so this only hands out the function."""
    yield judge_exactly


def _tokenizer() -> "PreTrainedTokenizerFast":
    from multiattempt_trl.domains.arithmetic.tokenizer import build_tokenizer

    return build_tokenizer(PRESET)


def _exercises(random: Random) -> Sequence[Iterator[Arithmetic]]:
    return [draws(kind, "train", random) for kind in KINDS]


COURSE = Course(module=__name__, preset=PRESET, tokenizer=_tokenizer, exercises=_exercises)

DOMAIN = Domain(
    name="arithmetic",
    load_train=QUESTIONS.load_train,
    load_benchmark=QUESTIONS.load_benchmark,
    benchmarks=("arithmetic",),
    grader=open_grader,
    default_preset=PRESET.name,
    presets={PRESET.name: PRESET},
    feedback_styles={HINT: "too high or too low, and the range where the answer is outside of it"},
    max_attempt_tokens=12,  # a well-formed answer takes 4 to 6
    build_model=COURSE.build_model,
    model_config=COURSE.architecture,
)

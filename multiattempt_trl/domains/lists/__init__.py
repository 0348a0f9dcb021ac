"""List programs without a data set: what turns this list into that one? A small model, made on the spot, learns it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.prompts import PAPER, PromptPreset
from multiattempt_trl.dialogue.remarks import FIRST_TEST
from multiattempt_trl.domains import Domain
from multiattempt_trl.domains.blocks import block
from multiattempt_trl.domains.course import Course
from multiattempt_trl.domains.lists.grading import STYLES, judge_program
from multiattempt_trl.domains.lists.questions import KINDS, Transformation, draws, questions
from multiattempt_trl.domains.lists.suites import Suite
from multiattempt_trl.domains.made import MadeQuestions
from multiattempt_trl.rollout.live import Grade

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PRESET = PromptPreset(
    name="lists",
    system=None,
    # No word of the language: the warm start has taught it, and every token costs time on a CPU.
    user="{problem} You have {attempts}.",
    feedback_role=PAPER.feedback_role,
    feedback="Your program is wrong. You have {attempts} left.",
)

QUESTIONS = MadeQuestions(name="lists", of_split=questions)


def write_gold(question: Question) -> str:
    """The program that was meant."""
    return block(Suite.read(question.answer).solution)


@contextmanager
def open_grader() -> Iterator[Grade]:
    """A program of this language cannot harm or hang, so that it needs no process of its own."""
    yield judge_program


def _tokenizer() -> "PreTrainedTokenizerFast":
    from multiattempt_trl.domains.lists.tokenizer import build_tokenizer

    return build_tokenizer(PRESET)


def _exercises(random: Random) -> Sequence[Iterator[Transformation]]:
    return [draws(operations, "train", random) for operations in KINDS]


COURSE = Course(
    module=__name__,
    preset=PRESET,
    tokenizer=_tokenizer,
    exercises=_exercises,
    judge=judge_program,
    styles=(FIRST_TEST,),
    context=1024,
)

DOMAIN = Domain(
    name="lists",
    load_train=QUESTIONS.load_train,
    load_benchmark=QUESTIONS.load_benchmark,
    benchmarks=("lists",),
    grader=open_grader,
    default_preset=PRESET.name,
    presets={PRESET.name: PRESET},
    feedback_styles=STYLES,
    max_attempt_tokens=12,  # a program of two operations takes 5 to 8
    write_gold=write_gold,
    build_model=COURSE.build_model,
    model_config=COURSE.architecture,
)

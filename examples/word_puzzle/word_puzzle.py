"""A domain of one's own: unscramble the letters of a word. Nothing of the package was changed for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.dialogue.prompts import PromptPreset
from multiattempt_trl.domains import Domain, TrainRows
from multiattempt_trl.rollout.live import Grade

LISTED = """
apple beach bread chair clock cloud dance dream earth field flame fruit ghost glass grape green heart horse house juice
knife lemon light lunch melon money month mouse music night ocean paint paper peach phone piano plant queen river shirt
smile snake spoon stone storm sugar table tiger train voice water whale wheel world cheap lions
"""
WORDS = LISTED.split()
HELD_OUT = 12

PRESET = PromptPreset(
    name="word-puzzle",
    system=None,
    user="{problem} Put the word inside \\boxed{{}}. You have {attempts}.",
    feedback_role="user",
    feedback="That is not it. Try another word. You have {attempts} left.",
)


def questions(words: list[str]) -> list[Question]:
    """One for each word; the letters are shuffled the same way every time."""
    shuffled = {word: "".join(Random(word).sample(word, len(word))) for word in words}
    return [
        Question(id=word, problem=f"Which English word has the letters {letters}?", answer=word, benchmark="words")
        for word, letters in shuffled.items()
    ]


def load_train(_source: str | None, _rows: TrainRows) -> list[Question]:
    """All words but the last ones, which are tested."""
    return questions(WORDS[:-HELD_OUT])


def load_benchmark(name: str) -> list[Question]:
    """The last words; raises `ValueError` for any other benchmark."""
    if name != "words":
        raise ValueError(f"benchmark {name!r} is unknown; there is words")
    return questions(WORDS[-HELD_OUT:])


def grade(question: Question, response: str) -> Verdict | Judgement:
    """Any known word with the same letters counts: "peach" and "cheap" answer each other's question."""
    word = last_boxed(response)
    if word is None:
        return Verdict.INVALID
    if sorted(word) != sorted(question.answer):
        return Judgement(verdict=Verdict.WRONG, remarks={"hint": "It has other letters."})
    return Verdict.CORRECT if word in WORDS else Verdict.WRONG


@contextmanager
def open_grader() -> Iterator[Grade]:
    """Comparing letters needs no worker process."""
    yield grade


DOMAIN = Domain(
    name="word-puzzle",
    load_train=load_train,
    load_benchmark=load_benchmark,
    benchmarks=("words",),
    grader=open_grader,
    feedback_styles={"hint": "whether the letters are others"},
    default_preset=PRESET.name,
    presets={PRESET.name: PRESET},
)

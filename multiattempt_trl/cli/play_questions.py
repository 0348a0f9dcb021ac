"""Which questions are played: of a benchmark, or typed by whoever plays."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from random import Random

from multiattempt_trl.cli.play_screen import NO_GOLD, Screen
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.rollout.live import Grade


def questions(
    screen: Screen, grade: Grade, benchmark: Sequence[Question], first: Question | None, random: Random
) -> Iterator[Question]:
    """One of the benchmark, where there is one, and then what is typed."""
    if benchmark:
        yield first or random.choice(benchmark)
    picks = f", Enter for any of {benchmark[0].benchmark}, #id or #index for that one" if benchmark else ""
    screen.say(f"\nType a question{picks}; Ctrl-D to end.")
    while True:
        line = screen.ask("question> ")
        if not line and benchmark:
            yield random.choice(benchmark)
        elif line.startswith("#") and benchmark:
            try:
                yield find(benchmark, line[1:])
            except ValueError as error:
                screen.say(str(error), style="red")
        elif line:
            yield _typed(screen, grade, line)


def find(benchmark: Sequence[Question], which: str) -> Question:
    """The question of that id, or else of that index; raises `ValueError` where there is neither."""
    for question in benchmark:
        if question.id == which:
            return question
    if which.isdecimal() and int(which) < len(benchmark):
        return benchmark[int(which)]
    raise ValueError(
        f"question {which!r} is unknown: {benchmark[0].benchmark} has {benchmark[0].id!r} to {benchmark[-1].id!r}; "
        f"name one, or an index from 0 to {len(benchmark) - 1}"
    )


def _typed(screen: Screen, grade: Grade, problem: str) -> Question:
    """A question of one's own, with an answer that can be graded against, or none."""
    digest = blake2b(problem.encode(errors="replace"), digest_size=4).hexdigest()
    while True:
        answer = screen.ask("answer (Enter: you judge)> ")
        question = Question(id=f"typed-{digest}", problem=problem, answer=answer or NO_GOLD)
        try:
            if answer:
                grade(question, "")
        except ValueError as error:
            screen.say(str(error), style="red")
        else:
            return question

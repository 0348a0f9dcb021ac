"""Dialogues made up from their answers, for tests of what is computed from them."""

from collections.abc import Sequence

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict


def dialogue(
    name: str,
    answers: Sequence[str | None],
    *,
    budget: int,
    gold: str = "1",
    sample: int = 0,
    benchmark: str = "",
    level: str = "",
    subject: str = "",
    problem: str = "?",
    tokens: Sequence[int] | None = None,
    cut: Sequence[int] = (),
    failed: bool = False,
) -> Episode:
    """A dialogue with these boxed answers; None for an attempt without a box.

    `tokens` are sampled in each attempt (2 unless said), the attempts in `cut` (from 1) end at a token limit.
    """
    attempts = tuple(
        Attempt(
            prompt_ids=(1,),
            response_ids=(2,) * (tokens[number - 1] if tokens else 2),
            response="hm" if answer is None else f"\\boxed{{{answer}}}",
            verdict=Verdict.INVALID if answer is None else Verdict.CORRECT if answer == gold else Verdict.WRONG,
            finish_reason="length" if number in cut else "eos",
        )
        for number, answer in enumerate(answers, start=1)
    )
    solved = bool(attempts) and attempts[-1].verdict is Verdict.CORRECT
    return Episode(
        question=Question(id=name, problem=problem, answer=gold, benchmark=benchmark, level=level, subject=subject),
        budget=budget,
        attempts=attempts,
        ending=Ending.FAILED if failed else Ending.SOLVED if solved else Ending.EXHAUSTED,
        sample=sample,
    )


def alone(name: str, answers: Sequence[str | None], *, gold: str = "1", benchmark: str = "") -> list[Episode]:
    """One-attempt dialogues about one question, a sample for each answer."""
    return [
        dialogue(name, [answer], budget=1, gold=gold, sample=sample, benchmark=benchmark)
        for sample, answer in enumerate(answers)
    ]

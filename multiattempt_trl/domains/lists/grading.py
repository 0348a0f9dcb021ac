"""The grader of list programs: runs the last block of a response on the lists of its question, here and now."""

from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.dialogue.remarks import ERROR, FIRST_TEST
from multiattempt_trl.domains.blocks import last_block
from multiattempt_trl.domains.lists.language import BAR, LimitError, Operation, parse, run
from multiattempt_trl.domains.lists.suites import Suite, written

STYLES = {
    FIRST_TEST: "the first test that fails: the list, what the program makes of it, and what it should",
    ERROR: "what is no program, or which limit it exceeds",
}
"""Feedback styles that it makes remarks for."""
TOO_MUCH = "too much"
"""What a program gives that exceeds a limit."""
NAMED = 40
"""Characters of what is no operation."""


def judge_program(question: Question, response: str) -> Judgement:
    r"""The verdict, with the program as its answer and, where it is not correct, with remarks.

    `CORRECT`: it passes all tests. `WRONG`: it does not, or exceeds a limit. `INVALID`: no closed block, or no program
    in it. Raises `ValueError` for a question of another domain only.

    >>> question = Question(id="1", problem="Turn 21 into 12.", answer="sort\n312 -> 123\n21 -> 12")
    >>> judged = judge_program(question, "```\nreverse\n```")
    >>> judged.verdict.value, judged.answer, judged.remarks
    ('wrong', 'reverse', {'first_test': 'For 312 it gives 213, not 123.'})
    """
    suite = Suite.read(question.answer)
    text = last_block(response, ("",))
    if text is None:
        return Judgement(verdict=Verdict.INVALID, remarks={ERROR: "There is no closed block."}, answer="")
    program, unknown = parse(text)
    if unknown is not None:
        remark = f"This is no operation: {unknown[:NAMED]}." if unknown else "An operation is missing."
        return Judgement(verdict=Verdict.INVALID, remarks={ERROR: remark}, answer="")
    remarks = _first_failure(program, suite)
    verdict = Verdict.WRONG if remarks else Verdict.CORRECT
    return Judgement(verdict=verdict, remarks=remarks, answer=BAR.join(map(str, program)))


def _first_failure(program: tuple[Operation, ...], suite: Suite) -> dict[str, str]:
    """By style, what there is to say of the first test that fails; empty where all pass."""
    for before, after in suite.tests:
        error = ""
        try:
            found = run(program, before)
            if found == after:
                continue
            gives = written(found)
        except LimitError as exceeded:
            gives, error = TOO_MUCH, f"It has {exceeded}."
        remarks = {FIRST_TEST: f"For {written(before)} it gives {gives}, not {written(after)}."}
        return {**remarks, ERROR: error} if error else remarks
    return {}

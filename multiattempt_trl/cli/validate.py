"""`multiattempt validate`: whether the gold answers of question sets can be graded against."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

from multiattempt_trl.cli import quiet_end
from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.domains import Domain, TrainRows, UnusableGoldError, get_domain
from multiattempt_trl.graders.cost import too_expensive
from multiattempt_trl.graders.lists import same_parts
from multiattempt_trl.graders.math_verify import MathVerifyGrader
from multiattempt_trl.graders.notations import NOTATIONS
from multiattempt_trl.graders.numbers import plain_number
from multiattempt_trl.graders.structure import chain, split_name
from multiattempt_trl.graders.symbolic import Outcome
from multiattempt_trl.graders.syntax import is_formula
from multiattempt_trl.graders.units import split_unit
from multiattempt_trl.graders.words import phrase
from multiattempt_trl.rollout.live import Grade, judge

TRAIN = "train"
MAX_DEPTH = 4
"""Parts in parts, and what stands around an answer, as deep as anybody writes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A gold answer with which something is wrong."""

    id: str
    gold: str
    reason: str

    def __str__(self) -> str:
        gold = shorten(self.gold, 100, placeholder=" ...") or "(nothing)"
        return f"{self.id}: {gold}: {self.reason}".encode("utf-8", errors="backslashreplace").decode("utf-8")


def main(argv: list[str]) -> None:
    """Prints for each set how many gold answers are accepted and which are not; exits with 1 where there are any."""
    parser = argparse.ArgumentParser(
        prog="multiattempt validate",
        description="Checks that every gold answer, as a model would give it, is accepted by the domain's grader.",
    )
    where = "a benchmark's name, name=path, a path or a Hub id; train for the domain's own training set"
    parser.add_argument("--data", action="append", required=True, metavar="SPEC", help=f"{where}; may be repeated")
    parser.add_argument("--domain", default="maths", help="whose loader and grader (default: maths)")
    parser.add_argument("--verbose", action="store_true", help="list the golds that can only be matched as text")
    arguments = parser.parse_args(argv)
    domain = get_domain(arguments.domain)
    with quiet_end(), domain.grader() as grade:
        accepted = [_validate(domain, grade, spec, arguments.verbose) for spec in arguments.data]
    if not all(accepted):
        sys.exit(1)


def _validate(domain: Domain, grade: Grade, spec: str, verbose: bool) -> bool:
    """Prints what there is to say of one set; whether all its gold answers are accepted."""
    questions, refused = _load(domain, spec)
    total = len(questions) + len(refused)
    refused += _not_accepted(domain, questions, grade)
    line = f"{spec}: {total - len(refused)}/{total} accepted"
    only_text: list[Finding] = []
    if isinstance(grade, MathVerifyGrader):
        numbers = sum(plain_number(question.answer) is not None for question in questions)
        asked = {question: gold for question in questions if (gold := asked_of_math_verify(question.answer))}
        only_text = _only_text(asked, grade)
        line += (
            f"; compared as numbers {numbers}, by rules {len(questions) - numbers - len(asked)}, "
            f"by math-verify {len(asked) - len(only_text)}, as text only {len(only_text)}"
        )
    found = [f"  not accepted: {finding}" for finding in refused]
    found += [f"  as text only: {finding}" for finding in only_text if verbose]
    sys.stdout.write("".join(f"{text}\n" for text in (line, *found)))
    sys.stdout.flush()
    return not refused


def _load(domain: Domain, spec: str) -> tuple[Sequence[Question], list[Finding]]:
    """The questions that can be made of a set, and the rows that cannot for their gold answer."""
    try:
        if spec == TRAIN:
            return domain.load_train(None, TrainRows(keep_benchmark_rows=True)), []
        return domain.load_benchmark(spec), []
    except UnusableGoldError as error:
        refused = [Finding(id=gold.id, gold=gold.gold, reason=gold.reason) for gold in error.unusable]
        return error.usable, refused


def _not_accepted(domain: Domain, questions: Iterable[Question], grade: Grade) -> Iterator[Finding]:
    given = [(question, domain.gold_response(question)) for question in questions]
    if isinstance(grade, MathVerifyGrader):
        for question, response in given:
            grading = grade.grade(question.answer, str(response), benchmark=question.benchmark)
            if grading.verdict is not Verdict.CORRECT:
                yield Finding(id=question.id, gold=question.answer, reason=grading.reason)
        return
    judging = [response and judge(grade, question, response) for question, response in given]
    for (question, _), said in zip(given, judging, strict=True):
        reason = Judgement.of(said.result()).verdict.value if said else "the set has no solution to try"
        if reason != Verdict.CORRECT:
            yield Finding(id=question.id, gold=question.answer, reason=reason)


def asked_of_math_verify(gold: str, depth: int = MAX_DEPTH) -> str | None:
    r"""What math-verify is asked about a gold answer; None where numbers and rules alone tell what equals it.

    >>> asked_of_math_verify(r"\frac{1}{2}"), asked_of_math_verify(r"\text{(C)}"), asked_of_math_verify("(1, 2]")
    (None, None, None)
    >>> asked_of_math_verify(r"1, \sqrt{2}"), asked_of_math_verify(r"x = \sqrt{2}\text{ cm}")
    ('1, \\sqrt{2}', '\\sqrt{2}')
    """

    def equal(one: str, other: str) -> bool | None:
        return one == other if depth and asked_of_math_verify(one, depth - 1) is None else None

    if plain_number(gold) or phrase(gold) or any(same(gold, gold) for same in NOTATIONS.values()):
        return None
    if (decision := same_parts(gold, gold, equal)) is not None and decision.equal:
        return None
    if depth and r"\approx" in gold and None in (asked_of_math_verify(form, depth - 1) for form in chain(gold)):
        return None
    bare, _ = split_unit(gold)
    _, bare = split_name(bare)
    return asked_of_math_verify(bare, depth - 1) if depth and bare != gold else gold


def _only_text(asked: Mapping[Question, str], grader: MathVerifyGrader) -> list[Finding]:
    """Golds that math-verify cannot read, so that only the same text equals them.

    Args:
        asked: what math-verify is asked about each.
    """
    unreadable = {each: reason for each, gold in asked.items() if (reason := _unreadable(gold))}
    started = {each: grader.pool.submit(gold, gold) for each, gold in asked.items() if each not in unreadable}
    for each, comparison in started.items():
        if (outcome := comparison.result().outcome) is not Outcome.EQUAL:
            unreadable[each] = outcome.value
    return [Finding(id=each.id, gold=each.answer, reason=unreadable[each]) for each in asked if each in unreadable]


def _unreadable(gold: str) -> str:
    """Why math-verify would not be asked about an answer like this; empty where it would."""
    if not is_formula(gold, gold):
        return "not understood"
    return "too expensive" if too_expensive(gold) else ""

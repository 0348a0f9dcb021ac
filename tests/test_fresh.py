"""Fresh arithmetic: the same everywhere, in balance, exact at every step, and answers that another evaluator finds."""

import ast
import doctest
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path

import pytest

from multiattempt_trl.cli.arguments import EvalArguments
from multiattempt_trl.cli.evaluator import load_benchmarks
from multiattempt_trl.dialogue.episode import Verdict
from multiattempt_trl.domains import TrainRows, get_domain
from multiattempt_trl.domains.maths import fresh
from multiattempt_trl.domains.maths.data import load_benchmark, load_train
from multiattempt_trl.domains.maths.fresh import Draw, Expression, fresh_arithmetic, leaf, minus, over, square, times

GOLDEN = [
    (r"Evaluate $(15 \times 21) \div 9$.", "35"),
    (r"Evaluate $52 - 56 + (24 - 40 \times 60)$.", "-2380"),
    (r"Evaluate $94 + 27 + (45 \times 29 - (52 + 35 + 62))$.", "1277"),
    (r"Evaluate $(2 \times (73 - 17 \times 57)) \div ((37 - 7 \times 5)^2 + 3)$.", "-256"),
    (r"Evaluate $25 - (52 - ((34 \div 2) \times 70 - 57)) + (56 - (89 + 64) + 52)^2$.", "3131"),
]
"""Of the default set: 15 * 21 / 9 = 315 / 9, 52 - 56 + (24 - 2400), 121 + (1305 - 149), -1792 / 7 with
2 * (73 - 969) = -1792 and (37 - 35)^2 + 3 = 7, and 25 - (52 - (1190 - 57)) + (-45)^2 = 25 + 1081 + 2025."""


def tree(problem: str) -> ast.expr:
    """Python's own reading of the LaTeX, with the precedence of its operators."""
    text = re.fullmatch(r"Evaluate \$(.*)\$\.", problem)
    assert text
    assert re.fullmatch(r"(?:[0-9]+|\^2|[-+() ]|\\times|\\div)+", text[1])
    python = text[1].replace(r"\times", "*").replace(r"\div", "/").replace("^", "**")
    return ast.parse(python, mode="eval").body


def evaluate(node: ast.expr, seen: list[Fraction]) -> Fraction:
    """The exact value, with that of every operation on the way in `seen`."""
    if isinstance(node, ast.Constant):
        assert type(node.value) is int
        return Fraction(node.value)
    assert isinstance(node, ast.BinOp)
    left, right = evaluate(node.left, seen), evaluate(node.right, seen)
    match node.op:
        case ast.Add():
            value = left + right
        case ast.Sub():
            value = left - right
        case ast.Mult():
            value = left * right
        case ast.Div():
            value = left / right
        case ast.Pow():
            assert right == 2
            value = left * left
        case other:
            raise AssertionError(f"an operation that is none of ours: {other}")
    seen.append(value)
    return value


def operations(node: ast.expr) -> Iterator[ast.BinOp]:
    return (one for one in ast.walk(node) if isinstance(one, ast.BinOp))


def operands(node: ast.expr) -> list[int]:
    exponents = {id(one.right) for one in operations(node) if isinstance(one.op, ast.Pow)}
    return [one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and id(one) not in exponents]  # type: ignore[misc]


def test_the_default_set_is_pinned() -> None:
    questions = fresh_arithmetic("fresh-arithmetic")
    assert [(one.problem, one.answer) for one in questions[:5]] == GOLDEN
    assert questions[4].id == "fresh-arithmetic-seed0-4"
    # 39 - (2 * 67^2 + (2 - 8464) / 2) + 84 = 39 - (8978 - 4231) + 84
    last = r"Evaluate $39 - ((48 \div 24) \times (3 - 70)^2 + (2 - 92^2) \div 2) + 84$."
    assert (questions[-1].id, questions[-1].problem, questions[-1].answer) == (
        "fresh-arithmetic-seed0-499",
        last,
        "-4624",
    )
    whole = "\n".join(f"{one.id} {one.problem} {one.answer} {one.level}" for one in questions)
    assert blake2b(whole.encode(), digest_size=8).hexdigest() == "001c27c035dba4ba"


def test_every_step_is_a_bounded_integer_and_the_answer_that_of_another_evaluator() -> None:
    questions = [*fresh_arithmetic("fresh-arithmetic"), *fresh_arithmetic("fresh-arithmetic-seed7-n2000")]
    steps = 0
    for question in questions:
        seen: list[Fraction] = []
        expression = tree(question.problem)
        value = evaluate(expression, seen)
        assert str(value) == question.answer, question
        assert all(step.denominator == 1 and 2 <= abs(step) <= 9999 for step in seen), question
        assert all(2 <= one <= 99 for one in operands(expression)), question
        assert len(seen) == 2 * int(question.level), question
        steps += len(seen)
    # 2 + 4 + 6 + 8 + 10 operations for each five questions.
    assert steps == 2500 // 5 * 30


def test_levels_are_balanced_and_rise_with_the_operations() -> None:
    questions = fresh_arithmetic("fresh-arithmetic")
    assert Counter(one.level for one in questions) == dict.fromkeys("12345", 100)
    assert Counter(one.level for one in questions[:7]) == {"1": 2, "2": 2, "3": 1, "4": 1, "5": 1}
    counts: dict[str, set[int]] = {level: set() for level in "12345"}
    for one in questions:
        counts[one.level].add(len(list(operations(tree(one.problem)))))
    assert counts == {"1": {2}, "2": {4}, "3": {6}, "4": {8}, "5": {10}}


def test_all_operations_occur_at_every_level() -> None:
    for level in "12345":
        found = Counter(
            type(operation.op).__name__
            for one in fresh_arithmetic("fresh-arithmetic")
            if one.level == level
            for operation in operations(tree(one.problem))
        )
        assert set(found) == {"Add", "Sub", "Mult", "Div", "Pow"}
        # None is rare but the square, which is drawn for 8 in 100.
        assert all(found[name] >= found.total() / 8 for name in ("Add", "Sub", "Mult", "Div"))
        assert found["Pow"] >= found.total() / 30


def test_questions_are_distinct_and_answers_cannot_be_guessed() -> None:
    questions = fresh_arithmetic("fresh-arithmetic-seed3-n10000")
    assert len({one.problem for one in questions}) == len({one.id for one in questions}) == 10_000
    most = Counter(one.answer for one in questions).most_common(1)[0][1]
    assert most < 0.02 * 10_000
    assert 0.2 < sum(one.answer.startswith("-") for one in questions) / 10_000 < 0.5


def test_repeated_draws_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "OPERANDS", range(2, 4))
    monkeypatch.setattr(fresh, "LEVELS", 1)
    questions = fresh_arithmetic("fresh-arithmetic-n60")
    assert len({one.problem for one in questions}) == 60


def test_a_smaller_set_is_the_beginning_of_a_larger_one_and_seeds_differ() -> None:
    small, large = fresh_arithmetic("fresh-arithmetic-n20"), fresh_arithmetic("fresh-arithmetic-seed0-n40")
    assert [(one.id, one.problem) for one in small] == [(one.id, one.problem) for one in large[:20]]
    other = fresh_arithmetic("fresh-arithmetic-seed1-n40")
    assert not {one.problem for one in other} & {one.problem for one in large}
    assert not {one.id for one in other} & {one.id for one in large}


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (times(over(leaf(84), leaf(7)), leaf(3)), r"(84 \div 7) \times 3"),  # type: ignore[arg-type]
        (over(times(leaf(84), leaf(3)), leaf(7)), r"(84 \times 3) \div 7"),  # type: ignore[arg-type]
        (over(over(leaf(84), leaf(7)), leaf(3)), r"(84 \div 7) \div 3"),  # type: ignore[arg-type]
        (times(times(leaf(4), leaf(3)), leaf(7)), r"4 \times 3 \times 7"),  # type: ignore[arg-type]
        (times(leaf(4), times(leaf(3), leaf(7))), r"4 \times (3 \times 7)"),  # type: ignore[arg-type]
        (minus(leaf(9), minus(leaf(8), leaf(4))), "9 - (8 - 4)"),  # type: ignore[arg-type]
        (minus(minus(leaf(9), leaf(4)), leaf(3)), "9 - 4 - 3"),  # type: ignore[arg-type]
        (minus(times(leaf(9), leaf(4)), over(leaf(8), leaf(2))), r"9 \times 4 - 8 \div 2"),  # type: ignore[arg-type]
        (square(minus(leaf(4), leaf(9))), "(4 - 9)^2"),  # type: ignore[arg-type]
        (square(square(leaf(4))), "(4^2)^2"),  # type: ignore[arg-type]
        (times(square(leaf(4)), leaf(2)), r"4^2 \times 2"),  # type: ignore[arg-type]
    ],
)
def test_brackets_stand_where_two_readings_are_possible(made: Expression | None, text: str) -> None:
    assert made is not None
    assert made.text == text


def test_results_that_are_not_exact_too_small_or_too_large_are_not_made() -> None:
    assert over(leaf(85), leaf(7)) is None
    assert over(leaf(7), leaf(7)) is None  # 1
    assert minus(leaf(7), leaf(7)) is None
    assert minus(leaf(7), leaf(8)) is None  # -1
    assert minus(leaf(7), leaf(9)) is not None
    assert square(leaf(99)) is not None  # 9801
    assert square(Expression(text="100", value=100)) is None  # 10000
    assert Draw("a").expression(0) is not None


def test_every_gold_is_graded_by_the_grader_of_mathematics_exactly() -> None:
    maths = get_domain("maths")
    with maths.grader() as grade:
        for one in maths.load_benchmark("fresh-arithmetic-n100"):
            assert grade(one, rf"So it is $\boxed{{{one.answer}}}$.").verdict is Verdict.CORRECT
            assert grade(one, rf"So it is $\boxed{{{int(one.answer) + 1}}}$.").verdict is Verdict.WRONG


def test_a_benchmark_is_named_as_it_is_spelt_or_as_one_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = "fresh-arithmetic,fresh-arithmetic-seed7-n30,mine=fresh-arithmetic-seed8-n20"
    loaded = load_benchmarks(get_domain("maths"), EvalArguments(benchmarks=specs))
    sizes = {"fresh-arithmetic": 500, "fresh-arithmetic-seed7-n30": 30, "mine": 20}
    assert {name: len(questions) for name, questions in loaded.items()} == sizes
    assert {name: {one.benchmark for one in questions} for name, questions in loaded.items()} == {
        name: {name} for name in sizes
    }
    assert "fresh-arithmetic" not in get_domain("maths").benchmarks
    # A file of that name is a file.
    monkeypatch.chdir(tmp_path)
    Path("fresh-arithmetic.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n', encoding="utf-8")
    assert [one.problem for one in load_benchmark("fresh-arithmetic.jsonl")] == ["1+1?"]
    assert [one.benchmark for one in load_benchmark("fresh-arithmetic=fresh-arithmetic.jsonl")] == ["fresh-arithmetic"]


def test_it_can_be_trained_on_without_what_is_evaluated() -> None:
    evaluated = fresh_arithmetic("fresh-arithmetic-n5")
    assert len(load_train("fresh-arithmetic-seed1-n50", TrainRows(evaluated=evaluated))) == 50
    assert len(load_train("fresh-arithmetic-seed0-n50", TrainRows(evaluated=evaluated))) == 45


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fresh-arithmetic-n0", "'fresh-arithmetic-n0' is not understood: write fresh-arithmetic, fresh"),
        ("fresh-arithmetic-seed07", "'fresh-arithmetic-seed07' is not understood"),
        ("fresh-arithmetic-n5-seed1", "is not understood"),
        ("fresh-arithmetic-seed-1", "is not understood"),
        ("fresh-arithmetic-seed٣", "is not understood"),
        ("fresh-arithmetics", "is not understood"),
        ("fresh-arithmetic:seed=7,n=300", "'fresh-arithmetic:seed=7,n=300' is not understood: write"),
        ("mine=fresh-arithmetic-n", "'fresh-arithmetic-n' is not understood"),
        ("fresh-arithmetic-n100001", "asks for 100001 questions, and at most 100000 are made"),
        ("fresh-arithmetic.jsonl", "there is no file 'fresh-arithmetic.jsonl'"),
        ("math5000", "choose one of aime24, .*, fresh-arithmetic, a local file"),
    ],
)
def test_a_bad_spec_is_refused_with_the_remedy(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_benchmark(spec)


def test_the_examples_in_the_module() -> None:
    assert doctest.testmod(fresh).attempted >= 2
    assert doctest.testmod(fresh).failed == 0

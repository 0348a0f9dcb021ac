"""List programs: the language and its limits, the questions, the grader, the words, and the small model's lessons."""

import doctest
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains import get_domain
from multiattempt_trl.domains.course import lessons
from multiattempt_trl.domains.lists import COURSE, DOMAIN, PRESET
from multiattempt_trl.domains.lists.grading import judge_program
from multiattempt_trl.domains.lists.language import (
    MAX_LENGTH,
    MAX_OPERATIONS,
    NUMBERED,
    PLAIN,
    LimitError,
    Operation,
    parse,
    run,
)
from multiattempt_trl.domains.lists.questions import SPLIT_ENDS, Transformation, draw, questions
from multiattempt_trl.domains.lists.suites import Suite, written
from multiattempt_trl.domains.lists.tokenizer import phrases
from multiattempt_trl.domains.small_model import build_model
from multiattempt_trl.domains.warm_start import fingerprint
from multiattempt_trl.rollout.live import Dialogue
from multiattempt_trl.rollout.requests import GenResult

CORRECT, WRONG, INVALID = Verdict.CORRECT, Verdict.WRONG, Verdict.INVALID
SORT = Question(id="312-123", problem="Turn 312 into 123.", answer="sort\n4351 -> 1345\n312 -> 123")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return COURSE.tokenizer()


def block(program: str) -> str:
    return f"```\n{program}\n```"


# The language


@pytest.mark.parametrize(
    ("program", "made"),
    [
        ("sort", "12259"),
        ("reverse", "21925"),
        ("unique", "5291"),
        ("double", "04824"),  # 10, 4, 18, 2, 4 modulo 10
        ("repeat", "5291252912"),
        ("add 3", "85245"),  # 8, 5, 12, 4, 5
        ("drop 2", "912"),
        ("drop 9", "nothing"),
        ("take 2", "52"),
        ("sort | drop 1 | add 9", "1148"),  # 12259, 2259, then 11, 11, 14, 18
        ("add 9 | sort | drop 1", "1148"),
        ("drop 1 | sort", "1229"),
    ],
)
def test_what_operations_do(program: str, made: str) -> None:
    operations, unknown = parse(program)
    assert unknown is None
    assert written(run(operations, (5, 2, 9, 1, 2))) == made


def test_a_program_ends_within_its_limits() -> None:
    doubled = [Operation(name="repeat")] * 6
    assert len(run(doubled, (1,))) == MAX_LENGTH == 64
    with pytest.raises(LimitError, match="a list of 128, and at most 64"):
        run([*doubled, Operation(name="repeat")], (1,))
    with pytest.raises(LimitError, match="17 operations, and at most 16"):
        run([Operation(name="sort")] * (MAX_OPERATIONS + 1), (1,))


@pytest.mark.parametrize(
    "text", ["", "sort |", "Sort", "sort 1", "add", "add 0", "add 10", "add -1", "add ٣", "sort, drop 1", "sort\x00"]
)
def test_what_is_no_program(text: str) -> None:
    assert parse(text)[1] is not None


# The questions


def test_the_splits_have_their_sizes_and_share_no_list_that_is_shown() -> None:
    assert [len(questions(split)) for split in SPLIT_ENDS] == [1000, 600, 4000]
    shown = {split: {question.id.split("-")[0] for question in questions(split)} for split in SPLIT_ENDS}
    assert not shown["train"] & shown["validation"]
    assert not shown["train"] & shown["test"]
    assert not shown["validation"] & shown["test"]


@pytest.mark.parametrize("split", SPLIT_ENDS)
def test_questions_are_distinct_balanced_and_right(split: str) -> None:
    listed = questions(split)  # type: ignore[arg-type]
    assert len({question.id for question in listed}) == len({question.problem for question in listed}) == len(listed)
    assert [question.level for question in listed] == ["1", "2"] * (len(listed) // 2)
    for question in listed:
        before, after = question.id.split("-")
        assert question.problem == f"Turn {before} into {after}."
        suite = Suite.read(question.answer)
        assert suite.text == question.answer
        assert [written(digits) for digits in suite.tests[-1]] == [before, after]
        assert len(suite.tests) == 4
        judged = judge_program(question, str(DOMAIN.gold_response(question)))
        assert (judged.verdict, judged.answer, judged.remarks) == (CORRECT, suite.solution, {})


def test_the_lists_are_the_same_in_every_process_and_release() -> None:
    """Reported numbers hang on these: a change here changes every benchmark result."""
    assert [question.id for question in questions("test")[:3]] == ["383856-383856383856", "9229-92", "7646-764"]
    assert [question.id for question in questions("validation")[:2]] == ["97591-84082", "9694-288"]


def test_every_operation_of_a_drawn_program_does_something() -> None:
    random = Random(0)
    seen: Counter[str] = Counter()
    for _ in range(2000):
        drawn = draw(2, random)
        assert 4 <= len(drawn.shown) <= 6
        between = run(drawn.program[:1], drawn.shown)
        after = run(drawn.program, drawn.shown)
        assert drawn.shown != between != after != ()
        assert drawn.program[0].name != drawn.program[1].name
        seen.update(map(str, drawn.program))
    names = {*PLAIN, "add 1", "add 2", "add 3", "drop 1", "drop 2", "take 1", "take 2", "take 3"}
    assert set(seen) == names
    assert {name.split()[0] for name in names} == {*PLAIN, *NUMBERED}


# The grader


@pytest.mark.parametrize(
    ("response", "verdict", "answer", "remarks"),
    [
        (block("sort"), CORRECT, "sort", {}),
        ("So:\n```\nreverse\n```\nNo:\n```\n sort|sort\n```", CORRECT, "sort | sort", {}),
        (block("reverse"), WRONG, "reverse", {"first_test": "For 4351 it gives 1534, not 1345."}),
        (
            block("drop 1|drop 1|sort"),
            WRONG,
            "drop 1 | drop 1 | sort",
            {"first_test": "For 4351 it gives 15, not 1345."},
        ),
        (block("drop 9"), WRONG, "drop 9", {"first_test": "For 4351 it gives nothing, not 1345."}),
        (
            block(" | ".join(["repeat"] * 5)),
            WRONG,
            " | ".join(["repeat"] * 5),
            {
                "first_test": "For 4351 it gives too much, not 1345.",
                "error": "It has a list of 128, and at most 64 are held.",
            },
        ),
        (block("sort 3"), INVALID, "", {"error": "This is no operation: sort 3."}),
        (block("x" * 1000), INVALID, "", {"error": f"This is no operation: {'x' * 40}."}),
        (block(""), INVALID, "", {"error": "An operation is missing."}),
        (block("sort |"), INVALID, "", {"error": "An operation is missing."}),
        ("sort", INVALID, "", {"error": "There is no closed block."}),
        ("```\nsort", INVALID, "", {"error": "There is no closed block."}),
        ("```python\nsort\n```", INVALID, "", {"error": "There is no closed block."}),
        ("\\boxed{sort}", INVALID, "", {"error": "There is no closed block."}),
    ],
)
def test_judgements(response: str, verdict: Verdict, answer: str, remarks: dict[str, str]) -> None:
    judged = judge_program(SORT, response)
    assert (judged.verdict, judged.answer, judged.remarks) == (verdict, answer, remarks)


def test_a_program_that_only_fits_what_is_shown_is_wrong() -> None:
    shown = replace(SORT, answer="sort\n4351 -> 1345\n321 -> 123")
    assert judge_program(shown, block("reverse")).remarks["first_test"] == "For 4351 it gives 1534, not 1345."
    assert judge_program(replace(shown, answer="sort\n321 -> 123"), block("reverse")).verdict is CORRECT


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("`\n |123sortaddrepeat\x00\ud800é"), max_size=400))
def test_no_text_raises(text: str) -> None:
    for response in (text, block(text)):
        judged = judge_program(SORT, response)
        assert (judged.verdict is INVALID) == (judged.answer == "")


def test_long_programs_end_soon() -> None:
    assert judge_program(SORT, block(" | ".join(["repeat"] * 1_000_000))).verdict is WRONG
    assert judge_program(SORT, "```\n" * 100_000).verdict is INVALID
    assert judge_program(SORT, "```" + " " * 100_000 + "`").verdict is INVALID


def test_a_question_of_another_domain_is_an_error() -> None:
    for answer in ("6", "sort", "sort\n12 -> ab", ""):
        with pytest.raises(ValueError, match=r"load the questions with the domain `lists`|empty gold"):
            judge_program(replace(SORT, answer=answer), block("sort"))


# The domain, and a dialogue


def test_the_domain_record() -> None:
    domain = get_domain("lists")
    assert domain.preset(None) is PRESET
    assert domain.load_train(None) == questions("train")
    assert domain.load_benchmark("lists") == questions("test")
    assert domain.load_benchmark("lists-validation") == questions("validation")
    assert domain.gold_response(SORT) == block("sort")
    for style in ("binary", "none", "first_test", "error", "{error} You have {attempts}."):
        domain.check_feedback(style)
    with pytest.raises(ValueError, match=r"'first_test' \(the first test that fails"):
        domain.check_feedback("hint")
    for load in (domain.load_benchmark, lambda name: domain.load_train(name)):
        with pytest.raises(ValueError, match="lists makes its own questions"):
            load("data/mine.jsonl")


def test_importing_the_domain_loads_neither_torch_nor_trl() -> None:
    code = (
        "import sys, multiattempt_trl.domains.lists, multiattempt_trl.domains.warm_start;"
        "print([name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_dialogue_is_told_the_first_test_that_fails(tokenizer: PreTrainedTokenizerFast) -> None:
    env = Environment(question=SORT, budget=3, preset=PRESET, feedback="first_test")
    dialogue = Dialogue(env, Renderer(tokenizer), Limits(attempt=12, episode=36, context=512))  # type: ignore[arg-type]
    for program in ("reverse", "sort 3", "sort"):
        ids = (*tokenizer(block(program))["input_ids"], tokenizer.eos_token_id)
        dialogue.hand_in(GenResult(request_id=0, token_ids=ids, finish_reason="eos"), judge_program)
        dialogue.advance(judge_program(SORT, block(program)))
    asked = tokenizer.decode(dialogue.prompt_ids)
    assert "user\nTurn 312 into 123. You have 3 attempts.<" in asked
    assert "user\nYour program is wrong. For 4351 it gives 1534, not 1345. You have 2 attempts left.<" in asked
    assert "user\nYour program is wrong. You have 1 attempt left.<" in asked
    episode = dialogue.episode()
    assert [attempt.answer for attempt in episode.attempts] == ["reverse", None, "sort"]
    assert episode.solved_within(3)


# The tokenizer and the lessons


def test_phrases_operations_and_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    known = phrases(PRESET)
    assert len(known) == 26
    for phrase in known:
        assert len(tokenizer(phrase)["input_ids"]) == 1, phrase
    for text, count in (("```\nsort | drop 1\n```", 6), ("For 12 it gives nothing, not 345. You", None)):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert count is None or len(ids) == count


def test_any_text_can_be_written_and_read_back(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("wörld 🙂\t\r\n 12  x", "repeat|nothing | too much", "<|im_start|>user\nhi<|im_end|>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_model_is_small_and_seven_attempts_with_the_longest_remarks_fit(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = build_model(tokenizer, COURSE.context)
    assert 125_000 < sum(weights.numel() for weights in model.parameters()) < 145_000
    assert model.config.to_diff_dict() == COURSE.architecture().to_diff_dict()
    renderer = Renderer(tokenizer)  # type: ignore[arg-type]
    env = Environment(question=questions("test")[0], budget=7, preset=PRESET, feedback="first_test")
    limits = Limits(attempt=12, episode=84, context=model.config.max_position_embeddings)
    longest = len(renderer.prompt_ids(env.first_messages())) + limits.episode
    longest += sum(limits.remark + len(renderer.feedback_ids(env.feedback_message(k), ())) for k in range(1, 7))
    assert 512 < longest <= 1024


def test_lessons_are_dialogues_whose_feedback_tells_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    some = list(islice(lessons(COURSE, COURSE.settings, Renderer(tokenizer), seed=0), 1000))  # type: ignore[arg-type]
    told = truths = planted = retries = 0
    for lesson in some:
        text = tokenizer.decode(lesson.prompt_ids)
        assert tokenizer(text)["input_ids"] == list(lesson.prompt_ids)
        before, after = text.split("Turn ")[1].split(". You")[0].split(" into ")
        final = tokenizer.decode(lesson.answer_ids)
        program, unknown = parse(final.split("\n")[1])
        assert unknown is None
        assert written(run(program, tuple(map(int, before)))) == after
        assert Transformation(shown=tuple(map(int, before)), program=program).split == "train"
        earlier = text.split("assistant\n")[1:-1]
        retries += bool(earlier)
        for answered in earlier:
            planted += answered.startswith(final)
            said, _, remark = answered.partition(" it gives ")
            if remark:
                told += 1
                digits, right = said.rpartition("For ")[2], remark.partition(", not ")[2].partition(".")[0]
                truths += written(run(program, tuple(map(int, digits)))) == right
    assert 0.2 < retries / len(some) < 0.3
    assert told > 150
    assert truths / told < 0.1  # by chance
    assert planted > 250


def test_the_cache_name_follows_the_words_of_the_remarks() -> None:
    mute = replace(COURSE, judge=None, styles=())
    names = {fingerprint(course, COURSE.settings, 0) for course in (COURSE, mute)}
    assert len(names) == 2


def test_examples() -> None:
    counted = {}
    for name in ("lists.language", "lists.questions", "lists.suites", "lists.grading", "blocks"):
        found = doctest.testmod(import_module(f"multiattempt_trl.domains.{name}"))
        assert found.failed == 0
        counted[name] = found.attempted
    assert min(counted.values()) >= 2, json.dumps(counted)

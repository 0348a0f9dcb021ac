"""What the environment says of the attempts left, its probes, and episodes that were saved and read."""

import json
from dataclasses import replace
from typing import Any

import pytest

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER, PAPER_CODE, PromptPreset, uncounted

QUESTION = Question(id="q", problem="1 + 1? You have {attempts}.", answer="2", level="1", subject="sums")


def environment(**changes: Any) -> Environment:
    return Environment(**{"question": QUESTION, "budget": 3, "preset": PAPER, **changes})


def attempt(verdict: Verdict, response: str = r"\boxed{2}", finish_reason: str = "eos") -> Attempt:
    return Attempt(
        prompt_ids=(1, 2), response_ids=(3, 4, 5), response=response, verdict=verdict, finish_reason=finish_reason
    )


def said(env: Environment) -> list[int]:
    """The counts in the first prompt and in each feedback."""
    words = [env.first_messages()[-1]["content"].replace(QUESTION.problem, "")]
    words += [env.feedback_message(used)["content"] for used in range(1, env.budget)]
    return [int("".join(char for char in text if char.isdigit())) for text in words]


def test_the_count_counts_down_from_what_is_announced() -> None:
    assert said(environment()) == [3, 2, 1]
    assert said(environment(budget=2, announced=7)) == [7, 6]


@pytest.mark.parametrize(
    ("budget", "wrong"), [(1, [2]), (2, [1, 2]), (3, [1, 3, 2]), (4, [2, 1, 4, 3]), (7, [3, 2, 1, 7, 6, 5, 4])]
)
def test_a_wrong_count_is_never_right_and_always_a_usual_one(budget: int, wrong: list[int]) -> None:
    env = environment(budget=budget, count="wrong")
    assert said(env) == wrong
    assert all(shown != left for shown, left in zip(wrong, range(budget, 0, -1), strict=True))


@pytest.mark.parametrize("preset", [PAPER, PAPER_CODE])
def test_a_hidden_count_leaves_its_sentences_out_and_the_question_as_it_is(preset: Any) -> None:
    env = environment(preset=preset, count="hidden")
    opening = "\n".join(message["content"] for message in env.first_messages())
    assert opening.count("attempt") == 1, "the question's own"
    assert QUESTION.problem in opening
    assert "\\boxed{}" in opening
    feedback = env.feedback_message(1)["content"]
    assert feedback == preset.feedback.split(" You have")[0] + preset.feedback.split("left.")[1]
    own = environment(feedback="No! You have {attempts_left} more. Go on.", count="hidden")
    assert own.feedback_message(1)["content"] == "No! Go on."


@pytest.mark.parametrize(
    ("template", "left"),
    [
        ("Is it 3.5 {attempts}? Go on.", "Go on."),
        ("No, 1.5 is wrong. You have {attempts}.", "No, 1.5 is wrong."),
        ("No. Go on, i.e. use the {attempts} (e.g. think). Go.", "No. Go."),
        ("No! You have {attempts} (i.e. {attempts_left} tries)!! Go.", "No! Go."),
        ("No. (You have {attempts} left.) Go.", "No. Go."),
        ("No.\nYou have {attempts}\nGo.", "No.\n\nGo."),
        ("Write {{attempts}}. You have {attempts}.", "Write {{attempts}}."),
        ("You have {{{attempts}}}. Go.", "}}. Go."),
        ("{problem} Use {attempts} for {hint} now. Go.", "{problem}{hint} now. Go."),
        ("{attempts}.", ""),
    ],
)
def test_a_sentence_that_counts_is_left_out_whole(template: str, left: str) -> None:
    assert uncounted(template) == left


@pytest.mark.parametrize(
    ("feedback", "said", "without_a_hint"),
    [
        ("Wrong. {attempts} left.", "Wrong.", "Wrong."),
        ("You have {attempts} left. Wrong", "Wrong", "Wrong"),
        ("{problem} You have {attempts} left.", QUESTION.problem, QUESTION.problem),
        ("{hint} You have {attempts} left.", "Too high.", PAPER.feedback.partition(" You have")[0]),
        ("No. {hint} You have {attempts} left.", "No. Too high.", "No."),
    ],
)
def test_what_a_hidden_count_leaves_of_a_sentence_of_ones_own_is_said(
    feedback: str, said: str, without_a_hint: str
) -> None:
    env = environment(feedback=feedback, count="hidden")
    assert env.feedback_message(1, {"hint": "Too high."})["content"] == said
    assert env.feedback_message(1)["content"] == without_a_hint


OWN = PromptPreset(
    name="own", system="You have {attempts}.", user="{problem}", feedback_role="user", feedback="No. {attempts} left."
)


def test_a_hidden_count_leaves_no_empty_turn() -> None:
    assert [message["role"] for message in environment(preset=OWN).first_messages()] == ["system", "user"]
    hidden = environment(preset=OWN, count="hidden")
    assert hidden.first_messages() == [{"role": "user", "content": QUESTION.problem}]
    assert hidden.feedback_message(1)["content"] == "No."
    for changes in (
        {"feedback": "Wrong, you have {attempts} left."},
        {"preset": replace(OWN, feedback="No, {attempts} left.")},
        {"preset": replace(OWN, user="You have {attempts}")},
    ):
        environment(**{"preset": OWN, **changes})
        with pytest.raises(ValueError, match=r"nothing is left of .*\{attempts\}.* say something else"):
            environment(**{"preset": OWN, "count": "hidden", **changes})


def test_a_denied_answer_gets_one_more_attempt_and_any_other_ends() -> None:
    probe = environment(budget=2, announced=7, deny_correct=True)
    right, wrong = attempt(Verdict.CORRECT), attempt(Verdict.WRONG)
    assert probe.ending([right]) is None
    assert probe.ending([wrong]) is Ending.EXHAUSTED
    assert probe.ending([attempt(Verdict.WRONG, finish_reason="length")]) is Ending.TRUNCATED
    assert probe.ending([right, right]) is Ending.SOLVED
    assert probe.ending([right, wrong]) is Ending.EXHAUSTED
    assert environment().ending([right]) is Ending.SOLVED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": "guessed"}, "'guessed' is unknown"),
        ({"announced": 2}, "would run out before the 3"),
        ({"deny_correct": True}, "2 attempts, got a budget of 3"),
        ({"budget": 0}, "at least 1 attempt"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environment(**changes)


def test_a_saved_episode_is_read_as_it_was_but_for_its_ids() -> None:
    episode = Episode(
        question=QUESTION,
        budget=3,
        attempts=(attempt(Verdict.WRONG, r"\boxed{3} \ud800"), attempt(Verdict.INVALID, "no box")),
        ending=Ending.TRUNCATED,
        sample=4,
    )
    line = json.dumps(episode.to_json())
    read = Episode.from_json(json.loads(line))
    assert json.dumps(read.to_json()) == line
    assert read.sampled_tokens == episode.sampled_tokens == 6
    without = {"prompt_ids": (), "response_ids": (), "saved_tokens": 3}
    assert read == replace(episode, attempts=tuple(replace(one, **without) for one in episode.attempts))


def test_a_line_that_is_no_episode_is_refused() -> None:
    with pytest.raises(KeyError):
        Episode.from_json({"id": "q"})

"""Tokens in, tokens out: golden dialogues for every ending of an attempt, and the templates that are refused.

The golden files under `tests/golden/` are compared to the byte. After a change that is meant, write them anew with
`UPDATE_GOLDEN=1 python -m pytest tests/test_rendering.py` and read the diff: each is a whole dialogue.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trl
from transformers import PreTrainedTokenizerFast

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER, PAPER_CODE, PRESETS, PromptPreset, check_feedback
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains.arithmetic import PRESET as ARITHMETIC
from multiattempt_trl.domains.arithmetic.tokenizer import build_tokenizer
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.training.sequences import TokenSequence, flatten

GOLDEN = Path(__file__).parent / "golden"
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
QUESTION = Question(id="sum", problem="What is $2 + 3$?", answer="5")
ENDINGS = ("eos", "endoftext", "stop", "length")
"""End of turn; another of the model's EOS tokens; the closed box; the token cap."""


@pytest.fixture(scope="module")
def qwen(shared: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared / "qwen2.5-tokenizer")
    tokenizer.chat_template = (TEMPLATES / "qwen2_5.jinja").read_text(encoding="utf-8")
    return tokenizer


@pytest.fixture
def small() -> PreTrainedTokenizerFast:
    return build_tokenizer(ARITHMETIC)


@pytest.fixture(params=["qwen2.5", "arithmetic"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """The real tokenizer, and the small one that is always there."""
    return request.getfixturevalue("qwen" if request.param == "qwen2.5" else "small")


class Script:
    """A backend that answers with given tokens, one attempt after the other."""

    eager = False
    capacity = None

    def __init__(self, attempts: list[tuple[list[int], str]]) -> None:
        self.left = list(attempts)
        self.waiting: list[GenRequest] = []

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        pass

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def submit(self, requests: list[GenRequest]) -> None:
        self.waiting = requests

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        (request,) = self.waiting
        token_ids, reason = self.left.pop(0)
        return [GenResult(request_id=request.request_id, token_ids=tuple(token_ids), finish_reason=reason)]


def ids(tokenizer: PreTrainedTokenizerFast, *pieces: str) -> list[int]:
    return [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]


def sampled(tokenizer: PreTrainedTokenizerFast, ending: str) -> list[tuple[list[int], str]]:
    r"""Three attempts, of which the first two end in `ending` and the third is right.

    The first is in tokens that no tokenizer would choose ("ad" + "d", "\bo" + "xed"): re-tokenising would change them.
    """
    first = ids(tokenizer, "I ad", "d th", "em: $2 + 3 = 6$, so \\bo", "xed{6}")
    second = ids(tokenizer, "Once more: \\boxed{4}")
    if ending == "stop":  # the token that closes the box is kept whole: "}." is one of Qwen's
        closing = ids(tokenizer, "}.")[0]
        first, second = [*first[:-1], closing], [*second[:-1], closing]
    if ending == "length":
        first, second = first[:-3], second[:-3]
    last = {"eos": "<|im_end|>", "endoftext": "<|endoftext|>"}.get(ending)
    stop = [] if last is None else ids(tokenizer, last)
    reason = "eos" if stop else ending
    third = ids(tokenizer, "Then \\boxed{5}<|im_end|>")
    return [([*first, *stop], reason), ([*second, *stop], reason), (third, "eos")]


def grade(question: Question, response: str) -> Verdict:
    answer = last_boxed(response)
    return Verdict.INVALID if answer is None else Verdict.CORRECT if answer == question.answer else Verdict.WRONG


def dialogue(tokenizer: PreTrainedTokenizerFast, preset: PromptPreset, ending: str) -> tuple[Episode, TokenSequence]:
    env = Environment(question=QUESTION, budget=3, preset=preset)
    renderer = Renderer(tokenizer, ids(tokenizer, "<|endoftext|>"))
    limits = Limits(attempt=1000, episode=3000, context=4000)
    (episode,) = play([env], Script(sampled(tokenizer, ending)), grade, renderer, limits)
    assert (episode.ending, episode.attempts_used) == (Ending.SOLVED, 3)
    return episode, flatten(episode)


# --- golden dialogues ----------------------------------------------------------------------------------------------


def check_golden(path: Path, content: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
        pytest.skip(f"{path.name} was written anew, so nothing was compared")
    assert path.is_file(), f"{path} is missing; UPDATE_GOLDEN=1 writes it"
    assert path.read_bytes().decode("utf-8") == content


def text_of(tokenizer: PreTrainedTokenizerFast, row: TokenSequence) -> str:
    return tokenizer.decode(row.prompt_ids + row.completion_ids, skip_special_tokens=False)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("preset", [PAPER, PAPER_CODE], ids=lambda preset: preset.name)
class TestGolden:
    def test_qwen_text(self, qwen: PreTrainedTokenizerFast, preset: PromptPreset, ending: str) -> None:
        _, row = dialogue(qwen, preset, ending)
        check_golden(GOLDEN / "qwen2.5" / f"{preset.name}-{ending}.txt", text_of(qwen, row) + "\n")

    def test_qwen_ids(self, qwen: PreTrainedTokenizerFast, preset: PromptPreset, ending: str) -> None:
        _, row = dialogue(qwen, preset, ending)
        names = ("prompt_ids", "completion_ids", "attempt_index")
        lines = ",\n".join(f'  "{name}": {json.dumps(getattr(row, name))}' for name in names)
        check_golden(GOLDEN / "qwen2.5" / f"{preset.name}-{ending}.json", f"{{\n{lines}\n}}\n")

    def test_arithmetic_text(self, small: PreTrainedTokenizerFast, preset: PromptPreset, ending: str) -> None:
        _, row = dialogue(small, preset, ending)
        check_golden(GOLDEN / "arithmetic" / f"{preset.name}-{ending}.txt", text_of(small, row) + "\n")


def test_no_golden_file_is_left_over() -> None:
    expected = {f"{preset}-{ending}" for preset in ("paper", "paper-code") for ending in ENDINGS}
    found = [path.relative_to(GOLDEN) for path in GOLDEN.rglob("*") if path.is_file()]
    assert len(found) == 3 * len(expected) == 24
    assert {path.stem for path in found} == expected


# --- what was sampled is what is trained on ------------------------------------------------------------------------

EVERY_DIALOGUE = [
    pytest.param(preset, ending, id=f"{preset.name}-{ending}") for preset in PRESETS.values() for ending in ENDINGS
]


@pytest.mark.parametrize(("preset", "ending"), EVERY_DIALOGUE)
def test_sampled_ids_are_trained_ids(tokenizer: PreTrainedTokenizerFast, preset: PromptPreset, ending: str) -> None:
    script = sampled(tokenizer, ending)
    _, row = dialogue(tokenizer, preset, ending)
    for k, (token_ids, _) in enumerate(script, start=1):
        mine = [token for token, index in zip(row.completion_ids, row.attempt_index, strict=True) if index == k]
        assert mine == token_ids  # the stop token included
    trained = [token for token, policy in zip(row.completion_ids, row.policy_mask, strict=True) if policy]
    assert trained == [token for token_ids, _ in script for token in token_ids]
    # Re-tokenised, the same text would be other tokens, so the above is not true of itself.
    text = text_of(tokenizer, row)
    assert ids(tokenizer, text) != row.prompt_ids + row.completion_ids
    assert tokenizer.decode(ids(tokenizer, text)) == text


@pytest.mark.parametrize(("preset", "ending"), EVERY_DIALOGUE)
def test_what_stands_between_attempts(tokenizer: PreTrainedTokenizerFast, preset: PromptPreset, ending: str) -> None:
    episode, row = dialogue(tokenizer, preset, ending)
    spans: dict[int, list[int]] = {1: [], 2: []}
    seen = 0
    for token, index in zip(row.completion_ids, row.attempt_index, strict=True):
        seen = max(seen, index)
        if index == 0:
            spans[seen].append(token)
    role = preset.feedback_role
    for k, left in ((1, "2 attempts"), (2, "1 attempt" if preset.plural else "1 attempts")):
        feedback = tokenizer.decode(spans[k])
        sentence = preset.feedback.format(attempts=left)
        turn = f"\n<|im_start|>{role}\n{sentence}<|im_end|>\n<|im_start|>assistant\n"
        # A sampled <|im_end|> is not repeated; after any other ending feedback brings it, masked. The newline stays.
        assert feedback == (turn if ending == "eos" else f"<|im_end|>{turn}")
        assert episode.attempts[k].prompt_ids[-len(spans[k]) :] == tuple(spans[k])


@pytest.mark.parametrize(("preset", "ending"), EVERY_DIALOGUE)
def test_the_whole_is_the_template_over_the_whole(
    tokenizer: PreTrainedTokenizerFast, preset: PromptPreset, ending: str
) -> None:
    episode, row = dialogue(tokenizer, preset, ending)
    env = Environment(question=QUESTION, budget=3, preset=preset)
    conversation = env.first_messages()
    for used, attempt in enumerate(episode.attempts, start=1):
        conversation.append({"role": "assistant", "content": attempt.response})
        if used < 3:
            conversation.append(env.feedback_message(used))
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    # After the last attempt nothing is read, so the template's last newline is the one thing that we leave out. The
    # other EOS is a token of the model's that no template knows.
    assert text_of(tokenizer, row).replace("<|endoftext|>", "") + "\n" == whole


def test_the_default_ending_needs_no_other_eos(small: PreTrainedTokenizerFast) -> None:
    end, other = ids(small, "<|im_end|>")[0], ids(small, "<|endoftext|>")[0]
    assert Renderer(small).stop_ids == (end,)
    assert Renderer(small, [other, end]).stop_ids == (end, other)
    message = PAPER.feedback_message("binary", "p", 1)
    assert Renderer(small).feedback_ids(message, [])[0] == end  # nothing was sampled: the turn is closed all the same


def test_feedback_may_hold_anything(small: PreTrainedTokenizerFast) -> None:
    # What the renderer probes with, and the turn markers themselves.
    for words in ("so \\boxed{1}", "question", "feedback", "<think>\nsome reasoning\n</think>\n\nso \\boxed{1}"):
        tail = Renderer(small).feedback_ids({"role": "user", "content": words}, [])
        assert small.decode(tail) == f"<|im_end|>\n<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n"


# --- templates -----------------------------------------------------------------------------------------------------

# Every template that TRL ships for training, by what becomes of a dialogue in it: the token that ends a turn, ...
END_OF_TURN = {
    "cohere2_training": "<|END_RESPONSE|>",
    "cohere_training": "<|END_OF_TURN_TOKEN|>",
    "diffusion_gemma_training": "<turn|>",
    "gemma3_training": "<end_of_turn>",
    "gemma_training": "<end_of_turn>",
    "lfm2_training": "<|im_end|>",
    "lfm2_v2_training": "<|im_end|>",
    "llama3_training": "<|eot_id|>",
    "phi3_5_training": "<|end|>",
    "phi3_training": "<|end|>",
    "qwen2_5_training": "<|im_end|>",
    "qwen2_5_vl_training": "<|im_end|>",
    "qwen3_5_nothink_training": "<|im_end|>",
    "qwen3_5_think_training": "<|im_end|>",
    "qwen3_6_training": "<|im_end|>",
    "qwen3_instruct_2507_training": "<|im_end|>",
    "qwen3_training": "<|im_end|>",
    "qwen3_vl_training": "<|im_end|>",
}
# ... or that it is refused: these drop what an earlier turn thought, or change the space around it, in training too.
REWRITES = {
    "deepseek_r1_distill_training",
    "deepseekv3_training",
    "glm4moe_training",
    "gptoss_training",
    "idefics3_training",
    "muse_glimmer_training",
    "nemotron_3_5_lightning_training",
    "nemotron_3_nano_training",
    "nemotron_3_super_training",
    "nemotron_3_ultra_training",
    "qwen3_8_training",
    "smolvlm_training",
}
NOT_TEXT = {"llava_next_training"}  # takes lists of parts in the place of text


def with_template(name: str) -> PreTrainedTokenizerFast:
    """The small tokenizer with a template of TRL's, and its end of turn as one token."""
    tokenizer = build_tokenizer(ARITHMETIC)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"extra_special_tokens": sorted({*END_OF_TURN.values()} - {"<|im_end|>"})})
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


def test_every_training_template_is_judged() -> None:
    shipped = {path.stem for path in TEMPLATES.glob("*_training.jinja")}
    assert len(shipped) == 31
    assert shipped == END_OF_TURN.keys() | REWRITES | NOT_TEXT


@pytest.mark.parametrize("name", sorted(END_OF_TURN))
def test_prefix_preserving_templates_pass(name: str) -> None:
    tokenizer = with_template(name)
    renderer = Renderer(tokenizer)
    end = END_OF_TURN[name]
    assert tokenizer.decode(renderer.stop_ids[:1]) == end
    (end_id,) = ids(tokenizer, end)
    feedback = PAPER.feedback_message("binary", "p", 1)
    brought = tokenizer.decode(renderer.feedback_ids(feedback, ids(tokenizer, "an answer")))
    assert brought == end + tokenizer.decode(renderer.feedback_ids(feedback, [end_id]))
    assert feedback["content"] in brought
    # The next answer opens as the first one does.
    assert tokenizer.decode(renderer.prompt_ids(PAPER.first_messages("p", 2))).endswith(brought[-10:])


@pytest.mark.parametrize("name", [*sorted(REWRITES), "qwen3", "deepseek_r1_distill", "qwen3_5_think", "glm4moe"])
def test_templates_that_rewrite_history_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"not append-only.*prefix-preserving.*\*_training\.jinja"):
        Renderer(with_template(name))


def test_an_empty_thought_before_an_answer_is_not_taken_for_its_end() -> None:
    # Qwen3's training template puts "<think>\n\n</think>\n\n" before an answer without one.
    tokenizer = with_template("qwen3_training")
    tail = Renderer(tokenizer).feedback_ids({"role": "user", "content": "no"}, [])
    assert tokenizer.decode(tail) == "<|im_end|>\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", [None, ""])
def test_no_chat_template(small: PreTrainedTokenizerFast, template: str | None) -> None:
    small.chat_template = template
    with pytest.raises(ValueError, match=r"no chat template; pass --chat_template .* TRL ships \(qwen2_5"):
        Renderer(small)


def test_an_end_of_turn_that_is_no_special_token(small: PreTrainedTokenizerFast) -> None:
    small.chat_template = (TEMPLATES / "phi3.jinja").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="ends a turn with '<', which is no special token"):
        Renderer(small)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma_training", "refuses a 'system' turn: .*must alternate.*; use a prompt_preset"),
        ("qwen3_vl_training", "drops or moves a 'system' turn; use a prompt_preset"),  # dropped
        ("cohere2_training", "drops or moves a 'system' turn; use a prompt_preset"),  # moved to the top
    ],
)
def test_a_template_without_a_place_for_system_feedback(name: str, message: str) -> None:
    renderer = Renderer(with_template(name))
    with pytest.raises(ValueError, match=message):
        renderer.feedback_ids(PAPER_CODE.feedback_message("binary", "p", 1), [])


# --- feedback styles and templates of the user's own ---------------------------------------------------------------

WRONG = "Your answer is wrong. Try alternatives and refine your answer."


@pytest.mark.parametrize(
    ("preset", "style", "left", "role", "content"),
    [
        (PAPER, "binary", 2, "user", f"{WRONG} You have 2 attempts left."),
        (PAPER, "binary", 1, "user", f"{WRONG} You have 1 attempt left."),
        (PAPER_CODE, "binary", 2, "system", "Your answer is incorrect. You have 2 attempts left. Try an alternative."),
        (PAPER_CODE, "binary", 1, "system", "Your answer is incorrect. You have 1 attempts left. Try an alternative."),
        (PAPER, "none", 1, "user", "What is $2 + 3$?"),
        (PAPER, "{attempts} ({attempts_left}): {problem}", 2, "user", "2 attempts (2): What is $2 + 3$?"),
        (PAPER, "No. {attempts} ({attempts_left}).", 1, "user", "No. 1 attempt (1)."),
        (PAPER, "Use {{braces}} if you must.", 1, "user", "Use {braces} if you must."),
    ],
)  # fmt: skip
def test_feedback_styles(preset: PromptPreset, style: str, left: int, role: str, content: str) -> None:
    check_feedback(style)
    env = Environment(question=QUESTION, budget=3, preset=preset, feedback=style)
    assert env.feedback_message(3 - left) == {"role": role, "content": content}


@pytest.mark.parametrize(
    ("budget", "paper", "code"), [(1, "1 attempt", "1 attempts"), (2, "2 attempts", "2 attempts")]
)
def test_the_first_prompt_says_the_budget(budget: int, paper: str, code: str) -> None:
    (user,) = PAPER.first_messages("p", budget)
    assert user["role"] == "user"
    assert f"inside \\boxed{{}}. You have {paper}.\n\nQuestion: p" in user["content"]
    system, question = PAPER_CODE.first_messages("p", budget)
    assert (system["role"], question) == ("system", {"role": "user", "content": "p"})
    assert f"within \\boxed{{}}. You have {code} to answer the questions" in system["content"]


def test_braces_in_a_problem_are_left_alone() -> None:
    problem = r"Simplify \frac{1}{2} {attempts} {"
    assert PAPER.first_messages(problem, 2)[0]["content"].endswith(f"Question: {problem}")
    assert PAPER.feedback_message("none", problem, 1)["content"] == problem


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("You have {atempts} left.", "unknown field 'atempts' in .*; use {problem}, {attempts} or {attempts_left}"),
        ("Only {} left.", "unknown field ''"),
        ("Only {0} left.", "unknown field '0'"),
        ("Use \\boxed{5} please.", "unknown field '5' .* doubled"),
        ("An open { brace.", "is not a template"),
        ("binray", "'binray' is neither 'none', 'binary' nor a sentence"),
        ("", "neither 'none', 'binary' nor a sentence"),
    ],
)
def test_feedback_that_cannot_be_used(style: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_feedback(style)


def test_a_preset_with_an_unknown_field() -> None:
    with pytest.raises(ValueError, match="preset 'mine': unknown field 'question'"):
        PromptPreset(name="mine", system=None, user="{question}", feedback_role="user", feedback="No.")

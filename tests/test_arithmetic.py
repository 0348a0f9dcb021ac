import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from math import gcd
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Judgement, Question, Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains import get_domain
from multiattempt_trl.domains.arithmetic import COURSE, PRESET
from multiattempt_trl.domains.arithmetic.grading import grade_exactly, judge_exactly
from multiattempt_trl.domains.arithmetic.questions import Arithmetic, draw, draws, questions
from multiattempt_trl.domains.arithmetic.tokenizer import build_tokenizer, phrases
from multiattempt_trl.domains.course import WarmStart, lessons
from multiattempt_trl.domains.small_model import build_model
from multiattempt_trl.domains.warm_start import build_warm_start, fingerprint
from multiattempt_trl.rollout.live import Dialogue
from multiattempt_trl.rollout.loading import load_model, load_tokenizer, read_chat_template

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(PRESET)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def key(question: Question) -> tuple[str, int, int]:
    kind, a, b = question.id.split("-")
    x, y = int(a), int(b)
    return (kind, min(x, y), max(x, y)) if kind == "gcd" else (kind, x, y)


# Questions


def test_the_splits_have_their_sizes_and_share_no_key():
    assert [len(questions(split)) for split in SPLITS] == [4000, 600, 1000]
    keys = {split: {key(question) for question in questions(split)} for split in SPLITS}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]


@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_distinct_balanced_in_any_prefix_and_right(split):
    listed = questions(split)
    assert len({question.id for question in listed}) == len(listed)
    assert [question.id[:3] for question in listed] == ["gcd", "mod"] * (len(listed) // 2)
    for question in listed:
        kind, a, b = question.id.split("-")
        assert [a, b] == re.findall(r"\d+", question.problem)
        assert question.answer == str(gcd(int(a), int(b)) if kind == "gcd" else int(a) % int(b))


def test_the_lists_are_the_same_in_every_process_and_release():
    """Reported numbers hang on these: a change here changes every benchmark result."""
    assert [question.id for question in questions("test")[:3]] == ["gcd-63-63", "mod-723-9", "gcd-90-18"]
    assert [question.id for question in questions("validation")[:2]] == ["gcd-48-56", "mod-803-3"]


def test_a_pair_in_either_order_is_in_one_split():
    pairs = [(a, b) for a in range(2, 100, 2) for b in range(2, 100, 2)]
    for a, b in pairs:
        assert Arithmetic(kind="gcd", a=a, b=b).split == Arithmetic(kind="gcd", a=b, b=a).split
    # A remainder has no such symmetry: its key keeps the order.
    assert Arithmetic(kind="mod", a=437, b=7).key == "mod-437-7"


def test_draws_stay_in_the_ranges_of_the_task():
    random = Random(0)
    for _ in range(2000):
        pair = draw("gcd", random)
        assert max(pair.a, pair.b) <= 99
        assert any(pair.a % g == pair.b % g == 0 for g in range(2, 13))
        division = draw("mod", random)
        assert 100 <= division.a <= 999
        assert 3 <= division.b <= 12
    assert {operands.split for operands in islice(draws("gcd", "test", random), 50)} == {"test"}


# Grader


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (r"\boxed{6}", Verdict.CORRECT),
        (r"\boxed {6 }", Verdict.CORRECT),
        (r"\boxed{5} no: \boxed{6}", Verdict.CORRECT),  # the last box counts
        (r"\boxed{6} no: \boxed{5}", Verdict.WRONG),
        (r"\boxed{06}", Verdict.WRONG),
        (r"\boxed{6.0}", Verdict.WRONG),
        (r"\boxed{\boxed{6}}", Verdict.CORRECT),
        ("6", Verdict.INVALID),
        ("", Verdict.INVALID),
        (r"\boxed{}", Verdict.INVALID),
        (r"\boxed{6", Verdict.INVALID),
        (r"\boxed{6} and \boxed{", Verdict.INVALID),
        ("\\boxed{" * 10_000 + "\ud800", Verdict.INVALID),
    ],
)
def test_grade_exactly(response, verdict):
    question = Question(id="gcd-12-18", problem="What is the greatest common divisor of 12 and 18?", answer="6")
    assert grade_exactly(question, response) is verdict


GCD = Question(id="gcd-12-18", problem="What is the greatest common divisor of 12 and 18?", answer="6")
MOD = Question(id="mod-437-7", problem="What is the remainder when 437 is divided by 7?", answer="3")


@pytest.mark.parametrize(
    ("question", "answer", "hint"),
    [
        (GCD, "7", "Too high."),
        (GCD, "12", "Too high."),  # the smaller number may be the divisor
        (GCD, "13", "Too high. At most 12."),
        (GCD, "1", "Too low."),
        (GCD, "0", "Too low. At least 1."),
        (MOD, "6", "Too high."),
        (MOD, "7", "Too high. At most 6."),
        (MOD, "0", "Too low."),
        (MOD, "-4", "Too low. At least 0."),
        (MOD, "03", "Only digits, no leading zero."),
        (MOD, "+3", "Only digits, no leading zero."),
        (MOD, "3.0", "Not a number."),
        (MOD, "\u0663", "Not a number."),  # a digit, but not of ours
        (MOD, "1" * 1001, "Not a number."),  # Python reads no number of more than 4,300 digits
        (MOD, "9" * 1000, "Too high. At most 6."),
        (Question(id="typed", problem="2 + 2?", answer="4"), "99", "Too high."),
        (Question(id="typed", problem="Who?", answer="me"), "99", ""),
    ],
)
def test_a_hint_tells_the_side_and_the_range_where_the_answer_is_outside(
    question: Question, answer: str, hint: str
) -> None:
    assert judge_exactly(question, f"\\boxed{{{answer}}}").remarks == {"hint": hint}


def test_there_is_a_hint_without_a_box_and_none_for_a_right_answer() -> None:
    assert judge_exactly(MOD, "3") == Judgement(verdict=Verdict.INVALID, remarks={"hint": "No boxed answer."})
    assert judge_exactly(MOD, "\\boxed{3}") == Judgement(verdict=Verdict.CORRECT)


def test_a_hint_takes_few_of_the_small_tokenizers_tokens() -> None:
    renderer = Renderer(build_tokenizer(PRESET))
    env = Environment(question=MOD, budget=3, preset=PRESET, feedback="hint")
    plain = env.feedback_message(1)
    more = {
        hint: renderer.more_tokens(plain, env.feedback_message(1, {"hint": hint}))
        for hint in ("Too high.", "Too low.", "Too high. At most 6.", "No boxed answer.")
    }
    assert more == {"Too high.": 13, "Too low.": 12, "Too high. At most 6.": 21, "No boxed answer.": 15}
    # Five attempts of 12 tokens with the default bound fit the small model.
    whole = Dialogue(replace(env, budget=5), renderer, Limits(attempt=12, episode=60, context=512)).longest
    assert whole < 512


def test_every_gold_answer_is_accepted():
    graded = [grade_exactly(q, f"\\boxed{{{q.answer}}}") for split in SPLITS for q in questions(split)]
    assert graded == [Verdict.CORRECT] * 5600


# Tokenizer and model


def dialogue_text(tokenizer: PreTrainedTokenizerFast, problem: str) -> str:
    messages = PRESET.first_messages(problem, 2)
    messages += [{"role": "assistant", "content": "\\boxed{3}"}, PRESET.feedback_message("binary", problem, 1)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text + "\\boxed{6}<|im_end|>"


def test_a_two_turn_dialogue_takes_about_33_tokens(tokenizer):
    lengths = []
    for problem in (questions("test")[2].problem, "What is the remainder when 437 is divided by 11?"):
        text = dialogue_text(tokenizer, problem)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        lengths.append(len(ids))
    # Opening, 14 with four digits: <|im_start|> phrase dd phrase dd phrase d phrase <|im_end|> \n <|im_start|> phrase;
    # answer, 4: \boxed{ d } <|im_end|>;
    # feedback, 9: \n <|im_start|> phrase d phrase <|im_end|> \n <|im_start|> phrase.
    assert lengths == [14 + 4 + 9 + 4, 15 + 4 + 9 + 4]


def test_phrases_are_single_tokens_and_digits_stay_apart(tokenizer):
    known = phrases(PRESET)
    assert len(known) == 14
    for phrase in known:
        assert len(tokenizer(phrase)["input_ids"]) == 1, phrase
    ids = tokenizer("1234567890")["input_ids"]
    assert [tokenizer.decode([token]) for token in ids] == list("1234567890")


@pytest.mark.parametrize(
    "text", ["wörld 🙂\t\r\n 12  x", "Try again", "<|im_start|>user\nhi<|im_end|>", "\x00\x7f\u2028"]
)
def test_any_text_can_be_written_and_read_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_adds_no_system_turn_and_ends_turns_with_the_eos(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert Renderer(tokenizer).stop_ids == (tokenizer.eos_token_id,)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_training_the_tokenizer_twice_gives_the_same_one(tokenizer):
    assert build_tokenizer(PRESET).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_model_is_small_and_agrees_with_the_tokenizer(tokenizer):
    model = build_model(tokenizer)
    assert 125_000 < sum(weights.numel() for weights in model.parameters()) < 145_000
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for config in (model.config, model.generation_config):
        assert config.bos_token_id is None
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id


def test_seven_attempts_fit_the_context(tokenizer):
    renderer = Renderer(tokenizer)
    env = Environment(question=questions("test")[1], budget=7, preset=PRESET)
    response = (*tokenizer("\\boxed{123}")["input_ids"], tokenizer.eos_token_id)
    length = len(renderer.prompt_ids(env.first_messages())) + 7 * len(response)
    length += sum(len(renderer.feedback_ids(env.feedback_message(used), response)) for used in range(1, 7))
    assert length <= 512


# Loading


def test_a_saved_tokenizer_comes_back_as_it_was(tokenizer, saved):
    text = dialogue_text(tokenizer, questions("test")[0].problem)
    loaded = load_tokenizer(saved)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.padding_side, loaded.chat_template) == ("left", tokenizer.chat_template)
    # The reason for load_tokenizer. If this fails, AutoTokenizer has learnt to keep a saved tokenizer.
    assert len(AutoTokenizer.from_pretrained(saved)(text)["input_ids"]) > 2 * len(loaded(text)["input_ids"])


def test_a_generic_class_of_transformers_4_keeps_its_own_pre_tokenizer(tokenizer, saved, tmp_path):
    for file in saved.iterdir():
        shutil.copy(file, tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = dialogue_text(tokenizer, questions("test")[0].problem)
    assert load_tokenizer(tmp_path)(text)["input_ids"] == raw.encode(text, add_special_tokens=False).ids


def test_the_real_qwen_tokenizer_keeps_its_vocabulary_and_its_ids(shared):
    raw = Tokenizer.from_file(str(shared / "qwen2.5-tokenizer" / "tokenizer.json"))
    loaded = load_tokenizer(shared / "qwen2.5-tokenizer", "qwen2_5")
    assert len(loaded) == 151_665
    assert loaded.padding_side == "left"
    for text in ("so \\boxed{12345}\n\n  x<|im_end|>\n<|im_start|>user\n", "日本語 1234 don't", "\t\t  a"):
        ids = loaded(text)["input_ids"]
        assert ids == raw.encode(text, add_special_tokens=False).ids
        assert loaded.decode(ids) == text


def test_a_chat_template_can_be_a_file_or_a_name(saved, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    assert load_tokenizer(saved, str(file)).chat_template == "{{ messages[0]['content'] }}"
    assert "<|im_start|>" in read_chat_template("qwen2_5")
    with pytest.raises(ValueError, match=r"'qwen9' is neither .* llama3,.* qwen2_5,"):
        load_tokenizer(saved, "qwen9")


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    for load in (load_tokenizer, load_model):
        with pytest.raises(ValueError, match=r"holds no tokenizer|is not a checkpoint"):
            load(tmp_path)
        with pytest.raises(ValueError, match="no checkpoint could be opened at"):
            load(tmp_path / "absent")


def test_a_model_or_an_adapter_is_loaded_in_evaluation_mode(saved, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = load_model(saved)
    assert isinstance(model, Qwen2ForCausalLM)
    assert not model.training
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(load_model(saved), config).eval()
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, 9]])
    loaded = load_model(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(loaded(ids).logits, adapted(ids).logits)
    assert not torch.allclose(loaded(ids).logits, model(ids).logits)


# Domain


def test_the_domain_record():
    domain = get_domain("arithmetic")
    assert domain.benchmarks == ("arithmetic",)
    assert domain.preset(None) is PRESET
    assert domain.load_train(None) == questions("train")
    assert domain.load_benchmark("arithmetic") == questions("test")
    assert domain.load_benchmark("arithmetic-validation") == questions("validation")
    assert {question.benchmark for question in questions("test")} == {"arithmetic"}
    with domain.grader() as grade:
        assert grade is judge_exactly
    with pytest.raises(ValueError, match="makes its own questions"):
        domain.load_benchmark("data/mine.jsonl")
    with pytest.raises(ValueError, match="makes its own questions"):
        domain.load_train("data/mine.jsonl")


def test_importing_the_domain_loads_neither_torch_nor_trl():
    code = (
        "import sys, multiattempt_trl.domains.arithmetic, multiattempt_trl.domains.warm_start;"
        "print([name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Warm start


def test_lessons_are_dialogues_as_reinforcement_learning_renders_them(tokenizer):
    some = list(islice(lessons(COURSE, WarmStart(), Renderer(tokenizer), seed=0), 2000))
    assert some == list(islice(lessons(COURSE, WarmStart(), Renderer(tokenizer), seed=0), 2000))
    retries = planted = earlier_answers = gcds = 0
    for lesson in some:
        text = tokenizer.decode(lesson.prompt_ids)
        *earlier, final = re.findall(r"\\boxed\{(\d+)\}<\|im_end\|>", text + tokenizer.decode(lesson.answer_ids))
        first, *rest = map(int, re.findall(r"You have (\d)", text))
        assert first <= 5
        assert rest == [first - used for used in range(1, len(earlier) + 1)]  # the shown count is honest
        operands = [int(number) for number in re.findall(r"\d+", text.split("?")[0])]
        assert final == str(gcd(*operands) if "greatest" in text else operands[0] % operands[1])
        kind = "gcd" if "greatest" in text else "mod"
        assert Arithmetic(kind=kind, a=operands[0], b=operands[1]).split == "train"
        # Loss on the last answer alone, its end-of-turn token included.
        assert lesson.labels == [-100] * len(lesson.prompt_ids) + lesson.input_ids[len(lesson.prompt_ids) :]
        assert lesson.labels[-1] == tokenizer.eos_token_id
        gcds += kind == "gcd"
        retries += bool(earlier)
        earlier_answers += len(earlier)
        planted += earlier.count(final)
        # The same text in one go gives the same ids: nothing is lost where the pieces meet.
        assert tokenizer(text)["input_ids"] == list(lesson.prompt_ids)
    assert 0.46 < gcds / 2000 < 0.54
    assert 0.22 < retries / 2000 < 0.28
    # 0.6, and the share of other questions that happen to have the same answer (about a sixth of the rest).
    assert 0.6 < planted / earlier_answers < 0.75


def test_the_cache_name_follows_every_setting_and_the_seed():
    recipes = (WarmStart(), WarmStart(steps=599), WarmStart(planted=0.5))
    names = {fingerprint(COURSE, settings, 0) for settings in recipes}
    assert len(names) == 3
    assert fingerprint(COURSE, WarmStart(), 0) == fingerprint(COURSE, WarmStart(), 0)
    assert fingerprint(COURSE, WarmStart(), 1) not in names


def test_the_warm_starts_are_those_that_the_reported_numbers_began_with():
    """Experiments in LOG.md hang on these: whatever changes a name changes the model."""
    assert [fingerprint(COURSE, COURSE.settings, seed) for seed in range(3)] == [
        "f2562711e78d",
        "6f0294114b44",
        "01080c332ab9",
    ]


@pytest.mark.slow
def test_processes_race_for_one_warm_start_and_find_the_same_model(tmp_path, monkeypatch):
    # As a rank of a launch would see it: the build must not join the launch.
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    settings = WarmStart(steps=3, batch_size=8, warmup_steps=1)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: build_warm_start(COURSE, 7, tmp_path, settings), range(2))
    assert first == second == tmp_path / f"seed7-{fingerprint(COURSE, settings, 7)}"
    assert list(tmp_path.iterdir()) == [first]  # nothing half-built stays beside it
    again = build_warm_start(COURSE, 7, tmp_path / "again", settings)
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert load_tokenizer(first).backend_tokenizer.pre_tokenizer.__class__ is pre_tokenizers.Sequence
    model = load_model(first)
    untrained = build_model(load_tokenizer(first))
    assert model.config.to_diff_dict().keys() >= untrained.config.to_diff_dict().keys() - {"architectures"}
    started = (first / "model.safetensors").stat().st_mtime_ns
    assert build_warm_start(COURSE, 7, tmp_path, settings) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == started

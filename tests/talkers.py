"""Small models that say varied things, dialogues with them, and what of a dialogue is compared."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from multiattempt_trl.dialogue.boxes import BoxMatcher
from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER_CODE
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.domains.arithmetic.questions import ANSWER, questions
from multiattempt_trl.domains.arithmetic.tokenizer import build_tokenizer
from multiattempt_trl.domains.small_model import build_model
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.transformers_backend import TransformersBackend

TOKENIZER = build_tokenizer(PRESET)
RENDERER = Renderer(TOKENIZER)
GREEDY = Sampling(temperature=0)
LIMITS = Limits(attempt=16, episode=56, context=256)


@cache
def talker() -> Qwen2ForCausalLM:
    """A small model that says a few digits, a box, and perhaps more digits and an end; to be left as it is."""
    torch.manual_seed(0)
    return taught(build_model(TOKENIZER))


def taught(model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    """The model, after some seconds at school."""
    random, optimizer = Random(0), torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        rows = []
        for _ in range(16):
            question = random.choice(questions("train"))
            asked = RENDERER.prompt_ids(environment(question, random.randint(1, 5)).first_messages())
            tail = "7" * random.choice([0, 0, 3, 9]) + "<|im_end|>" * random.choice([0, 1, 1])
            first = question.problem[next(at for at, char in enumerate(question.problem) if char.isdigit())]
            said = first * random.randint(0, 6) + ANSWER.format(answer=question.answer) + tail
            rows.append([*asked, *TOKENIZER(said, add_special_tokens=False)["input_ids"]])
        width = max(map(len, rows))
        ids = torch.tensor([row + [TOKENIZER.pad_token_id] * (width - len(row)) for row in rows])
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == TOKENIZER.pad_token_id, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@cache
def real_talker(shared: Path) -> tuple[Qwen2ForCausalLM, Any]:
    """A tiny model over the whole vocabulary of Qwen2.5 that says digits, boxes and ends, and its tokenizer.

    Nothing is taught: a few tokens have a direction of their own, which the head of those that may follow them looks
    for. Among these, what the random layers make of the dialogue so far decides.
    """
    tokenizer = load_tokenizer(shared / "qwen2.5-tokenizer", "qwen2_5")
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(shape)
    open_box, *digits, close, end = [" \\", *"0123456789", "}", "<|im_end|>"]
    follow = {open_box: ["boxed"], "boxed": ["{"], "{": digits, close: [*digits, end]}
    follow |= {digit: [open_box, open_box, close, close, *digits[n:]] for n, digit in enumerate(digits)}
    place = {word: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))[0] for word in [*follow, end]}
    with torch.no_grad():
        head = torch.zeros_like(model.lm_head.weight)
        for id_ in place.values():
            head[id_] = 0.8 * torch.randn(shape.hidden_size)
        for direction, (word, following) in enumerate(follow.items()):
            model.model.embed_tokens.weight[place[word]] = 15.0 * torch.eye(shape.hidden_size)[direction]
            for one in following:
                head[place[one], direction] += 10.0 if len(following) == 1 else 3.0
        model.lm_head.weight.copy_(head)
    return model.eval(), tokenizer


def save_random_qwen(
    folder: Path,
    shared: Path,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    key_value_heads: int,
    initializer_range: float = 0.02,
) -> Path:
    """A random Qwen2 of thin layers with the real vocabulary of 151,936 rows, saved beside the real tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared / "qwen2.5-tokenizer")
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=initializer_range,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def environment(question: Any, budget: int, preset: Any = PRESET) -> Environment:
    return Environment(question=question, budget=budget, preset=preset)


def lock_step(model: Any, tokenizer: Any = TOKENIZER, **options: Any) -> TransformersBackend:
    given: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id, "stop_ids": RENDERER.stop_ids, "sampling": GREEDY}
    return TransformersBackend.for_model(model, tokenizer, **(given | options))


def environments(count: int, preset: Any = PRESET, budgets: int = 5) -> list[Environment]:
    return [environment(one, 1 + n % budgets, preset) for n, one in enumerate(questions("train")[:count])]


def grade_by_length(question: Question, response: str) -> Verdict:
    """A verdict of all three kinds, that depends on the question too."""
    mark = (len(response) + len(question.answer)) % 5
    return Verdict.CORRECT if mark == 0 else Verdict.WRONG if mark < 3 else Verdict.INVALID


def dialogues(
    backend: Any, count: int = 64, *, grade: Any = grade_by_length, seed: int = 0, stop_at_box: bool = True
) -> list[Episode]:
    """Dialogues of arithmetic."""
    return play(environments(count), backend, grade, RENDERER, LIMITS, stop_at_box=stop_at_box, seed=seed)


def real_dialogues(backend: Any, tokenizer: Any) -> list[Episode]:
    """200 dialogues in the words of the published code."""
    envs, limits = environments(200, PAPER_CODE, budgets=3), Limits(attempt=6, episode=14, context=256)
    return play(envs, backend, grade_by_length, Renderer(tokenizer), limits, stop_at_box=True)


@cache
def lock_step_facts(shared: Path | None = None) -> list[Any]:
    """What the talkers say greedily in lock step: the small one, or where `shared` is given the one of Qwen2.5."""
    if shared is None:
        return facts(dialogues(lock_step(talker())))
    model, tokenizer = real_talker(shared)
    given = {"stop_ids": Renderer(tokenizer).stop_ids, "batch_size": 16}  # small tables of scores are quicker
    return facts(real_dialogues(lock_step(model, tokenizer, **given), tokenizer))


def facts(episodes: list[Episode]) -> list[Any]:
    """All that greedy decoding settles: what was read and said, how it ended and how it was judged."""
    return [
        ([(a.prompt_ids, a.response_ids, a.verdict, a.finish_reason) for a in episode.attempts], episode.ending)
        for episode in episodes
    ]


def said_by(episodes: list[Episode]) -> list[Any]:
    return [(a.prompt_ids, a.response_ids, a.logprobs) for episode in episodes for a in episode.attempts]


def worst_logprob(model: Any, said: list[Any], heat: float = 1.0) -> float:
    """How far the log-probabilities are from those of a forward pass over the very ids."""
    worst = 0.0
    for prompt, response, logprobs in said:
        ids = torch.tensor([prompt + response], device=model.device)
        with torch.no_grad():
            scores = model(input_ids=ids, logits_to_keep=len(response) + 1).logits[0, :-1].cpu().double() / heat
        want = scores.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]
        worst = max(worst, float((want - torch.tensor(logprobs)).abs().max()))
    return worst


def box_ends(token_ids: Sequence[int]) -> int | None:
    """After how many tokens of the small talker the first box is closed."""
    matcher = BoxMatcher()
    return next((n for n, one in enumerate(token_ids, 1) if matcher.feed(TOKENIZER.decode([one])) is not None), None)


def request(number: int, cap: int, *, stop_at_box: bool = False, seed: int | None = None) -> GenRequest:
    prompt = RENDERER.prompt_ids(environment(questions("train")[number], 1 + number % 5).first_messages())
    return GenRequest(
        request_id=number,
        prompt_ids=prompt,
        max_new_tokens=cap,
        stop_at_box=stop_at_box,
        seed=number if seed is None else seed,
    )


def expect(backend: Any, requests: list[GenRequest]) -> None:
    backend.expect([len(one.prompt_ids) + one.max_new_tokens for one in requests], 16)


def generate(backend: Any, requests: list[GenRequest]) -> dict[int, GenResult]:
    expect(backend, requests)
    with backend:
        backend.submit(requests)
        results: list[GenResult] = []
        while len(results) < len(requests):
            results += backend.poll()
        assert backend.poll() == []  # nothing is under way, so there is nothing to wait for
    return {result.request_id: result for result in results}

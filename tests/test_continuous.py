"""Continuous batching: greedy, it says what lock step says; it ends where it should and leaves the model as it was."""

import gc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from time import sleep
from typing import Any

import psutil
import pytest
import talkers
import torch
from peft import LoraConfig, get_peft_model
from talkers import (
    GREEDY,
    RENDERER,
    TOKENIZER,
    box_ends,
    dialogues,
    expect,
    facts,
    generate,
    lock_step,
    lock_step_facts,
    real_dialogues,
    real_talker,
    request,
    said_by,
    worst_logprob,
)
from training_arguments import arguments, grade_by_length, logged, train_set
from transformers import Qwen2ForCausalLM
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

from multiattempt_trl.dialogue.episode import Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.rollout.continuous_backend import ContinuousBackend
from multiattempt_trl.rollout.requests import GenRequest
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
DIALOGUES = 64


@pytest.fixture
def talker() -> Qwen2ForCausalLM:
    return talkers.talker()


@pytest.fixture
def model() -> Qwen2ForCausalLM:
    """A talker that a test may change, as training leaves it."""
    return deepcopy(talkers.talker()).train()


def continuous(model: Any, tokenizer: Any = TOKENIZER, **options: Any) -> ContinuousBackend:
    given: dict[str, Any] = {"stop_ids": RENDERER.stop_ids, "sampling": GREEDY, "dialogues": DIALOGUES}
    return ContinuousBackend.for_model(model, tokenizer, **(given | options))


# --- the same as in lock step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at_box", [False, True])
def test_greedy_dialogues_equal_lock_step(talker: Qwen2ForCausalLM, stop_at_box: bool) -> None:
    ours = dialogues(continuous(talker), stop_at_box=stop_at_box)
    assert facts(ours) == facts(dialogues(lock_step(talker), stop_at_box=stop_at_box))
    reasons = Counter(attempt.finish_reason for episode in ours for attempt in episode.attempts)
    assert reasons["length"] > 5
    assert reasons["stop" if stop_at_box else "eos"] > 20  # the model must not end everything alike
    assert {episode.attempts_used for episode in ours} == {1, 2, 3, 4, 5}
    assert len({attempt.response_ids for episode in ours for attempt in episode.attempts}) > 20
    assert worst_logprob(talker, said_by(ours)) < 1e-4


def test_greedy_dialogues_with_the_real_tokenizer(shared: Path) -> None:
    model, tokenizer = real_talker(shared)
    backend = continuous(model, tokenizer, stop_ids=Renderer(tokenizer).stop_ids)
    ours = real_dialogues(backend, tokenizer)
    assert len(ours) == 200
    assert facts(ours) == lock_step_facts(shared)
    assert {attempt.finish_reason for episode in ours for attempt in episode.attempts} == {"eos", "stop", "length"}
    assert worst_logprob(model, said_by(ours)) < 1e-4


def test_an_adapter_speaks(talker: Qwen2ForCausalLM) -> None:
    torch.manual_seed(1)
    adapted = get_peft_model(Qwen2ForCausalLM(talker.config), LORA)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    ours = dialogues(continuous(adapted), stop_at_box=True)
    assert facts(ours) == facts(dialogues(lock_step(adapted), stop_at_box=True))
    assert worst_logprob(adapted, said_by(ours)) < 1e-4
    with adapted.disable_adapter():
        assert worst_logprob(adapted, said_by(ours)) > 0.1
    assert all(module.training for module in adapted.modules())


@pytest.mark.parametrize("heat", [0.7, 1.0])
def test_sampled_logprobs_are_those_that_were_sampled_from(talker: Qwen2ForCausalLM, heat: float) -> None:
    torch.manual_seed(5)
    sampled = dialogues(continuous(talker, sampling=Sampling(temperature=heat)), stop_at_box=True)
    assert worst_logprob(talker, said_by(sampled), heat) < 1e-4
    assert facts(sampled) != facts(dialogues(continuous(talker), stop_at_box=True))


def test_a_full_cache_costs_time_and_changes_nothing(
    talker: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[str] = []
    begin = ContinuousBatchProcessor.__init__

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        add = self.scheduler.add_waiting_request
        self.scheduler.add_waiting_request = lambda state: (again.append(state._true_initial_tokens), add(state))

    monkeypatch.setattr(ContinuousBatchProcessor, "__init__", watched)
    plenty = continuous(talker)
    dialogues(plenty)
    assert not any(again)
    # A token has keys and values of 2 layers x 4 heads x 16, 256 numbers of 4 bytes, and 64 rows at their longest are
    # copied for one layer. There is room for 400 tokens, and 64 dialogues begin with some 20 each.
    backend = continuous(talker, memory_gib=(64 * plenty._longest[0] * 512 + 400 * 1024) / 2**30)
    ours = dialogues(backend, stop_at_box=True)
    assert facts(ours) == facts(dialogues(lock_step(talker), stop_at_box=True))
    assert worst_logprob(talker, said_by(ours)) < 1e-4
    assert any(again)  # attempts were taken out in their midst and read again


# --- ends ------------------------------------------------------------------------------------------------------------


def test_every_attempt_ends_at_its_own_end(talker: Qwen2ForCausalLM) -> None:
    asked = [request(n, 1 + n % 16, stop_at_box=n % 3 == 0) for n in range(96)]
    results = generate(continuous(talker), asked)
    assert {one.finish_reason for one in results.values()} == {"eos", "stop", "length"}
    for one in asked:
        result = results[one.request_id]
        ended = result.token_ids[-1] in RENDERER.stop_ids
        closed = box_ends(result.token_ids)
        assert not set(result.token_ids[:-1]) & set(RENDERER.stop_ids)
        if one.stop_at_box:
            assert closed in (None, len(result.token_ids))
        box = one.stop_at_box and closed is not None
        assert result.finish_reason == ("eos" if ended else "stop" if box else "length")
        assert len(result.token_ids) <= one.max_new_tokens
        assert result.finish_reason != "length" or len(result.token_ids) == one.max_new_tokens
        assert len(result.logprobs or ()) == len(result.token_ids)


def test_attempts_come_while_others_are_under_way(talker: Qwen2ForCausalLM) -> None:
    first, second = (request(n, 150 if n else 1) for n in range(2))
    backend = continuous(talker, stop_ids=[TOKENIZER.pad_token_id])  # which is never said: caps alone end
    expect(backend, [first, second])
    with backend:
        backend.submit([first, second])
        (early,) = backend.poll()
        assert early.request_id == 0
        backend.submit([GenRequest(request_id=2, prompt_ids=first.prompt_ids + early.token_ids, max_new_tokens=1)])
        (next_one,) = backend.poll()
        assert next_one.request_id == 2  # the long one is still under way
        assert backend.poll(timeout=0) == []
        assert [one.request_id for one in backend.poll()] == [1]


# --- what it costs ---------------------------------------------------------------------------------------------------


class Passes:
    """How many forward passes there were, and of how many tokens."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = self.tokens = 0
        forward = type(model).forward

        def counted(model: Any, *args: Any, **kwargs: Any) -> Any:
            self.steps, self.tokens = self.steps + 1, self.tokens + kwargs["input_ids"].numel()
            return forward(model, *args, **kwargs)

        monkeypatch.setattr(type(model), "forward", counted)


class Later:
    """A grader that takes its time in another thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.pool = seconds, ThreadPoolExecutor(8)

    def __call__(self, question: Any, response: str) -> Verdict:
        sleep(self.seconds * (1 + len(response) % 3))
        return grade_by_length(question, response)

    def submit(self, question: Any, response: str) -> Future[Verdict]:
        return self.pool.submit(self, question, response)


def test_no_step_and_hardly_a_token_is_wasted(talker: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(talker, monkeypatch)
    ours = dialogues(continuous(talker))
    assert passes.steps == max(episode.sampled_tokens for episode in ours)  # the longest dialogue never waits
    # The last token of an attempt is read with the feedback; all others that were sampled were read at once.
    to_read = sum(
        len(last.prompt_ids) - sum(attempt.tokens - 1 for attempt in episode.attempts[:-1])
        for episode in ours
        for last in episode.attempts[-1:]
    )
    decoded = sum(attempt.tokens - 1 for episode in ours for attempt in episode.attempts)
    assert to_read <= passes.tokens - decoded <= 1.3 * to_read


def test_more_dialogues_than_places(talker: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Passes(talker, monkeypatch)
    ours = dialogues(continuous(talker, dialogues=8))
    tokens = sum(episode.sampled_tokens for episode in ours)
    assert tokens / 8 <= passes.steps < 1.05 * tokens / 8  # eight at a time, but for the last ones
    assert facts(ours) == facts(dialogues(lock_step(talker)))


def test_what_is_sampled_does_not_depend_on_who_comes_when(talker: Qwen2ForCausalLM) -> None:
    def sampled(**options: Any) -> list[Any]:
        grade = options.pop("grade", grade_by_length)
        return facts(dialogues(continuous(talker, sampling=Sampling(top_p=0.95), **options), grade=grade))

    torch.manual_seed(1)
    alone = sampled()
    torch.manual_seed(2)  # torch's random numbers are not asked
    assert sampled() == sampled(dialogues=5) == sampled(grade=Later(0.002)) == alone
    assert len({said for one, _ in alone for _, said, _, _ in one}) > 60
    other = dialogues(continuous(talker, sampling=Sampling(top_p=0.95)), count=8)
    assert facts(other) == alone[:8]


@pytest.mark.slow
def test_memory_stays_flat(talker: Qwen2ForCausalLM) -> None:
    process, backend, held = psutil.Process(), continuous(talker), []
    asked = [request(n, 12) for n in range(16)]
    for rollout in range(51):
        generate(backend, asked)
        if rollout in (10, 50):
            tensors = sum(torch.is_tensor(one) for one in gc.get_objects())
            held.append((tensors, process.num_threads(), process.memory_info().rss))
    (tensors, threads, before), (tensors_after, threads_after, after) = held
    assert (tensors_after, threads_after) == (tensors, threads)
    assert after - before < 4 * 2**20  # the cache of one rollout has some 2 MiB


# --- the model before and after --------------------------------------------------------------------------------------


def change_weights(model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)


def test_after_an_update_nothing_of_the_old_weights_is_left(model: Qwen2ForCausalLM) -> None:
    asked = [request(n, 4) for n in range(8)]
    backend = continuous(model)
    for _ in range(2):
        results = generate(backend, asked)
        heard = [(one.prompt_ids, results[n].token_ids, results[n].logprobs) for n, one in enumerate(asked)]
        assert worst_logprob(model, heard) < 1e-4
        change_weights(model)
        assert worst_logprob(model, heard) > 0.1


def test_pages_that_outlive_an_update_would_be_seen(model: Qwen2ForCausalLM) -> None:
    # What the test above would say of a manager that is kept: the same prompt finds its old pages.
    backend, prompt = continuous(model), request(0, 4)
    expect(backend, [prompt])
    with backend:
        backend.submit([prompt])
        backend.poll()
        change_weights(model)
        backend.submit([prompt])
        (stale,) = backend.poll()
    assert worst_logprob(model, [(prompt.prompt_ids, stale.token_ids, stale.logprobs)]) > 0.1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_mode_attention_and_random_state_are_put_back(model: Qwen2ForCausalLM, attention: str) -> None:
    model.set_attn_implementation(attention)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before, asked = torch.random.get_rng_state(), [request(n, 12) for n in range(4)]
    results = generate(continuous(model, sampling=Sampling()), asked)
    heard = [(one.prompt_ids, results[n].token_ids, results[n].logprobs) for n, one in enumerate(asked)]
    assert worst_logprob(model, heard) < 1e-4
    assert model.config._attn_implementation == attention
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(before, torch.random.get_rng_state())
    model.train()
    model.set_attn_implementation("sdpa")


def test_an_error_while_it_starts_puts_all_back(model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("no room for the cache")

    monkeypatch.setattr(ContinuousBatchProcessor, "__init__", full)
    backend = continuous(model)
    expect(backend, [request(0, 5)])
    with pytest.raises(MemoryError, match="no room for the cache"):
        backend.__enter__()
    assert model.config._attn_implementation == "sdpa"
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("steps", [0, 3])
def test_what_the_model_raises_is_raised(model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    left, forward = [steps], Qwen2ForCausalLM.forward

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError("a broken kernel")
        return forward(self, *args, **kwargs)

    backend = continuous(model)
    monkeypatch.setattr(Qwen2ForCausalLM, "forward", failing)
    with pytest.raises(ZeroDivisionError, match="a broken kernel"):
        generate(backend, [request(n, 20) for n in range(4)])
    monkeypatch.undo()
    assert model.config._attn_implementation == "sdpa"
    assert all(module.training for module in model.modules())
    assert len(generate(backend, [request(7, 3)])) == 1  # what was interrupted is forgotten


def test_without_dialogues_the_model_is_opened_and_closed_all_the_same(model: Qwen2ForCausalLM) -> None:
    # Opening may be done by all processes together (ZeRO-3 gathers), whatever each has to play.
    opened = []

    @contextmanager
    def open_model() -> Iterator[Any]:
        opened.append("open")
        yield model
        opened.append("close")

    backend = ContinuousBackend(open_model, TOKENIZER, stop_ids=RENDERER.stop_ids, sampling=GREEDY, dialogues=4)
    assert dialogues(backend, 0) == []
    assert opened == ["open", "close"]
    assert len(dialogues(backend, 2)) == 2


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_told(
    model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend, asked = continuous(model), [request(0, 3), request(1, 3)]
    expect(backend, asked)
    with backend:
        check = backend._manager.logit_processor.check_kwargs
        broken = iter([ValueError("one bad request")])

        def once(kwargs: Any) -> None:
            for error in broken:
                raise error
            check(kwargs)

        monkeypatch.setattr(backend._manager.logit_processor, "check_kwargs", once)
        backend.submit(asked)
        results = {}
        while len(results) < 2:
            results |= {one.request_id: one for one in backend.poll()}
    assert (results[0].finish_reason, results[0].token_ids) == ("error", ())
    assert results[0].error == "one bad request"
    assert (results[1].finish_reason, len(results[1].token_ids)) != ("error", 0)
    assert "attempt of dialogue 0 failed: one bad request" in caplog.text


@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_a_model_whose_scores_are_no_numbers_is_an_error(model: Qwen2ForCausalLM, heat: float) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the model's scores are not numbers"):
        dialogues(continuous(model, sampling=Sampling(temperature=heat)), 4)
    assert model.training


def test_what_cannot_be_is_refused(model: Qwen2ForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"no repetition_penalty, got 1\.2"):
        continuous(model, sampling=Sampling(repetition_penalty=1.2))
    for few in (0, -1):
        with pytest.raises(ValueError, match=f"dialogues under way together must be at least 1, got {few}"):
            continuous(model, dialogues=few)
    backend = continuous(model, memory_gib=0.0001)
    backend.expect([256, 100], 16)
    with pytest.raises(ValueError, match=r"one dialogue of 256 tokens does not fit into 0\.0001 GiB"):
        backend.__enter__()
    assert model.training


# --- on a GPU --------------------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


@needs_cuda
def test_on_a_gpu_it_says_the_same(talker: Qwen2ForCausalLM) -> None:
    model = deepcopy(talker).cuda()
    ours = dialogues(continuous(model))
    assert facts(ours) == facts(dialogues(lock_step(model))) == facts(dialogues(lock_step(talker)))
    assert worst_logprob(model, said_by(ours)) < 1e-4
    sampled = [dialogues(continuous(model, sampling=Sampling(), dialogues=places)) for places in (64, 5)]
    assert facts(sampled[0]) == facts(sampled[1])


@needs_cuda
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_on_a_gpu_in_bf16_the_logprobs_are_those_of_training(talker: Qwen2ForCausalLM, weights: torch.dtype) -> None:
    model = deepcopy(talker).to("cuda", weights)
    casts = torch.bfloat16 if weights == torch.float32 else None
    state = torch.cuda.get_rng_state()
    ours = dialogues(continuous(model, sampling=Sampling(), autocast=casts))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    with torch.autocast("cuda", torch.bfloat16, enabled=casts is not None):
        assert worst_logprob(model, said_by(ours)) < 0.5  # bf16 has three digits, and scores reach tens
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() < 2**30  # nothing of the cache is left behind


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"peft": LORA}, {"stop_at_box": True, "rollout_batch_size": 3}, {"bf16": True}, {"bf16": True, "peft": LORA}],
)
def test_ppo_trains_two_rollouts(tmp_path: Path, tiny_model: Path, options: dict[str, Any]) -> None:
    options = dict(options)
    peft = options.pop("peft", None)
    given = arguments(tmp_path, max_attempts=3, max_steps=8, use_transformers_continuous_batching=True, **options)
    trainer = MultiAttemptPPOTrainer(
        str(tiny_model), MultiAttemptPPOConfig(**given), train_set(), grade_by_length, preset=PRESET, peft_config=peft
    )
    types = {name: weight.dtype for name, weight in trainer.model.named_parameters()}
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    trainer.train()
    assert len(logged(trainer, "loss")["loss"]) == 8
    assert logged(trainer, "episodes_total")["episodes_total"] == [16, 32]
    after = dict(trainer.model.named_parameters())
    assert not any(torch.equal(weight, after[name]) for name, weight in before.items())
    assert {name: weight.dtype for name, weight in after.items()} == types
    assert trainer.model.training
    assert trainer._rollout()["logprobs"] is None


def test_grpo_trains(tmp_path: Path, tiny_model: Path) -> None:
    given = arguments(tmp_path, max_attempts=3, max_steps=2, num_generations=4)
    args = MultiAttemptGRPOConfig(**given, use_transformers_continuous_batching=True)
    trainer = MultiAttemptGRPOTrainer(str(tiny_model), args, train_set(), grade_by_length, preset=PRESET)
    trainer.train()
    assert len(logged(trainer, "loss")["loss"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 1.1}, "no repetition_penalty, got 1.1"),
        ({"transformers_continuous_batching_config": {"page_size": 16}}, "is not read"),
        ({"rollout_memory_gib": 0}, "rollout_memory_gib must be above 0, got 0"),
    ],
)
def test_options_that_would_be_passed_over(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    MultiAttemptPPOConfig(**arguments(tmp_path, repetition_penalty=1.1))
    with pytest.raises(ValueError, match=message):
        MultiAttemptPPOConfig(**arguments(tmp_path, use_transformers_continuous_batching=True, **options))

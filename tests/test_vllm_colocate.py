"""vLLM in the training process, on a stand-in for its engine: the words of lock step, and order in all it does."""

import gc
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread, Timer
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import is_peft_model
from talkers import (
    GREEDY,
    LIMITS,
    RENDERER,
    TOKENIZER,
    box_ends,
    dialogues,
    environments,
    expect,
    facts,
    generate,
    grade_by_length,
    lock_step_facts,
    real_dialogues,
    real_talker,
    request,
    said_by,
    talker,
    worst_logprob,
)
from trl.generation import vllm_generation
from trl_stand_ins import StandInGeneration
from vllm_stand_ins import modules

from multiattempt_trl.dialogue.episode import Episode, Question, Verdict
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.vllm_colocate import VLLMColocateBackend

HOT = Sampling(temperature=1.0)
NEVER = (TOKENIZER.pad_token_id,)
"""Stop ids that are never said, so that caps and boxes alone end an attempt."""


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def model() -> Iterator[Any]:
    """The talker, put back after a test that changes it."""
    model = talker()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    yield model
    model.load_state_dict(before)


def colocate(generation: Any, tokenizer: Any = TOKENIZER, **options: Any) -> VLLMColocateBackend:
    return VLLMColocateBackend(
        generation, tokenizer, **({"stop_ids": RENDERER.stop_ids, "sampling": GREEDY} | options)
    )


def calls(generation: Any, *kinds: str) -> list[Any]:
    return [call for call in generation.engine.calls if call[0] in kinds]


# --- the same as in lock step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [None, 7])
def test_greedy_dialogues_equal_lock_step(slots: int | None) -> None:
    generation = StandInGeneration(talker(), slots=slots)
    ours = dialogues(colocate(generation))
    assert facts(ours) == lock_step_facts()
    reasons = Counter(attempt.finish_reason for episode in ours for attempt in episode.attempts)
    assert min(reasons[one] for one in ("eos", "stop", "length")) >= 5
    assert {episode.attempts_used for episode in ours} == {1, 2, 3, 4, 5}
    assert worst_logprob(talker(), said_by(ours)) < 1e-4
    assert max(len(names) for _, names in calls(generation, "step")) == (slots or 64)


def test_greedy_dialogues_with_the_real_tokenizer(shared: Path) -> None:
    model, tokenizer = real_talker(shared)
    stop_ids = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    ours = real_dialogues(colocate(StandInGeneration(model, slots=16), tokenizer, stop_ids=stop_ids), tokenizer)
    assert facts(ours) == lock_step_facts(shared)
    reasons = Counter(attempt.finish_reason for episode in ours for attempt in episode.attempts)
    assert min(reasons[one] for one in ("eos", "stop", "length")) >= 15
    assert worst_logprob(model, said_by(ours)[::5]) < 1e-4


def test_sampled_dialogues_repeat_for_a_seed_whoever_runs_beside_whom() -> None:
    first, again = (
        dialogues(colocate(StandInGeneration(talker(), slots=slots), sampling=HOT), 32, seed=1) for slots in (None, 5)
    )
    assert facts(first) == facts(again)
    assert worst_logprob(talker(), said_by(first)) < 1e-4
    assert facts(first) != facts(dialogues(colocate(StandInGeneration(talker()), sampling=HOT), 32, seed=2))


def test_vllm_is_told_all_that_sampling_says() -> None:
    generation, seen = StandInGeneration(talker()), []
    add = generation.engine.add_request
    generation.engine.add_request = lambda *given: (seen.append(given), add(*given))
    for sampling in (GREEDY, Sampling(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2)):
        generate(colocate(generation, sampling=sampling), [request(3, 4, seed=9)])
    (_, prompt, greedy), (_, _, hot) = seen
    assert prompt == {"prompt_token_ids": list(request(3, 4).prompt_ids)}
    assert (hot.temperature, hot.top_p, hot.top_k, hot.min_p, hot.repetition_penalty) == (0.7, 0.9, 5, 0.1, 1.2)
    assert (greedy.temperature, greedy.top_p, greedy.top_k, greedy.min_p, greedy.repetition_penalty) == (0, 1, 0, 0, 1)
    assert (greedy.max_tokens, greedy.seed, greedy.stop_token_ids) == (4, 9, list(RENDERER.stop_ids))


# --- ends ------------------------------------------------------------------------------------------------------------


def test_every_attempt_ends_at_its_own_end() -> None:
    generation = StandInGeneration(talker())
    asked = [request(n, 1 + n % 16, stop_at_box=n % 3 == 0) for n in range(96)]
    results = generate(colocate(generation), asked)
    assert {one.finish_reason for one in results.values()} == {"eos", "stop", "length"}
    for one in asked:
        result = results[one.request_id]
        ended = result.token_ids[-1] in RENDERER.stop_ids
        box = box_ends(result.token_ids) if one.stop_at_box else None
        assert box in (None, len(result.token_ids))
        assert not set(result.token_ids[:-1]) & set(RENDERER.stop_ids)
        assert result.finish_reason == ("eos" if ended else "stop" if box else "length")
        assert result.finish_reason != "length" or len(result.token_ids) == one.max_new_tokens
        assert len(result.logprobs or ()) == len(result.token_ids) <= one.max_new_tokens


def test_an_attempt_is_aborted_after_the_step_that_told_of_its_box() -> None:
    generation = StandInGeneration(talker())
    asked = [request(n, 100, stop_at_box=True) for n in range(8)]
    results = generate(colocate(generation, stop_ids=NEVER), asked)
    stopped = [n for n, result in results.items() if result.finish_reason == "stop"]
    aborted = [name for _, names in calls(generation, "abort") for name in names]
    assert len(stopped) >= 4
    assert sorted(aborted) == sorted(f"0-{n}" for n in stopped)
    for n in stopped:
        steps = sum(f"0-{n}" in names for _, names in calls(generation, "step"))
        said = len(results[n].token_ids)
        assert said <= steps <= said + 1  # the engine tells two tokens at once now and then


def test_attempts_come_while_others_are_under_way() -> None:
    backend = colocate(StandInGeneration(talker()), stop_ids=NEVER)
    first, second, third = request(0, 1), request(1, 150), request(2, 1)
    expect(backend, [first, second, third])
    with backend:
        backend.submit([first, second])
        assert [one.request_id for one in backend.poll()] == [0]
        backend.submit([third])
        assert [one.request_id for one in backend.poll()] == [2]  # the long one is still under way
        assert backend.poll(timeout=0) == []
        assert [one.request_id for one in backend.poll()] == [1]


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_the_engine_gives_up_is_a_failed_attempt(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    generation = StandInGeneration(talker())
    generation.engine.ends["0-1"] = reason
    results = generate(colocate(generation), [request(n, 9) for n in range(3)])
    assert (results[1].finish_reason, results[1].token_ids) == ("error", ())
    assert f"vLLM ended it with finish_reason '{reason}' after 0 tokens" in results[1].error
    assert f"attempt of dialogue 1 failed: {results[1].error}" in caplog.text
    assert all(results[n].finish_reason != "error" and results[n].token_ids for n in (0, 2))


def test_an_attempt_that_the_engine_has_lost_is_an_error_and_not_a_wait() -> None:
    generation = StandInGeneration(talker())
    step = generation.engine.step
    generation.engine.step = lambda: (step(), generation.engine.requests.pop("0-1", None))[0]
    with pytest.raises(RuntimeError, match="vLLM's engine has lost 1 attempts that were under way"):
        generate(colocate(generation, stop_ids=NEVER), [request(0, 3), request(1, 9)])


def test_a_log_probability_that_is_not_a_number_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = StandInGeneration(talker())
    sample = generation.engine._sample
    generation.engine._sample = lambda running: [(token, math.nan) for token, _ in sample(running)]
    result = generate(colocate(generation), [request(0, 3)])[0]
    assert len(result.logprobs or ()) == len(result.token_ids)
    assert all(math.isnan(one) for one in result.logprobs or ())


# --- sleep and weights -----------------------------------------------------------------------------------------------


def test_the_engine_is_woken_for_the_whole_rollout_and_sleeps_after_it() -> None:
    generation = StandInGeneration(talker(), sleep=True)
    synced = [("wake_up", ("weights",)), ("reset_prefix_cache", None)]
    for before in ("asleep", "synced by the trainer"):
        generation.engine.calls.clear()
        if before != "asleep":
            generation.sync_weights()
        assert facts(dialogues(colocate(generation), 32)) == lock_step_facts()[:32]
        said = calls(generation, "sleep", "wake_up", "reset_prefix_cache")
        assert said == [*synced, ("wake_up", ("kv_cache",)), ("sleep", 2)]
        assert generation.engine.calls[-1] == ("sleep", 2)
        assert generation._llm_weights_sleeping
        assert generation.engine.awake == set()


def test_around_a_rollout_all_is_done_that_trl_does_around_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = (StandInGeneration(talker(), sleep=True) for _ in range(2))
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    theirs.temperature = theirs.top_p = theirs.top_k = theirs.min_p = theirs.repetition_penalty = 1
    theirs.max_completion_length, theirs.logprobs, theirs.generation_kwargs = 4, 0, {}
    theirs.structured_outputs_regex = None
    theirs.generate([[1, 2]], None, 1)
    dialogues(colocate(ours), 2)
    around = "sleep", "wake_up", "reset_prefix_cache"
    assert calls(ours, *around) == calls(theirs, *around) != []
    assert ours._llm_weights_sleeping == theirs._llm_weights_sleeping


def test_without_sleep_mode_the_engine_is_left_awake() -> None:
    generation = StandInGeneration(talker())
    dialogues(colocate(generation), 8)
    assert calls(generation, "sleep", "wake_up", "reset_prefix_cache") == []


def test_weights_are_those_of_the_last_sync(model: Any) -> None:
    generation = StandInGeneration(model)
    for synced in (True, False, True):
        if synced:
            generation.sync_weights()
        heard = said_by(dialogues(colocate(generation), 16))
        assert (worst_logprob(model, heard) < 1e-4) == synced
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn_like(weight)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaving_by_an_exception_aborts_and_sleeps(error: type[BaseException]) -> None:
    generation = StandInGeneration(talker(), sleep=True)
    backend = colocate(generation, stop_ids=NEVER)
    asked = [request(n, 100) for n in range(4)]
    expect(backend, asked)

    def left() -> None:
        with backend:
            backend.submit(asked)
            backend.poll(timeout=0)
            raise error

    with pytest.raises(error):
        left()
    assert calls(generation, "abort") == [("abort", ("0-0", "0-1", "0-2", "0-3"))]
    assert generation.engine.calls[-1] == ("sleep", 2)
    assert generation._llm_weights_sleeping
    assert facts(dialogues(colocate(generation), 8)) == lock_step_facts()[:8]


def test_an_engine_that_dies_is_told_and_put_to_sleep() -> None:
    generation = StandInGeneration(talker(), sleep=True)
    step, left = generation.engine.step, iter(range(3))

    def dying() -> Any:
        if next(left, None) is None:
            raise RuntimeError("a broken kernel")
        return step()

    generation.engine.step = dying  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a broken kernel"):
        dialogues(colocate(generation), 8)
    assert [kind for kind, _ in generation.engine.calls[-2:]] == ["abort", "sleep"]


def test_an_engine_that_does_not_wake_is_put_back_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = StandInGeneration(talker(), sleep=True)

    def full(tags: list[str]) -> None:
        generation.engine.awake |= {"weights"} & set(tags)
        if tags == ["kv_cache"]:
            raise MemoryError("no room for the cache")

    monkeypatch.setattr(generation.llm, "wake_up", full)
    with pytest.raises(MemoryError, match="no room for the cache"):
        colocate(generation).__enter__()
    assert generation.engine.calls[-1] == ("sleep", 2)
    assert generation._llm_weights_sleeping


def test_nothing_is_left_over_from_one_rollout_to_the_next() -> None:
    generation, counts = StandInGeneration(talker()), []
    backend = colocate(generation)
    for _ in range(3):
        dialogues(backend, 16)
        generation.engine.calls.clear()
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert max(counts[1:]) - min(counts[1:]) < 10, counts


def test_what_it_can_hold_is_the_engines_to_say() -> None:
    generation = StandInGeneration(talker(), slots=7, max_model_len=100)
    backend = colocate(generation)
    assert (backend.capacity, backend.eager) == (7, True)
    backend.expect([100, 3], 16)
    with pytest.raises(
        ValueError, match=r"may come to 101 tokens, and vLLM holds 100 .*vllm_max_model_length to at least 101"
    ):
        backend.expect([3, 101], 16)
    assert [colocate(generation, capacity=most).capacity for most in (3, 9)] == [3, 7]
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        colocate(generation, capacity=0)
    generation.max_num_seqs, generation.engine.model_config = None, None
    assert colocate(generation, capacity=9).capacity == 9
    backend = colocate(generation)
    assert backend.capacity is None
    backend.expect([10**6], 16)


# --- tensor parallelism ----------------------------------------------------------------------------------------------


class SlowGrade:
    """Judges in the background, some time later."""

    def __call__(self, question: Question, response: str) -> Verdict:
        return grade_by_length(question, response)

    def submit(self, question: Question, response: str) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()
        Timer(0.03, lambda: verdict.set_result(self(question, response))).start()
        return verdict


SHARES = (environments(40)[:30], [one for one in environments(40)[30:] if one.budget < 3])
"""What each of two ranks plays: 30 dialogues of up to five attempts, and 4 of one or two."""


def played(rank: int, group: Any, grade: Any = grade_by_length) -> tuple[Any, Any, Any]:
    """A rank's dialogues, their log-probabilities, and what its engine was asked to do."""
    generation = StandInGeneration(talker(), sleep=True, group=group)
    backend = colocate(generation, sampling=HOT)
    episodes = play(SHARES[rank], backend, grade, RENDERER, LIMITS, stop_at_box=True, seed=3)
    logprobs = [attempt.logprobs for episode in episodes for attempt in episode.attempts]
    return facts(episodes), logprobs, generation.engine.calls


def in_two_ranks(folder: Path, task: Callable[[int, Any], Any]) -> list[Any]:
    """What `task` returns, or raises, in each of two processes. They are forks, which need not load torch again."""

    def run(rank: int, sender: Any) -> None:
        meet = f"file://{folder / 'meet'}"
        torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
        try:
            sender.send(task(rank, torch.distributed.group.WORLD))
        except Exception as error:
            sender.send(error)

    is_peft_model(talker())  # teaches the one, and loads PEFT, before there are two of each
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(2)]
    processes = [fork.Process(target=run, args=(rank, pipe[1])) for rank, pipe in enumerate(pipes)]
    try:
        for process in processes:
            process.start()
        assert all(receiver.poll(30) for receiver, _ in pipes), "a rank waits for ever"
        return [receiver.recv() for receiver, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("slow", [None, 0, 1])
def test_two_ranks_say_what_each_says_alone_and_take_the_same_steps(tmp_path: Path, slow: int | None) -> None:
    def task(rank: int, group: Any) -> Any:
        return played(rank, group, SlowGrade() if rank == slow else grade_by_length)

    results = in_two_ranks(tmp_path, task)
    for rank, (said, logprobs, _) in enumerate(results):
        alone, expected, _ = played(rank, None)
        assert said == alone
        torch.testing.assert_close([torch.tensor(one) for one in logprobs], [torch.tensor(one) for one in expected])
    calls_of_first, calls_of_second = (one[2] for one in results)
    assert calls_of_first == calls_of_second
    names = {name.split("-")[0] for kind, name in calls_of_first if kind == "add"}
    assert names == {"0", "1"}
    assert sum(kind == "abort" for kind, _ in calls_of_first) >= 5


class LateGrade:
    """Judges in the background, once the other rank's dialogues are over."""

    def __init__(self, others_are_over: Any) -> None:
        self.others_are_over, self.in_time = others_are_over, True

    def __call__(self, question: Question, response: str) -> Verdict:
        raise AssertionError("a grader with workers is asked by submit")

    def submit(self, question: Question, response: str) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()
        Thread(target=self._judge, args=(verdict,), daemon=True).start()
        return verdict

    def _judge(self, verdict: Future[Verdict]) -> None:
        self.in_time &= self.others_are_over.wait(20)
        verdict.set_result(Verdict.CORRECT)


def test_a_rank_that_waits_for_verdicts_does_not_hold_up_the_other(tmp_path: Path) -> None:
    over = multiprocessing.get_context("fork").Event()

    def task(rank: int, group: Any) -> Any:
        generation, grade = StandInGeneration(talker(), group=group), LateGrade(over)
        backend, left = colocate(generation), iter(SHARES[0][1:])

        def ended(episode: Episode) -> None:
            if rank == 0 and next(left, None) is None:
                over.set()

        judged_by: Any = grade if rank else grade_by_length
        play(SHARES[rank], backend, judged_by, RENDERER, LIMITS, stop_at_box=True, on_episode=ended)
        return grade.in_time, generation.engine.calls

    (_, first), (in_time, second) = in_two_ranks(tmp_path, task)
    assert in_time
    assert first == second
    # While its answers were at the grader the other's dialogues went on, each to its next attempt.
    last = max(at for at, (kind, names) in enumerate(first) if kind == "step" and {"1-0", "1-3"} & {*names})
    assert sum(kind == "add" for kind, _ in first[last:]) >= 10


def test_a_rank_that_leaves_by_an_exception_waits_for_nobody(tmp_path: Path) -> None:
    def task(rank: int, group: Any) -> Any:
        generation = StandInGeneration(talker(), sleep=True, group=group)
        backend, asked = colocate(generation, stop_ids=NEVER), [request(n, 200) for n in range(2)]
        expect(backend, asked)
        try:
            with backend:
                backend.submit(asked)
                backend.poll(timeout=0)
                assert rank == 0, "this rank is broken"
                backend.poll()
        except AssertionError:
            time.sleep(0.5)  # the other one is in a step, and must not find this one in another
            return generation.engine.calls

    alone, left = in_two_ranks(tmp_path, task)
    assert isinstance(alone, RuntimeError)  # gloo says that the other process is gone
    assert [kind for kind, _ in left] == [
        "wake_up",
        "reset_prefix_cache",
        "wake_up",
        *["add"] * 4,
        "step",
        "abort",
        "sleep",
    ]

"""A vLLM server, by a stand-in that speaks its protocol: the words of lock step, and what is done where it fails."""

import gc
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from talkers import (
    GREEDY,
    RENDERER,
    TOKENIZER,
    box_ends,
    dialogues,
    expect,
    facts,
    generate,
    lock_step_facts,
    real_dialogues,
    real_talker,
    request,
    said_by,
    talker,
    worst_logprob,
)
from vllm_stand_ins import StandInServer

from multiattempt_trl.dialogue.episode import Ending
from multiattempt_trl.rollout import vllm_streams
from multiattempt_trl.rollout.requests import GenResult
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.vllm_server import VLLMServerBackend
from multiattempt_trl.rollout.vllm_wire import BadAnswerError, Chunk, read_chunk

ROOT = Path(__file__).resolve().parent.parent
NEVER = (TOKENIZER.pad_token_id,)
"""Stop ids that are never said, so that caps and boxes alone end an attempt."""


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert not [one for one in threading.enumerate() if one.name.startswith(("vllm", "asyncio"))]


def backend_of(server: StandInServer | str, tokenizer: Any = TOKENIZER, **options: Any) -> VLLMServerBackend:
    url = server if isinstance(server, str) else server.url
    given = {"stop_ids": RENDERER.stop_ids, "sampling": GREEDY, "capacity": 64}
    return VLLMServerBackend(url, tokenizer, **(given | options))


def by_seed(*seeds: int, fault: str) -> Callable[[dict[str, Any]], str]:
    return lambda body: fault if body["seed"] in seeds else ""


def wait_until(true: Callable[[], Any], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def polled(backend: VLLMServerBackend, count: int) -> list[GenResult]:
    """The next results, in the order of their ends."""
    results: list[GenResult] = []
    while len(results) < count:
        results += backend.poll()
    return results


# --- the same as in lock step ----------------------------------------------------------------------------------------


def test_greedy_dialogues_equal_lock_step() -> None:
    with StandInServer(talker()) as server:
        ours = dialogues(backend_of(server))
    assert facts(ours) == lock_step_facts()
    reasons = Counter(attempt.finish_reason for episode in ours for attempt in episode.attempts)
    assert min(reasons[one] for one in ("eos", "stop", "length")) >= 5
    assert {episode.attempts_used for episode in ours} == {1, 2, 3, 4, 5}
    assert worst_logprob(talker(), said_by(ours)) < 1e-4
    assert server.most_streams > 30
    assert server.connections < len(server.bodies)  # those that were read to their end serve again


def test_greedy_dialogues_with_the_real_tokenizer(shared: Path) -> None:
    model, tokenizer = real_talker(shared)
    stop_ids = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    with StandInServer(model, slots=16) as server:
        ours = real_dialogues(backend_of(server, tokenizer, stop_ids=stop_ids), tokenizer)
    assert facts(ours) == lock_step_facts(shared)
    reasons = Counter(attempt.finish_reason for episode in ours for attempt in episode.attempts)
    assert min(reasons[one] for one in ("eos", "stop", "length")) >= 15
    assert worst_logprob(model, said_by(ours)[::5]) < 1e-4


def test_sampled_dialogues_repeat_for_a_seed_whenever_they_arrive() -> None:
    hot = Sampling(temperature=1.0)
    with StandInServer(talker()) as server:
        first = dialogues(backend_of(server, sampling=hot), 32, seed=1)
        again = dialogues(backend_of(server, sampling=hot, capacity=5), 32, seed=1)
        other = dialogues(backend_of(server, sampling=hot), 16, seed=2)
    assert facts(first) == facts(again)
    assert worst_logprob(talker(), said_by(first)) < 1e-4
    assert facts(first[:16]) != facts(other)


def test_the_server_is_asked_for_all_that_sampling_says() -> None:
    hot = Sampling(temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.2)
    with StandInServer(talker()) as server:
        for sampling in (hot, GREEDY):
            generate(backend_of(server, sampling=sampling), [request(3, 4, seed=2**63 - 1)])
    said = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2}
    rest = {
        "model": "stand-in",
        "prompt": list(request(3, 4).prompt_ids),
        "max_tokens": 4,
        "seed": 2**63 - 1,
        "stop_token_ids": list(RENDERER.stop_ids),
        "ignore_eos": True,
        "logprobs": 0,
        "skip_special_tokens": False,
        "stream": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    neutral = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    assert server.bodies == [said | rest, neutral | rest]


# --- ends ------------------------------------------------------------------------------------------------------------


def test_a_stream_is_left_where_the_box_closes() -> None:
    asked = [request(n, 200 if n % 2 == 0 else 7, stop_at_box=n % 2 == 0) for n in range(16)]
    with StandInServer(talker()) as server:
        server.seconds_per_step = 0.002
        results = generate(backend_of(server, stop_ids=NEVER), asked)
        stopped = [one for one in results.values() if one.finish_reason == "stop"]
        wait_until(lambda: not server.streams)
        aborted = [names for kind, names in server.engine.calls if kind == "abort"]
        steps = Counter(name for kind, names in server.engine.calls if kind == "step" for name in names)
    assert len(stopped) >= 4
    assert len(server.left) == len(aborted) == len(stopped)
    assert max(steps[name] for name in server.left) < 100
    assert all(box_ends(one.token_ids) == len(one.token_ids) for one in stopped)
    assert all(len(results[n].token_ids) == 7 for n in range(1, 16, 2))
    assert {results[n].finish_reason for n in range(1, 16, 2)} == {"length"}


def test_attempts_come_while_others_are_under_way() -> None:
    first, second, third = request(0, 1), request(1, 100), request(2, 1)
    with StandInServer(talker()) as server:
        server.seconds_per_step = 0.003
        backend = backend_of(server, stop_ids=NEVER)
        expect(backend, [first, second, third])
        with backend:
            backend.submit([first, second])
            assert [one.request_id for one in backend.poll()] == [0]
            backend.submit([third])
            assert [one.request_id for one in backend.poll()] == [2]  # the long one is still under way
            assert backend.poll(timeout=0) == []
            assert [one.request_id for one in backend.poll()] == [1]


def test_a_connection_that_was_idle_takes_no_new_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_streams, "IDLE_SECONDS", 0.1)
    asked = [request(n, 3) for n in range(3)]
    with StandInServer(talker()) as server:
        backend = backend_of(server)
        expect(backend, asked)
        seen = server.connections
        with backend:
            for one, connections in zip(asked, (1, 1, 2), strict=True):
                if connections == 2:
                    time.sleep(0.2)
                backend.submit([one])
                assert len(backend.poll()) == 1
                assert server.connections == seen + connections


# --- one request that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("503", "HTTP 503: .*a fault on demand"),
        ("error", "the server's error: .*an error on demand"),
        ("abort", "finish_reason 'abort'"),
        ("cut", "RemoteProtocolError|ReadError"),
        ("early", "its stream ended before the attempt"),
        ("malformed", "malformed JSON: "),
        ("nested", "malformed JSON: "),
        ("endless", "exceeded the 1048576 byte limit"),
        ("no ids", "no token ids"),
        ("negative", "token ids that are none: "),
        ("none", r"no log-probabilities for \d tokens in None"),
        ("fewer", "log-probabilities of other tokens: "),
        ("others", "log-probabilities of other tokens: "),
    ],
)
def test_a_request_that_fails_fails_alone(fault: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with StandInServer(talker(), fault=by_seed(1, fault=fault)) as server:
        results = generate(backend_of(server, stop_ids=NEVER), [request(n, 9) for n in range(4)])
        assert (results[1].finish_reason, results[1].token_ids, results[1].logprobs) == ("error", (), None)
        assert re.search(why, results[1].error)
        assert len(results[1].error) < 400
        assert f"attempt of dialogue 1 failed: {results[1].error}" in caplog.text
        assert all(results[n].finish_reason == "length" and len(results[n].token_ids) == 9 for n in (0, 2, 3))
        wait_until(lambda: not server.streams)  # what was left is not generated for nobody


def test_a_stream_that_stalls_is_given_up_while_others_go_on() -> None:
    faults = {1: "stall", 2: "drip", 3: "silent"}
    with StandInServer(talker(), fault=lambda body: faults.get(body["seed"], "")) as server:
        server.seconds_per_step = 0.008
        backend = backend_of(server, stop_ids=NEVER, stall_seconds=0.25)
        asked = [request(n, 100) for n in range(5)]
        expect(backend, asked)
        with backend:
            backend.submit(asked)
            ended = polled(backend, 5)
        assert [one.request_id for one in ended[:2]] in ([1, 2], [2, 1])
        assert {one.request_id for one in ended[2:4]} == {0, 4}
        assert all(len(one.token_ids) == 100 for one in ended[2:4])
        # One that has not begun may stand in a queue, so that it is given up when nothing is said to anyone.
        assert ended[4].request_id == 3
        assert re.search(r"said nothing for 0.25 seconds \(after [12] tokens\)", ended[0].error)
        assert "said nothing for 0.25 seconds (after 0 tokens)" in ended[4].error
        wait_until(lambda: not server.streams)


def test_a_slow_stream_and_a_long_queue_are_no_stall() -> None:
    with StandInServer(talker(), fault=by_seed(0, fault="slow"), slots=1) as server:
        server.seconds_per_step = 0.01
        backend = backend_of(server, stop_ids=NEVER, stall_seconds=0.25)
        results = generate(backend, [request(n, 30) for n in range(3)])  # each takes more than 0.3 seconds
    assert {one.finish_reason for one in results.values()} == {"length"}


# --- a server that is gone, or says no -------------------------------------------------------------------------------


def test_a_refused_request_is_an_error_with_the_servers_words() -> None:
    with StandInServer(talker(), fault=by_seed(1, fault="400")) as server:
        backend = backend_of(server, stop_ids=NEVER)
        asked = [request(n, 200) for n in range(3)]
        expect(backend, asked)
        with backend:
            backend.submit(asked)
            for _ in range(2):  # once more it says the same, and does not wait
                with pytest.raises(
                    RuntimeError, match=r"with 3 attempts under way: it refused a request with HTTP 400: .*on demand"
                ):
                    backend.poll()
            backend.submit([request(4, 3)])
            with pytest.raises(RuntimeError, match="with 4 attempts under way"):
                backend.poll()
        wait_until(lambda: not server.streams)


@pytest.mark.parametrize(("health", "answer"), [(503, "HTTP 503"), (None, "ReadTimeout")])
def test_a_server_whose_engine_is_dead_or_hangs_is_gone(
    health: int | None, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_streams, "ANSWER_SECONDS", 0.2)
    with StandInServer(talker(), fault=lambda _: "stall") as server:
        server.health = health
        with pytest.raises(
            RuntimeError, match=rf"{server.url} ended with 8 attempts .*it is gone: .*/health: {answer}"
        ):
            dialogues(backend_of(server, stall_seconds=0.2), 8)


def test_a_server_that_is_killed_in_the_midst_is_one_clear_error(tmp_path: Path) -> None:
    talker().save_pretrained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests" / "vllm_stand_ins.py"), str(port), str(tmp_path)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        backend = backend_of(f"http://127.0.0.1:{port}", stop_ids=NEVER)
        asked = [request(n, 230) for n in range(40)]
        wait_until(lambda: answers(port), 60)
        expect(backend, asked)
        with backend:
            backend.submit([request(99, 3), *asked])
            assert [one.request_id for one in backend.poll()] == [99]  # it generates
            process.send_signal(signal.SIGKILL)
            begun = time.monotonic()
            with pytest.raises(RuntimeError, match=rf"127.0.0.1:{port} ended with 40 attempts under way: it is gone"):
                backend.poll()
        assert time.monotonic() - begun < 3
        with pytest.raises(RuntimeError, match=rf"no vLLM server answers at http://127.0.0.1:{port} \(ConnectError"):
            dialogues(backend, 8)
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


# --- before and after ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaving_by_an_exception_leaves_all_streams(error: type[BaseException]) -> None:
    with StandInServer(talker(), fault=lambda _: "stall") as server:
        backend = backend_of(server, stop_ids=NEVER)
        asked = [request(n, 200) for n in range(8)]
        expect(backend, asked)
        threads = threading.active_count()

        def left() -> None:
            with backend:
                backend.submit(asked)
                wait_until(lambda: len(server.streams) == 8)
                assert threading.active_count() == threads + 1
                if error is KeyboardInterrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                    backend.poll()  # for ever, but for the signal
                raise error

        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            with pytest.raises(error):
                left()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert threading.active_count() == threads
        wait_until(lambda: not server.open_connections)
        assert len(server.left) == 8
        assert not server.engine.has_unfinished_requests()
        with backend:
            assert backend.poll() == []  # what an interrupted rollout left behind is not generated
        server.fault = lambda _: ""
        assert facts(dialogues(backend_of(server), 8)) == lock_step_facts()[:8]


def test_nothing_is_left_over_from_one_rollout_to_the_next() -> None:
    counts = []
    with StandInServer(talker(), fault=lambda body: "cut" if body["seed"] % 7 == 0 else "") as server:
        backend = backend_of(server)
        for _ in range(4):
            assert {Ending.FAILED, Ending.SOLVED} <= {episode.ending for episode in dialogues(backend, 8)}
            wait_until(lambda: not server.open_connections)
            server.bodies.clear()
            server.left.clear()
            server.engine.calls.clear()
            gc.collect()
            counts.append(
                (threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), len(gc.get_objects()))
            )
    threads, files, objects = zip(*counts[1:], strict=True)
    assert len(set(threads)) == len(set(files)) == 1
    assert max(objects) - min(objects) < 25, objects


def test_what_cannot_be_is_refused() -> None:
    for url in ("localhost:8000", "ftp://localhost", "http://", "http://localhost:port", ""):
        with pytest.raises(ValueError, match=f"must be one such as http://localhost:8000, got {url!r}"):
            backend_of(url)
    with pytest.raises(ValueError, match="must be above 0, got capacity 0 and stall_seconds"):
        backend_of("http://localhost", capacity=0)
    with pytest.raises(ValueError, match="must be above 0, got capacity 64 and stall_seconds -1"):
        backend_of("http://localhost", stall_seconds=-1)
    with StandInServer(talker(), max_model_len=100) as server:
        backend = backend_of(server.url + "/")
        assert (backend.capacity, backend.eager) == (64, True)
        backend.expect([100, 3], 16)
        with pytest.raises(
            ValueError, match=r"may come to 101 tokens, and vLLM holds 100 .*--max-model-len at least 101"
        ):
            backend.expect([3, 101], 16)
        with pytest.raises(
            RuntimeError, match=rf"the server at {server.url}/nothing names no model \(HTTP 404: .*Not Found"
        ):
            backend_of(server.url + "/nothing").expect([3], 16)


# --- the protocol ----------------------------------------------------------------------------------------------------


def choice(**fields: Any) -> str:
    """A chunk with all that vLLM puts into one."""
    given = {
        "index": 0,
        "text": " 5",
        "token_ids": [20, 95],
        "logprobs": {
            "text_offset": [0, 2],
            "tokens": ["token_id:20", "token_id:95"],
            "token_logprobs": [-0.5, None],
            "top_logprobs": [{"token_id:20": -0.5}, None],
        },
        "finish_reason": None,
        "stop_reason": None,
        "prompt_logprobs": None,
        "prompt_token_ids": [1, 2, 3],
    }
    return json.dumps(
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [given | fields],
            "usage": None,
        }
    )


def test_chunks_are_read() -> None:
    chunk = read_chunk(choice())
    assert (chunk.token_ids, chunk.logprobs[0], chunk.finish_reason) == ((20, 95), -0.5, None)
    assert math.isnan(chunk.logprobs[1])
    assert read_chunk(choice(token_ids=[], logprobs=None, finish_reason="stop")) == Chunk(finish_reason="stop")
    assert read_chunk('{"choices": [], "usage": {"prompt_tokens": 3}}') == Chunk()


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "3",
        "null",
        "{}",
        '{"choices": null}',
        '{"choices": [3]}',
        choice(token_ids=None),
        choice(token_ids="20"),
        choice(token_ids=[True], logprobs={"tokens": ["token_id:True"], "token_logprobs": [0]}),
        choice(token_ids=[20, 95.0]),
        choice(token_ids=[20, 2**40]),
        choice(logprobs={"tokens": ["token_id:20", "token_id:95"], "token_logprobs": ["x", 0]}),
        choice(logprobs=[]),
        '{"error": null}',
        '{"error": "' + "x" * 10_000 + '"}',
    ],
)
def test_what_is_no_chunk_is_an_error_in_one_line(data: str) -> None:
    with pytest.raises(BadAnswerError) as error:
        read_chunk(data)
    assert len(str(error.value)) < 450
    assert "\n" not in str(error.value)

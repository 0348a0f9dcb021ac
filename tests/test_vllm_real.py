"""The real vLLM, in the training process and as a server, beside lock step in float32: needs vLLM and a GPU."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from accelerate import Accelerator
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
    request,
    said_by,
    taught,
    worst_logprob,
)
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.generation import vllm_generation

from multiattempt_trl.dialogue.episode import Episode
from multiattempt_trl.rollout.vllm_colocate import VLLMColocateBackend
from multiattempt_trl.rollout.vllm_server import VLLMServerBackend

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")]

NEVER = (TOKENIZER.pad_token_id,)
"""Stop ids that are never said, so that caps and boxes alone end an attempt."""
CLOSE = 0.01
"""Of two sums in float32, in another order and perhaps on tensor cores; in log-probability."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talker whose heads are wide enough for vLLM's attention."""
    folder = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(TOKENIZER), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.1,
        bos_token_id=None, eos_token_id=TOKENIZER.eos_token_id, pad_token_id=TOKENIZER.pad_token_id,
    )  # fmt: skip
    taught(Qwen2ForCausalLM(shape)).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path) -> Any:
    return Qwen2ForCausalLM.from_pretrained(saved).eval()


def check_same_words(model: Any, ours: list[Episode], report: Any) -> None:
    """What is said differs from lock step at most from a token on that was as good as another."""
    theirs = dialogues(lock_step(model))
    apart = [(one, other) for one, other in zip(ours, theirs, strict=True) if facts([one]) != facts([other])]
    for one, other in apart:
        here, there = next(
            (a, b) for a, b in zip(one.attempts, other.attempts, strict=False) if a.response_ids != b.response_ids
        )
        at = next(n for n, (a, b) in enumerate(zip(here.response_ids, there.response_ids, strict=False)) if a != b)
        ids = torch.tensor([here.prompt_ids + here.response_ids[:at]])
        with torch.no_grad():
            first, second = (
                model(input_ids=ids).logits[0, -1, [here.response_ids[at], there.response_ids[at]]].tolist()
            )
        assert abs(first - second) < CLOSE
    drift = worst_logprob(model, said_by(ours))
    with report.disabled():
        print(f"\n{len(apart)} of {len(ours)} dialogues part at a tie; log-probabilities drift by {drift:.1e} at most")  # noqa: T201
    assert len(apart) <= len(ours) // 10
    assert drift < CLOSE


def check_boxes(backend: Any) -> None:
    asked = [request(n, 150, stop_at_box=True) for n in range(16)]
    results = generate(backend, asked)
    stopped = [one for one in results.values() if one.finish_reason == "stop"]
    assert len(stopped) >= 8
    assert all(box_ends(one.token_ids) == len(one.token_ids) for one in stopped)


# --- in this process -------------------------------------------------------------------------------------------------


def test_colocated(saved: Path, model: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import vllm

    # TRL leaves the type to vLLM, which would take half precision for a model saved in float32.
    monkeypatch.setattr(vllm_generation, "LLM", partial(vllm.LLM, dtype="float32"))
    generation = vllm_generation.VLLMGeneration(
        model, Accelerator(), TOKENIZER, mode="colocate", gpu_memory_utilization=0.2, max_model_length=256,
        max_num_seqs=32, enable_sleep_mode=True,
    )  # fmt: skip
    given = {"stop_ids": RENDERER.stop_ids, "sampling": GREEDY}
    backend = VLLMColocateBackend(generation, TOKENIZER, **given)
    assert backend.capacity == 32
    with pytest.raises(ValueError, match="may come to 257 tokens, and vLLM holds 256"):
        backend.expect([257], 16)
    check_same_words(model, dialogues(backend), capsys)

    engine = generation.llm.llm_engine
    check_boxes(VLLMColocateBackend(generation, TOKENIZER, **(given | {"stop_ids": NEVER})))
    assert not engine.has_unfinished_requests()

    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    generation.sync_weights()
    changed = dialogues(backend)
    assert worst_logprob(model, said_by(changed)) < CLOSE
    assert worst_logprob(Qwen2ForCausalLM.from_pretrained(saved).eval(), said_by(changed)) > 0.1


# --- as a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(saved: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(saved), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    command += ["--gpu-memory-utilization", "0.2", "--logprobs-mode", "processed_logprobs"]
    process = subprocess.Popen(command, start_new_session=True)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 600
    try:
        while not answers(url):
            assert process.poll() is None, "vLLM's server did not start"
            assert time.monotonic() < until, "vLLM's server is not ready after ten minutes"
            time.sleep(1)
        yield url, process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def running(url: str) -> float:
    """How many requests the server has in its engine."""
    lines = httpx2.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_served(server: tuple[str, subprocess.Popen[bytes]], model: Any, capsys: Any) -> None:
    url, process = server
    given = {"sampling": GREEDY, "capacity": 32}
    backend = VLLMServerBackend(url, TOKENIZER, stop_ids=RENDERER.stop_ids, **given)
    with pytest.raises(ValueError, match="may come to 257 tokens, and vLLM holds 256"):
        backend.expect([257], 16)
    check_same_words(model, dialogues(backend), capsys)

    backend = VLLMServerBackend(url, TOKENIZER, stop_ids=NEVER, **given)
    check_boxes(backend)
    until = time.monotonic() + 10
    while running(url):
        assert time.monotonic() < until, "requests whose streams were left go on"
        time.sleep(0.1)

    asked = [request(n, 200) for n in range(32)]
    expect(backend, asked)
    with backend:
        backend.submit([request(99, 1), *asked])
        assert [one.request_id for one in backend.poll()] == [99]
        os.killpg(process.pid, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match=r"ended with \d+ attempts under way: it is gone"):
            poll_for_ever(backend)
    assert time.monotonic() - begun < 10


def poll_for_ever(backend: VLLMServerBackend) -> None:
    while True:
        backend.poll()

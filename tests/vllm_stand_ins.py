"""Stand-ins for vLLM on a small Hugging Face model: its engine, and its server.

As a process of its own, the server serves a saved model until it is killed:

    python tests/vllm_stand_ins.py PORT MODEL
"""

import asyncio
import contextlib
import copy
import dataclasses
import enum
import json
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import torch

from multiattempt_trl.rollout.sampling import draw, uniform


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(kw_only=True)
class SamplingParams:
    """Those of vLLM's fields that we use, with vLLM's defaults; any other name is an error."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


def modules() -> dict[str, ModuleType]:
    """What is to stand in `sys.modules` for vLLM."""
    vllm, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vllm.SamplingParams = parameters.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    parameters.RequestOutputKind = RequestOutputKind  # type: ignore[attr-defined]
    return {"vllm": vllm, "vllm.sampling_params": parameters}


class Running:
    """One request in the engine."""

    def __init__(self, prompt_ids: list[int], params: SamplingParams) -> None:
        self.ids, self.params, self.random = list(prompt_ids), params, Random(params.seed)
        self.sampled = 0
        self.untold: list[tuple[int, float]] = []


class StandInEngine:
    """vLLM's `LLMEngine`: each step is one forward pass over all running requests.

    It has a copy of the weights, which `load_weights` alone replaces. Now and then it keeps a token back and tells two
    at once. It knows nothing of boxes.

    Args:
        slots: the most requests in a step; the others wait, in the order in which they came.
    """

    def __init__(self, model: Any, *, slots: int | None = None, max_model_len: int | None = None) -> None:
        self.model, self.slots = copy.deepcopy(model).eval(), slots
        self.model_config = SimpleNamespace(max_model_len=max_model_len)
        runner = SimpleNamespace(model=self)
        self.model_executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.requests: dict[str, Running] = {}
        self.awake = {"weights", "kv_cache"}
        self.calls: list[tuple[str, Any]] = []
        """Each `add`, `step`, `abort`, `sleep` and `wake_up` with its argument, steps with who ran."""
        self.ends: dict[str, str] = {}
        """Finish reasons that requests are to end with in the next step, whatever they say."""

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        for name, value in weights:
            own[name].copy_(value)

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: SamplingParams) -> None:
        assert request_id not in self.requests, "a name that is still in use"
        assert (params.output_kind, params.logprobs, params.ignore_eos) == (RequestOutputKind.DELTA, 0, True)
        self.calls.append(("add", request_id))
        self.requests[request_id] = Running(prompt["prompt_token_ids"], params)

    def abort_request(self, request_ids: list[str]) -> None:
        self.calls.append(("abort", tuple(request_ids)))
        for request_id in request_ids:
            self.requests.pop(request_id, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[Any]:
        assert self.awake == {"weights", "kv_cache"}, f"a step while only {self.awake} are awake"
        running = dict(list(self.requests.items())[: self.slots])
        self.calls.append(("step", tuple(running)))
        outputs = []
        for (name, request), (token, logprob) in zip(running.items(), self._sample([*running.values()]), strict=True):
            request.ids.append(token)
            request.sampled += 1
            request.untold.append((token, logprob))
            reason = self.ends.pop(name, None) or _reason(request, token)
            if reason is None and len(request.ids) % 3 == 1:
                continue
            told, request.untold = request.untold, []
            if reason in ("abort", "error"):
                told = []
            if reason is not None:
                del self.requests[name]
            said = SimpleNamespace(
                token_ids=[one for one, _ in told],
                logprobs=[{one: SimpleNamespace(logprob=value)} for one, value in told],
                finish_reason=reason,
            )
            outputs.append(SimpleNamespace(request_id=name, outputs=[said], finished=reason is not None))
        return outputs

    @torch.no_grad()
    def _sample(self, requests: list[Running]) -> list[tuple[int, float]]:
        if not requests:
            return []
        lengths = torch.tensor([len(one.ids) for one in requests])
        rows = [one.ids + [0] * (int(lengths.max()) - len(one.ids)) for one in requests]  # causal: pads are not seen
        hidden = self.model.model(input_ids=torch.tensor(rows)).last_hidden_state
        scores = self.model.lm_head(hidden[torch.arange(len(rows)), lengths - 1]).float()
        (heat,) = {one.params.temperature for one in requests}
        numbers = [uniform(one.random) for one in requests] if heat else None
        tokens, logprobs = draw(scores / (heat or 1.0), numbers)
        return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))


def _reason(request: Running, token: int) -> str | None:
    if token in request.params.stop_token_ids:
        return "stop"
    return "length" if request.sampled == request.params.max_tokens else None


class StandInServer:
    """`vllm serve` over HTTP/1.1: completions as a stream, whose request is dropped where the client leaves.

    Args:
        fault: what is to go wrong with a request, given its body: "" for nothing, a status of HTTP, or one of
            `_spoil`'s words.
        port: 0 for any that is free.
    """

    def __init__(
        self, model: Any, *, fault: Callable[[dict[str, Any]], str] = lambda _: "", port: int = 0, **engine: Any
    ) -> None:
        self.engine = StandInEngine(model, **engine)
        self.fault, self.port = fault, port
        self.health: int | None = 200
        """How `/health` answers; None for not at all."""
        self.seconds_per_step = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.left: list[str] = []
        """Requests whose client left before their end."""
        self.streams: dict[str, asyncio.Queue[Any]] = {}
        self._ready = threading.Event()
        self.most_streams = self.connections = self.open_connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self.run(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def run(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        steps = asyncio.create_task(self._step())
        self._ready.set()
        await self._stop.wait()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if not steps.cancelled():
            steps.result()

    async def _step(self) -> None:
        while True:
            await asyncio.sleep(self.seconds_per_step if self.engine.has_unfinished_requests() else 0.001)
            if self.engine.has_unfinished_requests():
                for output in self.engine.step():
                    if output.request_id in self.streams:
                        self.streams[output.request_id].put_nowait(output)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
                lengths = [int(line.split(":")[1]) for line in lines if line.startswith("content-length:")]
                body = await reader.readexactly(sum(lengths))
                await self._answer(first.split()[1], body, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.open_connections -= 1
            writer.close()

    async def _answer(
        self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if path == "/health":
            if self.health is None:
                await asyncio.sleep(3600)
            _reply(writer, self.health, {})
        elif path == "/v1/models":
            limit = self.engine.model_config.max_model_len
            _reply(writer, 200, {"data": [{"id": "stand-in", "max_model_len": limit}]})
        elif path == "/reset_prefix_cache":
            _reply(writer, 200, {"success": not self.engine.has_unfinished_requests()})
        elif path == "/v1/completions":
            await self._complete(json.loads(body), reader, writer)
        else:
            _reply(writer, 404, {"detail": "Not Found"})
        await writer.drain()

    async def _complete(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.bodies.append(body)
        fault, name = self.fault(body), f"cmpl-{len(self.bodies)}"
        if fault.isdigit():
            _reply(writer, int(fault), {"error": {"message": "a fault on demand", "code": int(fault)}})
            return
        outputs = self.streams[name] = asyncio.Queue()
        self.most_streams = max(self.most_streams, len(self.streams))
        fields = {one.name for one in dataclasses.fields(SamplingParams)} & body.keys()
        params = SamplingParams(**{key: body[key] for key in fields}, output_kind=RequestOutputKind.DELTA)
        self.engine.add_request(name, {"prompt_token_ids": body["prompt"]}, params)
        leaves = asyncio.create_task(_leaves(reader, outputs))
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            await self._stream(outputs, fault, writer)
            writer.write(b"0\r\n\r\n")
        except ConnectionError:
            self.left.append(name)
            raise
        finally:
            leaves.cancel()
            await asyncio.gather(leaves, return_exceptions=True)
            del self.streams[name]
            if name in self.engine.requests:
                self.engine.abort_request([name])

    async def _stream(self, outputs: asyncio.Queue[Any], fault: str, writer: asyncio.StreamWriter) -> None:
        """All chunks of a request. What goes wrong does so after one good chunk, but for what is "silent" at once."""
        good = 0 if fault == "silent" else 1
        while (output := await outputs.get()) is not None:
            chunk = _chunk(output)
            if fault == "slow":
                await asyncio.sleep(0.05)
            elif fault and not good:
                if fault == "cut":
                    writer.transport.abort()
                    raise ConnectionResetError("cut on demand")
                if fault in ("silent", "stall", "drip"):
                    await _say_nothing(outputs, writer if fault == "drip" else None)
                if fault == "early":
                    return
                chunk = _spoilt(chunk, fault)
            good = 0
            _write(writer, f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n")
            await writer.drain()
            if output.finished:
                _write(writer, "data: [DONE]\n\n")
                return
        raise ConnectionResetError("the client has left")


def _chunk(output: Any) -> dict[str, Any]:
    (said,) = output.outputs
    logprobs = {
        "tokens": [f"token_id:{one}" for one in said.token_ids],
        "token_logprobs": [of[one].logprob for one, of in zip(said.token_ids, said.logprobs, strict=True)],
    }
    choice = {"index": 0, "text": "", "token_ids": said.token_ids, "logprobs": logprobs}
    return {"object": "text_completion", "choices": [choice | {"finish_reason": said.finish_reason}]}


def _spoilt(chunk: dict[str, Any], fault: str) -> dict[str, Any] | str:
    (choice,) = chunk["choices"]
    match fault:
        case "error":
            return {"error": {"message": "an error on demand", "code": 500}}
        case "malformed":
            return json.dumps(chunk)[:-20]
        case "endless":
            return "1" * 2**21
        case "nested":
            return "[" * 100_000
        case "fewer":
            choice["logprobs"]["token_logprobs"].pop()
        case "others":
            choice["logprobs"]["tokens"][0] += "0"
        case "none":
            choice["logprobs"] = None
        case "negative":
            choice["token_ids"][0] = -1
        case "no ids":
            del choice["token_ids"]
        case "abort":
            choice |= {"token_ids": [], "logprobs": None, "finish_reason": "abort"}
        case _:
            raise AssertionError(f"no such fault: {fault}")
    return chunk


async def _say_nothing(outputs: asyncio.Queue[Any], writer: asyncio.StreamWriter | None) -> None:
    """Until the client leaves; where there is a writer, with comments in between, which are no tokens."""
    while True:
        try:
            async with asyncio.timeout(0.02):
                if await outputs.get() is None:
                    raise ConnectionResetError("the client has left")
        except TimeoutError:
            if writer is not None:
                _write(writer, ": still here\n\n")


async def _leaves(reader: asyncio.StreamReader, outputs: asyncio.Queue[Any]) -> None:
    with contextlib.suppress(ConnectionError):
        assert await reader.read(1) == b"", "a request within a stream"
    outputs.put_nowait(None)


def _reply(writer: asyncio.StreamWriter, status: int, message: dict[str, Any]) -> None:
    body = json.dumps(message)
    writer.write(
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
    )


def _write(writer: asyncio.StreamWriter, text: str) -> None:
    writer.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())


if __name__ == "__main__":
    from multiattempt_trl.rollout.loading import load_model

    torch.set_num_threads(1)
    asyncio.run(StandInServer(load_model(sys.argv[2]), port=int(sys.argv[1])).run())

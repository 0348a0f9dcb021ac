"""The streams of a rollout from a vLLM server, read on an event loop in a thread of its own."""

import asyncio
import queue
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import httpx2

from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.vllm_parts import StreamedAttempt, failed
from multiattempt_trl.rollout.vllm_wire import ANSWER_SECONDS, BadAnswerError, described, quoted, read_chunk

IDLE_SECONDS = 1.0
"""How long a connection may be idle and still take a new request. vLLM closes one after 5 seconds, and a request that
is sent in that moment would be lost."""


class Stream:
    """One attempt on its way."""

    def __init__(self, attempt: StreamedAttempt, begun: float) -> None:
        self.attempt, self.begun = attempt, begun
        self.limit = asyncio.timeout(None)
        self.heard: float | None = None
        """When its last tokens came."""
        self.result: GenResult | None = None


class Streams:
    """All streams of a rollout. `run` is the thread; `begin` and `end` are called from another one.

    Args:
        attempt: makes what collects the tokens of a request.
        body: what the server is asked with.
        results: takes each attempt's result, and the error that ended all.
        at_once: the most streams together, as many connections are kept for the next ones.
        stall_seconds: see `VLLMServerBackend`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        attempt: Callable[[GenRequest], StreamedAttempt],
        body: Callable[[GenRequest], dict[str, Any]],
        results: queue.SimpleQueue[GenResult | Exception],
        at_once: int,
        stall_seconds: float,
    ) -> None:
        self.base_url, self.attempt, self.body, self.results = base_url, attempt, body, results
        self.stall_seconds = stall_seconds
        self.client = httpx2.AsyncClient(
            timeout=None,  # a read knows nothing of the other streams, `_watch` does
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=at_once, keepalive_expiry=IDLE_SECONDS
            ),
            trust_env=False,
        )
        self.loop = asyncio.new_event_loop()
        self.over: asyncio.Future[None] = self.loop.create_future()
        self.tasks: set[asyncio.Task[None]] = set()
        self.streams: set[Stream] = set()
        self.heard = 0.0
        """When the last tokens of any stream came."""

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._serve())
        except Exception as error:
            self.results.put(error)

    def begin(self, requests: Sequence[GenRequest]) -> None:
        self._call(lambda: self._begin(requests))

    def end(self) -> None:
        self._call(lambda: self.over.set_result(None))

    def _call(self, what: Callable[[], None]) -> None:
        """On the loop, unless an error has ended all."""
        with suppress(RuntimeError):  # a loop that is closed
            self.loop.call_soon_threadsafe(lambda: None if self.over.done() else what())

    def _begin(self, requests: Sequence[GenRequest]) -> None:
        for request in requests:
            task = self.loop.create_task(self._play(request))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _serve(self) -> None:
        watch = asyncio.create_task(self._watch())
        try:
            await self.over
        finally:
            tasks = [watch, *self.tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.client.aclose()

    async def _watch(self) -> None:
        """Ends each stream that has said nothing for too long.

        One that waits for its first token waits in the server's queue for as long as others are served.
        """
        while True:
            await asyncio.sleep(self.stall_seconds / 8)
            now = self.loop.time()
            for stream in self.streams:
                silent = now - (stream.heard or max(stream.begun, self.heard))
                if silent > self.stall_seconds and not stream.limit.expired():
                    stream.limit.reschedule(now)

    async def _play(self, request: GenRequest) -> None:
        try:
            self.results.put(await self._result(request))
        except Exception as error:
            if not self.over.done():
                self.over.set_exception(error)

    async def _result(self, request: GenRequest) -> GenResult:
        stream = Stream(self.attempt(request), self.loop.time())
        try:
            async with stream.limit:
                self.streams.add(stream)
                await self._read(stream)
        except TimeoutError:
            why = f"its stream said nothing for {self.stall_seconds:g} seconds"
        except (httpx2.HTTPError, BadAnswerError) as error:
            why = described(error)
        else:
            why = "its stream ended before the attempt"
        finally:
            self.streams.discard(stream)
        if stream.result is not None:
            return stream.result
        await self._check_health(why)
        return failed(request, f"{why} (after {len(stream.attempt.token_ids)} tokens)")

    async def _read(self, stream: Stream) -> None:
        """Reads until the attempt is over. To leave a stream before its end is to have vLLM drop the request."""
        body = self.body(stream.attempt.request)
        async with self.client.stream("POST", f"{self.base_url}/v1/completions", json=body) as response:
            await _check_status(response)
            async for event in httpx2.EventSource(response):
                if stream.result is not None or event.data == "[DONE]":
                    continue  # read to its end, a connection serves the next stream too
                chunk = read_chunk(event.data)
                if chunk.token_ids:
                    stream.heard = self.heard = self.loop.time()
                    stream.result = stream.attempt.add(chunk.token_ids, chunk.logprobs)
                if chunk.finish_reason is None and stream.result is not None:
                    return
                if chunk.finish_reason is not None and stream.result is None:
                    raise BadAnswerError(f"vLLM ended it with finish_reason {quoted(chunk.finish_reason)}")

    async def _check_health(self, why: str) -> None:
        """Raises `RuntimeError` where it is not one request that failed, but the server.

        An engine that died has the server answer, with an error.
        """
        try:
            async with self.client.stream("GET", f"{self.base_url}/health", timeout=ANSWER_SECONDS) as response:
                if response.status_code < 500:
                    return
                health = f"HTTP {response.status_code}"
        except httpx2.HTTPError as error:
            health = described(error)
        raise RuntimeError(f"it is gone: {why}; its /health: {health}")


async def _check_status(response: httpx2.Response) -> None:
    """Raises `BadAnswerError` for an error of the server's, and `RuntimeError` for one of ours."""
    if response.status_code == 200:
        return
    words = b""
    async for part in response.aiter_bytes():
        words += part
        if len(words) > 1000:
            break
    said = f"HTTP {response.status_code}: {quoted(words.decode(errors='replace'))}"
    if response.status_code >= 500:
        raise BadAnswerError(said)
    raise RuntimeError(f"it refused a request with {said}")

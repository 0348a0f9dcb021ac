"""The backend over a vLLM server: each attempt is a stream of its own, which is left where the attempt ends."""

import queue
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Any, Self

from multiattempt_trl.dialogue.rendering import ChatTokenizer
from multiattempt_trl.rollout.ends import Pieces
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.vllm_parts import StreamedAttempt, check_context, parameters
from multiattempt_trl.rollout.vllm_streams import Streams
from multiattempt_trl.rollout.vllm_wire import checked_url, served_model


class VLLMServerBackend:
    """Generates on a vLLM server, which every process asks for its own attempts, with no word between processes.

    The streams are read by one thread, which lives as long as the `with` block. To leave a stream, at a closed box or
    with the block, is to have vLLM drop its request. A request that fails alone becomes a result that says so. A
    server that refuses one, or is gone, is an error that `poll` raises.

    The server samples with the weights that it has: new ones, and an empty prefix cache, are the caller's care.
    Log-probabilities are of what was sampled from where the server runs with `--logprobs-mode processed_logprobs`.

    Args:
        base_url: where `vllm serve` listens, such as `http://localhost:8000`. No proxy is asked on the way.
        tokenizer: its text tells where a box closes.
        stop_ids: ids that end an attempt.
        capacity: the most streams at once.
        stall_seconds: the longest that a stream may say nothing. One that waits for its first token waits in the
            server's queue, so that the time begins anew with each token that any stream gets.

    Raises `ValueError` for a URL that is none, and for numbers that are not above 0.
    """

    eager = True

    def __init__(
        self,
        base_url: str,
        tokenizer: ChatTokenizer,
        *,
        stop_ids: Sequence[int],
        sampling: Sampling,
        capacity: int,
        stall_seconds: float = 120.0,
    ) -> None:
        if capacity < 1 or stall_seconds <= 0:
            raise ValueError(
                f"streams and seconds must be above 0, got capacity {capacity} and stall_seconds {stall_seconds}"
            )
        self.base_url, self.stop_ids, self.sampling = checked_url(base_url), tuple(stop_ids), sampling
        self.capacity, self.stall_seconds, self.piece = capacity, stall_seconds, Pieces(tokenizer)

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        self._served = served_model(self.base_url)
        check_context(longest, self._served.max_model_len, "start `vllm serve` with --max-model-len")

    def __enter__(self) -> Self:
        self._under_way = 0
        self._results: queue.SimpleQueue[GenResult | Exception] = queue.SimpleQueue()
        self._streams = Streams(
            self.base_url,
            attempt=lambda request: StreamedAttempt(request, self.stop_ids, self.piece),
            body=self._body,
            results=self._results,
            at_once=self.capacity,
            stall_seconds=self.stall_seconds,
        )
        self._thread = Thread(target=self._streams.run, name="vllm-streams", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.end()
        self._thread.join()

    def submit(self, requests: list[GenRequest]) -> None:
        self._under_way += len(requests)
        self._streams.begin(requests)

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        """Waits for an attempt to end, at most for `timeout` seconds (None: no limit).

        Raises `RuntimeError` where the server is gone, or says that a request was wrong.
        """
        results: list[GenResult] = []
        with suppress(queue.Empty):
            while self._under_way:
                # What else has come is taken along, but not waited for.
                results.append(self._taken(self._results.get(timeout=0 if results else timeout)))
        return results

    def _body(self, request: GenRequest) -> dict[str, Any]:
        return {
            **parameters(request, self.sampling, self.stop_ids),
            "model": self._served.name,
            "prompt": list(request.prompt_ids),
            "stream": True,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }

    def _taken(self, result: GenResult | Exception) -> GenResult:
        if isinstance(result, Exception):
            self._results.put(result)  # nothing else comes any more
            raise RuntimeError(
                f"generation on the vLLM server at {self.base_url} ended with {self._under_way} attempts under way: "
                f"{result}"
            ) from result
        self._under_way -= 1
        return result

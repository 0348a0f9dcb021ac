"""What a vLLM server says, checked before it is believed.

Source: vLLM's form of OpenAI's completions, https://docs.vllm.ai/en/v0.28.0/serving/online_serving/openai_compatible_server/
"""

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2

ANSWER_SECONDS = 10.0
"""The longest wait for an answer that needs no generation."""
LARGEST_ID = 2**31
"""No vocabulary reaches so far. Of ids that are twice as large a tokenizer raises."""


class BadAnswerError(Exception):
    """A server said what it should not; the request that was answered so has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What came of an attempt since the last chunk."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """One of each token; NaN where the server has none."""
    finish_reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """The model that a server was started with."""

    name: str
    max_model_len: int | None
    """The most tokens of a dialogue, where the server says so."""


def read_chunk(data: str) -> Chunk:
    """One event of a stream of completions.

    Raises `BadAnswerError` for an error of the server's, and for what is no chunk of tokens with log-probabilities.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswerError(f"malformed JSON: {quoted(data)}") from error
    match message:
        case {"error": what} if what is not None:
            raise BadAnswerError(f"the server's error: {quoted(what)}")
        case {"choices": []}:  # counts of tokens, and nothing of an attempt
            return Chunk()
        case {"choices": [{"token_ids": list(token_ids), **choice}]}:
            reason = choice.get("finish_reason")
            return Chunk(
                token_ids=tuple(token_ids),
                logprobs=_logprobs(token_ids, choice.get("logprobs")) if token_ids else (),
                finish_reason=None if reason is None else str(reason),
            )
    raise BadAnswerError(f"no token ids (vLLM's return_token_ids) in {quoted(data)}")


def checked_url(base_url: str) -> str:
    """The address without a slash at its end. Raises `ValueError` for what is none."""
    with suppress(httpx2.InvalidURL):
        url = httpx2.URL(base_url)
        if url.scheme in ("http", "https") and url.host:
            return base_url.rstrip("/")
    raise ValueError(f"the vLLM server's URL must be one such as http://localhost:8000, got {base_url!r}")


def served_model(base_url: str) -> ServedModel:
    """The model that the server has. Raises `RuntimeError` where no vLLM server answers there."""
    try:
        answer = httpx2.get(f"{base_url}/v1/models", timeout=ANSWER_SECONDS, trust_env=False)
    except httpx2.HTTPError as error:
        raise RuntimeError(
            f"no vLLM server answers at {base_url} ({described(error)}): start `vllm serve`, or correct the URL"
        ) from error
    with suppress(ValueError, RecursionError):
        match answer.json():
            case {"data": [{"id": str(name), **model}, *_]}:
                most = model.get("max_model_len")
                return ServedModel(name=name, max_model_len=most if type(most) is int else None)
    raise RuntimeError(
        f"the server at {base_url} names no model (HTTP {answer.status_code}: {quoted(answer.text)}): is it vLLM's?"
    )


def described(error: Exception) -> str:
    """An error in one line, which some of httpx's lack."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def quoted(words: Any) -> str:
    """What a server said, of any type and length, fit for a line of a log."""
    text = repr(words)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _logprobs(token_ids: list[Any], given: Any) -> tuple[float, ...]:
    """Of exactly these tokens, which the server names once more beside their log-probabilities."""
    if not all(type(one) is int and 0 <= one < LARGEST_ID for one in token_ids):
        raise BadAnswerError(f"token ids that are none: {quoted(token_ids)}")
    match given:
        case {"tokens": list(names), "token_logprobs": list(values)}:
            if names != [f"token_id:{one}" for one in token_ids] or len(values) != len(token_ids):
                raise BadAnswerError(
                    f"log-probabilities of other tokens: of {quoted(names)}, {len(values)} for {quoted(token_ids)}"
                )
            if all(one is None or type(one) in (int, float) for one in values):
                return tuple(math.nan if one is None else float(one) for one in values)
    raise BadAnswerError(f"no log-probabilities for {len(token_ids)} tokens in {quoted(given)}")

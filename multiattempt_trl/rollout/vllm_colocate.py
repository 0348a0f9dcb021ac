"""The backend over vLLM in the training process: TRL's engine, driven step by step."""

import itertools
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from accelerate.utils import is_peft_model

from multiattempt_trl.dialogue.rendering import ChatTokenizer
from multiattempt_trl.rollout.ends import Pieces
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.vllm_parts import StreamedAttempt, check_context, failed, parameters

Named = tuple[str, GenRequest]
"""A request with its name in the engine."""
Share = tuple[list[Named], bool]
"""What a rank says before a step: its new requests, and whether it still plays."""
IDLE_SECONDS = 0.001
"""From one exchange of ranks who have nothing to generate to the next."""


class VLLMColocateBackend:
    """Generates on the engine that TRL's `VLLMGeneration` has made in this process.

    The engine takes its steps in `poll`, and an attempt that closes its box is aborted after the very step that closed
    it. New weights are the caller's care (`VLLMGeneration.sync_weights`). An engine that sleeps between rollouts is
    woken once for the whole `with` block, as `VLLMGeneration.generate` does it for one call.

    With tensor parallelism each rank has a part of the model, and all must take the same steps with the same requests.
    So before each step the ranks tell each other what is new, all add all of it, and each keeps its own results. A
    rank that waits for verdicts goes on stepping, and so does one whose dialogues are over until those of all are,
    unless it leaves by an exception: then the others wait for it, until the launcher ends them.

    Args:
        generation: TRL's `VLLMGeneration`, in mode "colocate".
        tokenizer: its text tells where a box closes.
        stop_ids: ids that end an attempt.
        capacity: the most attempts of this process at once; no more than the engine takes in any case.

    Raises `ValueError` for a capacity below 1.
    """

    eager = True

    def __init__(
        self,
        generation: Any,
        tokenizer: ChatTokenizer,
        *,
        stop_ids: Sequence[int],
        sampling: Sampling,
        capacity: int | None = None,
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.generation, self.stop_ids, self.sampling = generation, tuple(stop_ids), sampling
        self.piece = Pieces(tokenizer)
        bounds = [bound for bound in (capacity, generation.max_num_seqs) if bound is not None]
        self.capacity: int | None = min(bounds, default=None)
        self._group = generation.tp_group if generation.tensor_parallel_size > 1 else None
        self._rank = 0 if self._group is None else torch.distributed.get_rank(self._group)

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        config = getattr(self.generation.llm.llm_engine, "model_config", None)
        check_context(longest, getattr(config, "max_model_len", None), "set vllm_max_model_length to")

    def __enter__(self) -> Self:
        self._numbers = itertools.count()
        self._new: list[Named] = []
        self._own: set[str] = set()
        self._attempts: dict[str, StreamedAttempt] = {}  # of all ranks
        generation = self.generation
        with ExitStack() as stack:  # puts back what was done so far where a line of it raises
            if generation.enable_sleep_mode:
                stack.callback(self._sleep)
                if generation._llm_weights_sleeping:
                    generation.sync_weights()
                generation.llm.wake_up(tags=["kv_cache"])
            if self._group is not None and is_peft_model(generation.model):
                # As TRL does, lest NCCL is still clearing up after the last small all-reduce.
                torch.distributed.barrier(device_ids=[generation.accelerator.local_process_index])
            stack.callback(self._abort_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None and self._group is not None:
                while self._step(playing=False) is not None:
                    pass

    def submit(self, requests: list[GenRequest]) -> None:
        new = [(f"{self._rank}-{next(self._numbers)}", request) for request in requests]
        self._new += new
        self._own |= {name for name, _ in new}

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        """Takes steps until an attempt has ended, or for `timeout` seconds (None: no limit), but at least one.

        Raises whatever the engine raises, and `RuntimeError` where it has lost an attempt.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        results: list[GenResult] = []
        while self._own and not results:
            results = self._step(playing=True) or []
            if time.monotonic() >= until:
                break
        return results

    def step_for_others(self) -> bool:
        """Takes a step with the ranks of the group, none of whose requests is ours; False where there is no group."""
        if self._group is None:
            return False
        self._step(playing=True)
        return True

    def _step(self, *, playing: bool) -> list[GenResult] | None:
        """One step of the engine, the same in all ranks. Returns the results of our own, None where nobody plays."""
        new, self._new = self._new, []
        shares = self._exchange((new, playing))
        engine = self.generation.llm.llm_engine
        for name, request in (named for share, _ in shares for named in share):
            self._attempts[name] = StreamedAttempt(request, self.stop_ids, self.piece)
            engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, self._params(request))
        if not any(theirs for _, theirs in shares):
            return None
        if not self._attempts:  # all wait for verdicts: leave the cores to those who judge
            time.sleep(IDLE_SECONDS)
            return []
        results = self._advance()
        own = results.keys() & self._own
        self._own -= own
        return [result for name, result in results.items() if name in own]

    def _advance(self) -> dict[str, GenResult]:
        """What has ended with the engine's next step; of that, what the engine would go on with is aborted."""
        engine = self.generation.llm.llm_engine
        results: dict[str, GenResult] = {}
        beyond: list[str] = []
        for output in engine.step():
            attempt = self._attempts.get(output.request_id)
            if attempt is None or (result := _read(attempt, output)) is None:
                continue
            results[output.request_id] = result
            del self._attempts[output.request_id]
            if not output.finished:
                beyond.append(output.request_id)
        if beyond:
            engine.abort_request(beyond)
        if self._attempts and not engine.has_unfinished_requests():
            raise RuntimeError(f"vLLM's engine has lost {len(self._attempts)} attempts that were under way")
        return results

    def _exchange(self, mine: Share) -> list[Share]:
        """What each rank has to say before a step, in the order of ranks."""
        if self._group is None:
            return [mine]
        shares: list[Any] = [None] * self.generation.tensor_parallel_size
        torch.distributed.all_gather_object(shares, mine, group=self._group)
        return shares

    def _params(self, request: GenRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        given = parameters(request, self.sampling, self.stop_ids)
        return SamplingParams(**given, detokenize=False, output_kind=RequestOutputKind.DELTA)

    def _abort_all(self) -> None:
        if self._attempts:
            self.generation.llm.llm_engine.abort_request(list(self._attempts))

    def _sleep(self) -> None:
        self.generation.llm.sleep(level=2)
        self.generation._llm_weights_sleeping = True  # level 2 drops them, so that TRL must send them anew


def _read(attempt: StreamedAttempt, output: Any) -> GenResult | None:
    """The result, where the attempt is over with what the engine has said of it."""
    (said,) = output.outputs
    token_ids = list(said.token_ids)
    if token_ids:  # where there are none, vLLM repeats log-probabilities of earlier ones
        logprobs = [of[token_id].logprob for token_id, of in zip(token_ids, said.logprobs, strict=True)]
        if (result := attempt.add(token_ids, logprobs)) is not None:
            return result
    if not output.finished:
        return None
    return failed(
        attempt.request,
        f"vLLM ended it with finish_reason {said.finish_reason!r} after {len(attempt.token_ids)} tokens",
    )

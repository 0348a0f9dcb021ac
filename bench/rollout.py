"""What do barriers cost? The same rollout in lock step and without, on the same model, with the same lengths.

    python bench/rollout.py                             # a small model on the CPU, five draws of lengths
    python bench/rollout.py --model FOLDER --mean 300 --cap 1500 --draws 1    # from bench/gpu_model.py, on a GPU

Each dialogue has 1 to 5 attempts. How long each attempt is (log-normal, with a long tail) and whether it solves its
question is drawn beforehand, and both backends are held to it, so that they sample the same number of tokens in the
same dialogues; a greedy run also says the same.

Counted on the model itself: forward passes (a decode step gives each running attempt a token), and the tokens that
they read. `ideal` is the longest dialogue's tokens, or all tokens over the slots, whichever is more: no rollout takes
fewer steps. `unique` are the tokens that have to be read besides those sampled: each prompt, each feedback, and the
last token of each attempt that was followed by another. Last, the rollout without barriers is graded by workers that
take 20 ms for each answer. The last line is all of it as JSON; ratios are medians over the draws.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER, PromptPreset
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.domains.arithmetic.questions import questions
from multiattempt_trl.domains.arithmetic.tokenizer import build_tokenizer
from multiattempt_trl.rollout.continuous_backend import ContinuousBackend
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.loading import load_model, load_tokenizer
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.requests import GenRequest, RolloutBackend
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.transformers_backend import TransformersBackend

ATTEMPTS, SOLVES, SIGMA = 5, 0.25, 0.8
GRADING_SECONDS, GRADERS = 0.02, 16


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model, and what it is asked."""

    model: PreTrainedModel
    tokenizer: Any
    preset: PromptPreset
    questions: Sequence[Question]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is settled beforehand, dialogue by dialogue."""

    budgets: list[int]
    lengths: list[list[int]]
    """Of each attempt, in tokens."""
    solved_at: list[int]

    @classmethod
    def of(cls, dialogues: int, mean: float, cap: int, seed: int) -> "Drawn":
        random = Random(seed)

        def length() -> int:
            return max(1, min(cap, round(random.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA))))

        def solved() -> int:
            return next((k for k in range(1, ATTEMPTS + 1) if random.random() < SOLVES), ATTEMPTS + 1)

        return cls(
            budgets=[random.randint(1, ATTEMPTS) for _ in range(dialogues)],
            lengths=[[length() for _ in range(ATTEMPTS)] for _ in range(dialogues)],
            solved_at=[solved() for _ in range(dialogues)],
        )


class Forced:
    """A backend whose attempts have the lengths that were drawn."""

    def __init__(self, backend: RolloutBackend, drawn: Drawn) -> None:
        self.backend, self.drawn, self.begun = backend, drawn, [0] * len(drawn.budgets)
        self.eager, self.capacity, self.expect, self.poll = (
            backend.eager, backend.capacity, backend.expect, backend.poll
        )  # fmt: skip

    def __enter__(self) -> "Forced":
        self.backend.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.backend.__exit__(*error)

    def submit(self, requests: list[GenRequest]) -> None:
        self.backend.submit([self._forced(request) for request in requests])

    def _forced(self, request: GenRequest) -> GenRequest:
        attempt = self.begun[request.request_id]
        self.begun[request.request_id] += 1
        return replace(request, max_new_tokens=self.drawn.lengths[request.request_id][attempt])


class Settled:
    """A grader that knows the verdicts, by how often each question was asked about."""

    def __init__(self, drawn: Drawn, asked: Iterable[Question]) -> None:
        self.solved_at = dict(zip((question.id for question in asked), drawn.solved_at, strict=True))
        self.heard = dict.fromkeys(self.solved_at, 0)

    def __call__(self, question: Question, response: str) -> Verdict:
        self.heard[question.id] += 1
        return Verdict.CORRECT if self.heard[question.id] == self.solved_at[question.id] else Verdict.WRONG


class Working(Settled):
    """The same by workers who take their time."""

    pool = ThreadPoolExecutor(GRADERS)

    def submit(self, question: Question, response: str) -> Future[Verdict]:
        def work() -> Verdict:
            time.sleep(GRADING_SECONDS)
            return self(question, response)

        return self.pool.submit(work)


@dataclass
class Counts:
    """Forward passes, and what went through them."""

    steps: int = 0
    tokens: int = 0
    rows: int = 0
    """Rows of all passes, those that are done and go on in lock step included."""

    def hook(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        self.steps, self.tokens = self.steps + 1, self.tokens + ids.numel()
        last = kwargs.get("logits_to_keep")  # continuous batching asks for one row a request
        self.rows += last.numel() if torch.is_tensor(last) else ids.size(0)


def measure(
    setup: Setup, drawn: Drawn, backend: RolloutBackend, grade: Callable[..., Settled]
) -> tuple[dict[str, float], list[Episode]]:
    """One rollout."""
    asked = setup.questions[: len(drawn.budgets)]
    judge: Grade = grade(drawn, asked)
    envs = [
        Environment(question=question, budget=budget, preset=setup.preset)
        for question, budget in zip(asked, drawn.budgets, strict=True)
    ]
    cap = max(map(max, drawn.lengths))
    limits = Limits(attempt=cap, episode=cap * ATTEMPTS, context=setup.model.config.max_position_embeddings)
    counts = Counts()
    watching = setup.model.register_forward_pre_hook(counts.hook, with_kwargs=True)
    wall, cpu = time.perf_counter(), time.process_time()
    episodes = play(envs, Forced(backend, drawn), judge, Renderer(setup.tokenizer), limits)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    watching.remove()
    sampled = sum(episode.sampled_tokens for episode in episodes)
    decoded = sum(attempt.tokens - 1 for episode in episodes for attempt in episode.attempts)
    # Of what the last attempt read, all was new once but what had been fed back token by token.
    fed_back = sum(attempt.tokens - 1 for episode in episodes for attempt in episode.attempts[:-1])
    unique = sum(len(episode.attempts[-1].prompt_ids) for episode in episodes) - fed_back
    read = sum(len(attempt.prompt_ids) for episode in episodes for attempt in episode.attempts)
    longest = max(episode.sampled_tokens for episode in episodes)
    return {
        "wall": wall,
        "cpu": cpu,
        "steps": counts.steps,
        "ideal": max(longest, math.ceil(sampled / (backend.capacity or len(drawn.budgets)))),
        "sampled": sampled,
        "tokens_per_second": sampled / wall,
        "slot_use": sampled / counts.rows,
        "prefilled": counts.tokens - decoded if backend.eager else read,
        "unique": unique,
    }, episodes


def lock_step(setup: Setup) -> RolloutBackend:
    """All dialogues together, attempt by attempt. No token ends a turn: lengths are forced."""
    return TransformersBackend.for_model(
        setup.model, setup.tokenizer, pad_token_id=setup.tokenizer.pad_token_id, stop_ids=[nobodys(setup)],
        sampling=Sampling(temperature=0),
    )  # fmt: skip


def no_barrier(setup: Setup, dialogues: int) -> RolloutBackend:
    """Continuous batching, with a place for each dialogue."""
    return ContinuousBackend.for_model(
        setup.model, setup.tokenizer, stop_ids=[nobodys(setup)], sampling=Sampling(temperature=0), dialogues=dialogues
    )


def nobodys(setup: Setup) -> int:
    """An id beyond the vocabulary, which is never sampled."""
    return int(setup.model.config.vocab_size)


def compare(setup: Setup, told: argparse.Namespace, draw: int) -> dict[str, Any]:
    """Both, on one draw of lengths."""
    drawn = Drawn.of(told.dialogues, told.mean, told.cap, draw)
    behind, said = measure(setup, drawn, lock_step(setup), Settled)
    free, again = measure(setup, drawn, no_barrier(setup, told.dialogues), Settled)
    graded, _ = measure(setup, drawn, no_barrier(setup, told.dialogues), Working)
    pairs = [(a.response_ids, b.response_ids) for x, y in zip(said, again, strict=True)
             for a, b in zip(x.attempts, y.attempts, strict=True)]  # fmt: skip
    for name, found in (("lock step", behind), ("no barrier", free), ("graded in 20 ms", graded)):
        print(
            f"{draw:4}  {name:16} {found['wall']:8.2f} s {found['cpu']:8.2f} s CPU {found['steps']:7,.0f} steps "
            f"({found['steps'] / found['ideal']:.2f} of ideal) {found['tokens_per_second']:9,.0f} tokens/s "
            f"{found['slot_use']:6.0%} of rows used, read {found['prefilled'] / found['unique']:.2f} of unique",
            flush=True,
        )
    return {
        "draw": draw,
        "lock_step": behind,
        "no_barrier": free,
        "graded": graded,
        "same_tokens": sum(a == b for a, b in pairs) / len(pairs),
    }


def small_setup(told: argparse.Namespace) -> Setup:
    """The arithmetic task's words, and a model of a size at which a CPU spends its time on multiplying."""
    tokenizer = build_tokenizer(PRESET)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=2_048, hidden_size=told.hidden, intermediate_size=4 * told.hidden, num_hidden_layers=told.layers,
        num_attention_heads=told.hidden // 64, num_key_value_heads=max(told.hidden // 128, 1),
        max_position_embeddings=8_192,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    return Setup(model=model, tokenizer=tokenizer, preset=PRESET, questions=questions("train"))


def saved_setup(folder: Path) -> Setup:
    """What `bench/gpu_model.py` wrote, in bfloat16 on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(folder, torch.bfloat16).to(device)  # type: ignore[arg-type]  # a device's name
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [Question(**row) for row in rows[::2]]  # every other one is as long as can be
    return Setup(model=model, tokenizer=load_tokenizer(folder, "qwen2_5"), preset=PAPER, questions=asked)


def main() -> None:
    """Prints a line for each rollout, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=64)
    parser.add_argument("--mean", type=float, default=80, help="tokens of an attempt")
    parser.add_argument("--cap", type=int, default=400, help="most tokens of an attempt")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--model", type=Path, help="a folder from bench/gpu_model.py, in place of a small model")
    told = parser.parse_args()
    torch.set_num_threads(1)
    setup = saved_setup(told.model) if told.model else small_setup(told)
    compare(setup, argparse.Namespace(dialogues=8, mean=4, cap=8), draw=-1)  # kernels and threads come into being
    found = [compare(setup, told, draw) for draw in range(told.draws)]

    def middle(ratio: Callable[[dict[str, Any]], float]) -> float:
        return median(map(ratio, found))

    summary = {
        "cpu_ratio": middle(lambda one: one["lock_step"]["cpu"] / one["no_barrier"]["cpu"]),
        "wall_ratio": middle(lambda one: one["lock_step"]["wall"] / one["no_barrier"]["wall"]),
        "steps_ratio": middle(lambda one: one["lock_step"]["steps"] / one["no_barrier"]["steps"]),
        "decode_steps_over_ideal": middle(lambda one: one["no_barrier"]["steps"] / one["no_barrier"]["ideal"]),
        "prefill_over_unique": middle(lambda one: one["no_barrier"]["prefilled"] / one["no_barrier"]["unique"]),
        "lock_step_prefill_over_unique": middle(
            lambda one: one["lock_step"]["prefilled"] / one["lock_step"]["unique"]
        ),
        "graded_wall_ratio": middle(lambda one: one["graded"]["wall"] / one["no_barrier"]["wall"]),
        "same_tokens": min(one["same_tokens"] for one in found),
    }
    print(", ".join(f"{name} {value:.3f}" for name, value in summary.items()))
    print(json.dumps(summary | {"device": str(setup.model.device), "draws": found}))


if __name__ == "__main__":
    main()

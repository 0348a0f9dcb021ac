r"""What does grading cost? Ours against math-verify with its defaults, on the same answers in one run.

    python bench/grading.py [FILE ...]

A FILE is JSON lines with gold answers in `answer`, such as a training set; without one the labelled pairs of
tests/grading are taken. For each gold answer there are two responses: the answer written otherwise, and the gold
answer seven rows on.

Printed: CPU per answer (median, 99th percentile, largest) and answers per CPU second of both, cold (each answer for
the first time) and warm (again); the throughput of the pool with one and two workers, by the clock; and what a rollout
of 1,024 dialogues with five attempts each costs, all wrong, when generation takes four seconds for 256 attempts and no
processor, as on an accelerator (150,000 tokens at 40,000 a second, faster than a 1.5B model does it on one): CPU
seconds, and the wall time over that with a grader that knows the verdicts. The last line is all of it as JSON.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.graders.math_verify import MathVerifyGrader
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.requests import GenRequest, GenResult

PAIRS = Path(__file__).parents[1] / "tests" / "grading" / "pairs.jsonl"
DIALOGUES, ATTEMPTS, CHUNK, CHUNK_SECONDS = 1_024, 5, 256, 4.0

DEFAULTS = r"""
import json, logging, sys, time
from math_verify import parse, verify
logging.disable()
pairs = json.load(sys.stdin)
parse(r"\boxed{x}"), verify(parse("$x$"), parse("$y$"))
for _ in range(2):
    seconds = []
    for gold, response in pairs:
        began = time.thread_time()
        verify(parse(rf"\boxed{{{gold}}}"), parse(response))
        seconds.append(time.thread_time() - began)
    print(json.dumps(seconds))
"""


def read_pairs(paths: list[str]) -> list[tuple[str, str]]:
    """(gold, response), each gold answer with a right and a wrong response."""
    if not paths:
        rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
        return [(row["gold"], rf"\boxed{{{row['pred']}}}") for row in rows if row["kind"] == "answer"]
    lines = [line for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]
    golds = [str(json.loads(line)["answer"]) for line in lines]
    pairs = []
    for gold, other in zip(golds, golds[7:] + golds[:7], strict=True):
        rewritten = gold.replace(r"\frac", r"\dfrac").replace(",", r",\ ").replace("+", " + ")
        pairs += [(gold, rf"The answer is $\boxed{{{rewritten}}}$."), (gold, rf"So it is \boxed{{{other}}}.")]
    return pairs


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds of CPU for one answer, and answers for one second of CPU."""
    return {
        "p50_ms": 1e3 * median(seconds),
        "p99_ms": 1e3 * quantiles(seconds, n=100)[98],
        "max_ms": 1e3 * max(seconds),
        "answers_per_cpu_second": len(seconds) / sum(seconds),
    }


def compare(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Both graders over the same answers, twice."""
    with MathVerifyGrader(workers=1) as grader:
        grader.grade("x+1", r"\boxed{1+x}")  # the worker is there
        ours = [[grader.grade(*pair).seconds for pair in pairs] for _ in range(2)]
    child = subprocess.run(
        [sys.executable, "-c", DEFAULTS], input=json.dumps(pairs), capture_output=True, text=True, check=True
    )
    theirs = [json.loads(line) for line in child.stdout.splitlines()]
    found = {
        f"{name} {when}": summary(seconds)
        for name, both in (("ours", ours), ("math-verify", theirs))
        for when, seconds in zip(("cold", "warm"), both, strict=True)
    }
    for name, numbers in found.items():
        print(f"{name:<17}", "  ".join(f"{key} {value:,.3f}" for key, value in numbers.items()))
    return found


def throughput(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Comparisons that need a worker, in a second of the clock."""
    with MathVerifyGrader(workers=1) as grader:
        found = grader.grade_all(pairs)
        hard = [pair for pair, grading in zip(pairs, found, strict=True) if grading.stage == "math_verify"]
    rates = {}
    for workers in (1, 2):
        with MathVerifyGrader(workers=workers) as grader:
            grader.grade_all([(f"x+{k}", rf"\boxed{{{k}+x}}") for k in range(4 * workers)])  # all are there
            began = time.perf_counter()
            grader.grade_all(hard)
            rates[f"{workers}"] = len(set(hard)) / (time.perf_counter() - began)
    print("pool, comparisons a second:", {name: round(rate) for name, rate in rates.items()})
    return rates


class Characters:
    """A tokenizer of one id per character."""

    chat_template = "one that apply_chat_template knows"
    all_special_tokens = ("\0",)

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [ord(token) for token in tokens]

    def apply_chat_template(self, conversation: list[dict[str, str]], **_: Any) -> str:
        return "".join(f"{turn['role'][0]}:{turn['content']}\0" for turn in conversation) + "a:"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, token_ids)).replace("\0", "")


class Sleeping:
    """A backend in lock step that knows what to say and takes its time without a processor."""

    eager = False
    capacity = None

    def __init__(self, answer: Callable[[], str]) -> None:
        self.answer, self.waiting = answer, list[GenRequest]()

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        pass

    def __enter__(self) -> "Sleeping":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, requests: list[GenRequest]) -> None:
        self.waiting += requests

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        chunk, self.waiting = self.waiting[:CHUNK], self.waiting[CHUNK:]
        time.sleep(CHUNK_SECONDS * len(chunk) / CHUNK)
        texts = [self.answer() for _ in chunk]
        return [
            GenResult(request_id=one.request_id, token_ids=(*map(ord, text), 0), finish_reason="eos")
            for one, text in zip(chunk, texts, strict=True)
        ]


def rollout(pairs: list[tuple[str, str]], grade: Grade) -> float:
    """Seconds of the clock for one rollout whose answers are wrong to the end."""
    wrong = pairs[1::2]  # response 2n + 1 is that of another question
    golds = list(islice(cycle(wrong), DIALOGUES))
    questions = [Question(id=str(n), problem=str(n), answer=gold) for n, (gold, _) in enumerate(golds)]
    envs = [Environment(question=question, budget=ATTEMPTS, preset=PAPER) for question in questions]
    responses = cycle([response for _, response in wrong])
    limits = Limits(attempt=4_000, episode=40_000, context=80_000)
    began = time.perf_counter()
    play(envs, Sleeping(lambda: next(responses)), grade, Renderer(Characters()), limits)
    return time.perf_counter() - began


def step(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """What grading adds to a rollout."""
    process = time.process_time()
    known = rollout(pairs, lambda *_: Verdict.WRONG)
    without = time.process_time() - process
    with MathVerifyGrader() as grader:
        process = time.process_time()
        graded = rollout(pairs, grader)
        own = time.process_time() - process - without
        shares = grader.metrics()
    cpu = shares["grading/seconds_per_answer"] * grader.counts.answers
    found = {"checks": grader.counts.answers, "cpu_seconds": max(cpu, own), "wall_ratio": graded / known}
    print("rollout:", {name: round(value, 3) for name, value in found.items()})
    return found


def main(paths: list[str]) -> None:
    """Prints the tables, and all numbers as JSON at the end."""
    pairs = read_pairs(paths)
    print(f"{len(pairs)} answers")
    found = compare(pairs)
    ratio = found["ours cold"]["p50_ms"] / found["math-verify cold"]["p50_ms"]
    print(
        json.dumps(
            {
                "cpu_median_ratio": ratio,
                "answers_per_cpu_second": found["ours cold"]["answers_per_cpu_second"],
                "answers": len(pairs),
                "single": found,
                "pool_per_second": throughput(pairs),
                "rollout": step(pairs),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])

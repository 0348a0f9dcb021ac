"""Invented evaluations: dialogues of every run, and the numbers of a summary, without a model."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER
from multiattempt_trl.evaluation.protocols import EvalPlan

RUNS = ("main", "independent", "base", "false_feedback", "hidden_count", "wrong_count", "announced_2")


def plan(**changes: Any) -> EvalPlan:
    limits = Limits(attempt=2_000, episode=4_000, context=8_000)
    return EvalPlan(**{"model": "invented/model", "preset": PAPER, "limits": limits, "budget": 3, **changes})


def attempt(response: str, verdict: str = "wrong", tokens: int = 7, finish: str = "eos") -> Attempt:
    return Attempt(
        prompt_ids=(),
        response_ids=(),
        response=response,
        verdict=Verdict(verdict),
        finish_reason=finish,
        saved_tokens=tokens,
    )


def episode(question: Question, *attempts: Attempt, budget: int = 3, sample: int = 0, ending: str = "") -> Episode:
    solved = attempts[-1].verdict is Verdict.CORRECT
    end = Ending(ending) if ending else Ending.SOLVED if solved else Ending.EXHAUSTED
    return Episode(question=question, budget=budget, attempts=attempts, ending=end, sample=sample)


SECOND = ("refined", "best_other", "chance", "independent", "excluding")


def block(budget: int = 3, n: int = 40, start: float = 0.4, **changes: Any) -> dict[str, Any]:
    """A block with every number, each of them another one."""
    ks = [str(k) for k in range(1, budget + 1)]

    def rising(first: float, step: float) -> dict[str, float]:
        return {k: min(first + step * i, 1.0) for i, k in enumerate(ks)}

    def limits(shares: Mapping[str, float], half: float = 0.06) -> dict[str, list[float]]:
        return {k: [max(0.0, share - half), min(1.0, share + half)] for k, share in shares.items()}

    accuracy, passes, majority, base = (
        rising(start, 0.05),
        rising(start - 0.02, 0.04),
        rising(0.36, 0.01),
        rising(0.2, 0.03),
    )
    group = {"n": n // 2, "accuracy": accuracy, "ci95": limits(accuracy, 0.1)}
    probe = {"accuracy": rising(0.33, 0.02), "ci95": limits(rising(0.33, 0.02))}
    return {
        "n": n,
        "failed": 2,
        "accuracy": accuracy,
        "ci95": limits(accuracy),
        "pass_at_k": passes,
        "pass_ci95": limits(passes),
        "maj_at_k": majority,
        "maj_ci95": limits(majority),
        "base_accuracy": base,
        "base_ci95": limits(base),
        "solved_after_failures": rising(0.41, -0.1),
        "repeat_rate": {k: 0.11 * int(k) for k in ks[1:]},
        "distinct_answers": {k: 0.9 * int(k) for k in ks},
        "truncated": rising(0.015, 0.03),
        "well_formed_rate": 0.937,
        "mean_attempts": 1.83,
        "mean_tokens": 1234.5,
        "tokens_per_solved": 2345.6,
        "attempts_per_solved": None,
        "announced": rising(0.42, -0.005),
        "refinement": {
            "n": 26,
            "without_other": 0.125,
            "shares": dict(zip(SECOND, (0.31, 0.27, 0.22, 0.18, 0.25), strict=True)),
            "ci95": {name: [0.15, 0.45] for name in SECOND},
            "differences": dict(zip(SECOND[1:], (0.04, 0.09, 0.13, 0.06), strict=True)),
            "differences_ci95": {name: [-0.05, 0.1] for name in SECOND[1:]},
        },
        "probes": {
            "abandoned": {"n": 17, "share": 0.235, "ci95": [0.096, 0.473]},
            "hidden_count": probe,
            "wrong_count": probe,
        },
        "levels": {"1": group, "5": group},
        "subjects": {"Algebra": group},
        **changes,
    }


def summary(names: Sequence[str] = ("toy",), budget: int = 3, **changes: Any) -> dict[str, Any]:
    blocks = {name: block(budget, n=40 + i, start=0.3 + 0.06 * i) for i, name in enumerate(names)}
    average = {**block(budget, n=sum(each["n"] for each in blocks.values())), "levels": {}, "subjects": {}}
    return {
        "model": "invented/model",
        "base_model": "invented/base",
        "protocol": "nested",
        "seed": 0,
        "budget": budget,
        "versions": {"python": "3.11", "torch": "2.13"},
        "benchmarks": blocks,
        "average": next(iter(blocks.values())) if len(blocks) == 1 else average,
        **changes,
    }


def dialogue(question: Question, run: str, budget: int, says: "Writer", sample: int = 0) -> Episode:
    """A dialogue that ends as such dialogues do, with long responses."""
    draw = says.random
    attempts: list[Attempt] = []
    for _ in range(budget):
        right = draw.random() < 0.35
        given = question.answer if right else f"{draw.randint(1, 9)}"
        cut = draw.random() < 0.03
        verdict = "invalid" if cut else "correct" if right else "wrong"
        response = says.response(None if cut else given)
        attempts.append(attempt(response, verdict, len(response) // 4, "length" if cut else "eos"))
        if right and not cut and not (run == "false_feedback" and len(attempts) == 1):
            break
        if run == "false_feedback" and len(attempts) == 1 and not right:
            break
    return episode(question, *attempts, budget=budget, sample=sample)


class Writer:
    """Writes responses of about `characters` characters out of the sentences of real problems."""

    def __init__(self, sentences: Sequence[str], characters: int, seed: int = 0) -> None:
        self.sentences, self.characters, self.random = sentences, characters, random.Random(seed)

    def response(self, answer: str | None) -> str:
        lines, length = [], 0
        while length < self.characters * self.random.uniform(0.5, 1.5):
            a, b, c = (self.random.randint(2, 999) for _ in range(3))
            step = f"Since \\({a}x + {b} = {c}\\), we have \\[x = \\frac{{{c - b}}}{{{a}}}.\\]"
            lines.append(f"{self.random.choice(self.sentences)} {step}")
            length += len(lines[-1])
        return "\n\n".join(lines) + ("" if answer is None else f"\n\nSo the answer is $\\boxed{{{answer}}}$.")


def evaluation(
    questions: Mapping[str, Sequence[Question]],
    says: Writer,
    budget: int = 3,
    runs: Sequence[str] = RUNS,
) -> dict[str, dict[str, list[Episode]]]:
    """Every run of every benchmark: one dialogue a question, and `budget` independent ones."""
    budgets = {"independent": 1, "false_feedback": 2, "announced_2": 1}
    return {
        name: {
            run: [
                dialogue(question, run, budgets.get(run, budget), says, sample)
                for sample in range(budget if run == "independent" else 1)
                for question in each
            ]
            for run in runs
        }
        for name, each in questions.items()
    }

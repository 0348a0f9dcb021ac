"""What the model was told in a dialogue, said again from the plan, with a mark where the problem stood."""

from typing import Any

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.evaluation.protocols import EvalPlan

PROBLEM = "\ue000problem\ue000"
"""Stands for the problem, so that what is common to all dialogues of a run is kept once (a private-use character)."""

RUNS = {
    "main": ("Main", "The evaluation itself: what the curve shows."),
    "independent": ("Independent samples", "One attempt each, without feedback: the control behind pass@k and maj@k."),
    "base": ("Base model", "The base model, spoken to in the same way."),
    "false_feedback": (
        "False feedback",
        "A probe: a right first answer was called wrong. Does the model give it up?",
    ),
    "hidden_count": ("Count hidden", "A probe: no words say how many attempts there are."),
    "wrong_count": ("Count misstated", "A probe: the words name another number of attempts than there are."),
}
"""The name of a run in `episodes.jsonl` -> its title and what it is; `announced_b` comes on top."""


def title(run: str) -> tuple[str, str]:
    """The run's title and what it is.

    >>> title("announced_2")[0]
    '2 announced'
    """
    if run.startswith("announced_"):
        count = run.removeprefix("announced_")
        return f"{count} announced", f"A probe: one attempt, where the prompt announced {count}."
    return RUNS.get(run, (run, ""))


def environment(plan: EvalPlan, run: str, budget: int, problem: str = PROBLEM) -> Environment:
    """The environment that a dialogue of this run and budget was played in."""
    special: dict[str, Any] = {"count": plan.count}
    if run == "false_feedback":
        special |= {"announced": max(plan.budget, 2), "deny_correct": True}
    elif run.startswith("announced_"):
        special |= {"announced": int(run.removeprefix("announced_")), "count": "shown"}
    elif run in ("hidden_count", "wrong_count"):
        special |= {"count": run.removesuffix("_count")}
    question = Question(id="", problem=problem, answer="-")
    return Environment(question=question, budget=budget, preset=plan.preset, feedback=plan.feedback, **special)


def words(plan: EvalPlan, run: str, budget: int) -> dict[str, Any]:
    """{"first": the opening messages, "feedback": the message after attempt 1, 2, ...}, the problem marked."""
    env = environment(plan, run, budget)
    return {"first": env.first_messages(), "feedback": [env.feedback_message(used) for used in range(1, budget)]}

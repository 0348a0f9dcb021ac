"""The simulation of decode steps: small rollouts by hand, and the scheduler over backends that count its steps."""

import json
import random
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER
from multiattempt_trl.rollout import play as scheduler
from multiattempt_trl.rollout.requests import GenRequest, GenResult

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
lengths, policies, sim = (import_module(f"rollout_{name}") for name in ("lengths", "policies", "sim"))

# Budgets 1, 3 and 2, 13 tokens, over two slots. The largest budget first, the order is 1, 2, 0.
SMALL = lengths.Dialogues(budgets=[1, 3, 2], attempts=[[4], [1, 2], [3, 3]])
# Attempts that take several chunks of 64: 64 + 36; 10, then 64 + 6; 64, then 1.
CHUNKED = lengths.Dialogues(budgets=[1, 3, 2], attempts=[[100], [10, 70], [64, 1]])


# --- by hand -------------------------------------------------------------------------------------------------------


def test_lock_step() -> None:
    # All at once: 4 steps of 3 rows, then 3 of 2. One verdict, one step, after each of the two rounds.
    assert policies.all_at_once(SMALL, 2, 0) == policies.Outcome(steps=7, slots=3, slot_steps=18, under_way=3)
    assert policies.all_at_once(SMALL, 2, 1).steps == 7 + 2
    # In twos, by budget: (1, 3) and (4), then (2, 3): 3 + 4 + 3 steps of 2, 1 and 2 rows.
    assert policies.lock_step(SMALL, 2, 0) == policies.Outcome(steps=10, slots=2, slot_steps=16, under_way=3)
    # The verdicts on (1, 3) come while (4) is generated.
    assert policies.lock_step(SMALL, 2, 1).steps == 10 + 2


def test_rounds_over_slots_that_are_refilled() -> None:
    # As they come, (4, 1, 3): one slot has 4, the other 1 + 3. Then (2, 3): 3.
    outcome = policies.Outcome(steps=7, slots=2, slot_steps=13, under_way=3)
    assert policies.rounds_refilled(SMALL, 2, 0) == outcome
    assert policies.rounds_refilled(SMALL, 2, 1).steps == 7 + 2
    # The slot with the least goes on: 2 + 3, 2 + 3 and 5, not 2 + 3 + 3.
    assert policies.refilled([2, 2, 5, 3, 3], 3) == 5


def test_chunks() -> None:
    # The first two: (64, 10), (36, 64), (6): 64 + 64 + 6. The third: 64 + 1.
    assert policies.chunked(CHUNKED, 2, 0, batch=2) == policies.Outcome(
        steps=199, slots=2, slot_steps=245, under_way=2
    )
    # Attempts end in each of those rounds: by 10, 36, 6, 64 and 1.
    assert policies.chunked(CHUNKED, 2, 1, batch=2).steps == 199 + 5
    # All three: (64, 10, 64): 64, and 10 + 64; (36, 64, 1): 64, and 36 + 1; (6).
    assert policies.chunked(CHUNKED, 2, 0) == policies.Outcome(steps=144, slots=2, slot_steps=245, under_way=3)
    # With a slot each: 64 + 64 + 6.
    assert policies.chunked(CHUNKED, 3, 0).steps == 134
    # No attempt ends in the first round of (64 + 36).
    alone = lengths.Dialogues(budgets=[1], attempts=[[100]])
    assert policies.chunked(alone, 1, 1).steps == 100 + 1


@pytest.mark.parametrize(("tokens", "pieces"), [(1, [1]), (64, [64]), (65, [64, 1]), (130, [64, 64, 2])])
def test_the_chunks_of_an_attempt(tokens: int, pieces: list[int]) -> None:
    assert policies.chunks(tokens) == [(piece, k == len(pieces)) for k, piece in enumerate(pieces, start=1)]


def test_without_barriers() -> None:
    # At 0 dialogues 1 (until 1) and 2 (until 3); at 1 dialogue 1 again (until 3); at 3 dialogue 2 again (until 6) and
    # dialogue 0 (until 7).
    assert policies.no_barrier(SMALL, 2, 0) == policies.Outcome(steps=7, slots=2, slot_steps=13, under_way=2)
    # With a slot each: the longest, 3 + 3. With one: all 13.
    assert policies.no_barrier(SMALL, 3, 0).steps == 6
    assert policies.no_barrier(SMALL, 1, 0).steps == 13


def test_other_orders() -> None:
    # As they come: at 0 dialogues 0 (until 4) and 1 (until 1); at 1 dialogue 1 again (until 3); at 3 dialogue 2 (until
    # 6); at 6 again (until 9).
    assert policies.no_barrier(SMALL, 2, 0, policies.InOrderOfArrival).steps == 9
    # New ones first: at 0 dialogues 1 (until 1) and 2 (until 3); at 1 dialogue 0 (until 5); at 3 dialogue 1 again
    # (until 5); at 5 dialogue 2 again (until 8). All three are under way at 1.
    outcome = policies.Outcome(steps=8, slots=2, slot_steps=13, under_way=3)
    assert policies.no_barrier(SMALL, 2, 0, policies.NewOnesFirst) == outcome


def test_late_verdicts() -> None:
    # At 0 dialogues 1 (until 1) and 2 (until 3); at 1 the slot is free for dialogue 0 (until 5); the verdict on 1
    # comes at 2, the slot at 3 (until 5); that on 2 comes at 4, and at 5 it goes on (until 8). Its verdict comes at 9.
    outcome = policies.Outcome(steps=9, slots=2, slot_steps=13, under_way=3)
    assert policies.no_barrier(SMALL, 2, 1) == policies.no_barrier(SMALL, 2, 0, late=1) == outcome
    # Both at once until 3, with verdicts at 7, until when no third one begins, since two are being judged.
    twins = lengths.Dialogues(budgets=[2, 2, 1], attempts=[[3], [3], [5]])
    assert policies.no_barrier(twins, 2, 4).steps == 7 + 5 + 4


def test_the_lower_bound() -> None:
    # 13 tokens over two slots, or the longest dialogue, 3 + 3, with two verdicts.
    assert policies.lower_bound(SMALL, 2, 0) == policies.Outcome(steps=7, slots=2, slot_steps=13, under_way=2)
    assert policies.lower_bound(SMALL, 3, 0).steps == 6
    assert policies.lower_bound(SMALL, 3, 1).steps == 8


# --- against the scheduler -----------------------------------------------------------------------------------------


class Clock:
    now = 0


class Late(Future[Verdict]):
    """A verdict that comes at its time; whoever waits for it lets that time come."""

    def __init__(self, clock: Clock, due: int, verdict: Verdict) -> None:
        super().__init__()
        self.clock, self.due, self.verdict = clock, due, verdict

    def done(self) -> bool:
        return self.clock.now >= self.due

    def result(self, timeout: float | None = None) -> Verdict:
        self.clock.now = max(self.clock.now, self.due)
        return self.verdict


class Grader:
    """Finds a dialogue's last attempt right."""

    def __init__(self, clock: Clock, attempts: list[list[int]], steps: int) -> None:
        self.clock, self.steps = clock, steps
        self.left = [len(each) for each in attempts]

    def __call__(self, question: Question, response: str) -> Verdict:
        raise NotImplementedError

    def submit(self, question: Question, response: str) -> Future[Verdict]:
        self.left[int(question.id)] -= 1
        verdict = Verdict.WRONG if self.left[int(question.id)] else Verdict.CORRECT
        return Late(self.clock, self.clock.now + self.steps, verdict)


class Counting:
    """A backend without a model. Eager, each poll is one step; in lock step, a batch to its end."""

    def __init__(
        self, clock: Clock, attempts: list[list[int]], *, eager: bool, capacity: int | None, batch: int | None
    ) -> None:
        self.clock, self.eager, self.capacity, self.batch = clock, eager, capacity, batch
        self.ahead = [list(each) for each in attempts]
        self.running: dict[int, int] = {}

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        pass

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *error: object) -> None:
        assert not self.running
        assert not any(self.ahead)

    def submit(self, requests: list[GenRequest]) -> None:
        self.running |= {one.request_id: self.ahead[one.request_id].pop(0) for one in requests}
        assert self.capacity is None or len(self.running) <= self.capacity

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        batch = list(self.running)[: None if self.eager else self.batch]
        steps = 1 if self.eager else max(self.running[index] for index in batch)
        self.clock.now += steps
        for index in batch:
            self.running[index] -= steps
        done = [index for index in batch if self.running[index] <= 0]
        for index in done:
            del self.running[index]
        return [GenResult(request_id=index, token_ids=(1,), finish_reason="eos") for index in done]


class Silent:
    """A renderer of one token for whatever is said."""

    def prompt_ids(self, messages: Any) -> tuple[int, ...]:
        return (0,)

    def feedback_ids(self, message: Any, response_ids: Any) -> tuple[int, ...]:
        return (0,)

    def response_text(self, response_ids: Any) -> str:
        return ""


def steps_of_play(dialogues: Any, monkeypatch: pytest.MonkeyPatch, *, grading: int, **kwargs: Any) -> int:
    clock = Clock()

    def wait(verdicts: Any, return_when: str) -> None:
        clock.now = max(clock.now, min(verdict.due for verdict in verdicts))

    monkeypatch.setattr(scheduler, "wait", wait)
    envs = [
        Environment(question=Question(id=str(number), problem="?", answer="!"), budget=budget, preset=PAPER)
        for number, budget in enumerate(dialogues.budgets)
    ]
    backend = Counting(clock, dialogues.attempts, **kwargs)
    grader = Grader(clock, dialogues.attempts, grading)
    limits = Limits(attempt=100, episode=1000, context=2000)
    renderer: Any = Silent()
    episodes = scheduler.play(envs, backend, grader, renderer, limits)
    assert [episode.attempts_used for episode in episodes] == [len(each) for each in dialogues.attempts]
    return clock.now


def some(rng: random.Random) -> Any:
    """Dialogues that end anywhere within their budgets, many of them at the same time."""
    budgets = [rng.randint(1, 5) for _ in range(rng.randint(1, 40))]
    attempts = [[rng.randint(1, 12) for _ in range(rng.randint(1, budget))] for budget in budgets]
    return lengths.Dialogues(budgets=budgets, attempts=attempts)


@pytest.mark.parametrize("seed", range(40))
def test_no_barrier_is_what_the_scheduler_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    dialogues, grading = some(rng), rng.choice([0, 0, 1, 5, 30])
    for capacity in (1, 3, len(dialogues.budgets) // 2 + 1, len(dialogues.budgets), 50, None):
        slots = len(dialogues.budgets) if capacity is None else capacity
        found = steps_of_play(dialogues, monkeypatch, grading=grading, eager=True, capacity=capacity, batch=None)
        assert policies.no_barrier(dialogues, slots, grading).steps == found, (slots, grading)


@pytest.mark.parametrize("seed", range(20))
def test_lock_step_is_what_the_scheduler_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    dialogues, grading = some(rng), rng.choice([0, 0, 1, 5, 30])
    for batch in (1, 3, len(dialogues.budgets) // 2 + 1, 50, None):
        slots = len(dialogues.budgets) if batch is None else batch
        found = steps_of_play(dialogues, monkeypatch, grading=grading, eager=False, capacity=None, batch=batch)
        assert policies.lock_step(dialogues, slots, grading).steps == found, (slots, grading)
        if batch is None:
            assert policies.all_at_once(dialogues, 1, grading).steps == found


@pytest.mark.parametrize("seed", range(20))
def test_no_policy_is_below_the_bound(seed: int) -> None:
    rng = random.Random(seed)
    dialogues, grading, slots = some(rng), rng.choice([0, 3]), rng.randint(1, 45)
    for name, policy in policies.POLICIES.items():
        outcome = policy(dialogues, slots, grading)
        assert outcome.steps >= policies.lower_bound(dialogues, outcome.slots, grading).steps, name
        assert outcome.slot_steps >= dialogues.tokens


# --- lengths -------------------------------------------------------------------------------------------------------


def task(**changes: Any) -> Any:
    return lengths.Task(**({"max_attempts": 5, "budget_draw": "uniform", "max_episode_tokens": 3000} | changes))


@pytest.mark.parametrize(
    ("answers", "budget", "tokens"),
    [
        ([(10, False), (20, True), (30, False)], 3, [10, 20]),  # solved
        ([(10, False), (20, False), (30, False)], 2, [10, 20]),  # no attempt left
        ([(10, False), (20, False), (30, False)], 3, [10, 20, 15]),  # cut at 45
        ([(10, False), (35, False), (30, False)], 3, [10, 35]),  # at 45, none is left
        ([(10, False)], 3, [10]),  # recorded: out of tokens
    ],
)
def test_what_is_played(answers: list[tuple[int, bool]], budget: int, tokens: list[int]) -> None:
    assert task(max_episode_tokens=45).played(answers, budget) == tokens


def test_budgets() -> None:
    source = lengths.LogNormal(right=600, wrong=600, sigma=0.0, success=[0.0])
    dialogues = lengths.deal(source, 5000, task(max_attempts=3), seed=0)
    shares = [dialogues.budgets.count(budget) / 5000 for budget in (1, 2, 3)]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) - min(shares) < 0.05  # a share's standard deviation is 0.0067
    assert dialogues.attempts == [[600] * budget for budget in dialogues.budgets]
    fixed = lengths.deal(source, 3, task(budget_draw="fixed", max_episode_tokens=1500), seed=0)
    assert (fixed.budgets, fixed.attempts) == ([5] * 3, [[600, 600, 300]] * 3)


def test_lengths_and_successes() -> None:
    source = lengths.LogNormal(right=300, wrong=900, sigma=0.5, success=[0.4, 0.1])
    answers = source.draw(np.random.default_rng(0), 20_000, 3)
    for turn, chance in enumerate((0.4, 0.1, 0.1)):
        right = [each[turn][1] for each in answers]
        assert sum(right) / len(right) == pytest.approx(chance, abs=0.02)  # standard deviation 0.0035
    means = [
        sum(sizes) / len(sizes)
        for verdict in (True, False)
        for sizes in [[tokens for each in answers for tokens, right in each if right is verdict]]
    ]
    assert means == pytest.approx(
        [300.5, 900.5], rel=0.02
    )  # rounded up; relative standard deviation 0.53 / sqrt(12,000)


def test_the_same_for_the_same_seed() -> None:
    source = lengths.named([0.45])["heavy tail, right 450, wrong 900"]
    first, again, other = (lengths.deal(source, 50, task(), seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def episode(budget: int, *attempts: tuple[int, str]) -> str:
    told = [{"tokens": tokens, "verdict": verdict, "response": ""} for tokens, verdict in attempts]
    return json.dumps({"budget": budget, "attempts": told})


def test_recorded_dialogues(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    solved, failed = episode(3, (5, "wrong"), (6, "correct")), episode(3, (7, "invalid"), (8, "wrong"), (9, "wrong"))
    fewer, lost = episode(1, (50, "wrong")), episode(3, (60, "wrong"), (0, "invalid"))
    path.write_text("\n".join([solved, failed, fewer, lost]), encoding="utf-8")
    dialogues = lengths.deal(lengths.Recorded(path, 3), 200, task(max_attempts=3), seed=0)
    # A dialogue of budget N is the first N attempts of one that was given more.
    whole = {True: [5, 6], False: [7, 8, 9]}
    for budget, attempts in zip(dialogues.budgets, dialogues.attempts, strict=True):
        assert attempts == whole[attempts[0] == 5][:budget]
    assert {tuple(each) for each in dialogues.attempts} == {(5,), (5, 6), (7,), (7, 8), (7, 8, 9)}
    with pytest.raises(ValueError, match="was given 4 attempts; lower --max-attempts"):
        lengths.Recorded(path, 4)


# --- the command ---------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["rollout_sim.py", *words])
    sim.main()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command(monkeypatch, "--sizes", "12/4", "6/8", "--seeds", "2")
    *table, last = capsys.readouterr().out.splitlines()
    told = json.loads(last)
    assert [(one["lengths"], one["dialogues"], one["slots"]) for one in told["results"]] == [
        (name, *size) for name in lengths.named([0.45]) for size in ((12, 4), (6, 8))
    ]
    for one in told["results"]:
        assert list(one["policies"]) == [name.strip() for name in policies.POLICIES]
        ours, bound = one["policies"]["no barrier"], one["policies"]["lower bound"]
        assert (ours["over_ours"], bound["over_bound"]) == (1, 1)
        assert f"{ours['steps']:,.0f}" in "\n".join(table)
    assert len(table) == 4 * 2 * (3 + len(policies.POLICIES))  # an empty line, what is played, and the heads


def test_the_numbers_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # One dialogue, so that all draws are the same: 10 and 30 tokens, twice over, and two slots.
    path = tmp_path / "episodes.jsonl"
    path.write_text(episode(2, (10, "wrong"), (30, "correct")), encoding="utf-8")
    words = ("--sizes", "2/2", "--max-attempts", "2", "--budget-draw", "fixed", "--grading", "5", "--seeds", "3")
    command(monkeypatch, "--episodes", str(path), *words)
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert (found["tokens"], found["attempts_per_dialogue"], found["longest_dialogue"]) == (80, 2, 40)
    # 10 + 5 + 30 + 5 steps of two slots, for 80 tokens; another 20 for each verdict.
    row = {"steps": 50, "least_steps": 50, "most_steps": 50, "over_ours": 1, "over_bound": 1, "slots_used": 0.8}
    assert found["policies"]["no barrier"] == row | {"slot_steps": 80, "slot_steps_per_token": 1, "under_way": 2}
    assert found["policies"]["verdicts 20 steps late"]["over_ours"] == 1.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sizes", "0/4"), "at least one dialogue and one slot, got 0/4"),
        (("--success", "45"), "between 0 and 1, got 45"),
        (("--max-attempts", "0"), "must be at least 1"),
        (("--grading", "-1"), "grading at least 0"),
    ],
)
def test_what_is_refused(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, *words)
    assert message in capsys.readouterr().err

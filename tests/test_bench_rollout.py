"""The benchmark of barriers, small: what it counts is what was drawn."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
rollout = import_module("rollout")


def test_lengths_are_drawn_once_for_a_seed() -> None:
    drawn = rollout.Drawn.of(200, 50, 120, seed=1)
    assert drawn == rollout.Drawn.of(200, 50, 120, seed=1) != rollout.Drawn.of(200, 50, 120, seed=2)
    assert set(drawn.budgets) == {1, 2, 3, 4, 5}
    lengths = [length for row in drawn.lengths for length in row]
    assert max(lengths) == 120  # the cap
    assert 40 < sum(lengths) / len(lengths) < 50  # the mean, but for the cap
    assert set(drawn.solved_at) == {1, 2, 3, 4, 5, 6}  # 6: never within five attempts


def test_both_backends_play_what_was_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rollout.py", "--dialogues", "12", "--mean", "6", "--cap", "20", "--draws", "2", "--hidden", "64"]
    monkeypatch.setattr(sys, "argv", [*words, "--layers", "1"])
    rollout.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["same_tokens"] == 1
    assert found["decode_steps_over_ideal"] == 1
    assert 1 <= found["prefill_over_unique"] <= 1.3 < found["lock_step_prefill_over_unique"]
    for seed, draw in enumerate(found["draws"]):
        drawn = rollout.Drawn.of(12, 6, 20, seed)
        played = [
            lengths[: min(budget, solved)]
            for budget, lengths, solved in zip(drawn.budgets, drawn.lengths, drawn.solved_at, strict=True)
        ]
        for name in ("lock_step", "no_barrier", "graded"):
            assert draw[name]["sampled"] == sum(map(sum, played))
            assert draw[name]["ideal"] == max(map(sum, played))
        # In lock step each round takes as long as its longest attempt.
        turns = [[row[turn] for row in played if turn < len(row)] for turn in range(max(map(len, played)))]
        assert draw["lock_step"]["steps"] == sum(map(max, turns))
        rows = sum(len(turn) * max(turn) for turn in turns)
        assert draw["lock_step"]["slot_use"] == pytest.approx(draw["lock_step"]["sampled"] / rows)
        assert draw["no_barrier"]["slot_use"] == 1

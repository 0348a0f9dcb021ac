"""The failure monitor: each signature raises its alarm and no other, near misses and healthy runs raise none."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from training_arguments import arguments, grade_by_length, logged, train_set

from multiattempt_trl.domains.arithmetic import COURSE, DOMAIN, PRESET
from multiattempt_trl.domains.warm_start import build_warm_start
from multiattempt_trl.training import windows
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.monitor import Alarm, FailureMonitor, replay
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer
from multiattempt_trl.training.signatures import SIGNATURES

STREAMS = Path(__file__).parent / "streams"
HEALTHY = {
    "accuracy/within_1": 0.45,
    "episode/solved": 0.6,
    "episode/truncated": 0.01,
    "grading/exploits/box_spam": 0.002,
    "repeat_rate/attempt_2": 0.4,
    "truncated/attempt_1": 0.01,
    "well_formed/attempt_1": 0.98,
    "wrong_to_right": 0.2,
    "entropy": 0.3,
    "kl": 0.1,
}
TURN = 18
"""The rollout from which on a stream is another. Windows of 256 dialogues and 4 steps a rollout end with steps 8 (512
dialogues), 40 (2,048 more), 72 and 104, so that the window of steps 73 to 104 has the other numbers alone."""


def stream(
    after: dict[str, float], before: dict[str, float] | None = None, *, rollouts: int = 60, turn: int = TURN
) -> Iterator[dict[str, Any]]:
    """The log of a run that was healthy, `before` apart, and is so no more."""
    for number in range(rollouts):
        changed = (before or {}) | (after if number >= turn else {})
        yield {"step": 4 * (number + 1), "episodes_total": 256.0 * (number + 1)} | HEALTHY | changed


def noisy(lines: Iterator[dict[str, Any]], seed: int, dialogues: int = 256) -> Iterator[dict[str, Any]]:
    """As if each share were of so many dialogues, and with spikes in KL and entropy."""
    random = Random(seed)
    for line in lines:
        for key in windows.SHARES:
            line[key] = sum(random.random() < line[key] for _ in range(dialogues)) / dialogues
        for key in windows.LEVELS:
            line[key] *= random.lognormvariate(0, 0.2) * (30 if random.random() < 0.03 else 1)
        yield line


def names(alarms: Sequence[Alarm]) -> list[str]:
    return [alarm.name for alarm in alarms]


WORSE = {"accuracy/within_1": 0.15, "episode/solved": 0.2, "wrong_to_right": 0.05}
HIDING = {"accuracy/within_1": 0.3, "wrong_to_right": 0.4}
SPAM, REPEATS = "grading/exploits/box_spam", "repeat_rate/attempt_2"

TRIGGERS = [
    ("well_formed_but_wrong", WORSE, "20.0 % of the dialogues are solved, after 60.0 % in steps 1 to 8, while 98.0 %"),
    ("repeated_answer", {REPEATS: 0.7}, "70.0 % of second attempts repeat the answer that failed, after 40.0 %"),
    ("sandbagging", HIDING, "fell from 45.0 % in steps 1 to 8 to 30.0 %, while later ones rose from 20.0 % to 40.0 %"),
    ("box_spam", {SPAM: 0.06}, "6.0 % of responses have more than three different boxes, after 0.2 %"),
    ("truncation", {"truncated/attempt_1": 0.2}, "20.0 % of first attempts are cut .* Raise max_completion_length"),
    ("truncation", {"episode/truncated": 0.2}, "20.0 % of dialogues end at a token limit.* Raise max_episode_tokens"),
    ("entropy_collapse", {"entropy": 0.012}, "0.012 nats a token, 4.0 % of the 0.3 at the start"),
    ("entropy_explosion", {"entropy": 0.9}, "0.9 nats a token, after 0.3 at the start.* before step 73"),
    ("kl_runaway", {"kl": 1.5}, "1.5 nats a token, above 1"),
    ("kl_runaway", {"kl": float("inf")}, "inf nats a token"),
]
NEAR_MISSES = [
    WORSE | {"episode/solved": 0.35},  # more than half of the best
    WORSE | {"well_formed/attempt_1": 0.5},  # not even the form
    {REPEATS: 0.55},  # +0.15
    HIDING | {"accuracy/within_1": 0.38},  # first attempts -0.07
    HIDING | {"wrong_to_right": 0.22},  # later ones +0.02
    HIDING | {"episode/solved": 0.5},  # all -0.1, of a fall of 0.15: just worse
    {SPAM: 0.04},
    {"truncated/attempt_1": 0.12, "episode/truncated": 0.12},
    {"entropy": 0.03},
    {"entropy": 0.7},  # more than twice, +0.4
    {"kl": 0.8},
    {"kl": float("nan"), "entropy": None},
]
LEVELS = [
    (
        "well_formed_but_wrong",
        WORSE | {"accuracy/within_1": 0.0, "episode/solved": 0.01},
        "only 1.0 % of the dialogues",
    ),
    ("repeated_answer", {REPEATS: 0.95}, "95.0 % .* training does not change it"),
    ("truncation", {"truncated/attempt_1": 0.6}, "60.0 % of first attempts are cut"),
]


class TestSignatures:
    @pytest.mark.parametrize(("name", "after", "words"), TRIGGERS)
    def test_the_right_alarm_once_in_the_first_window_that_shows_it(
        self, name: str, after: dict[str, float], words: str
    ) -> None:
        (alarm,) = replay(stream(after))
        assert (alarm.name, alarm.step) == (name, 104)
        assert re.search(words, alarm.message), alarm.message

    @pytest.mark.parametrize("after", NEAR_MISSES, ids=str)
    def test_near_misses_are_silent(self, after: dict[str, float]) -> None:
        assert replay(stream(after)) == []

    @pytest.mark.parametrize(("name", "always", "words"), LEVELS)
    def test_a_level_from_the_start_counts_after_four_windows(
        self, name: str, always: dict[str, float], words: str
    ) -> None:
        (alarm,) = replay(stream({}, always))
        assert (alarm.name, alarm.step) == (name, 136)  # the fifth window: steps 8, 40, 72, 104, 136
        assert re.search(words, alarm.message), alarm.message

    def test_every_signature_is_planted(self) -> None:
        planted = {name for name, *_ in TRIGGERS} | {"abandoned_answer"}
        assert planted == set(SIGNATURES)

    def test_a_run_that_learns_leaves_bad_levels_in_time(self) -> None:
        began, left = {REPEATS: 0.95, "truncated/attempt_1": 0.6}, {REPEATS: 0.8, "truncated/attempt_1": 0.4}
        assert replay(stream(left, began)) == []


class TestEpisodesOfASignature:
    def test_it_warns_again_only_after_it_has_gone(self) -> None:
        quiet, loud = {"kl": 0.1}, {"kl": 2.0}
        parts = [quiet, loud, loud, quiet, loud]  # of 24 rollouts each, three windows
        lines = [line | parts[n // 24] for n, line in enumerate(stream({}, rollouts=120))]
        # A window of 8 rollouts has the median of 6 old and 2 new ones, since the first had 2: windows end with
        # rollouts 2, 10, 18, 26 (18 to 23 old), 34 (all new).
        assert [(alarm.name, alarm.step) for alarm in replay(lines)] == [("kl_runaway", 136), ("kl_runaway", 424)]

    def test_a_number_that_hovers_warns_once(self) -> None:
        # After the first 2 rollouts every window of 8 is another than the one before it, or than the two before it.
        for quiet in (1, 2):
            lines = [
                line | {"kl": 0.1 if (n - 2) // 8 % (quiet + 1) else 2.0}
                for n, line in enumerate(stream({}, rollouts=98))
            ]
            assert names(replay(lines)) == ["kl_runaway"]

    def test_a_log_between_rollouts_counts_for_entropy_and_kl(self) -> None:
        lines = []
        for line in stream({}):
            lines.append(line)
            lines += [{"step": line["step"] + n, "kl": 2.0, "entropy": 0.3} for n in (1, 2)]
        assert names(replay(lines)) == ["kl_runaway"]

    def test_two_signatures_are_two_alarms(self) -> None:
        assert names(replay(stream({"kl": 2.0, REPEATS: 0.9}))) == ["repeated_answer", "kl_runaway"]


class TestNoise:
    @pytest.mark.parametrize("seed", range(10))
    def test_a_flat_run_is_silent(self, seed: int) -> None:
        assert replay(noisy(stream({}, rollouts=200), seed)) == []

    def test_a_flat_run_of_small_rollouts_is_silent(self) -> None:
        lines = [
            line | {"episodes_total": 16 * (n + 1)}
            for n, line in enumerate(noisy(stream({}, rollouts=3000), 0, dialogues=16))
        ]
        assert replay(lines) == []

    @pytest.mark.parametrize(("name", "after", "_words"), TRIGGERS)
    def test_noise_hides_no_failure(self, name: str, after: dict[str, float], _words: str) -> None:
        assert name in names(replay(noisy(stream(after), 1)))

    def test_spikes_are_not_a_runaway(self) -> None:
        lines = [line | ({"kl": 50.0, "entropy": 9.0} if n % 3 == 0 else {}) for n, line in enumerate(stream({}))]
        assert replay(lines) == []


class TestProbe:
    def evaluations(self, *shares: float, name: str = "math500") -> list[dict[str, Any]]:
        return [{"step": 10 * n, f"eval_{name}/abandoned": share} for n, share in enumerate(shares)]

    def test_three_evaluations_after_the_first(self) -> None:
        (alarm,) = replay(self.evaluations(0.1, 0.8, 0.9, 0.85, 0.9))
        assert (alarm.name, alarm.step) == ("abandoned_answer", 30)
        # (0.8 + 0.9 + 0.85) / 3 = 0.85
        assert "85.0 % of right first answers to math500 are given up" in alarm.message
        assert "after 10.0 % in the first" in alarm.message

    @pytest.mark.parametrize("shares", [(0.1, 0.9, 0.9), (0.01, 0.58, 0.6, 0.58), (0.7, 0.9, 0.9, 0.9)])
    def test_near_misses(self, shares: tuple[float, ...]) -> None:
        assert replay(self.evaluations(*shares)) == []

    def test_the_average_speaks_for_small_benchmarks(self) -> None:
        small, average = (
            self.evaluations(0.1, 1, 1, 1, name="aime24"),
            self.evaluations(0.1, 0.5, 0.5, 0.5, name="average"),
        )
        assert replay([one | other for one, other in zip(small, average, strict=True)]) == []


@pytest.mark.parametrize(("name", "rollouts"), [("multi_attempt", 200), ("single_turn", 380)])
def test_the_healthy_arithmetic_run_is_silent(name: str, rollouts: int) -> None:
    """Two whole trainings of `make reproduce`, their numbers rounded to four digits."""
    columns = json.loads((STREAMS / f"healthy_{name}.json").read_text(encoding="utf-8"))
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert len(lines) == rollouts
    assert replay(lines) == []


class TestResume:
    def test_cut_anywhere_the_alarms_are_the_same(self) -> None:
        lines = list(noisy(stream({"kl": 2.0, REPEATS: 0.9}, rollouts=40), 0))
        lines[5] |= {"eval_math500/abandoned": 0.1}
        for n in (20, 21, 22):
            lines[n] |= {"eval_math500/abandoned": 0.9}
        whole = replay(lines)
        assert sorted(names(whole)) == ["abandoned_answer", "kl_runaway", "repeated_answer"]
        for cut in range(len(lines)):
            first = FailureMonitor()
            alarms = [alarm for line in lines[:cut] for alarm in first.read(line["step"], line)]
            second = resumed(json.loads(json.dumps(first.state())))
            alarms += [alarm for line in lines[cut:] for alarm in second.read(line["step"], line)]
            assert alarms == whole, cut

    def test_a_checkpoint_of_before_there_was_a_monitor(self) -> None:
        monitor: Any = FailureMonitor()
        monitor.on_train_begin(None, SimpleNamespace(stateful_callbacks={}), None)
        assert monitor.state() == FailureMonitor().state()


def resumed(state: dict[str, Any]) -> FailureMonitor:
    monitor: Any = FailureMonitor()
    monitor.on_train_begin(None, SimpleNamespace(stateful_callbacks={"FailureMonitor": state}), None)
    return monitor  # type: ignore[no-any-return]


# --- in a training -------------------------------------------------------------------------------------------------


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is a rollout of 16 dialogues: too few for a verdict, enough to see who says what when."""
    for name, value in {"WINDOW": 16, "FIRST": 16, "WINDOW_ROLLOUTS": 1, "FIRST_ROLLOUTS": 1}.items():
        monkeypatch.setattr(windows, name, value)


def failing(folder: Path, model: Path, **overrides: Any) -> MultiAttemptPPOTrainer:
    """Its learning rate is far too high, so that it is another model after a few updates."""
    args = arguments(folder, max_attempts=3, learning_rate=0.1, **{"max_steps": 24, **overrides})
    return MultiAttemptPPOTrainer(
        str(model), MultiAttemptPPOConfig(**args), train_set(), grade_by_length, preset=PRESET
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("training.monitor")]


@pytest.mark.usefixtures("short_windows")
class TestInTraining:
    def test_it_warns_and_logs_and_a_resumed_run_does_as_the_whole_one(
        self, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        saving = {"save_strategy": "steps", "save_steps": 12}
        straight = failing(tmp_path / "straight", tiny_model, **saving)
        straight.train()
        told = warnings(caplog)
        assert [one for one in told if one.startswith("alarm kl_runaway at step ")]
        key = "alarm/kl_runaway"
        shown = logged(straight, key)[key]
        assert len(shown) == 6  # one log a rollout
        assert (shown[0], shown[-1]) == (0.0, 1.0)
        caplog.clear()
        again = failing(tmp_path / "again", tiny_model, **saving)
        again.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-12"))
        assert again._monitor.state() == straight._monitor.state()
        assert logged(again, key) == logged(straight, key)
        assert warnings(caplog) == [one for one in told if int(re.search(r"at step (\d+)", one)[1]) > 12]

    def test_it_can_be_turned_off(self, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
        trainer = failing(tmp_path, tiny_model, monitor=False)
        trainer.train()
        assert warnings(caplog) == []
        assert [key for entry in trainer.state.log_history for key in entry if key.startswith("alarm/")] == []

    def test_grpo_has_it_too(self, tmp_path: Path, tiny_model: Path) -> None:
        args = MultiAttemptGRPOConfig(**arguments(tmp_path, max_attempts=3, num_generations=4, max_steps=8))
        trainer = MultiAttemptGRPOTrainer(str(tiny_model), args, train_set(), grade_by_length, preset=PRESET)
        trainer.train()
        assert logged(trainer, "alarm/truncation")["alarm/truncation"] == [0.0, 0.0]


@pytest.mark.slow
class TestRealRuns:
    """The arithmetic recipe's run from its own warm start, 12 rollouts of 256 dialogues."""

    @pytest.fixture(scope="class")
    def warm(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return build_warm_start(COURSE, 0, tmp_path_factory.mktemp("warm"))

    def train(self, folder: Path, model: Path, **overrides: Any) -> None:
        options = {
            **{"max_attempts": 5, "max_completion_length": 12, "well_formed_by": "last", "beta": 0.01},
            **{"per_device_train_batch_size": 64, "forward_batch_size": 32, "max_steps": 48, "logging_steps": 4},
            **{"critic_learning_rate": 2e-3, "critic_warmup_steps": 16, "warmup_steps": 60, "seed": 0},
        }
        args = MultiAttemptPPOConfig(**arguments(folder, **options | overrides))
        with DOMAIN.grader() as grade:
            MultiAttemptPPOTrainer(str(model), args, train_set(4096), grade, preset=PRESET).train()

    def test_the_healthy_run_is_silent(self, tmp_path: Path, warm: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            self.train(tmp_path, warm)
        assert warnings(caplog) == []

    def test_twenty_times_the_learning_rate(
        self, tmp_path: Path, warm: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.train(tmp_path, warm, learning_rate=0.02, warmup_steps=0)
        told = [one.split(" at step ")[0] for one in warnings(caplog)]
        assert told == ["alarm entropy_explosion", "alarm kl_runaway"]

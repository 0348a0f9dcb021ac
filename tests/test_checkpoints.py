"""A checkpoint is whole or not there; one that does not fit the launch says what to do."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import assert_same, ran, run, start
from test_trainers import ppo
from training_arguments import arguments, logged
from trl import GRPOTrainer

from multiattempt_trl.training import checkpoints
from multiattempt_trl.training.checkpoints import MANIFEST, check, to_resume
from multiattempt_trl.training.configs import MultiAttemptPPOConfig

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Two rollouts, each followed by a checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    ppo(folder, tiny_model, max_steps=8, **SAVING).train()
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def config(folder: Path, **overrides: Any) -> MultiAttemptPPOConfig:
    return MultiAttemptPPOConfig(**arguments(folder, **overrides))


def rewrite(folder: Path, **launch: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["launch"] |= launch
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_the_manifest_names_every_file_of_both_models(trained: Path) -> None:
    folder = trained / "checkpoint-8"
    manifest = json.loads((folder / MANIFEST).read_text())
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == there - {MANIFEST}
    assert {"model.safetensors", "critic/model.safetensors", "optimizer.pt", "critic/optimizer.pt"} <= there
    assert manifest["launch"] == {"backend": "plain", "processes": 1}
    assert manifest["batches"] == {"rollout": 16, "update": 4}


class TestWhich:
    def test_true_is_the_newest(self, trained: Path) -> None:
        for wanted in (True, "true", "True"):
            assert to_resume(wanted, config(trained)) == str(trained / "checkpoint-8")
        for wanted in (None, False, "false"):
            assert to_resume(wanted, config(trained)) is None

    def test_one_that_a_crash_left_behind_is_passed_over(self, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
        (copy / "checkpoint-8" / MANIFEST).unlink()
        assert to_resume(True, config(copy)) == str(copy / "checkpoint-4")
        assert "checkpoint-8 was not written to its end" in caplog.text
        with pytest.raises(ValueError, match="checkpoint-8' was not written to its end"):
            to_resume(str(copy / "checkpoint-8"), config(copy))

    def test_none_is_left(self, tmp_path: Path, copy: Path) -> None:
        with pytest.raises(ValueError, match="holds no checkpoint; leave it out"):
            to_resume(True, config(tmp_path))
        for number in (4, 8):
            (copy / f"checkpoint-{number}" / MANIFEST).unlink()
        with pytest.raises(ValueError, match="holds no whole checkpoint"):
            to_resume(True, config(copy))

    def test_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is not a checkpoint \(it has no trainer_state.json\)"):
            to_resume(str(tmp_path), config(tmp_path))

    def test_nothing_is_left_to_train(self, trained: Path) -> None:
        to_resume(True, config(trained, max_steps=9))
        to_resume(True, config(trained, max_steps=-1))
        with pytest.raises(ValueError, match=r"8 steps old and max_steps=8, so nothing is left .* eval --model .*-8$"):
            to_resume(True, config(trained, max_steps=8))

    def test_weights_alone_are_nothing_to_go_on_from(self, tmp_path: Path, tiny_model: Path) -> None:
        ppo(tmp_path, tiny_model, max_steps=4, save_only_model=True, **SAVING).train()
        with pytest.raises(ValueError, match=r"written with save_only_model, .* --critic_model_name_or_path "):
            to_resume(True, config(tmp_path))

    def test_it_is_pushed_once_it_is_whole(
        self, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pushed = []
        monkeypatch.setattr(
            GRPOTrainer,
            "_push_from_checkpoint",
            lambda self, folder: pushed.append((Path(folder).name, (Path(folder) / MANIFEST).exists())),
        )
        trainer = ppo(tmp_path, tiny_model, max_steps=4, **SAVING)
        trainer.args.push_to_hub = True
        trainer.train()
        assert pushed == [("checkpoint-4", True)]


class TestCorrupt:
    @pytest.mark.parametrize("name", ["model.safetensors", "critic/optimizer.pt", "rng_state.pth"])
    def test_a_file_was_cut_short_or_lost(self, copy: Path, tiny_model: Path, name: str) -> None:
        path = copy / "checkpoint-8" / name
        size = path.stat().st_size
        os.truncate(path, size // 2)
        with pytest.raises(ValueError, match=rf"corrupt: {re.escape(name)} has {size // 2} bytes, not {size}"):
            ppo(copy, tiny_model, max_steps=12).train(resume_from_checkpoint=True)
        path.unlink()
        with pytest.raises(ValueError, match=rf"corrupt: {re.escape(name)} is missing"):
            check(copy / "checkpoint-8", config(copy))

    @pytest.mark.parametrize("text", ["", "{}", '{"files": {}, "batches": {}, "launch": {"rank": 1}}'])
    def test_the_manifest_itself(self, copy: Path, text: str) -> None:
        (copy / "checkpoint-8" / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=r"was not written to its end \(checkpoint.json"):
            check(copy / "checkpoint-8", config(copy))


class TestOtherLaunch:
    @pytest.mark.parametrize("written", [("zero3", 2), ("zero3", 1), ("zero2", 8)])
    def test_shards_fit_no_other_and_the_message_says_how_to_go_on(
        self, copy: Path, tiny_model: Path, written: tuple[str, int]
    ) -> None:
        folder = copy / "checkpoint-8"
        rewrite(folder, backend=written[0], processes=written[1])
        with pytest.raises(ValueError, match=rf"written by {written[1]} process(es)? \({written[0]}\)") as caught:
            check(folder, config(copy))
        policy, critic = re.findall(r"--(?:critic_)?model_name_or_path (\S+)", str(caught.value))
        args = config(copy / "anew", max_steps=4, critic_model_name_or_path=critic)
        trainer = ppo(copy / "anew", Path(policy), max_steps=4, critic_model_name_or_path=critic)
        assert args.critic_model_name_or_path == critic
        there = torch.load(folder / "critic" / "optimizer.pt", weights_only=True)
        assert there["state"]
        for ours, theirs in zip(trainer.critic.model.parameters(), _critic(folder).parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_whole_states_go_on_in_other_processes_if_the_batches_are_the_same(
        self, copy: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = copy / "checkpoint-8"
        rewrite(folder, processes=2)
        check(folder, config(copy))
        assert "was written by 2 processes (plain), now it is 1 process" in caplog.text
        with pytest.raises(ValueError, match=r"'rollout': 16, 'update': 4}, this launch .* 'update': 8}"):
            check(folder, config(copy, gradient_accumulation_steps=2))


def _critic(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(folder / "critic")


class TestWriting:
    def test_a_crash_while_saving_leaves_the_one_before_even_where_only_one_is_kept(
        self, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = SAVING | {"max_steps": 12, "save_total_limit": 1}
        straight = ppo(tmp_path / "straight", tiny_model, **options)
        straight.train()
        crashing = ppo(tmp_path / "crashing", tiny_model, **options)

        def crash(folder: Path, args: Any) -> None:
            if folder.name == "checkpoint-8":
                raise KeyboardInterrupt
            seal(folder, args)

        seal = checkpoints.seal
        monkeypatch.setattr(checkpoints, "seal", crash)
        with pytest.raises(KeyboardInterrupt):
            crashing.train()
        monkeypatch.undo()
        assert sorted(path.name for path in (tmp_path / "crashing").glob("checkpoint-*")) == [
            "checkpoint-4",
            "checkpoint-8",
        ]
        resumed = ppo(tmp_path / "crashing", tiny_model, **options)
        resumed.train(resume_from_checkpoint=True)
        keys = ("loss", "reward", "value/loss", "grad_norm")
        assert logged(resumed, *keys) == logged(straight, *keys)
        assert [path.name for path in (tmp_path / "crashing").glob("checkpoint-*")] == ["checkpoint-12"]

    def test_one_that_is_written_anew_is_first_declared_unfinished(self, copy: Path, tiny_model: Path) -> None:
        trainer = ppo(copy, tiny_model, max_steps=8, **SAVING)
        seen = []
        original = trainer.save_model

        def watch(folder: str | None = None, _internal_call: bool = False) -> None:
            seen.append((Path(folder or "").name, Path(folder or "").exists()))
            original(folder, _internal_call)

        trainer.save_model = watch  # type: ignore[method-assign]
        trainer.train(resume_from_checkpoint=str(copy / "checkpoint-4"))
        assert seen == [("checkpoint-8", False)]
        check(copy / "checkpoint-8", config(copy))


@pytest.mark.slow
@pytest.mark.parametrize("config_name", ["single_cpu", "cpu_ddp", "cpu_zero3"])
def test_killed_again_and_again_while_writing_it_ends_where_an_undisturbed_run_ends(
    tmp_path: Path, tiny_model: Path, config_name: str
) -> None:
    options = ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "1", "--max_steps", "20"]
    straight = run(config_name, tmp_path / "straight", tiny_model, "ppo", *options)
    folder = tmp_path / "killed"
    killed = 0
    for number in (2, 5, 7, 8, 10, 13, 15, 18, 0):  # files opened for writing by Python; 0 lets the run go on
        resume = ["--resume_from_checkpoint", "true", "--scramble", str(number)]
        fatal = ["--die_at_write", str(number)] if number else []
        whole = list(folder.glob(f"checkpoint-*/{MANIFEST}"))
        process = start(config_name, folder, tiny_model, "ppo", *options, *(resume if whole else []), *fatal)
        output, _ = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        assert "SIGKILL" in output, output[-4000:]
        killed += 1
        assert number, output[-4000:]
    assert killed >= 4
    assert_same(ran(folder), straight, exact=True)

"""Both trainers end to end on a tiny model: trained is what was sampled, a resume is exact, nonsense is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from training_arguments import arguments, grade_by_length, logged, train_set
from transformers import AutoModelForTokenClassification

from multiattempt_trl.dialogue.budgets import draw_budget
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.callbacks import JsonLines
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.launch import accumulation_steps
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


ALL_LINEAR = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def ppo(folder: Path, model: Path, *, data: Dataset | None = None, peft: Any = None, **overrides: Any):
    args = MultiAttemptPPOConfig(**arguments(folder, max_attempts=3, critic_learning_rate=2e-3, **overrides))
    return MultiAttemptPPOTrainer(
        str(model), args, train_set() if data is None else data, grade_by_length, preset=PRESET, peft_config=peft
    )


def grpo(folder: Path, model: Path, **overrides: Any) -> MultiAttemptGRPOTrainer:
    args = MultiAttemptGRPOConfig(**arguments(folder, max_attempts=3, num_generations=4, **overrides))
    return MultiAttemptGRPOTrainer(str(model), args, train_set(), grade_by_length, preset=PRESET)


class TestWhatIsTrainedOn:
    def test_the_batch_holds_the_sampled_ids_and_masks_the_feedback(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=1)
        trainer.train()
        rows = trainer.train_dataset.to_list()[:16]
        trainer.model.train()
        batch = trainer._generate_and_score_completions(rows)
        episodes = [row["episode"] for row in rows]
        assert {episode.attempts_used for episode in episodes} >= {1, 2}
        for row, episode in enumerate(episodes):
            mask = (batch["completion_mask"][row] * batch["tool_mask"][row]).bool()
            sampled = [token for attempt in episode.attempts for token in attempt.response_ids]
            assert batch["completion_ids"][row][mask].tolist() == sampled
            last = episode.attempts[-1]
            read = (*last.prompt_ids, *last.response_ids)
            ids = torch.cat([batch["prompt_ids"][row], batch["completion_ids"][row]])
            real = torch.cat([batch["prompt_mask"][row], batch["completion_mask"][row]]).bool()
            assert tuple(ids[real].tolist()) == read

    def test_long_prompts_are_dropped_and_named(
        self, tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        long = {"id": "long", "problem": "What is the remainder when " + 40 * "9" + " is divided by 7?", "answer": "1"}
        data = Dataset.from_list([*train_set(16).to_list(), long])
        trainer = ppo(tmp_path, tiny_model, data=data, max_prompt_tokens=40)
        assert trainer.train_dataset["id"] == train_set(16)["id"]
        assert "dropped 1 of 17 questions whose prompt is longer than 40 tokens: long (" in caplog.text

    def test_siblings_share_their_budget_and_steps_differ(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = grpo(tmp_path, tiny_model, max_steps=1)
        trainer.model.train()
        drawn = []
        for step in range(10):
            trainer.state.global_step = step
            rows = [dict(trainer.train_dataset[number]) for number in range(4) for _ in range(4)]
            trainer._generate_and_score_completions(rows)
            budgets = [row["episode"].budget for row in rows]
            groups = [set(budgets[start : start + 4]) for start in range(0, 16, 4)]
            assert all(len(group) == 1 for group in groups)
            drawn.append(budgets)
        assert {budget for budgets in drawn for budget in budgets} == {1, 2, 3}
        assert len({tuple(budgets) for budgets in drawn}) > 1

    def test_siblings_draw_their_own_budgets_where_asked(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = grpo(tmp_path, tiny_model, max_steps=1, budget_draw="per_sample")
        trainer.model.train()
        trainer.state.global_step = 5
        rows = [dict(trainer.train_dataset[number]) for number in range(4) for _ in range(4)]
        trainer._generate_and_score_completions(rows)
        budgets = [row["episode"].budget for row in rows]
        draws = [
            [draw_budget(3, 5, rows[4 * group]["id"], 3, "per_sample", sibling) for sibling in range(4)]
            for group in range(4)
        ]
        assert [budgets[start : start + 4] for start in range(0, 16, 4)] == draws
        assert any(len(set(group)) > 1 for group in draws)

    @pytest.mark.parametrize("credit", ["terminal", "attempt"])
    def test_grpo_logs_how_far_its_advantages_are_apart(self, tmp_path: Path, tiny_model: Path, credit: str) -> None:
        trainer = grpo(tmp_path, tiny_model, max_steps=1, credit=credit, budget_draw="fixed")
        trainer.model.train()
        batch = trainer._generate_and_score_completions(trainer.train_dataset.to_list()[:16])
        mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
        advantages = batch["advantages"]
        if credit == "terminal":  # one for each episode, as TRL has them: a long episode counts more
            advantages = torch.cat([each.repeat(int(row.sum())) for each, row in zip(advantages, mask, strict=True)])
        else:
            advantages = advantages[mask]
        (told,) = trainer._metrics["train"]["advantage/std"]
        assert told > 0.1
        assert told == pytest.approx(advantages.std(correction=0).item())

    @pytest.mark.parametrize("options", [{"beta": 0.0}, {"num_iterations": 2}, {"stop_at_box": True}])
    def test_other_settings_train_too(self, tmp_path: Path, tiny_model: Path, options: dict[str, Any]) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=8, **options)
        before = [parameter.clone() for parameter in trainer.model.parameters()]
        trainer.train()
        assert len(logged(trainer, "loss")["loss"]) == 8
        assert len(logged(trainer, "episodes_total")["episodes_total"]) == 2 // options.get("num_iterations", 1)
        assert not any(map(torch.equal, before, trainer.model.parameters()))

    def test_whitened_advantages_and_the_critic_reach_the_loss(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=1)
        trainer.model.train()
        batch = trainer._generate_and_score_completions(trainer.train_dataset.to_list()[:16])
        mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
        kept = batch["advantages"][mask]
        torch.testing.assert_close(kept.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
        torch.testing.assert_close(kept.std(correction=0), torch.tensor(1.0))
        assert not batch["advantages"][~mask].any()
        assert not batch["returns"][~mask].any()

    def test_own_credit_ends_with_its_attempt(self, tmp_path: Path, tiny_model: Path) -> None:
        """At lambda = gamma = 1 each return is the attempt's own price, whatever came of the next."""
        trainer = ppo(tmp_path, tiny_model, credit="own", budget_draw="fixed", lam=1.0, whiten_advantages=False)
        trainer.model.train()
        batch = trainer._generate_and_score_completions(trainer.train_dataset.to_list()[:16])
        index = trainer._attempt_index(batch)
        assert max(map(len, trainer._prices)) > 1
        for row, prices in enumerate(trainer._prices):
            for k, price in enumerate(prices, start=1):
                returns = batch["returns"][row][index[row] == k]
                torch.testing.assert_close(returns, torch.full_like(returns, price))

    def test_own_credit_of_grpo_is_over_the_siblings_at_the_same_attempt(
        self, tmp_path: Path, tiny_model: Path
    ) -> None:
        trainer = grpo(tmp_path, tiny_model, credit="own", budget_draw="fixed", scale_rewards="none")
        trainer.model.train()
        batch = trainer._generate_and_score_completions(trainer.train_dataset.to_list()[:16])
        index, size = trainer._attempt_index(batch), trainer.num_generations
        groups = [trainer._prices[row : row + size] for row in range(0, 16, size)]
        for row, prices in enumerate(trainer._prices):
            for k, price in enumerate(prices):
                siblings = [one[k] for one in groups[row // size] if len(one) > k]
                advantages = batch["advantages"][row][index[row] == k + 1]
                expected = torch.full_like(advantages, price - sum(siblings) / len(siblings))
                torch.testing.assert_close(advantages, expected)

    @pytest.mark.parametrize("credit", ["improvement", "attempt"])
    def test_grpo_advantage_may_differ_between_the_attempts_of_an_episode(
        self, tmp_path: Path, tiny_model: Path, credit: str
    ) -> None:
        trainer = grpo(tmp_path, tiny_model, max_steps=2, credit=credit, budget_draw="fixed")
        trainer.train()
        trainer.model.train()
        batch = trainer._generate_and_score_completions(trainer.train_dataset.to_list()[:16])
        index = trainer._attempt_index(batch)
        assert batch["advantages"].shape == batch["completion_ids"].shape
        of_attempts = [{float(a) for a in row[i > 0]} for row, i in zip(batch["advantages"], index, strict=True)]
        assert max(map(len, of_attempts)) > 1


class TestCritic:
    def test_activations_of_the_critic_are_checkpointed_where_asked(
        self, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=4, activation_checkpointing=True)
        layer = trainer.critic.model.model.layers[0]
        assert layer.gradient_checkpointing
        trainer.train()
        assert layer.training  # transformers checkpoints in this mode alone

    def test_warm_up_trains_the_critic_alone(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=4, critic_warmup_steps=4)
        policy = [parameter.clone() for parameter in trainer.model.parameters()]
        critic = [parameter.clone() for parameter in trainer.critic.model.parameters()]
        trainer.train()
        assert all(map(torch.equal, policy, trainer.model.parameters()))
        assert not any(map(torch.equal, critic, trainer.critic.model.parameters()))

    def test_the_critic_has_its_own_rate_and_schedule(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=4, lr_scheduler_type="linear")
        trainer.train()
        rates = logged(trainer, "learning_rate", "value/learning_rate")
        # Linear decay over 4 steps, without warm-up: the rate of step s is (1 - s / 4) of the first.
        assert rates["value/learning_rate"] == pytest.approx([2e-3, 1.5e-3, 1e-3, 0.5e-3])
        assert rates["learning_rate"] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])

    def test_the_critics_gradient_is_clipped_by_its_own_cap(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=1, critic_max_grad_norm=1e-3)
        applied = []

        def watch(*_: Any) -> None:
            gradients = [p.grad for p in trainer.critic.model.parameters() if p.grad is not None]
            applied.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())

        trainer.critic.optimizer.register_step_pre_hook(watch)
        trainer.train()
        assert logged(trainer, "value/grad_norm")["value/grad_norm"][0] > 0.1  # before clipping
        torch.testing.assert_close(applied[0], torch.tensor(1e-3), rtol=1e-4, atol=0)

    def test_it_learns_the_value_of_a_constant_reward(self, tmp_path: Path, tiny_model: Path) -> None:
        """With every episode worth -1, V must come to -1 on every policy token."""
        trainer = ppo(tmp_path, tiny_model, max_steps=120, critic_warmup_steps=120, value_clip=None)
        trainer.grade = lambda question, response: "invalid"
        trainer.train()
        losses = logged(trainer, "value/loss")["value/loss"]
        assert losses[0] == pytest.approx(0.5, abs=0.1)  # 0.5 * (0 - (-1))^2, from values near 0
        assert losses[-1] < 0.01

    def test_with_lora_the_critic_trains_its_own_adapter_and_head(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=4, peft=LORA, save_strategy="steps", save_steps=4)
        before = {name: value.clone() for name, value in trainer.critic.model.named_parameters()}
        trainer.train()
        moved = {
            name for name, value in trainer.critic.model.named_parameters() if not torch.equal(value, before[name])
        }
        assert moved
        assert all("lora_" in name or "score" in name for name in moved)
        assert any("score" in name for name in moved)
        again = ppo(tmp_path, tiny_model, max_steps=4, peft=LORA)
        again.critic.load_weights(tmp_path / "checkpoint-4")
        for name, value in trainer.critic.model.named_parameters():
            assert torch.equal(value, again.critic.model.get_parameter(name)), name


class TestFiles:
    KEYS = ("loss", "grad_norm", "reward", "kl", "attempts/budget", "value/loss", "value/grad_norm")

    @pytest.mark.parametrize(
        "given",
        [{}, {"peft": LORA}, {"peft": ALL_LINEAR}, {"use_transformers_continuous_batching": True}],
        ids=["full", "lora", "all-linear", "without-barriers"],
    )
    def test_stopped_and_resumed_equals_uninterrupted_to_the_digit(
        self, tmp_path: Path, tiny_model: Path, given: dict[str, Any]
    ) -> None:
        """Twelve steps over three epochs of one rollout each, cut after eight."""
        options: dict[str, Any] = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4, **given}
        straight = ppo(tmp_path / "straight", tiny_model, data=train_set(24), **options)
        straight.train()
        resumed = ppo(tmp_path / "resumed", tiny_model, data=train_set(24), **options)
        torch.manual_seed(99)  # whatever state the new process is in
        resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-8"))
        assert len(logged(resumed, *self.KEYS)["loss"]) == 12  # eight from the checkpoint's log, four of its own
        assert logged(resumed, *self.KEYS) == logged(straight, *self.KEYS)
        for ours, theirs in ((resumed.model, straight.model), (resumed.critic.model, straight.critic.model)):
            for name, parameter in theirs.named_parameters():
                assert torch.equal(parameter, ours.get_parameter(name)), name
        assert resumed._episode_counter.state() == straight._episode_counter.state()

    def test_evaluating_during_training_plays_full_budgets_and_leaves_training_as_it_was(
        self, tmp_path: Path, tiny_model: Path
    ) -> None:
        args = {"eval_strategy": "steps", "eval_steps": 4, "per_device_eval_batch_size": 8, "max_steps": 8}
        config = MultiAttemptPPOConfig(**arguments(tmp_path, max_attempts=3, **args))
        trainer = MultiAttemptPPOTrainer(
            str(tiny_model), config, train_set(), grade_by_length, preset=PRESET, eval_dataset=train_set(16)
        )
        trainer.train()
        found = logged(trainer, "eval_attempts/budget", "eval_reward", "episodes_total")
        assert found["eval_attempts/budget"] == [3.0, 3.0]
        assert len(found["eval_reward"]) == 2
        assert found["episodes_total"] == [16, 32]  # evaluation samples nothing to train on

    def test_a_checkpoint_holds_a_critic_that_loads_by_itself(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=4, save_strategy="steps", save_steps=4)
        trainer.train()
        critic = AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint-4" / "critic")
        assert critic.config.num_labels == 1
        assert torch.equal(critic.score.weight, trainer.critic.model.score.weight)

    def test_the_model_card_cites_the_paper(self, tmp_path: Path, tiny_model: Path) -> None:
        trainer = ppo(tmp_path, tiny_model, max_steps=4)
        trainer.create_model_card(model_name="mine")
        card = (tmp_path / "README.md").read_text()
        assert "2503.04808" in card
        assert "Chung" in card
        assert "up to 3 attempts" in card
        assert "[None]" not in card

    def test_metrics_are_json_lines_and_a_resumed_run_writes_each_step_once(
        self, tmp_path: Path, tiny_model: Path
    ) -> None:
        options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
        path = tmp_path / "metrics.jsonl"
        first = ppo(tmp_path, tiny_model, max_steps=8, **options)
        first.add_callback(JsonLines(path))
        first.train()
        second = ppo(tmp_path, tiny_model, max_steps=8, **options)
        second.add_callback(JsonLines(path))
        second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        steps = [line["step"] for line in map(json.loads, path.read_text().splitlines()) if "loss" in line]
        assert steps == list(range(1, 9))


class TestBatches:
    def test_the_update_is_shared_out_among_the_processes(self, tmp_path: Path) -> None:
        args = MultiAttemptPPOConfig(**arguments(tmp_path, update_batch_size=32))
        assert args.gradient_accumulation_steps == 8  # of 4 dialogues each
        assert accumulation_steps(128, per_device=4, processes=8) == 4

    @pytest.mark.parametrize(("size", "processes"), [(30, 1), (32, 3), (0, 1)])
    def test_an_update_that_cannot_be(self, size: int, processes: int) -> None:
        with pytest.raises(ValueError, match=f"update_batch_size={size} cannot be shared out: {processes} processes"):
            accumulation_steps(size, per_device=4, processes=processes)


class TestRefusals:
    def test_a_checkpoint_without_its_critic(self, tmp_path: Path, tiny_model: Path) -> None:
        grpo(tmp_path, tiny_model, max_steps=4, save_strategy="steps", save_steps=4).train()
        with pytest.raises(ValueError, match=r"has no critic .*critic is missing"):
            ppo(tmp_path, tiny_model, max_steps=8).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))

    def test_scaling_by_the_batch_with_a_baseline_for_each_attempt(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="must be 'group' or 'none', got 'batch'"):
            MultiAttemptGRPOConfig(**arguments(tmp_path, num_generations=4, credit="attempt", scale_rewards="batch"))

    def test_a_checkpoint_interval_that_cuts_a_rollout(self, tmp_path: Path, tiny_model: Path) -> None:
        with pytest.raises(ValueError, match=r"save_steps=6 would .* Use a multiple of 4"):
            ppo(tmp_path, tiny_model, max_steps=8, save_strategy="steps", save_steps=6).train()

    def test_a_missing_column(self, tmp_path: Path, tiny_model: Path) -> None:
        with pytest.raises(ValueError, match=r"no column 'answer' \(it has id, problem\)"):
            ppo(tmp_path, tiny_model, data=train_set(16).remove_columns("answer"))

    def test_an_empty_gold(self, tmp_path: Path, tiny_model: Path) -> None:
        data = Dataset.from_list([{"problem": "1 + 1", "answer": "2"}, {"problem": "2 + 2", "answer": " "}])
        with pytest.raises(ValueError, match=r"row 1 of the dataset: .*empty gold"):
            ppo(tmp_path, tiny_model, data=data)

    def test_a_budget_that_cannot_fit_the_context(self, tmp_path: Path, tiny_model: Path) -> None:
        with pytest.raises(ValueError, match=r"can need \d+ tokens .* context is 512: lower"):
            ppo(tmp_path, tiny_model, max_completion_length=300)

    def test_prompts_that_are_all_over_the_cap(self, tmp_path: Path, tiny_model: Path) -> None:
        with pytest.raises(ValueError, match="no question has a prompt of at most max_prompt_tokens=3"):
            ppo(tmp_path, tiny_model, max_prompt_tokens=3)

    def test_a_template_that_rewrites_history(self, tmp_path: Path, tiny_model: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        tokenizer = load_tokenizer(str(folder))
        tokenizer.chat_template = "{{ messages[-1].content }}"
        tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match="not append-only"):
            ppo(tmp_path / "out", folder)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"max_attempts": 0}, "max_attempts must be at least 1, got 0"),
            ({"budget_draw": "random"}, "one of uniform, fixed, per_sample, got 'random'"),
            ({"feedback": "No. {0}"}, "unknown field '0'"),
            ({"count": "guessed"}, "count 'guessed' is unknown; choose one of shown, hidden, wrong"),
            ({"max_remark_tokens": 0}, "max_remark_tokens must be at least 1, got 0"),
            ({"credit": "magic"}, "credit must be one of"),
            ({"single_attempt_share": 1.0}, r"single_attempt_share must be in \[0, 1\), got 1.0"),
            ({"credit": "attempt"}, "PPO has not"),
            ({"attempt_discount": 0.9}, "has no effect with credit='terminal'"),
            ({"price_wrong": 2.0}, "invalid <= wrong < correct"),
            ({"stop_at_box": True, "mask_truncated_completions": True}, "turn one of them off"),
            ({"mask_truncated_completions": True}, "not for PPO"),
            ({"num_generations": 0}, "num_generations must be at least 1"),
            ({"value_clip": 0.0}, "value_clip must be above 0"),
            ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
            ({"per_device_train_batch_size": 3, "steps_per_generation": 1}, "PPO needs an even number of dialogues"),
            ({"fp16": True}, "fp16 is not supported by PPO"),
            ({"max_episode_tokens": 0}, "max_episode_tokens must be at least 1"),
        ],
    )
    def test_a_value_that_cannot_work(self, tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MultiAttemptPPOConfig(**arguments(tmp_path, **overrides))

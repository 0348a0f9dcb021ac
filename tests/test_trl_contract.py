"""The seams of TRL that the trainers stand on. When TRL is updated, this file says what moved."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from training_arguments import arguments, grade_by_length, logged, train_set
from trl import GRPOConfig, GRPOTrainer

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Verdict
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.dataset import to_question
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.losses import clipped_policy_loss
from multiattempt_trl.training.sequences import forward_by_length
from multiattempt_trl.training.value_model import load_value_model

PRICES = {Verdict.CORRECT: 1.0, Verdict.WRONG: -0.5, Verdict.INVALID: -1.0}


def test_trl_is_the_minor_version_that_the_trainers_were_written_for() -> None:
    assert trl.__version__.startswith("1.16.")


def test_the_methods_that_we_override_or_call_are_there_with_their_parameters() -> None:
    seams = {
        "_generate_and_score_completions": ["self", "inputs"],
        "_compute_loss": ["self", "model", "inputs"],
        "training_step": ["self", "model", "inputs", "num_items_in_batch"],
        "_save_optimizer_and_scheduler": ["self", "output_dir"],
        "_load_optimizer_and_scheduler": ["self", "checkpoint"],
        "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
        "create_scheduler": ["self", "num_training_steps", "optimizer"],
        "save_model": ["self", "output_dir", "_internal_call"],
    }
    for name, parameters in seams.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters, name


def stock_run(folder: Path, model: Path, overrides: dict[str, Any]) -> GRPOTrainer:
    """Stock GRPO on the prompts and the rewards that one attempt would have."""

    def reward(completions: list[Any], problem: list[str], answer: list[str], **_: Any) -> list[float]:
        rows = [{"problem": p, "answer": a} for p, a in zip(problem, answer, strict=True)]
        texts = [completion[0]["content"] for completion in completions]
        return [PRICES[grade_by_length(to_question(r), t)] for r, t in zip(rows, texts, strict=True)]

    def prompt(row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": Environment(question=to_question(row), budget=1, preset=PRESET).first_messages()}

    trainer = GRPOTrainer(
        model=str(model),
        reward_funcs=reward,
        args=GRPOConfig(**arguments(folder, **overrides)),
        train_dataset=train_set().map(prompt),
        processing_class=load_tokenizer(str(model)),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("stop_at_box", [False, True])
def test_with_one_attempt_grpo_equals_stock_grpo_to_the_bit(
    tmp_path: Path, tiny_model: Path, stop_at_box: bool
) -> None:
    """Eight optimizer steps with KL, two iterations over each rollout, and accumulation over two micro-batches."""
    overrides = {"max_steps": 8, "num_iterations": 2, "num_generations": 4, "gradient_accumulation_steps": 2}
    stock = stock_run(tmp_path / "stock", tiny_model, overrides)
    ours = MultiAttemptGRPOTrainer(
        str(tiny_model),
        MultiAttemptGRPOConfig(**arguments(tmp_path, max_attempts=1, stop_at_box=stop_at_box, **overrides)),
        train_set(),
        grade_by_length,
        preset=PRESET,
    )
    ours.train()
    keys = ("loss", "grad_norm", "reward", "kl", "entropy", "clip_ratio/region_mean")
    expected, found = logged(stock, *keys), logged(ours, *keys)
    assert len(expected["loss"]) == 8
    assert len(set(expected["loss"])) == 8  # the runs did learn something
    assert found == expected
    for name, parameter in stock.model.named_parameters():
        assert torch.equal(parameter, ours.model.get_parameter(name)), name


def test_trl_computes_our_clipped_policy_loss(tmp_path: Path, tiny_model: Path) -> None:
    """`loss_type="bnpo"` without KL weighting, on (B, T) advantages and a policy mask, is `clipped_policy_loss`."""
    trainer = MultiAttemptGRPOTrainer(
        str(tiny_model),
        MultiAttemptGRPOConfig(
            **arguments(tmp_path, loss_type="bnpo", use_bias_correction_kl=False, num_generations=4)
        ),
        train_set(),
        grade_by_length,
        preset=PRESET,
    )
    generator = torch.Generator().manual_seed(0)
    batch, prompt, width = 3, 5, 7
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0]])
    inputs = {
        "prompt_ids": torch.randint(300, (batch, prompt), generator=generator),
        "prompt_mask": torch.ones(batch, prompt, dtype=torch.long),
        "completion_ids": torch.randint(300, (batch, width), generator=generator),
        "completion_mask": torch.tensor([[1] * 7, [1] * 6 + [0], [1] + [0] * 6]),
        "tool_mask": torch.where(torch.tensor([[1] * 7, [1] * 6 + [0], [1] + [0] * 6]) > 0, mask, 1),
        "advantages": torch.randn(batch, width, generator=generator),
    }
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, attention, width)
    inputs["old_per_token_logps"] = logps.detach() + 0.4 * torch.randn(batch, width, generator=generator)
    inputs["ref_per_token_logps"] = logps.detach() + 0.4 * torch.randn(batch, width, generator=generator)
    trainer.current_gradient_accumulation_steps = 1
    expected = clipped_policy_loss(
        logps,
        inputs["old_per_token_logps"],
        inputs["advantages"],
        mask,
        clip=0.2,
        ref_logps=inputs["ref_per_token_logps"],
        beta=0.04,
    )
    torch.testing.assert_close(trainer._compute_loss(trainer.model, inputs), expected)


@pytest.mark.parametrize("trainer_class", ["policy", "critic"])
def test_leaving_out_padding_changes_no_number_and_no_gradient(
    tmp_path: Path, tiny_model: Path, trainer_class: str
) -> None:
    """`forward_by_length` in chunks of 3 of 8 ragged rows, against one padded forward pass of TRL's."""
    trainer = MultiAttemptGRPOTrainer(
        str(tiny_model),
        MultiAttemptGRPOConfig(**arguments(tmp_path, num_generations=4)),
        train_set(),
        grade_by_length,
        preset=PRESET,
    )
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 9, 1, 9, 4, 12, 2, 7])
    ids = torch.randint(300, (8, 5 + 12), generator=generator)
    mask = torch.cat([torch.ones(8, 5), (torch.arange(12) < lengths[:, None])], dim=1).long()
    real = mask[:, 5:].bool()
    model: Any = load_value_model(str(tiny_model)) if trainer_class == "critic" else trainer.model
    model.double()  # so that chunks, which sum in another order, agree within the default tolerance

    def numbers(rows: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        if trainer_class == "critic":
            found = forward_by_length(
                lambda i, m, w: model(input_ids=i, attention_mask=m).logits[:, -w - 1 : -1, 0], ids, mask, 12, rows
            )
        else:
            trainer.args.forward_batch_size = None if rows == 8 else rows
            found, entropies, _ = trainer._get_per_token_logps_and_entropies(
                model, ids, mask, 12, compute_entropy=True
            )
            assert entropies is not None
            found = torch.stack([found, entropies], dim=-1)
        (found[real] ** 2).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return found[real].detach(), gradients

    expected, expected_gradients = numbers(8)
    found, gradients = numbers(3)
    torch.testing.assert_close(found, expected)
    # TRL's fused head sums in float32 whatever the model's type; the gradients here are of the order of 1.
    tolerance = {} if trainer_class == "critic" else {"rtol": 1e-3, "atol": 1e-4}
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)

"""PPO's two clipped losses, hand-computed at every corner of the clip."""

from math import exp, log

import pytest
import torch
from torch.testing import assert_close

from multiattempt_trl.training.losses import clipped_policy_loss, clipped_value_loss, masked_mean


def test_masked_mean() -> None:
    # (1 + 2 + 6) / 3, over the batch and not row by row: (1.5 + 6) / 2 would be 3.75.
    values = torch.tensor([[1.0, 2.0, 50.0], [6.0, -50.0, 50.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert_close(masked_mean(values, mask), torch.tensor(3.0))


def test_masked_mean_of_nothing() -> None:
    assert_close(masked_mean(torch.ones(2, 3), torch.zeros(2, 3).bool()), torch.tensor(0.0))


# --- policy --------------------------------------------------------------------------------------------------------

CORNERS = [
    # ratio, advantage, loss = -min(rho * A, clip(rho, 0.8, 1.2) * A), whether it still pulls
    (1.5, 2.0, -2.4, False),  # -min(3, 2.4): up enough
    (0.5, 2.0, -1.0, True),  # -min(1, 1.6)
    (1.5, -2.0, 3.0, True),  # -min(-3, -2.4)
    (0.5, -2.0, 1.6, False),  # -min(-1, -1.6): down enough
    (1.1, 2.0, -2.2, True),  # inside the clip
    (0.9, -2.0, 1.8, True),
    (1.0, 2.0, -2.0, True),
]


def policy_loss(ratios: list[float], advantages: list[float], mask: list[int], **kwargs: float) -> torch.Tensor:
    old = torch.full((1, len(ratios)), log(0.25))
    logps = old + torch.tensor([ratios]).log()
    return clipped_policy_loss(logps, old, torch.tensor([advantages]), torch.tensor([mask]).bool(), clip=0.2, **kwargs)


@pytest.mark.parametrize(("ratio", "advantage", "loss", "pulls"), CORNERS)
def test_policy_corners(ratio: float, advantage: float, loss: float, pulls: bool) -> None:
    assert_close(policy_loss([ratio], [advantage], [1]), torch.tensor(loss))


@pytest.mark.parametrize(("ratio", "advantage", "loss", "pulls"), CORNERS)
def test_policy_gradient(ratio: float, advantage: float, loss: float, pulls: bool) -> None:
    # d(-rho * A) / d logp = -rho * A where the clip does not hold, 0 where it does.
    logps = torch.tensor([[log(ratio)]], requires_grad=True)
    mask = torch.ones(1, 1).bool()
    clipped_policy_loss(logps, torch.zeros(1, 1), torch.tensor([[advantage]]), mask, clip=0.2).backward()
    assert_close(logps.grad, torch.tensor([[-ratio * advantage if pulls else 0.0]]))


def test_policy_token_mean() -> None:
    # (-2.4 - 1.0 + 3.0 + 1.6) / 4 = 0.3; the masked tokens, one in the middle, count for nothing.
    loss = policy_loss([1.5, 0.5, 9.0, 1.5, 0.5, 0.1], [2.0, 2.0, 7.0, -2.0, -2.0, -7.0], [1, 1, 0, 1, 1, 0])
    assert_close(loss, torch.tensor(0.3))


def test_k3_in_the_loss() -> None:
    # ref / pi = 2: k3 = 2 - ln 2 - 1 = 0.3068528;  ref / pi = 0.5: 0.5 + ln 2 - 1 = 0.1931472; equal: 0.
    logps = torch.full((1, 4), log(0.25))
    ref = logps + torch.tensor([[log(2.0), log(0.5), 0.0, 3.0]])
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    advantages = torch.tensor([[2.0, -1.0, 0.5, 9.0]])
    # Ratio 1: policy term -(2 - 1 + 0.5) / 3 = -0.5. KL term 0.1 * (0.3068528 + 0.1931472 + 0) / 3 = 0.1 * 0.5 / 3.
    loss = clipped_policy_loss(logps, logps, advantages, mask, clip=0.2, ref_logps=ref, beta=0.1)
    assert_close(loss, torch.tensor(-0.5 + 0.1 * 0.5 / 3))


def test_k3_pulls_towards_the_reference() -> None:
    # d k3 / d logp = 1 - ref / pi: -1 where the reference holds the token twice as likely, 0.5 where half as likely.
    logps = torch.zeros(1, 2, requires_grad=True)
    ref = torch.tensor([[log(2.0), log(0.5)]])
    mask = torch.ones(1, 2).bool()
    clipped_policy_loss(
        logps, torch.zeros(1, 2), torch.zeros(1, 2), mask, clip=0.2, ref_logps=ref, beta=1.0
    ).backward()
    assert_close(logps.grad, torch.tensor([[-1.0 / 2, 0.5 / 2]]))


# --- value ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "share"),
    [
        # V moved 0.5 up from 0.5; clipped at 0.2 it is 0.7. Target 2: errors 1 and 1.69, the clipped one is larger.
        (1.0, 0.5, 2.0, 0.5 * 1.69, 1.0),
        # Target 0: errors 1 and 0.49, the plain one is larger.
        (1.0, 0.5, 0.0, 0.5 * 1.0, 0.0),
        # V moved 0.5 down; clipped it is 0.3. Target -1: errors 1 and 1.69.
        (0.0, 0.5, -1.0, 0.5 * 1.69, 1.0),
        # Target 1: errors 1 and 0.49.
        (0.0, 0.5, 1.0, 0.5 * 1.0, 0.0),
        # V moved by 0.1, inside the clip: one error, 0.4 ** 2.
        (0.6, 0.5, 1.0, 0.5 * 0.16, 0.0),
    ],
)
def test_value_corners(value: float, old: float, target: float, loss: float, share: float) -> None:
    one = [torch.tensor([[number]], dtype=torch.float64) for number in (value, old, target)]
    got, clipped = clipped_value_loss(*one, torch.ones(1, 1).bool(), clip=0.2)
    assert_close(got, torch.tensor(loss, dtype=torch.float64))
    assert_close(clipped, torch.tensor(share, dtype=torch.float64))


def test_value_token_mean_and_share() -> None:
    # 0.5 * (1.69 + 1 + 0.16) / 3 = 0.475; one in three was clipped. The fourth token is masked.
    values, old = torch.tensor([[1.0, 1.0, 0.6, 9.0]]), torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    returns, mask = torch.tensor([[2.0, 0.0, 1.0, -9.0]]), torch.tensor([[1, 1, 1, 0]]).bool()
    loss, share = clipped_value_loss(values, old, returns, mask, clip=0.2)
    assert_close(loss, torch.tensor(0.475))
    assert_close(share, torch.tensor(1 / 3))


def test_value_without_clip() -> None:
    # 0.5 * (1 + 1 + 0.16) / 3 = 0.36.
    values, old = torch.tensor([[1.0, 1.0, 0.6, 9.0]]), torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    returns, mask = torch.tensor([[2.0, 0.0, 1.0, -9.0]]), torch.tensor([[1, 1, 1, 0]]).bool()
    loss, share = clipped_value_loss(values, old, returns, mask, clip=None)
    assert_close(loss, torch.tensor(0.36))
    assert_close(share, torch.tensor(0.0))


def test_value_gradient() -> None:
    # d 0.5 (V - R)^2 / dV = V - R = -1 where the plain error is the larger; 0 where the clipped one holds the value.
    values = torch.tensor([[0.0, 1.0]], requires_grad=True)
    old, returns = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 2.0]])
    clipped_value_loss(values, old, returns, torch.ones(1, 2).bool(), clip=0.2)[0].backward()
    assert_close(values.grad, torch.tensor([[-1.0 / 2, 0.0]]))


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.99])
def test_the_ratio_is_new_over_old(probability: float) -> None:
    # One token that became e^0.1 times as likely, A = 1: -e^0.1, not -e^-0.1.
    old = torch.tensor([[log(probability)]])
    loss = clipped_policy_loss(old + 0.1, old, torch.ones(1, 1), torch.ones(1, 1).bool(), clip=0.2)
    assert_close(loss, torch.tensor(-exp(0.1)))

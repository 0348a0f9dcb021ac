"""GAE over policy tokens, group-relative advantages and whitening: hand-computed, and against their definitions."""

from collections.abc import Callable
from math import inf, isnan, nan, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from trl.trainer.utils import nanstd

from multiattempt_trl.training.advantages import explained_variance, gae, group_relative, returns_to_go, whiten

Row = list[float]


def run_gae(rewards: Row, values: Row, mask: list[int], gamma: float, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`gae` on one row in float64."""
    row = torch.tensor([rewards], dtype=torch.float64), torch.tensor([values], dtype=torch.float64)
    advantages, returns = gae(*row, torch.tensor([mask]).bool(), gamma, lam)
    return advantages[0], returns[0]


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- GAE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [(100.0, -7.0), (nan, nan), (inf, -inf), (0.0, 0.0)])
def test_two_attempts_with_feedback_between(junk: tuple[float, float]) -> None:
    # gamma 0.9, lambda 0.5, so gamma * lambda = 0.45. Policy tokens are 0, 1 and 4.
    #   delta_4 = 1 - 0.6            = 0.4     A_4 = 0.4                        R_4 = 0.4 + 0.6   = 1.0
    #   delta_1 = 0.9 * 0.6 - 0.4    = 0.14    A_1 = 0.14 + 0.45 * 0.4  = 0.32  R_1 = 0.32 + 0.4  = 0.72
    #   delta_0 = 0.9 * 0.4 - 0.2    = 0.16    A_0 = 0.16 + 0.45 * 0.32 = 0.304 R_0 = 0.304 + 0.2 = 0.504
    advantages, returns = run_gae([0, 0, 0, 0, 1], [0.2, 0.4, *junk, 0.6], [1, 1, 0, 0, 1], 0.9, 0.5)
    assert_close(advantages, row(0.304, 0.32, 0, 0, 0.4))
    assert_close(returns, row(0.504, 0.72, 0, 0, 1.0))


def test_a_reward_on_each_attempt() -> None:
    # The same with -1 paid at the end of attempt 1 (credit "improvement"):
    #   delta_1 = -1 + 0.9 * 0.6 - 0.4 = -0.86   A_1 = -0.86 + 0.45 * 0.4  = -0.68
    #                                            A_0 = 0.16 + 0.45 * -0.68 = -0.146
    advantages, _ = run_gae([0, -1, 0, 0, 1], [0.2, 0.4, nan, nan, 0.6], [1, 1, 0, 0, 1], 0.9, 0.5)
    assert_close(advantages, row(-0.146, -0.68, 0, 0, 0.4))


def test_nothing_counts_after_an_end() -> None:
    # The same with -0.5 paid at the end of attempt 1, after which nothing counts (credit "own"):
    #   delta_1 = -0.5 - 0.4 = -0.9   A_1 = -0.9                          R_1 = -0.5
    #                                 A_0 = 0.16 + 0.45 * -0.9 = -0.245   R_0 = -0.045
    rewards, values = torch.tensor([[0, -0.5, 0, 0, 1.0]]), torch.tensor([[0.2, 0.4, nan, nan, 0.6]])
    policy_mask, ends = torch.tensor([[1, 1, 0, 0, 1]]).bool(), torch.tensor([[0, 1, 0, 0, 1]]).bool()
    advantages, returns = gae(rewards, values, policy_mask, 0.9, 0.5, ends)
    torch.testing.assert_close(advantages, torch.tensor([[-0.245, -0.9, 0, 0, 0.4]]))
    torch.testing.assert_close(returns, torch.tensor([[-0.045, -0.5, 0, 0, 1]]))


def test_empty_feedback() -> None:
    advantages, returns = run_gae([0, 0, 1], [0.2, 0.4, 0.6], [1, 1, 1], 0.9, 0.5)
    assert_close(advantages, row(0.304, 0.32, 0.4))
    assert_close(returns, row(0.504, 0.72, 1.0))


def test_the_papers_gamma_and_lambda() -> None:
    # gamma 1, lambda 0.99: A_2 = -0.5 - 0.2 = -0.7; A_0 = (0.2 - 0.1) + 0.99 * -0.7 = -0.593.
    advantages, _ = run_gae([0, 0, -0.5], [0.1, nan, 0.2], [1, 0, 1], 1.0, 0.99)
    assert_close(advantages, row(-0.593, 0, -0.7))


def test_lambda_one_is_the_return_minus_the_value_and_lambda_zero_one_step() -> None:
    rewards, values, mask = [0, -1, 0, 0, 1], [0.2, 0.4, nan, nan, 0.6], [1, 1, 0, 0, 1]
    # lambda 1, gamma 0.5. Returns: 1; -1 + 0.5 * 1 = -0.5; 0.5 * -0.5 = -0.25.
    advantages, returns = run_gae(rewards, values, mask, 0.5, 1.0)
    assert_close(returns, row(-0.25, -0.5, 0, 0, 1))
    assert_close(advantages, row(-0.25 - 0.2, -0.5 - 0.4, 0, 0, 1 - 0.6))
    # lambda 0: the deltas. 0.5 * 0.4 - 0.2 = 0; -1 + 0.5 * 0.6 - 0.4 = -1.1; 1 - 0.6 = 0.4.
    assert_close(run_gae(rewards, values, mask, 0.5, 0.0)[0], row(0, -1.1, 0, 0, 0.4))


def test_rows_do_not_touch_each_other() -> None:
    # Row 1 starts later, ends earlier (padding on both sides) and is negated: its advantages are, too.
    rewards = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, -1, 0], [0, 0, 0, 0, 0]], dtype=torch.float64)
    values = torch.tensor([[0.2, 0.4, 9, nan, 0.6], [inf, -0.2, -0.4, -0.6, nan], [nan] * 5], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0], [0] * 5]).bool()
    advantages, returns = gae(rewards, values, mask, 0.9, 0.5)
    assert_close(advantages[0], row(0.304, 0.32, 0, 0, 0.4))
    assert_close(advantages[1], row(0, -0.304, -0.32, -0.4, 0))
    assert_close(returns[1], row(0, -0.504, -0.72, -1.0, 0))
    assert_close(advantages[2], row(0, 0, 0, 0, 0))
    assert_close(returns[2], row(0, 0, 0, 0, 0))


@pytest.mark.parametrize("lost", [1.0, -1e-9, nan, inf])
@pytest.mark.parametrize("position", [1, 3])  # feedback, and the padding after the row
def test_a_reward_where_it_would_be_lost(lost: float, position: int) -> None:
    rewards = [0.0, 0.0, 1.0, 0.0]
    rewards[position] = lost
    with pytest.raises(ValueError, match="a reward stands on a token that the policy did not sample"):
        run_gae(rewards, [0.0] * 4, [1, 0, 1, 0], 1.0, 0.99)


def stepping_across(rewards: Row, values: Row, gamma: float, lam: float) -> Row:
    """What this project must not do: the textbook recurrence over every token, feedback included."""
    advantages, following, later = [0.0] * len(values), 0.0, 0.0
    for t in reversed(range(len(values))):
        following = rewards[t] + gamma * later - values[t] + gamma * lam * following
        advantages[t], later = following, values[t]
    return advantages


@pytest.mark.parametrize("feedback", [0, 1, 30, 300])
@pytest.mark.parametrize("junk", [0.0, 0.2, -3.0])
def test_the_length_of_the_feedback_does_not_matter(feedback: int, junk: float) -> None:
    # Field notes, trap 1. One token fails (V = -0.1), one solves (V = 0.2), lambda 0.99.
    #   A_last = 1 - 0.2 = 0.8;  A_0 = (0.2 + 0.1) + 0.99 * 0.8 = 1.092, whatever stands between.
    rewards, values = [0.0] * (feedback + 1) + [1.0], [-0.1, *[junk] * feedback, 0.2]
    advantages, _ = run_gae(rewards, values, [1, *[0] * feedback, 1], 1.0, 0.99)
    assert_close(advantages, row(1.092, *[0] * feedback, 0.8))


def test_stepping_across_feedback_would_give_other_numbers() -> None:
    # 30 feedback tokens of the next attempt's value 0.2: 0.3 + 0.99 ** 31 * 0.8, where 0.99 ** 31 = 0.7323034.
    across = stepping_across([0.0] * 31 + [1.0], [-0.1] + [0.2] * 31, 1.0, 0.99)
    assert across[0] == pytest.approx(0.3 + 0.7323033696543974 * 0.8)  # 0.886 in the place of 1.092
    # At lambda 0.95 and with a late first value of 0.6 even the sign is lost: 0.2 - 0.6 = -0.4, and
    #   stepping over: -0.4 + 0.95 * 0.8 = +0.36;  across: -0.4 + 0.95 ** 31 * 0.8 = -0.4 + 0.2039... * 0.8 = -0.237.
    across = stepping_across([0.0] * 31 + [1.0], [0.6] + [0.2] * 31, 1.0, 0.95)
    over, _ = run_gae([0.0] * 31 + [1.0], [0.6] + [0.2] * 31, [1] + [0] * 30 + [1], 1.0, 0.95)
    assert across[0] == pytest.approx(-0.4 + 0.95**31 * 0.8)
    assert across[0] < -0.2
    assert over[0].item() == pytest.approx(0.36)


NUMBERS = st.floats(-3, 3, width=32)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Row, Row, list[int]]:
    """Rewards (0 where masked), values (junk where masked) and mask."""
    mask = draw(st.lists(st.integers(0, 1), min_size=1, max_size=30))
    rewards = [draw(NUMBERS) if mine else 0.0 for mine in mask]
    values = [draw(NUMBERS if mine else NUMBERS | st.sampled_from([nan, inf, -inf, 1e30])) for mine in mask]
    return rewards, values, mask


@settings(deadline=None)
@given(rows(), st.floats(0, 1), st.floats(0, 1))
def test_equals_the_definition(numbers: tuple[Row, Row, list[int]], gamma: float, lam: float) -> None:
    """A_i = sum over k >= i of (gamma * lam) ** (k - i) * delta_k, i and k counting policy tokens only: O(T^2)."""
    rewards, values, mask = numbers
    mine = [t for t, sampled in enumerate(mask) if sampled]
    r, v = [rewards[t] for t in mine], [values[t] for t in mine] + [0.0]
    deltas = [r[k] + gamma * v[k + 1] - v[k] for k in range(len(mine))]
    expected_advantages, expected_returns = [0.0] * len(mask), [0.0] * len(mask)
    for i, t in enumerate(mine):
        expected_advantages[t] = sum((gamma * lam) ** (k - i) * deltas[k] for k in range(i, len(mine)))
        expected_returns[t] = expected_advantages[t] + v[i]

    advantages, returns = run_gae(rewards, values, mask, gamma, lam)
    assert_close(advantages, row(*expected_advantages))
    assert_close(returns, row(*expected_returns))


# --- group-relative ------------------------------------------------------------------------------------------------


def test_returns_to_go() -> None:
    # Row 0: -1 + 0.5 + 1.5 = 1, 0.5 + 1.5 = 2, 1.5.
    prices = torch.tensor([[-1.0, 0.5, 1.5], [0.0, -0.5, 0.0]])
    assert_close(returns_to_go(prices), torch.tensor([[1.0, 2.0, 1.5], [-0.5, -0.5, 0.0]]))


# Two questions, three samples each, at most two attempts. What stands on unreached attempts (99) is junk.
RETURNS = torch.tensor([[1.0, 99.0], [-0.5, -0.5], [1.0, 1.0], [1.0, 99.0], [1.0, 99.0], [-1.0, -1.0]])
REACHED = torch.tensor([[1, 0], [1, 1], [1, 1], [1, 0], [1, 0], [1, 1]]).bool()
# Question 1, attempt 1: mean (1 - 0.5 + 1) / 3 = 0.5.  Attempt 2: mean (-0.5 + 1) / 2 = 0.25 of the two that reach it.
# Question 2, attempt 1: mean (1 + 1 - 1) / 3 = 1/3.    Attempt 2: one sample alone, nothing to compare with.
CENTRED = torch.tensor([[0.5, 0.0], [-1.0, -0.75], [0.5, 0.75], [2 / 3, 0.0], [2 / 3, 0.0], [-4 / 3, 0.0]])


def test_group_relative() -> None:
    assert_close(group_relative(RETURNS, REACHED, 3, scale=False), CENTRED)


def test_group_relative_scaled() -> None:
    # Sample standard deviations: sqrt((0.25 + 1 + 0.25) / 2) = sqrt(0.75), sqrt((0.5625 + 0.5625) / 1) = sqrt(1.125),
    # sqrt((4/9 + 4/9 + 16/9) / 2) = sqrt(4/3). The lone sibling has 0 / (0 + 1e-4) = 0.
    std = torch.tensor([[sqrt(0.75), sqrt(1.125)]] * 3 + [[sqrt(4 / 3), 1.0]] * 3)
    assert_close(group_relative(RETURNS, REACHED, 3, scale=True), CENTRED / (std + 1e-4))


@pytest.mark.parametrize("scale", [True, False])
def test_siblings_that_agree_and_lone_ones_get_nothing(scale: bool) -> None:
    same = group_relative(torch.tensor([[1.0], [1.0]]), torch.ones(2, 1).bool(), 2, scale=scale)
    assert_close(same, torch.zeros(2, 1))
    lone = group_relative(torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1).bool(), 1, scale=scale)
    assert_close(lone, torch.zeros(2, 1))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("junk", [0.0, 1e30, nan, inf])
def test_unreached_attempts_do_not_leak(scale: bool, junk: float) -> None:
    returns = RETURNS.masked_fill(~REACHED, junk)
    assert_close(group_relative(returns, REACHED, 3, scale=scale), group_relative(RETURNS, REACHED, 3, scale=scale))


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=5), st.booleans())
def test_one_attempt_is_trls_own_baseline(groups: list[list[float]], scale: bool) -> None:
    rewards = torch.tensor(groups, dtype=torch.float64)
    # GRPOTrainer._generate_and_score_completions, scale_rewards "group" or "none".
    expected = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
    if scale:
        expected = expected / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)
    ours = group_relative(rewards.reshape(-1, 1), torch.ones(rewards.numel(), 1).bool(), 4, scale=scale)
    assert_close(ours, expected.reshape(-1, 1))


# --- whitening and explained variance ------------------------------------------------------------------------------


def test_whiten() -> None:
    # Mean (1 + 2 + 3 + 6) / 4 = 3; squares 4 + 1 + 0 + 9 = 14; standard deviation sqrt(14 / 4) = sqrt(3.5).
    values = torch.tensor([[1.0, 2.0, nan], [inf, 3.0, 6.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
    expected = torch.tensor([[-2.0, -1.0, 0.0], [0.0, 0.0, 3.0]]) / sqrt(3.5)
    assert_close(whiten(values, mask), expected)


def test_whiten_over_two_processes() -> None:
    # The same four numbers, two on each process. Each says its own count, sum and squared deviations from the global
    # mean 3, and hears the global ones: 4, 12 and 14.
    said: list[float] = []

    def other_process(globals_: list[float]) -> Callable[[torch.Tensor], torch.Tensor]:
        left = iter(globals_)

        def reduce_sum(mine: torch.Tensor) -> torch.Tensor:
            said.append(mine.item())
            return torch.tensor(next(left))

        return reduce_sum

    mask = torch.tensor([[1, 1, 0]]).bool()
    first = whiten(torch.tensor([[1.0, 2.0, 50.0]]), mask, other_process([4.0, 12.0, 14.0]))
    second = whiten(torch.tensor([[3.0, 6.0, 50.0]]), mask, other_process([4.0, 12.0, 14.0]))
    assert_close(first, torch.tensor([[-2.0, -1.0, 0.0]]) / sqrt(3.5))
    assert_close(second, torch.tensor([[0.0, 3.0, 0.0]]) / sqrt(3.5))
    assert said == pytest.approx([2, 3, 4 + 1, 2, 9, 0 + 9])


def test_whiten_nothing_and_constants() -> None:
    assert_close(whiten(torch.tensor([[1.0, nan]]), torch.zeros(1, 2).bool()), torch.zeros(1, 2))
    assert_close(whiten(torch.tensor([[2.0, 2.0]]), torch.ones(1, 2).bool()), torch.zeros(1, 2))


def test_explained_variance() -> None:
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    returns = torch.tensor([[1.0, 2.0, 3.0, nan]])
    # Var(R) = 2/3. R - V = 0, 0, 1: variance 1/3 - 1/9 = 2/9. 1 - (2/9) / (2/3) = 2/3.
    assert explained_variance(torch.tensor([[1.0, 2.0, 2.0, inf]]), returns, mask) == pytest.approx(2 / 3)
    # Perfect up to a constant; the mean alone; the wrong way round: R - V = 2, 4, 6, variance 8/3, 1 - 4.
    assert explained_variance(returns + 5, returns, mask) == pytest.approx(1)
    assert explained_variance(torch.full((1, 4), 7.0), returns, mask) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert isnan(explained_variance(returns, torch.ones(1, 4), mask))

"""Advantages: GAE over policy tokens, and the group-relative kind per attempt. Pure tensor functions."""

from collections.abc import Callable

import torch

ReduceSum = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over the processes; with one process, the tensor itself."""


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    policy_mask: torch.Tensor,
    gamma: float,
    lam: float,
    ends: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Generalised advantage estimation that steps over feedback (Schulman et al. 2016; published code of the paper).

    With t' the next policy token after t:

        delta_t = r_t + gamma * V_t' - V_t
        A_t     = delta_t + gamma * lam * A_t'
        R_t     = A_t + V_t

    Feedback and padding are not steps of the policy: neither a discount nor a lambda is applied across them, nothing
    that stands on them is read (NaN included), and they get 0.

    Args:
        rewards: (B, T), on policy tokens.
        values: (B, T), V of the state in which the token at t was sampled.
        policy_mask: (B, T), True where the policy sampled the token.
        ends: (B, T), True on policy tokens after which nothing counts: V_t' and A_t' are 0 there. By default the last
            of each row alone.

    Returns: advantages (B, T), returns (B, T).
    Raises `ValueError` where a reward stands on a token that is not the policy's: it would be lost.
    """
    if bool((rewards.masked_fill(policy_mask, 0.0) != 0).any()):
        raise ValueError("a reward stands on a token that the policy did not sample, where GAE would lose it")
    advantages = torch.zeros_like(values)
    next_advantage = values.new_zeros(values.size(0))
    next_value = values.new_zeros(values.size(0))
    for t in reversed(range(values.size(1))):
        mine = policy_mask[:, t]
        if ends is not None:
            next_advantage, next_value = next_advantage * ~ends[:, t], next_value * ~ends[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mine, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(mine, values[:, t], next_value)
        advantages[:, t] = torch.where(mine, next_advantage, 0.0)
    return advantages, torch.where(policy_mask, advantages + values, 0.0)


def returns_to_go(prices: torch.Tensor) -> torch.Tensor:
    """(B, K) -> (B, K): for each attempt the sum of its price and all later ones."""
    return prices.flip(1).cumsum(1).flip(1)


def group_relative(returns: torch.Tensor, reached: torch.Tensor, group_size: int, *, scale: bool) -> torch.Tensor:
    """Advantage of each attempt over its siblings': the return minus the mean over those that reached this attempt.

    With K = 1 this is GRPO's own baseline (Shao et al. 2024, and TRL's with `scale_rewards` "group" or "none").

    Args:
        returns: (B, K), return of each attempt; rows of a group are adjacent.
        reached: (B, K), True where the episode has attempt k.
        group_size: samples per question.
        scale: divide by the group's standard deviation (Bessel's correction, plus 1e-4, as TRL).

    Returns: (B, K), 0 where an attempt was not reached or has no sibling.
    """
    grouped = returns.masked_fill(~reached, 0.0).reshape(-1, group_size, returns.size(1))  # (groups, G, K)
    mask = reached.reshape(grouped.shape)
    count = mask.sum(1, keepdim=True)
    centred = (grouped - grouped.sum(1, keepdim=True) / count.clamp(min=1)) * mask
    if scale:
        variance = (centred**2).sum(1, keepdim=True) / (count - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-4)
    return centred.flatten(0, 1)


def whiten(values: torch.Tensor, mask: torch.Tensor, reduce_sum: ReduceSum = lambda x: x) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over all masked values of the rollout batch; 0 elsewhere.

    Args:
        values: (B, T).
        mask: (B, T), True where a value counts.
        reduce_sum: sums a tensor over the processes, so that the moments are of the global batch.
    """
    mean, variance = moments(values, mask, reduce_sum)
    return (values.masked_fill(~mask, 0.0) - mean) * mask / (variance.sqrt() + 1e-8)


def moments(
    values: torch.Tensor, mask: torch.Tensor, reduce_sum: ReduceSum = lambda x: x
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance, each of shape (), over all masked values of the rollout batch; 0 where there is none.

    Args: as `whiten`.
    """
    count = reduce_sum(mask.sum().to(values.dtype)).clamp(min=1)
    kept = values.masked_fill(~mask, 0.0)
    mean = reduce_sum(kept.sum()) / count
    centred = (kept - mean) * mask
    return mean, reduce_sum((centred**2).sum()) / count


def explained_variance(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, reduce_sum: ReduceSum = lambda x: x
) -> float:
    """1 - Var(R - V) / Var(R) over masked positions: 1 is a perfect critic, 0 one that knows the mean alone.

    NaN where all returns are equal.
    """
    _, variance = moments(returns, mask, reduce_sum)
    _, residual = moments(returns - values, mask, reduce_sum)
    return float(1 - residual / variance) if variance > 0 else float("nan")

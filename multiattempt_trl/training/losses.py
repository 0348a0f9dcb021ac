"""PPO's two clipped losses as pure tensor functions (Schulman et al. 2017).

The value loss trains the critic. The policy loss states in ten lines what TRL's `GRPOTrainer._compute_loss` computes
for `loss_type="bnpo"`; a contract test holds the two together, so a change in TRL is noticed.
"""

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over masked positions of a (B, T) tensor (the token mean of the paper); 0 where there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def clipped_policy_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip: float,
    ref_logps: torch.Tensor | None = None,
    beta: float = 0.0,
) -> torch.Tensor:
    """-mean(min(rho * A, clip(rho, 1 - eps, 1 + eps) * A)) + beta * mean(k3), with rho = exp(logp - old_logp).

    k3 = exp(ref - logp) - (ref - logp) - 1 is the KL estimate that stands in the loss (paper: coefficient 0.01).

    Args: all tensors (B, T); mask is True on policy tokens.
    """
    ratio = torch.exp(logps - old_logps)
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if ref_logps is not None:
        log_ratio = ref_logps - logps
        loss = loss + beta * (torch.exp(log_ratio) - log_ratio - 1)
    return masked_mean(loss, mask)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, *, clip: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """0.5 * mean(max((V - R)^2, (V_clip - R)^2)), with V_clip within `clip` of the value at rollout time.

    Args:
        values, old_values, returns: (B, T).
        mask: (B, T), True on policy tokens.
        clip: in units of the value; None for the plain squared error.

    Returns: the loss, and the share of positions where the clipped term was the larger one.
    """
    error = (values - returns) ** 2
    if clip is None:
        return 0.5 * masked_mean(error, mask), error.new_zeros(())
    clipped = (old_values + (values - old_values).clamp(-clip, clip) - returns) ** 2
    return 0.5 * masked_mean(torch.max(error, clipped), mask), masked_mean((clipped > error).to(error.dtype), mask)

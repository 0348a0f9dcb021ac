"""Scores dialogues of similar length together, without the padding that TRL would compute along."""

from typing import Any

import torch

from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.sequences import forward_by_length


class ScoringByLength:
    """Mixed into `GRPOTrainer`: with `forward_batch_size` the same numbers from shorter rows."""

    args: MultiAttemptGRPOConfig

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        score: Any = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        rows = self.args.forward_batch_size
        if rows is None or kwargs.get("compute_aux_loss"):
            whole: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = score(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
            return whole

        def forward(ids: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
            logps, entropies, _ = score(model, ids, mask, width, None, compute_entropy, **kwargs)
            return torch.stack([logps, entropies] if compute_entropy else [logps], dim=-1)

        both = forward_by_length(forward, input_ids, attention_mask, logits_to_keep, rows)
        return both[..., 0], both[..., 1] if compute_entropy else None, None

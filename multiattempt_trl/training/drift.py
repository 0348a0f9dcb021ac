"""Does the sampler sample from the policy? Its log-probabilities against those that are trained on."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from multiattempt_trl.training.sequences import TokenSequence, collate

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""Mean distance that rounding explains, by the type that is computed in; for a finer one, float32's, in which
log-probabilities are told. A cache of old weights is off by 1."""


class DriftCheck:
    """Warns with numbers where rollouts of a run were not sampled from the policy that is trained on them.

    Two rollouts for training are checked: the first one, and the first one after an update, when keys and values of
    old weights would show.

    Args:
        reduce: (tensor, "sum") -> the sum over all processes.
    """

    def __init__(self, reduce: Callable[[torch.Tensor, str], torch.Tensor]) -> None:
        self.checked_at: list[int] = []
        """After how many updates."""
        self.reduce = reduce

    def due(self, step: int) -> bool:
        """Whether a rollout after so many updates is to be checked."""
        return len(self.checked_at) < 2 and step > max(self.checked_at, default=-1)

    def __call__(
        self, sequences: Sequence[TokenSequence], logps: torch.Tensor, dtype: torch.dtype, step: int
    ) -> dict[str, float]:
        """The mean and the largest distance over the policy tokens of a rollout.

        Args:
            logps: (B, T), of the very tokens, by the policy as it is trained.
            dtype: what the passes compute in.
            step: how many updates came before it.
        """
        self.checked_at.append(step)
        told = [[0.0 if one is None else one for one in row.sampled_logprobs] for row in sequences]
        asked = [[one is not None for one in row.sampled_logprobs] for row in sequences]
        sampled = collate(told, logps.size(1), torch.float32).to(logps.device)
        distance = (sampled - logps.float()).abs()[collate(asked, logps.size(1), torch.bool).to(logps.device)]
        found = torch.stack([distance.sum(), torch.tensor(float(distance.numel()), device=logps.device)])
        total, tokens = self.reduce(found, "sum").tolist()
        # No process needs to have a token, and the largest distance of all has no sum.
        mean, largest = total / max(tokens, 1), max(distance.tolist(), default=0.0)
        tolerance = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
        if not mean <= tolerance:  # nor is what is no number
            logger.warning(
                "what was sampled is not what is trained on: over %d tokens the sampler's log-probabilities are %.3g "
                "away from the policy's on average, up to %.3g here; rounding explains %g. Gradients will be biased. "
                "Generate in lock step, or see that the engine has the policy's weights and type, and tells "
                "log-probabilities after temperature (vLLM: --logprobs-mode processed_logprobs)",
                tokens,
                mean,
                largest,
                tolerance,
            )
        return {"sampling/drift_mean": mean, "sampling/drift_max": largest}


def teacher_forced(trainer: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, T): log-probabilities of a rollout's completions by the policy, as TRL computes the old ones."""
    if "old_per_token_logps" in batch:
        return batch["old_per_token_logps"]
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    device = input_ids.device
    # A run that is resumed is checked anew: what an adapter's dropout draws here must not move its random state.
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            input_ids,
            attention_mask,
            batch["completion_ids"].size(1),
            batch_size=trainer.args.per_device_train_batch_size,
        )
    policy_logps: torch.Tensor = logps
    return policy_logps

"""Numbers of a rollout over all processes: how much was sampled, and how far the advantages are apart."""

from collections.abc import Sequence
from typing import Any

import torch

from multiattempt_trl.dialogue.episode import Episode
from multiattempt_trl.training.advantages import moments
from multiattempt_trl.training.callbacks import EpisodeCounter


class Totals:
    """Mixed into the trainers."""

    accelerator: Any
    model: Any
    _metrics: Any
    _episode_counter: EpisodeCounter

    def _count(self, episodes: Sequence[Episode]) -> None:
        """Over all processes, so that the counts in a checkpoint are the run's."""
        mine = torch.tensor([len(episodes), sum(episode.sampled_tokens for episode in episodes)])
        everyones = self._sum(mine.to(self.accelerator.device)).tolist()
        self._episode_counter.add(episodes=everyones[0], sampled_tokens=everyones[1])

    def _log_spread(self, advantages: torch.Tensor, policy_mask: torch.Tensor) -> None:
        """Logs their standard deviation over policy tokens; both arguments (B, T)."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["advantage/std"].append(moments(advantages, policy_mask, self._sum)[1].sqrt().item())

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.accelerator.reduce(value, "sum")
        return total

"""`multiattempt ppo`: the paper's method."""

from multiattempt_trl.cli.train import run
from multiattempt_trl.training.configs import MultiAttemptPPOConfig
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer


def main(argv: list[str]) -> None:
    """Trains with PPO and a critic."""
    run("ppo", MultiAttemptPPOConfig, MultiAttemptPPOTrainer, argv)

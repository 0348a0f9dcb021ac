"""`multiattempt grpo`: the same task with a group's baseline in place of a critic."""

from multiattempt_trl.cli.train import run
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer


def main(argv: list[str]) -> None:
    """Trains with GRPO."""
    run("grpo", MultiAttemptGRPOConfig, MultiAttemptGRPOTrainer, argv)

"""What a trained model's card says: which paper the method is from, and how this model was trained by it."""

import textwrap
from pathlib import Path

from multiattempt_trl.dialogue.prompts import PromptPreset
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig

PAPER = {
    "title": "Learning from Failures in Multi-Attempt Reinforcement Learning",
    "id": "2503.04808",
    "citation": textwrap.dedent("""\
        @article{chung2025learning,
            title   = {{Learning from Failures in Multi-Attempt Reinforcement Learning}},
            author  = {Stephen Chung and Wenyu Du and Jie Fu},
            year    = 2025,
            journal = {arXiv preprint arXiv:2503.04808},
        }"""),
}
"""In the form that TRL's card template reads."""

_BEFORE = "### Framework versions"


def describe_training(folder: Path, args: MultiAttemptGRPOConfig, preset: PromptPreset) -> None:
    """Adds a sentence to the card that TRL wrote to `folder`/README.md."""
    card = folder / "README.md"
    sentence = (
        f"Trained with up to {args.max_attempts} attempts per question (prompt preset `{preset.name}`, feedback "
        f"`{args.feedback}`, credit `{args.credit}`) by `multiattempt_trl`."
    )
    text = card.read_text(encoding="utf-8")
    # What TRL's template says of a model that came from a folder, which has no page on the Hub.
    text = text.replace("a fine-tuned version of [None](https://huggingface.co/None)", "a fine-tuned model")
    card.write_text(text.replace(_BEFORE, f"{sentence}\n\n{_BEFORE}", 1), encoding="utf-8")

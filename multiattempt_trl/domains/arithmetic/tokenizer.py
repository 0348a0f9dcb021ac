r"""The tokenizer: every phrase of the templates is one token, so that a two-turn dialogue takes about 33 tokens."""

import re

from transformers import PreTrainedTokenizerFast

from multiattempt_trl.dialogue.prompts import PromptPreset
from multiattempt_trl.domains.arithmetic.questions import ANSWER
from multiattempt_trl.domains.small_model import train_tokenizer


def build_tokenizer(preset: PromptPreset) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the preset's phrases."""
    return train_tokenizer(phrases(preset))


def phrases(preset: PromptPreset) -> list[str]:
    """Every stretch of a dialogue between special tokens, prompts and answers apart as they are tokenised apart."""
    problems = [
        "What is the greatest common divisor of 1 and 2?",
        "What is the remainder when 1 is divided by 2?",
    ]
    said = []
    for problem in problems:
        for attempts in (1, 2):
            messages = preset.first_messages(problem, attempts)
            messages.append(preset.feedback_message("binary", problem, attempts))
            said += [f"{message['role']}\n{message['content']}" for message in messages]
    pieces = [*said, "assistant\n", "\n", ANSWER.format(answer=1)]
    return sorted({piece for text in pieces for piece in re.split(r"\d", text) if piece})

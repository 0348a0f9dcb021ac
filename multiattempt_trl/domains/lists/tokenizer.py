"""The tokenizer: phrases, operations and digits are one token each, so that a two-turn dialogue takes about 45."""

import re

from transformers import PreTrainedTokenizerFast

from multiattempt_trl.dialogue.prompts import PromptPreset
from multiattempt_trl.dialogue.remarks import FIRST_TEST
from multiattempt_trl.domains.lists.grading import TOO_MUCH
from multiattempt_trl.domains.lists.language import BAR, NUMBERED, PLAIN
from multiattempt_trl.domains.lists.suites import NOTHING
from multiattempt_trl.domains.small_model import train_tokenizer

OPEN, CLOSE = "```\n", "\n```"
ALONE = rf" \| |```\n|\n```(?!\n)|{NOTHING}|{TOO_MUCH}"
"""What stands between operations, or in the place of digits: never merged with what is beside it."""


def build_tokenizer(preset: PromptPreset) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the preset's phrases and the names of the operations."""
    return train_tokenizer(phrases(preset), ALONE)


def phrases(preset: PromptPreset) -> list[str]:
    """Every stretch of a dialogue between special tokens, digits and what stands alone."""
    said = []
    for attempts in (1, 2):
        messages = preset.first_messages("Turn 1 into 2.", attempts)
        remarks = {FIRST_TEST: "For 1 it gives 2, not 3."}
        messages += [preset.feedback_message(style, "", attempts, remarks) for style in ("binary", FIRST_TEST)]
        said += [f"{message['role']}\n{message['content']}" for message in messages]
    pieces = [
        *said,
        "assistant\n",
        "\n",
        OPEN,
        CLOSE,
        BAR,
        NOTHING,
        TOO_MUCH,
        *PLAIN,
        *(f"{name} " for name in NUMBERED),
    ]
    return sorted({piece for text in pieces for piece in re.split(r"\d", text) if piece})

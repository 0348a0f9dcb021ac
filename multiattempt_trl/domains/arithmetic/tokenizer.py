r"""The tokenizer: byte-level BPE that knows the task's phrases by heart, in ChatML.

It is trained until every phrase of the templates is one token, while digits stay single, so that a two-turn dialogue
takes about 33 tokens. All bytes are kept: any other text can be written too, at up to one token a byte.
"""

import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from multiattempt_trl.dialogue.prompts import PromptPreset

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without a default system turn. Append-only: no turn is ever rewritten."""

ANSWER = "\\boxed{{{answer}}}"
"""What an answer looks like."""


def build_tokenizer(preset: PromptPreset) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the preset's phrases; takes milliseconds and always gives the same one.

    Load a saved one with `rollout.loading.load_tokenizer`: beside a qwen2 `config.json`, `AutoTokenizer` silently puts
    its own pre-tokenizer into it.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            # Without its regex nothing is split at spaces, so that merges can span a phrase.
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,  # never reached: merging ends when every phrase is one token
        min_frequency=0,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(phrases(preset), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


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

"""The small model of a domain that makes its own: a tokenizer that knows its phrases by heart, and a tiny Qwen2."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without a default system turn. Append-only: no turn is ever rewritten."""


def train_tokenizer(phrases: Iterable[str], alone: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained until every phrase is one token; takes milliseconds and always gives the same one.

    Digits stay single. All bytes are kept: any other text can be written too, at up to one token a byte. Load a saved
    one with `rollout.loading.load_tokenizer`: beside a qwen2 `config.json`, `AutoTokenizer` silently puts its own
    pre-tokenizer into it.

    Args:
        alone: a regular expression for text that is never merged with what stands beside it.
    """
    bpe = Tokenizer(models.BPE())
    splits = [] if alone is None else [pre_tokenizers.Split(Regex(alone), "isolated")]
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *splits,
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
    bpe.train_from_iterator(phrases, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_config(tokenizer: PreTrainedTokenizerBase, context: int = 512) -> Qwen2Config:
    """The architecture for this tokenizer's vocabulary, special tokens included: about 133k parameters, small enough
    to train on one CPU thread."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.15,  # the usual 0.02 learns far slower at this width
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_model(tokenizer: PreTrainedTokenizerBase, context: int = 512) -> Qwen2ForCausalLM:
    """An untrained model for this tokenizer; its weights follow from torch's global seed."""
    model = Qwen2ForCausalLM(build_config(tokenizer, context))
    generation = model.generation_config
    generation.bos_token_id = None
    generation.eos_token_id, generation.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model

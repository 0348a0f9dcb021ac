"""The model: a Qwen2 of about 133k parameters, small enough to train on one CPU thread."""

from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM


def build_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """The architecture for this tokenizer's vocabulary, special tokens included."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.15,  # the usual 0.02 learns far slower at this width
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """An untrained model for this tokenizer; its weights follow from torch's global seed."""
    model = Qwen2ForCausalLM(build_config(tokenizer))
    generation = model.generation_config
    generation.bos_token_id = None
    generation.eos_token_id, generation.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model

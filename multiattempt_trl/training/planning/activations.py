"""Bytes that passes over dialogues take on one GPU, beside weights and optimizer: pure formulae for Llama-like blocks.

They follow what transformers' Qwen2 keeps under sdpa attention, and the chunked output layer of TRL
(`trl/kernels/chunked_logprob.py`), as arXiv 2205.05198 does for GPT (its section 4.1). `tests/test_plan.py` compares
them with the tensors that autograd keeps on the CPU.
"""

from dataclasses import dataclass

from multiattempt_trl.training.planning.model_size import AdapterSize, ModelSize

HEAD_TOKENS, HEAD_COLUMNS = 4096, 32_768
"""The tile of logits that TRL holds: `TOKEN_CHUNK_SIZE` tokens, `_CHUNKED_LOGPROB_CHUNK_SIZE` of the vocabulary."""
SAMPLING_BYTES = 16
"""Per logit of a token about to be sampled: bf16, float32, a copy, probabilities (transformers' `_sample`)."""
DRAWING_BYTES = 24
"""The same without barriers: bf16, float32, shifted, its powers, and their sums in double precision (`draw`)."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes per number."""

    weights: int
    """4 with `dtype: float32`, 2 for bf16 weights and under a DeepSpeed engine in bf16."""
    compute: int
    """Of what goes into a matrix product: 2 where the passes run in bf16."""

    @property
    def casts(self) -> bool:
        """Whether autocast makes copies of the weights."""
        return self.compute < self.weights


def layer_bytes(
    model: ModelSize, rows: int, width: int, precision: Precision, adapter: AdapterSize | None = None
) -> int:
    """What one block keeps for its backward pass.

    Per token, with D hidden, I intermediate, H query heads of size d, K key heads: inputs of the two norms and their
    normalised form; inputs of the linear layers, under autocast a copy for each; query, key and value, repeated to
    all heads where rows are padded; three numbers per intermediate unit; attention's log-sum-exp. A padded batch also
    keeps its mask, as additive floats, rows x width x width, in every layer.

    With an adapter frozen norms keep less, and each adapted module keeps an input of its own (an upper bound).
    """
    w, c = precision.weights, precision.compute
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    padded = rows > 1
    norms = 2 * model.hidden * 4 + (0 if adapter else 2 * model.hidden * w) + 2 * 4
    if adapter:
        per_layer = adapter.inputs / model.layers
        inputs = per_layer * (c + (1 if adapter.dropout else 0)) + adapter.ranks / model.layers * c
    else:
        inputs = ((5 if precision.casts else 2) * model.hidden + queries + model.intermediate) * c
    attention = (3 * queries if padded else queries + 2 * keys) * c + 4 * model.heads + (c * width if padded else 0)
    return int(rows * width * (norms + inputs + attention + 3 * model.intermediate * c))


def kept_bytes(
    model: ModelSize,
    rows: int,
    width: int,
    precision: Precision,
    *,
    checkpointing: bool,
    adapter: AdapterSize | None = None,
) -> int:
    """What a whole pass keeps for its backward: all blocks, or with checkpointing the input of each (section 5).

    Besides these the last norm and what the head reads, and without checkpointing the bf16 copies of all weights.
    """
    tokens, w = rows * width, precision.weights
    end = tokens * model.hidden * (4 + (0 if adapter else w)) + tokens * (model.hidden * w + 32)
    if checkpointing:
        return tokens * model.hidden * w * model.layers + end
    casts = 2 * model.linear if precision.casts else 0
    return layer_bytes(model, rows, width, precision, adapter) * model.layers + end + casts


def block_backward_bytes(
    model: ModelSize,
    rows: int,
    width: int,
    precision: Precision,
    *,
    checkpointing: bool,
    adapter: AdapterSize | None = None,
) -> int:
    """While one block is differentiated: gradients of its widest tensors, and with checkpointing the block computed
    anew with its copies of the weights."""
    gradients = rows * width * (2 * model.intermediate * precision.compute + 2 * model.hidden * precision.weights)
    if not checkpointing:
        return gradients
    casts = 2 * model.linear // model.layers if precision.casts else 0
    return gradients + casts + layer_bytes(model, rows, width, precision, adapter)


def head_backward_bytes(model: ModelSize, tokens: int, precision: Precision, *, trained: bool) -> int:
    """TRL's output layer, which never holds tokens x vocabulary logits: one tile of them, a tile of weights, float32
    gradients of the tokens' hidden states and, where the matrix is trained, of the whole matrix."""
    if not model.has_head:
        return tokens * model.hidden * precision.weights
    tile = min(tokens, HEAD_TOKENS) * HEAD_COLUMNS * precision.compute
    weights = HEAD_COLUMNS * model.hidden * precision.compute if precision.casts else 0
    hidden = tokens * model.hidden * (4 + precision.weights)
    matrix = model.vocabulary * model.hidden * (4 + (2 if precision.weights == 2 else 0)) if trained else 0
    return tile + weights + hidden + matrix


def forward_bytes(model: ModelSize, rows: int, width: int, precision: Precision) -> int:
    """The widest moment of a pass that keeps nothing: three intermediate tensors or the attention's, and the mask."""
    w, c = precision.weights, precision.compute
    mlp = 3 * model.intermediate * c
    attention = 4 * model.heads * model.head_dim * c + (width * c if rows > 1 else 0)
    mask = width if rows > 1 else 0
    return rows * width * (3 * model.hidden * w + max(mlp, attention) + mask)


def cache_bytes(model: ModelSize, rows: int, width: int, precision: Precision) -> int:
    """Keys and values of a rollout. With float32 weights they are float32, autocast or not: the rotary embedding takes
    the type of the residual stream, and the cache's values that of its keys (transformers' cache_utils.py)."""
    return rows * width * 2 * model.layers * model.kv_heads * model.head_dim * precision.weights

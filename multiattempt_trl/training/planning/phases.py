"""Bytes on each GPU at the moments of a run that take most, as a table of items; no GPU is asked."""

from dataclasses import dataclass

from multiattempt_trl.rollout.paging import KeyValues, Paging
from multiattempt_trl.training.planning.activations import (
    DRAWING_BYTES,
    SAMPLING_BYTES,
    block_backward_bytes,
    cache_bytes,
    forward_bytes,
    head_backward_bytes,
    kept_bytes,
)
from multiattempt_trl.training.planning.memory import Setup, engines, gradient_bytes, optimizer_bytes, weight_bytes
from multiattempt_trl.training.planning.model_size import ModelSize

GIB = 1024**3
REDUCE_BUCKET = 500_000_000
"""Elements of a ZeRO engine's `reduce_bucket_size`: DeepSpeed's default, which accelerate leaves as it is."""
LIVE_PARAMETERS = 1_000_000_000
"""Elements that a ZeRO-3 engine keeps gathered during a pass (`stage3_max_live_parameters`), and casts in one step."""
ROLLOUT_TENSORS = 48
"""Bytes per token of a rollout: ids, masks, advantages, returns, values, log-probabilities."""
ENGINE = "vLLM's engine"
CONTEXT_BYTES, FRAGMENTATION = GIB, 0.06
"""Left free on a card: what CUDA, cuBLAS and NCCL take for themselves, and a share that the allocator cannot use."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A moment, and bytes on each GPU by item."""

    name: str
    items: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.items.values())


def phases(setup: Setup) -> tuple[Phase, ...]:
    """The moments that may be the peak: rollout, scoring, the two updates and the optimizers' steps."""
    held = _held(setup)
    found = [_phase("rollout", held, _rollout(setup)), _phase("scoring", held, _scoring(setup))]
    found.append(_phase("policy update", held, _update(setup, setup.policy)))
    if setup.critic:
        found.append(_phase("critic update", held, _update(setup, setup.critic)))
    found.append(_phase("optimizer step", held, _step(setup)))
    return tuple(found)


def peak(setup: Setup) -> Phase:
    """The moment that takes most."""
    return max(phases(setup), key=lambda phase: phase.total)


def usable(card_bytes: int) -> int:
    """What of a card can be planned with."""
    return int(card_bytes * (1 - FRAGMENTATION)) - CONTEXT_BYTES


def fits(setup: Setup, card_bytes: int) -> bool:
    """Whether the peak stays within what of the card is usable."""
    return peak(setup).total <= usable(card_bytes)


def _held(setup: Setup) -> dict[str, int]:
    """What is there in all phases."""
    items = {"policy weights": weight_bytes(setup, setup.policy)}
    if setup.critic:
        items["critic weights"] = weight_bytes(setup, setup.critic)
    if setup.has_reference and not setup.adapter:
        items["reference weights"] = weight_bytes(setup, setup.policy, frozen=True)
    items["optimizer states"] = sum(optimizer_bytes(setup, model) for model in engines(setup))
    items["rollout's tensors"] = setup.rollout_share * setup.lengths.trained * ROLLOUT_TENSORS
    if setup.vllm_bytes and not setup.vllm_sleeps:
        items[ENGINE] = setup.vllm_bytes
    if buckets := sum(_bucket_bytes(setup, model) for model in engines(setup)):
        items["buckets"] = buckets
    return items


def _bucket_bytes(setup: Setup, model: ModelSize) -> int:
    """DDP holds every gradient once more in its buckets; each ZeRO engine has a buffer of a fixed size."""
    layout = setup.layout
    if layout.engine == "deepspeed" and layout.stage:
        return REDUCE_BUCKET * setup.precision.weights
    if layout.engine == "plain" and layout.processes > 1:
        return setup.trained(model) * setup.trained_bytes
    return 0


def _gathered(setup: Setup, model: ModelSize) -> int:
    """Whole weights that a pass needs beside the shards: ZeRO-3 up to its cap, FSDP two blocks and what is in none."""
    if setup.layout.stage < 3:
        return 0
    if setup.layout.engine == "fsdp":
        return (model.parameters - model.linear + 2 * model.linear // model.layers) * setup.precision.compute
    return min(model.parameters, LIVE_PARAMETERS) * setup.precision.weights


def _casts(setup: Setup, model: ModelSize) -> int:
    """bf16 copies of trained float32 weights that autocast keeps until a pass ends."""
    return 0 if setup.adapter or not setup.precision.casts else 2 * model.linear


def _rollout(setup: Setup) -> dict[str, int]:
    """Reading the longest prompts, or the last token of the longest attempts, whichever takes more.

    vLLM does that in the memory that is its own.
    """
    if setup.vllm_bytes is not None:
        return {ENGINE: setup.vllm_bytes} if setup.vllm_bytes else {}
    model, precision, lengths = setup.policy, setup.precision, setup.lengths
    gathered = _gathered(setup, model)
    if gathered and setup.is_deepspeed and setup.gathers_for_rollout:
        gathered = model.parameters * precision.weights
    head = _casts(setup, model) and 2 * model.vocabulary * model.hidden
    rows = setup.rollout_rows
    if setup.paged_gib is not None:
        items = _paged_rollout(setup, setup.paged_gib)
        items["activations"] += _casts(setup, model) + head
        return items | ({"gathered weights": gathered} if gathered else {})
    cache = cache_bytes(model, rows, lengths.rollout, precision)
    sampling = rows * model.vocabulary * SAMPLING_BYTES
    reading = {
        "KV cache": cache_bytes(model, rows, lengths.last_prompt, precision),
        "activations": forward_bytes(model, rows, lengths.last_prompt, precision) + _casts(setup, model) + head,
        "logits": sampling,
    }
    # The cache grows by copying one layer at a time.
    writing = {"KV cache": cache + cache // model.layers, "activations": _casts(setup, model) + head}
    writing["logits"] = sampling
    items = max(reading, writing, key=lambda moment: sum(moment.values()))
    return items | ({"gathered weights": gathered} if gathered else {})


def _paged_rollout(setup: Setup, memory_gib: float) -> dict[str, int]:
    """Continuous batching: pages in the type of the passes for all dialogues at their caps, or as many as are allowed,
    and a step that reads as many prompt tokens as one may."""
    model, lengths = setup.policy, setup.lengths
    shape = KeyValues(
        layers=model.layers, heads=model.heads, kv_heads=model.kv_heads, head_dim=model.head_dim,
        itemsize=setup.precision.compute,
    )  # fmt: skip
    longest = min(lengths.trained, lengths.context)
    feedback = lengths.feedback // max(lengths.attempts - 1, 1) - lengths.remark
    paging = Paging.of(
        shape, by_row=True, longest=[longest] * setup.rollout_rows, feedback=feedback, memory_gib=memory_gib
    )
    return {
        "KV cache": paging.bytes,
        "activations": forward_bytes(model, 1, paging.step_tokens, setup.precision),
        "logits": setup.rollout_rows * model.vocabulary * DRAWING_BYTES,
    }


def _scoring(setup: Setup) -> dict[str, int]:
    """The reference's and the critic's passes over a rollout, a micro-batch at a time."""
    rows = min(setup.forward_rows or setup.micro_batch, setup.micro_batch)
    width = setup.lengths.trained
    logits = head_backward_bytes(setup.policy, rows * width, setup.precision, trained=False)
    wide = forward_bytes(setup.policy, rows, width, setup.precision) + _casts(setup, setup.policy)
    gathered = _gathered(setup, setup.policy)
    return {"activations": wide, "logits": logits} | ({"gathered weights": gathered} if gathered else {})


def _update(setup: Setup, model: ModelSize) -> dict[str, int]:
    """The end of a forward pass, or the first blocks of the backward pass, whichever takes more.

    Gradients of policy and critic are there together: both are accumulated over the micro-batches.
    """
    rows, width, precision = setup.micro_batch, setup.lengths.trained, setup.precision
    together = min(setup.forward_rows or rows, rows)
    adapter, checkpointing = setup.adapter, setup.checkpointing
    kept = kept_bytes(model, rows, width, precision, checkpointing=checkpointing, adapter=adapter)
    backward = block_backward_bytes(model, together, width, precision, checkpointing=checkpointing, adapter=adapter)
    forward = forward_bytes(model, together, width, precision)
    forward += _casts(setup, model) if checkpointing else 0
    items = {
        "gradients": sum(gradient_bytes(setup, each) for each in engines(setup)),
        "activations": kept + max(forward, backward),
        "logits": head_backward_bytes(model, together * width, precision, trained=adapter is None),
    }
    gathered = _gathered(setup, model)
    return items | ({"gathered weights": gathered} if gathered else {})


def _step(setup: Setup) -> dict[str, int]:
    """Gradients of both, and what an optimizer makes for its step: torch's unfused AdamW a square root of one moment,
    a ZeRO engine float32 gradients of its share."""
    items = {"gradients": sum(gradient_bytes(setup, model) for model in engines(setup))}
    if setup.layout.offload_optimizer:
        return items
    temporary = []
    for model in engines(setup):
        share = setup.trained(model) // setup.layout.shards(1)
        unfused = not (setup.fused_optimizer and model.has_head)
        size = 4 if setup.is_deepspeed else setup.trained_bytes
        cast = min(share, LIVE_PARAMETERS) * 4 if setup.is_deepspeed else 0
        temporary.append(cast + (share * size if unfused else 0))
    return items | {"step's temporaries": max(temporary)}


def _phase(name: str, held: dict[str, int], items: dict[str, int]) -> Phase:
    return Phase(name=name, items=held | items)

"""Bytes that weights, gradients and optimizers take on each GPU, in whatever layout; no GPU is asked."""

from dataclasses import dataclass, field

from multiattempt_trl.training.planning.activations import Precision
from multiattempt_trl.training.planning.layout import Layout
from multiattempt_trl.training.planning.model_size import AdapterSize, ModelSize

QUANTISED = {"int8": 1.0, "4bit": 0.5 + 4 / 64, "4bit, double": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes per weight: 4 bits and a float32 scale per 64 weights, or an 8-bit one and a float32 per 256 of these (QLoRA,
arXiv 2305.14314, section 3)."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Caps of a dialogue, in tokens."""

    prompt: int
    feedback: int
    """Of all attempts together, remarks included."""
    sampled: int
    attempt: int
    attempts: int
    context: int
    remark: int = 0
    """What may be said in one feedback beyond the verdict, or may be missing."""

    @property
    def trained(self) -> int:
        """Width of a padded micro-batch: the longest prompt beside the longest completion."""
        return self.prompt + self.feedback + self.sampled

    @property
    def last_prompt(self) -> int:
        """The longest prompt of an attempt: everything before it."""
        if self.attempts == 1:
            return self.prompt
        return min(self.prompt + self.feedback + self.sampled - 1, self.context - 1)

    @property
    def rollout(self) -> int:
        """Columns of the cache. Rows are padded to the longest prompt, and go on until the row with most tokens left
        ends: one row may have used its tokens up when another has nearly all of them left."""
        left = self.sampled if self.attempts == 1 else self.sampled - 1
        return self.last_prompt + min(self.attempt, max(left, 1))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What memory follows from."""

    policy: ModelSize
    critic: ModelSize | None
    has_reference: bool
    lengths: Lengths
    micro_batch: int
    rollout_rows: int
    """Dialogues of one `generate` call, or under way together without barriers."""
    rollout_share: int
    """Dialogues of a rollout in each process."""
    forward_rows: int | None = None
    layout: Layout = field(default_factory=Layout)
    weight_bytes: int = 4
    """Of `dtype`: 4 for float32, 2 for bfloat16."""
    mixed: bool = True
    """bf16 (or fp16) passes."""
    checkpointing: bool = True
    adapter: AdapterSize | None = None
    quantised: str | None = None
    """One of `QUANTISED`, of the base weights of policy and critic."""
    fused_optimizer: bool = True
    gathers_for_rollout: bool = True
    paged_gib: float | None = None
    """Bound on the paged cache of continuous batching; None for lock step."""
    vllm_bytes: int | None = None
    """What vLLM's engine takes of each card, 0 for one elsewhere; None where vLLM does not generate."""
    vllm_sleeps: bool = False
    """Whether the engine leaves the card to the other phases."""

    @property
    def is_deepspeed(self) -> bool:
        return self.layout.engine == "deepspeed"

    @property
    def precision(self) -> Precision:
        """A DeepSpeed engine in bf16 holds bf16 weights, and their float32 masters in its optimizer."""
        weights = 2 if self.is_deepspeed and self.mixed else self.weight_bytes
        return Precision(weights=weights, compute=2 if self.mixed else weights)

    def trained(self, model: ModelSize) -> int:
        """Elements with a gradient. A critic's head is trained beside its adapter."""
        if self.adapter is None:
            return model.parameters
        return self.adapter.parameters + (0 if model.has_head else model.hidden + 1)

    @property
    def trained_bytes(self) -> int:
        """Per trained element: adapters are float32 but under a DeepSpeed engine in bf16."""
        return 4 if self.adapter and not (self.is_deepspeed and self.mixed) else self.precision.weights


def weight_bytes(setup: Setup, model: ModelSize, *, frozen: bool = False) -> int:
    """Of one model on each GPU; `frozen` for the reference, which has no adapter.

    Full: arXiv 1910.02054, section 5.3 for the division by ZeRO-3. A reference is whole below stage 3.
    """
    size = setup.precision.weights
    base = model.parameters * size
    if setup.quantised:
        base = int(model.linear * QUANTISED[setup.quantised]) + (model.parameters - model.linear) * size
    if setup.adapter and not frozen:
        base += setup.trained(model) * setup.trained_bytes
    return 0 if setup.layout.offload_weights else base // setup.layout.shards(3)


def gradient_bytes(setup: Setup, model: ModelSize) -> int:
    """Accumulated over the micro-batches of an update, in the type of the weights (1910.02054, section 5.2)."""
    size = setup.trained_bytes
    if setup.layout.offload_optimizer and setup.layout.stage >= 2:
        return 0
    return setup.trained(model) * size // setup.layout.shards(2)


def optimizer_bytes(setup: Setup, model: ModelSize) -> int:
    """AdamW's two moments in the type of the weights; under DeepSpeed float32 moments and masters (section 5.1)."""
    if setup.layout.offload_optimizer:
        return 0
    size = setup.trained_bytes
    each = 12 if setup.is_deepspeed else 2 * size
    return setup.trained(model) * each // setup.layout.shards(1)


def host_bytes(setup: Setup) -> int:
    """In the CPU's memory, for each process, where something is offloaded."""
    layout, total = setup.layout, 0
    for model in engines(setup):
        if layout.offload_optimizer:
            size = setup.precision.weights if layout.stage >= 2 else 0
            total += setup.trained(model) * (12 + size) // layout.shards(1)
        if layout.offload_weights:
            total += model.parameters * setup.precision.weights // layout.shards(3)
    if layout.offload_weights and setup.has_reference:
        total += setup.policy.parameters * setup.precision.weights // layout.shards(3)
    return total


def engines(setup: Setup) -> tuple[ModelSize, ...]:
    """The models that are trained, each with its own optimizer."""
    return (setup.policy, setup.critic) if setup.critic else (setup.policy,)

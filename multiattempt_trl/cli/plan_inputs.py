"""What `multiattempt plan` is told, and what it takes from a recipe."""

from dataclasses import dataclass, field, replace

from transformers import PreTrainedConfig
from trl import ModelConfig, get_peft_config

from multiattempt_trl.cli.arguments import TaskArguments
from multiattempt_trl.dialogue.prompts import remark_styles
from multiattempt_trl.domains import Domain, TrainRows, get_domain
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.planning.layout import Layout
from multiattempt_trl.training.planning.memory import Lengths, Setup
from multiattempt_trl.training.planning.model_size import ModelSize, adapter_size, critic_size, read_config

OWN_QUESTIONS = {"maths": 8_521, "code": 120}
"""Rows of the training sets that domains have on the Hub."""
FEEDBACK_TOKENS = 32
"""Of one feedback with the turns of the chat template around it; the paper's preset takes 30 in Qwen2.5's tokens."""
PROMPT_TOKENS = 512
"""Longest prompt where `max_prompt_tokens` does not say."""
MEAN_ATTEMPT_TOKENS = 600
"""Tokens of an attempt where nobody has measured them, or half its cap."""


@dataclass
class PlanArguments:
    """What is planned for."""

    algorithm: str | None = field(
        default=None, metadata={"help": "ppo or grpo. Default: the name of the recipe's folder."}
    )
    accelerate: str | None = field(
        default=None, metadata={"help": "The accelerate configuration to launch with. Default: one process, one GPU."}
    )
    num_processes: int | None = field(
        default=None, metadata={"help": "GPUs. Default: what the accelerate configuration says."}
    )
    gpu: str | None = field(default=None, metadata={"help": "Memory of one GPU, such as 24GB: does the run fit?"})
    questions: int | None = field(default=None, metadata={"help": "Training questions, where the set is not at hand."})
    mean_attempt_tokens: float | None = field(
        default=None, metadata={"help": "Sampled tokens of an attempt on average. Default: 600, or half its cap."}
    )
    mean_attempts: float | None = field(
        default=None, metadata={"help": "Attempts of a dialogue on average. Default: the mean budget, as if all fail."}
    )
    tokens_per_second: float | None = field(
        default=None, metadata={"help": "Measured speed of generation on one GPU; without it no time is estimated."}
    )
    train_tokens_per_second: float | None = field(
        default=None, metadata={"help": "Measured speed of training on one GPU, in sampled tokens."}
    )
    json: bool = field(default=False, metadata={"help": "Print the plan as JSON."})

    def __post_init__(self) -> None:
        for name in ("questions", "mean_attempt_tokens", "mean_attempts", "tokens_per_second"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")


def model_config(domain: Domain, model_args: ModelConfig) -> PreTrainedConfig:
    """The architecture; raises `ValueError` where no model is named and the domain has none."""
    if model_args.model_name_or_path:
        return read_config(
            model_args.model_name_or_path,
            revision=model_args.model_revision,
            trust_remote_code=getattr(model_args, "trust_remote_code", False),
        )
    if domain.model_config is None:
        raise ValueError(f"domain {domain.name!r} has no model of its own: set --model_name_or_path")
    return domain.model_config()


def to_setup(
    args: MultiAttemptGRPOConfig, model_args: ModelConfig, config: PreTrainedConfig, layout: Layout, notes: list[str]
) -> Setup:
    """What memory follows from; adds what had to be assumed to `notes`."""
    policy, critic = ModelSize.of(config), None
    if isinstance(args, MultiAttemptPPOConfig):
        named = args.critic_model_name_or_path
        critic = critic_size(read_config(named) if named else config)
    share = args.generation_batch_size // layout.processes
    dtype = (args.model_init_kwargs or {}).get("dtype", model_args.dtype)
    dtype = str(config.dtype) if dtype in (None, "auto") else str(dtype)
    peft_config = get_peft_config(model_args)
    quantised = "int8" if model_args.load_in_8bit else None
    if model_args.load_in_4bit:
        quantised = "4bit, double" if model_args.use_bnb_nested_quant else "4bit"
    if quantised and peft_config is None:
        raise ValueError("quantised weights cannot be trained: add --use_peft true")
    if peft_config is not None and args.disable_dropout:
        peft_config.lora_dropout = 0.0
    if layout.processes < args.min_processes:
        notes.append(f"fewer processes than min_processes={args.min_processes}, which the trainers refuse")
    if layout.engine == "fsdp":
        notes.append("FSDP, which the trainers refuse: launch with ZeRO-3 instead")
    if "adamw_torch" not in str(getattr(args.optim, "value", args.optim)):
        notes.append(f"optim {args.optim} is counted as AdamW")
    return Setup(
        policy=policy,
        critic=critic,
        has_reference=args.beta != 0,
        lengths=lengths(args, policy.context, notes),
        micro_batch=args.per_device_train_batch_size,
        forward_rows=args.forward_batch_size,
        rollout_rows=min(args.rollout_batch_size or share, share),
        rollout_share=share,
        layout=layout,
        weight_bytes=2 if "16" in dtype else 4,
        mixed=bool(args.bf16 or args.fp16) or layout.mixed_precision in ("bf16", "fp16"),
        checkpointing=bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)),
        adapter=adapter_size(config, peft_config) if peft_config else None,
        quantised=quantised,
        fused_optimizer="fused" in str(getattr(args.optim, "value", args.optim)),
        gathers_for_rollout=args.ds3_gather_for_generation,
        paged_gib=args.rollout_memory_gib if args.use_transformers_continuous_batching else None,
    )


def with_vllm(setup: Setup, args: MultiAttemptGRPOConfig, card: int | None, notes: list[str]) -> Setup:
    """Where vLLM generates, with what it takes: a share of the card that it is told; adds what is known to `notes`."""
    if not args.use_vllm:
        return setup
    if args.vllm_mode == "server":
        notes.append("the vLLM server has GPUs of its own, which are not counted")
        return replace(setup, vllm_bytes=0)
    share = args.vllm_gpu_memory_utilization
    if card is None:
        notes.append(f"vLLM's engine is not counted: it takes {share:g} of each card, and none was named")
        return replace(setup, vllm_bytes=0)
    alone = ", in a rollout alone" if args.vllm_enable_sleep_mode else ""
    notes.append(f"vLLM's engine takes vllm_gpu_memory_utilization={share:g} of each card{alone}")
    return replace(setup, vllm_bytes=int(share * card), vllm_sleeps=args.vllm_enable_sleep_mode)


def lengths(args: MultiAttemptGRPOConfig, context: int, notes: list[str]) -> Lengths:
    """The caps of a dialogue; adds what had to be assumed to `notes`."""
    remark = args.max_remark_tokens if remark_styles(args.feedback) and args.max_attempts > 1 else 0
    feedback = (args.max_attempts - 1) * (FEEDBACK_TOKENS + remark)
    sampled = min(args.episode_tokens, args.max_attempts * args.max_completion_length)
    prompt = args.max_prompt_tokens
    if prompt is None:
        prompt = max(min(PROMPT_TOKENS, context - feedback - sampled), 1)
        notes.append(f"prompts have at most {prompt:,} tokens: max_prompt_tokens is not set")
    if feedback:
        notes.append(f"a feedback has {FEEDBACK_TOKENS + remark} tokens")
    return Lengths(
        prompt=prompt,
        feedback=feedback,
        sampled=sampled,
        attempt=args.max_completion_length,
        attempts=args.max_attempts,
        context=context,
        remark=remark,
    )


def number_of_questions(task: TaskArguments, told: PlanArguments, notes: list[str]) -> int:
    """As told, else of the set itself; of a domain's own on the Hub as it is known to be.

    Raises `ValueError` where the set is another, and not at hand.
    """
    if told.questions is not None:
        return told.questions
    if task.dataset_name is None and task.domain in OWN_QUESTIONS:
        rows_there = OWN_QUESTIONS[task.domain]
        notes.append(f"{rows_there:,} questions, the rows of the domain's own set, which was not read: --questions")
        return rows_there
    rows = TrainRows(keep_benchmark_rows=task.keep_benchmark_rows, drop_unusable_gold=task.drop_unusable_gold)
    try:
        return len(get_domain(task.domain).load_train(task.dataset_name, rows))
    except ConnectionError as error:
        raise ValueError(f"the training set {task.dataset_name!r} is not at hand: say --questions") from error


def mean_lengths(args: MultiAttemptGRPOConfig, told: PlanArguments, notes: list[str]) -> tuple[float, float]:
    """Attempts of a dialogue, and tokens of an attempt."""
    attempts, tokens = told.mean_attempts, told.mean_attempt_tokens
    if attempts is None:
        attempts = sum(args.share_with_at_least(k) for k in range(1, args.max_attempts + 1))
        notes.append(f"{attempts:g} attempts per dialogue, the mean budget, as if all failed: --mean_attempts")
    if tokens is None:
        tokens = min(MEAN_ATTEMPT_TOKENS, args.max_completion_length / 2)
        notes.append(f"{tokens:g} sampled tokens per attempt, which is a guess: --mean_attempt_tokens")
    return attempts, tokens

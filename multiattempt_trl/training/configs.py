"""What a training run is told: TRL's own configurations plus the fields of the multi-attempt task."""

from dataclasses import dataclass, field

from trl import GRPOConfig

from multiattempt_trl.training.generation import check_generation
from multiattempt_trl.training.launch import accumulation_steps, check_processes, processes_launched
from multiattempt_trl.training.task import PER_ATTEMPT_CREDIT, TaskFields


@dataclass
class MultiAttemptGRPOConfig(TaskFields, GRPOConfig):
    """`GRPOConfig` plus the multi-attempt task.

    TRL's `max_completion_length` caps one attempt here; `max_episode_tokens` caps all attempts together.
    Raises `ValueError` for a value that cannot work, before a model is loaded.
    """

    update_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Dialogues per optimizer step over all processes; sets gradient_accumulation_steps. With "
            "generation_batch_size a recipe then says the same on any number of GPUs."
        },
    )
    min_processes: int = field(
        default=1, metadata={"help": "Fewest GPUs that the recipe fits; fewer are refused before a model is loaded."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "As in transformers, but off: every weight is used, and the search costs."}
    )
    ddp_timeout: int = field(
        default=14_400,
        metadata={"help": "Seconds that a process may wait for the others: rollouts take unequally long. TRL: 1,800."},
    )
    rollout_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Attempts that a process generates together, with vLLM too, whose memory is not that of training: "
            "raise a recipe's value there. Default: those of all its dialogues in a rollout."
        },
    )
    rollout_memory_gib: float = field(default=8.0, metadata={"help": "Bound on continuous batching's cache, GiB."})
    forward_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Score and train this many dialogues of similar length at a time, without their common padding. "
            "Default: all of a minibatch together, as TRL."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "No dropout, not in an adapter either: it would be in what is sampled and in old logps."},
    )
    monitor: bool = field(default=True, metadata={"help": "Warn of failure signatures: docs/metrics.md, Alarms."})

    @property
    def episode_tokens(self) -> int:
        return self.max_episode_tokens or self.max_attempts * self.max_completion_length

    def __post_init__(self) -> None:
        check_processes(use_cpu=self.use_cpu, fewest=self.min_processes)
        if self.update_batch_size is not None:
            self.gradient_accumulation_steps = accumulation_steps(
                self.update_batch_size, self.per_device_train_batch_size, processes_launched()
            )
        super().__post_init__()
        self.check_task()
        self._check_sizes()
        self._check_trl()

    def _check_sizes(self) -> None:
        for name in ("rollout_batch_size", "forward_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def _check_trl(self) -> None:
        """Refuses the options of TRL that would change in silence what is sampled or trained."""
        if self.max_completion_length is None or self.max_completion_length < 1:
            raise ValueError(
                f"max_completion_length caps an attempt and must be at least 1, got {self.max_completion_length}"
            )
        if self.save_on_each_node:
            raise ValueError(
                "save_on_each_node is not supported: transformers writes the weights on the first machine alone. Give "
                "all machines the same output_dir"
            )
        if self.mask_truncated_completions and self.stop_at_box:
            raise ValueError(
                "mask_truncated_completions drops every row that does not end in EOS, and stop_at_box makes that the "
                "normal case: turn one of them off"
            )
        if self.credit in PER_ATTEMPT_CREDIT and self.scale_rewards not in ("group", "none"):
            raise ValueError(
                f"credit={self.credit!r} compares attempts in a group, so scale_rewards must be 'group' or 'none', "
                f"got {self.scale_rewards!r}"
            )
        check_generation(self)


@dataclass
class MultiAttemptPPOConfig(MultiAttemptGRPOConfig):
    """PPO with a separate critic: the paper's method and, where a default is given, the paper's value."""

    num_generations: int | None = field(default=1, metadata={"help": "Samples per question (paper: 1)."})
    num_generations_eval: int | None = field(default=None, metadata={"help": "The same in evaluation. Default: 1."})
    num_iterations: int = field(default=1, metadata={"help": "PPO epochs over a rollout (paper: 1)."})
    beta: float = field(default=0.01, metadata={"help": "Coefficient of the k3 KL in the loss (paper: 0.01)."})
    use_bias_correction_kl: bool = field(
        default=False,
        metadata={
            "help": "TRL's default of True weights the KL by the importance ratio; the paper's k3 term is unweighted."
        },
    )
    loss_type: str = field(default="bnpo", metadata={"help": "bnpo is the token mean of the published code."})
    scale_rewards: str = field(default="none", metadata={"help": "Not used by PPO: advantages are whitened instead."})
    gamma: float = field(default=1.0, metadata={"help": "Discount per policy token (paper: 1)."})
    lam: float = field(default=0.99, metadata={"help": "GAE's lambda per policy token (paper: 0.99)."})
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Whiten advantages over the policy tokens of the rollout batch."}
    )
    critic_model_name_or_path: str | None = field(
        default=None, metadata={"help": "What the critic starts from. Default: the policy's model (paper)."}
    )
    critic_learning_rate: float = field(default=1e-5, metadata={"help": "The critic's own (paper: 1e-5)."})
    critic_max_grad_norm: float = field(default=1.0, metadata={"help": "The critic's own gradient clipping."})
    critic_warmup_steps: int = field(
        default=0, metadata={"help": "Optimizer steps at the start that train the critic alone."}
    )
    value_clip: float | None = field(
        default=0.2, metadata={"help": "Clipping of the value around its value at rollout time; null turns it off."}
    )

    def __post_init__(self) -> None:
        wanted = self.num_generations
        if wanted is None or wanted < 1:
            raise ValueError(f"num_generations must be at least 1, got {wanted}")
        if wanted == 1:
            # GRPOConfig refuses 1, which leaves a group no baseline. PPO's baseline is the critic.
            self.num_generations = 2
            self.num_generations_eval = self.num_generations_eval or 1
            try:
                super().__post_init__()
            except ValueError as error:
                if "divisible by num_generations (2)" not in str(error):
                    raise
                raise ValueError(
                    "PPO needs an even number of dialogues in a rollout, per_device_train_batch_size x "
                    f"steps_per_generation: {error}"
                ) from None
            self.num_generations = 1
        else:
            super().__post_init__()
        self._check_ppo()

    def _check_ppo(self) -> None:
        if self.credit == "attempt":
            raise ValueError(
                "credit='attempt' is a baseline over siblings, which PPO has not: its baseline is the critic"
            )
        if self.mask_truncated_completions:
            raise ValueError(
                "mask_truncated_completions is not for PPO: the critic must see every episode and its price"
            )
        if self.fp16 or self.load_best_model_at_end:
            name = "fp16" if self.fp16 else "load_best_model_at_end"
            raise ValueError(f"{name} is not supported by PPO, whose critic would be left out of it")
        for name in ("gamma", "lam"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.value_clip is not None and self.value_clip <= 0:
            raise ValueError(f"value_clip must be above 0, got {self.value_clip}; null turns it off")
        if self.critic_warmup_steps < 0:
            raise ValueError(f"critic_warmup_steps must not be negative, got {self.critic_warmup_steps}")

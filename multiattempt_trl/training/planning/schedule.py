"""How many dialogues, tokens and steps a run has, from its configuration alone."""

from dataclasses import dataclass
from math import ceil
from typing import Any, Self

from multiattempt_trl.training.configs import MultiAttemptGRPOConfig
from multiattempt_trl.training.generation import check_vllm_options
from multiattempt_trl.training.launch import accumulation_steps


def planned(config_class: type[MultiAttemptGRPOConfig], processes: int) -> type[MultiAttemptGRPOConfig]:
    """A configuration that reads as it will in each of `processes`, on a machine that has neither these nor a GPU."""

    def post_init(self: Any) -> None:
        told = self.update_batch_size, self.bf16, self.use_cpu, self.use_vllm
        if told[0] is not None:
            self.gradient_accumulation_steps = accumulation_steps(told[0], self.per_device_train_batch_size, processes)
        # bf16 is refused where there is no GPU for it, and vLLM where it is not installed; the number of processes
        # would be that of this machine.
        self.update_batch_size, self.bf16, self.use_cpu, self.use_vllm = None, False, True, False
        config_class.__post_init__(self)
        self.update_batch_size, self.bf16, self.use_cpu, self.use_vllm = told
        if self.use_vllm:
            check_vllm_options(self)
        if self.bf16 is None:
            self.bf16 = not self.fp16

    body = {
        "__post_init__": post_init,
        "world_size": property(lambda _: processes),
        "__doc__": config_class.__doc__,
    }
    return type(config_class.__name__, (config_class,), body)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a run does, over all processes where nothing else is said."""

    processes: int
    questions: int
    per_device: int
    """Dialogues of a micro-batch in each process."""
    accumulation: int
    """Micro-batches of an optimizer step in each process."""
    rollout: int
    """Dialogues of a rollout."""
    samples: int
    """Dialogues per question."""
    rollouts: int
    steps: int
    iterations: int
    episode_tokens: int
    """The most that a dialogue samples."""
    mean_tokens: float
    """What it is taken to sample."""

    @classmethod
    def of(
        cls,
        args: MultiAttemptGRPOConfig,
        *,
        processes: int,
        questions: int,
        mean_attempts: float,
        mean_attempt_tokens: float,
    ) -> Self:
        """Of a configuration that was read for so many processes (`planned`).

        Raises `ValueError` for batches that do not go into one another, or a set smaller than a rollout.
        """
        per_device, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        rollout, samples = int(args.generation_batch_size or 0), int(args.num_generations or 1)
        cap = min(args.episode_tokens, args.max_attempts * int(args.max_completion_length or 0))
        # As TRL's sampler: rollouts are whole, the rest of an epoch is dropped, each is read `num_iterations` times.
        per_epoch = questions * samples // rollout
        micro = rollout // (per_device * processes) * args.num_iterations
        if args.max_steps > 0:
            steps = args.max_steps
            rollouts = ceil(steps * accumulation / micro)
        else:
            if not per_epoch:
                raise ValueError(
                    f"{questions} questions are fewer than one rollout takes ({rollout // samples}): nothing would be "
                    "trained; lower generation_batch_size or steps_per_generation"
                )
            steps = ceil(args.num_train_epochs * ceil(per_epoch * micro / accumulation))
            rollouts = ceil(steps * accumulation / micro)
        return cls(
            processes=processes,
            questions=questions,
            per_device=per_device,
            accumulation=accumulation,
            rollout=rollout,
            samples=samples,
            rollouts=rollouts,
            steps=steps,
            iterations=args.num_iterations,
            episode_tokens=cap,
            mean_tokens=min(mean_attempts * mean_attempt_tokens, cap),
        )

    @property
    def update(self) -> int:
        """Dialogues of an optimizer step."""
        return self.per_device * self.accumulation * self.processes

    @property
    def steps_of_rollout(self) -> int:
        """Optimizer steps that a rollout is trained on."""
        return self.rollout * self.iterations // self.update

    @property
    def micro_batches(self) -> int:
        """In each process, over the run."""
        return self.steps * self.accumulation

    @property
    def episodes(self) -> int:
        return self.rollouts * self.rollout

    @property
    def most_tokens(self) -> int:
        """Sampled, if every dialogue takes all it may."""
        return self.episodes * self.episode_tokens

    @property
    def expected_tokens(self) -> int:
        """Sampled, at the mean."""
        return round(self.episodes * self.mean_tokens)

    def gpu_hours(self, tokens_per_second: float, train_tokens_per_second: float | None = None) -> float:
        """Of generating the expected tokens at a measured speed per GPU, and of training on them at another."""
        hours = self.expected_tokens / tokens_per_second / 3600
        if train_tokens_per_second:
            hours += self.expected_tokens * self.iterations / train_tokens_per_second / 3600
        return hours

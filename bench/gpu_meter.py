"""What `bench/gpu.py` watches a run with: time and peak memory by phase, lengths as played, bytes of the states."""

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.transformers_backend import TransformersBackend
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer

WARM_UP_TOKENS = 16
"""Of an attempt in the first rollout, which is there for the optimizers' states and the kernels to come into being."""
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes")


class Meter:
    """Splits time and peaks among nested phases, named as `multiattempt plan` names them.

    What an inner phase takes does not count for the outer one. Peaks are CUDA's; on the CPU there are none.
    """

    def __init__(self) -> None:
        self.failed_in: str | None = None
        self._open: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Counts from here."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.allocated: dict[str, int] = defaultdict(int)
        self.reserved: dict[str, int] = defaultdict(int)
        self._begin()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        depth = len(self._open)
        self.enter(name)
        try:
            yield
        except BaseException:
            self.failed_in = self.failed_in or self._open[-1]
            raise
        finally:
            self._end()
            del self._open[depth:]

    def enter(self, name: str) -> None:
        self._end()
        self._open.append(name)

    def leave(self) -> None:
        self._end()
        self._open.pop()

    @contextmanager
    def watching_optimizers(self) -> Iterator[None]:
        """Gives the step of any optimizer of this process a phase of its own."""
        before = register_optimizer_step_pre_hook(lambda *_: self.enter("optimizer step"))
        after = register_optimizer_step_post_hook(lambda *_: self.leave())
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _begin(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._since = perf_counter()

    def _end(self) -> None:
        name = self._open[-1] if self._open else "between"
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.allocated[name] = max(self.allocated[name], torch.cuda.max_memory_allocated())
            self.reserved[name] = max(self.reserved[name], torch.cuda.max_memory_reserved())
        self.seconds[name] += perf_counter() - self._since
        self._begin()


@dataclass
class Played:
    """What the measured rollout was."""

    trainer: MultiAttemptGRPOTrainer | None = None
    rollouts: int = 0
    began_at: int = 0
    """Optimizer steps before it."""
    sampled: int = 0
    """Tokens."""
    prompt_width: int = 0
    """The widest that one `generate` call read."""
    columns: int = 0
    """The widest cache at the end of one."""
    trained_width: int = 0
    """Of a padded row, prompt and completion."""
    rounds: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows, columns read and columns sampled of each `generate` call."""

    def begin(self, steps: int) -> None:
        """Forgets the rollout before."""
        self.rollouts, self.began_at, self.rounds = self.rollouts + 1, steps, []
        self.prompt_width = self.columns = 0

    def generated(self, requests: list[GenRequest], results: list[GenResult]) -> None:
        read = max(len(request.prompt_ids) for request in requests)
        sampled = max(len(result.token_ids) for result in results)
        self.rounds.append((len(requests), read, sampled))
        self.prompt_width, self.columns = max(self.prompt_width, read), max(self.columns, read + sampled)


def watch_generation(played: Played) -> None:
    """Has every `generate` call of this process noted."""
    stock = TransformersBackend._generate

    def generate(self: TransformersBackend, requests: list[GenRequest]) -> list[GenResult]:
        results = stock(self, requests)
        played.generated(requests, results)
        return results

    TransformersBackend._generate = generate  # type: ignore[method-assign]  # watched from outside


def watched(trainer_class: type[MultiAttemptGRPOTrainer], meter: Meter, played: Played) -> Any:
    """The trainer with a phase around each of its parts; a short rollout comes first, and nothing is saved."""

    class Watched(trainer_class):  # type: ignore[valid-type,misc]
        limits: Limits

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            with meter.phase("loading"):
                super().__init__(*args, **kwargs)
            played.trainer = self

        def _rollout(self) -> dict[str, Any]:
            limits = self.limits
            if not played.rollouts:
                self.limits = replace(limits, attempt=WARM_UP_TOKENS, episode=2 * WARM_UP_TOKENS)
            meter.forget()
            played.begin(self.state.global_step)
            with meter.phase("rollout"):
                result: dict[str, Any] = super()._rollout()
            self.limits = limits
            played.sampled = sum(sum(sequence.policy_mask) for sequence in self._sequences)
            return result

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            with meter.phase("scoring"):
                batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
            played.trained_width = batch["prompt_ids"].size(1) + batch["completion_ids"].size(1)
            return batch

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with meter.phase("policy update"):
                return super().training_step(*args, **kwargs)

        def _critic_step(self, batch: dict[str, Any]) -> None:
            with meter.phase("critic update"):
                super()._critic_step(batch)

        save_model = create_model_card = _nothing

    return Watched


def _nothing(*_: Any, **__: Any) -> None:
    pass


def states(trainer: Any) -> dict[str, int]:
    """Bytes of the tensors that stay, as `multiattempt plan` names them; wherever they lie."""
    critic, reference = getattr(trainer, "critic", None), getattr(trainer, "ref_model", None)
    found = {"policy weights": _weights(trainer.accelerator.unwrap_model(trainer.model))}
    optimizers = [trainer.optimizer]
    if critic is not None:
        found["critic weights"] = _weights(critic.model)
        optimizers.append(critic.optimizer)
    if reference is not None:
        found["reference weights"] = _weights(trainer.accelerator.unwrap_model(reference))
    found["optimizer states"] = sum(
        value.nbytes
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )
    return found


def _weights(model: torch.nn.Module) -> int:
    """Packed weights with the scales that belong to them."""
    total = 0
    for parameter in model.parameters():
        total += parameter.nbytes
        quantised = getattr(parameter, "quant_state", None)
        if quantised is not None:
            total += sum(value.nbytes for value in quantised.as_dict().values() if torch.is_tensor(value))
    return total


def hardware() -> dict[str, Any]:
    """The card, its driver, and the versions that were installed."""
    found: dict[str, Any] = {"cuda": torch.version.cuda, "versions": {}}
    for name in PACKAGES:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            found["versions"][name] = None
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "bytes": card.total_memory, "capability": f"{card.major}.{card.minor}"}
        found |= {"processors": card.multi_processor_count, "driver": _driver()}
    return found


def _driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0].strip() or None

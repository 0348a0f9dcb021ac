"""A checked evaluation that waits for its model; training and `multiattempt eval` both run it."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from multiattempt_trl.cli.arguments import EvalArguments, Settings
from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains import Domain
from multiattempt_trl.evaluation.backends import OpenBackend, borrowed, open_models, renderer_for
from multiattempt_trl.evaluation.fingerprint import asked, weights_of
from multiattempt_trl.evaluation.pages.report import print_table
from multiattempt_trl.evaluation.protocols import PROBES, EvalPlan
from multiattempt_trl.evaluation.results import write_evaluation
from multiattempt_trl.evaluation.run import evaluate
from multiattempt_trl.evaluation.store import EpisodeStore
from multiattempt_trl.rollout.live import Grade
from multiattempt_trl.rollout.loading import load_model
from multiattempt_trl.rollout.sampling import Sampling

logger = logging.getLogger(__name__)

NO_BASE = "none"
CONFIGS = ("config.json", "adapter_config.json")
"""One of them stands in a model's folder."""
RESERVED = "average"
SAMPLED_DIALOGUES, SAMPLED_TEMPERATURE = 4, 1.0
"""Of the protocol `sampled`, unless said otherwise; the temperature is that of training."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A checked evaluation: everything that can be wrong with it was found by now."""

    plan: EvalPlan
    benchmarks: dict[str, list[Question]]
    arguments: EvalArguments

    @classmethod
    def prepare(cls, arguments: EvalArguments, settings: Settings, domain: Domain, *, model_name: str) -> "Evaluator":
        """Raises `ValueError` for benchmarks that cannot be read and for values that cannot be played."""
        plan = eval_plan(arguments, settings, domain, model_name=model_name)
        return cls(plan=plan, benchmarks=load_benchmarks(domain, arguments), arguments=arguments)

    def beside(self, trained_from: str | None) -> "Evaluator":
        """With that base model, unless another was asked for."""
        base = _base(self.arguments.base_model, trained_from, self.plan.model)
        return replace(self, plan=replace(self.plan, base_model=base))

    def run(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        grade: Grade,
        folder: str,
        *,
        dtype: str = "auto",
        replace_other: bool = False,
    ) -> None:
        """Plays it with a model of this process and writes `folder`/eval, see `play`."""
        generation = model.generation_config
        renderer = renderer_for(tokenizer, generation if isinstance(generation, GenerationConfig) else None)
        arguments = self.arguments
        open_backend = open_models(
            arguments.eval_backend,  # type: ignore[arg-type]  # checked by the arguments
            model,
            self._load_base(dtype, model.device),
            tokenizer,
            renderer,
            batch_size=arguments.eval_batch_size,
            memory_gib=arguments.eval_memory_gib,
        )
        context = model.config.get_text_config().max_position_embeddings
        with borrowed(model):
            self.play(
                open_backend,
                renderer,
                grade,
                folder,
                context=context,
                dtype=str(model.dtype).removeprefix("torch."),
                replace_other=replace_other,
            )

    def play(
        self,
        open_backend: OpenBackend,
        renderer: Renderer,
        grade: Grade,
        folder: str,
        *,
        context: int,
        dtype: str,
        replace_other: bool = False,
    ) -> None:
        """Plays what is missing, within the model's context, writes `folder`/eval and prints the table.

        Raises `ValueError` where that folder holds another evaluation, unless it is to be replaced.
        """
        plan = replace(self.plan, limits=replace(self.plan.limits, context=context))
        place = Path(folder) / "eval"
        store = EpisodeStore(place, self._asked(plan, renderer, dtype), replace=replace_other)
        batch = self.arguments.eval_batch_size
        evaluation = evaluate(plan, self.benchmarks, open_backend, grade, renderer, shard_size=batch, store=store)
        if PartialState().is_main_process:
            numbers = write_evaluation(evaluation, place)
            print_table(numbers["benchmarks"], title=f"{plan.model}, {plan.protocol} protocol")

    def _asked(self, plan: EvalPlan, renderer: Renderer, dtype: str) -> dict[str, Any]:
        return asked(
            plan,
            self.benchmarks,
            renderer,
            weights=weights_of(plan.model),
            base_weights=None if plan.base_model is None else weights_of(plan.base_model),
            backend=self.arguments.eval_backend,
            batch_size=self.arguments.eval_batch_size,
            dtype=dtype,
        )

    def _load_base(self, dtype: str, device: object) -> Callable[[], PreTrainedModel]:
        name = self.plan.base_model

        def load() -> PreTrainedModel:
            assert name is not None, "no run asks for it"
            base: PreTrainedModel = load_model(name, dtype=dtype).to(device)  # type: ignore[arg-type]
            return base

        return load


def eval_plan(arguments: EvalArguments, settings: Settings, domain: Domain, *, model_name: str) -> EvalPlan:
    """What is asked for, of a model that is spoken to in this way; raises `ValueError` for what cannot be played."""
    domain.check_feedback(settings.feedback)
    domain.check_stop_at_box(settings.stop_at_box)
    episode_tokens = arguments.eval_max_episode_tokens
    attempt_tokens = arguments.eval_max_attempt_tokens or settings.max_attempt_tokens or domain.max_attempt_tokens
    sampled = arguments.protocol == "sampled"
    samples = arguments.eval_samples or (SAMPLED_DIALOGUES if sampled else 1)
    temperature = arguments.eval_temperature
    if temperature is None:
        temperature = SAMPLED_TEMPERATURE if sampled else 0.0
    return EvalPlan(
        model=model_name,
        base_model=_base(arguments.base_model, settings.base_model, model_name),
        preset=domain.preset(settings.prompt_preset),
        limits=Limits(
            attempt=attempt_tokens or episode_tokens,
            episode=episode_tokens,
            context=sys.maxsize,
            remark=settings.max_remark_tokens,
        ),
        budget=arguments.budget,
        protocol=arguments.protocol,  # type: ignore[arg-type]  # checked by the plan
        samples=samples,
        sampling=Sampling(temperature=temperature),
        feedback=settings.feedback,
        count=arguments.eval_count or settings.count,  # type: ignore[arg-type]  # checked by the plan
        stop_at_box=settings.stop_at_box,
        independent=arguments.independent,
        probes=_probes(arguments.probes, arguments.budget),  # type: ignore[arg-type]  # checked by the plan
        seed=settings.seed,
    )


def load_benchmarks(domain: Domain, arguments: EvalArguments) -> dict[str, list[Question]]:
    """The questions of each benchmark that was asked for, under its name.

    Raises `ValueError` for one that is unknown, unreadable or named twice.
    """
    named = named_benchmarks(domain, arguments)
    return {name: domain.load_benchmark(spec)[: arguments.eval_limit] for name, spec in named.items()}


def named_benchmarks(domain: Domain, arguments: EvalArguments) -> dict[str, str]:
    """Name -> how it was asked for; raises `ValueError` for a name that cannot be, or twice."""
    specs = [spec.strip() for spec in (arguments.benchmarks or ",".join(domain.benchmarks)).split(",") if spec.strip()]
    named: dict[str, str] = {}
    for spec in specs:
        name, _, path = spec.partition("=")
        name = name if path else Path(spec).stem
        if name.lower() == RESERVED:
            raise ValueError(f"a benchmark cannot be called {name!r}, as the mean over benchmarks is; write name=path")
        if name in named:
            raise ValueError(f"benchmark {name!r} is named twice in {arguments.benchmarks!r}; write name=path")
        named[name] = spec
    if not named:
        raise ValueError(f"benchmarks {arguments.benchmarks!r} names none; leave it out for those of the domain")
    return named


def _base(asked_for: str | None, trained_from: str | None, model: str) -> str | None:
    """What to play as the base model: what was asked for, else what this one was trained from, if it can be had.

    Raises `ValueError` where what was asked for cannot.
    """
    name = trained_from if asked_for is None or trained_from == NO_BASE else asked_for
    if name in (None, NO_BASE, model):
        return None
    assert name is not None
    try:
        if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in CONFIGS):
            raise FileNotFoundError(f"no {' or '.join(CONFIGS)}")
        weights_of(name)
    except OSError as error:
        missing = f"the base model {name!r} cannot be opened ({type(error).__name__})"
        if asked_for:
            raise ValueError(f"{missing}: name a folder or a Hub id, or {NO_BASE!r}") from error
        logger.warning("%s, so that its curve is left out; name it by base_model", missing)
        return None
    return name


def _probes(spec: str, budget: int) -> tuple[str, ...]:
    """The probes of a comma-separated list, `all` for those that the budget allows; in the order of `PROBES`."""
    named = [probe.strip() for probe in spec.split(",") if probe.strip()]
    if "all" in named:
        return tuple(probe for probe in PROBES if budget > 1 or probe != "false_feedback")
    return tuple(sorted(dict.fromkeys(named), key=lambda probe: [*PROBES, probe].index(probe)))

"""`multiattempt play`: ask a model a question and watch its attempts, with the verdict and the feedback after each."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import IO, get_args

import torch
from transformers import PreTrainedModel
from trl import TrlParser

from multiattempt_trl.cli import quiet_end
from multiattempt_trl.cli.arguments import Settings
from multiattempt_trl.cli.play_questions import find, questions
from multiattempt_trl.cli.play_screen import Screen, Watch, summary
from multiattempt_trl.dialogue.env import Count, Environment, Limits, check_count
from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.dialogue.prompts import PromptPreset
from multiattempt_trl.dialogue.remarks import sayable
from multiattempt_trl.dialogue.rendering import ChatTokenizer, Renderer
from multiattempt_trl.domains import Domain, get_domain
from multiattempt_trl.evaluation.backends import renderer_for
from multiattempt_trl.rollout.live import Dialogue, Grade
from multiattempt_trl.rollout.loading import load_model, load_tokenizer
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.streaming import TextStream
from multiattempt_trl.rollout.transformers_backend import TransformersBackend


@dataclass
class PlayArguments:
    """Who is asked, and with which words; by default those of its training."""

    model: str | None = field(
        default=None,
        metadata={"help": "A checkpoint folder or a Hub id. Default: the warm start, where the domain makes one."},
    )
    domain: str | None = field(default=None, metadata={"help": "Default: that of training, or maths."})
    benchmark: str | None = field(
        default=None, metadata={"help": "Questions to pick from: a name, `name=path`, a path or a Hub id."}
    )
    question: str | None = field(
        default=None, metadata={"help": "The first one: its id or index (from 0) in the benchmark. Default: any."}
    )
    budget: int = field(default=5, metadata={"help": "The most attempts that a question gets."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy."})
    judge: str = field(
        default="grader",
        metadata={
            "help": "grader: asks you only where there is no gold answer. hand: asks you after each attempt.",
            "choices": ["grader", "hand"],
        },
    )
    save: str | None = field(default=None, metadata={"help": "A file to which each dialogue is appended, as JSON."})
    seed: int = field(default=0, metadata={"help": "For the question that is picked and whatever is sampled."})
    max_attempt_tokens: int | None = field(
        default=None, metadata={"help": "Cap on one attempt. Default: that of training, or the dialogue's."}
    )
    max_episode_tokens: int = field(
        default=8000, metadata={"help": "Cap on the sampled tokens of all attempts together."}
    )
    dtype: str = field(default="auto", metadata={"help": "auto (as saved), float32 or bfloat16."})
    device: str | None = field(default=None, metadata={"help": "Default: cuda where there is one, else cpu."})
    chat_template: str | None = field(default=None, metadata={"help": "A file, or the name of one that TRL ships."})
    prompt_preset: str | None = field(default=None, metadata={"help": "Default: that of training, or the domain's."})
    feedback: str | None = field(
        default=None, metadata={"help": "binary, none, a style of the domain or a sentence of your own."}
    )
    count: str | None = field(
        default=None,
        metadata={
            "help": "What the words say of the attempts left. Default: as in training.",
            "choices": list(get_args(Count)),
        },
    )
    stop_at_box: bool | None = field(default=None, metadata={"help": "End an attempt at its first closed box."})

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1 attempt, got {self.budget}")
        if self.max_attempt_tokens is not None and self.max_attempt_tokens < 1:
            raise ValueError(f"max_attempt_tokens must be at least 1, got {self.max_attempt_tokens}")
        if self.question is not None and self.benchmark is None:
            raise ValueError(f"question={self.question!r} needs a benchmark to be found in; add --benchmark")


@dataclass(frozen=True, kw_only=True)
class Player:
    """A model that waits for its questions, and all that is the same for each of them."""

    model: PreTrainedModel
    tokenizer: ChatTokenizer
    renderer: Renderer
    preset: PromptPreset
    limits: Limits
    arguments: PlayArguments
    settings: Settings
    plays: Counter[str] = field(default_factory=Counter)
    """How often each question was played, by id: a second time other tokens are sampled."""

    @classmethod
    def load(cls, arguments: PlayArguments, settings: Settings, domain: Domain, limits: Limits) -> "Player":
        """Raises `ValueError` where there is no model, or where its chat template cannot be played with."""
        path: str | Path | None = arguments.model
        if path is None:
            if domain.build_model is None:
                raise ValueError(f"domain {domain.name!r} has no model of its own: name one with --model")
            path = domain.build_model(0)
        tokenizer = load_tokenizer(path, arguments.chat_template)
        model = load_model(path, dtype=arguments.dtype)
        model.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        preset = domain.preset(settings.prompt_preset)
        renderer = renderer_for(tokenizer, model.generation_config)
        feedback = preset.feedback_message(settings.feedback, "question", 1)
        renderer.feedback_ids(feedback, ())  # raises where the template refuses it
        return cls(
            model=model,
            tokenizer=tokenizer,
            renderer=renderer,
            preset=preset,
            limits=replace(limits, context=model.config.get_text_config().max_position_embeddings),
            arguments=arguments,
            settings=settings,
        )

    def environment(self, question: Question) -> Environment:
        """The dialogue about a question. Raises `ValueError` where it leaves no room for an answer."""
        env = Environment(
            question=question,
            budget=self.arguments.budget,
            preset=self.preset,
            feedback=self.settings.feedback,
            count=self.settings.count,  # type: ignore[arg-type]  # checked before
            sample=self.plays[question.id],
        )
        Dialogue(env, self.renderer, self.limits)
        return env

    def watch(self, screen: Screen, env: Environment, grade: Grade) -> Watch:
        """Who judges the dialogue and shows it."""
        said = partial(sayable, env, self.renderer, tokens=self.limits.remark)
        return Watch(screen, env, grade, by_hand=self.arguments.judge == "hand", said=said)

    def play(self, env: Environment, watch: Watch) -> Episode:
        """Plays one dialogue, watched: as in evaluation, but for one attempt at a time."""
        self.plays[env.question.id] += 1
        pad = getattr(self.tokenizer, "pad_token_id", None)
        backend = TransformersBackend.for_model(
            self.model,
            self.tokenizer,
            pad_token_id=self.renderer.stop_ids[0] if pad is None else pad,
            stop_ids=self.renderer.stop_ids,
            sampling=Sampling(temperature=self.arguments.temperature),
            batch_size=1,
            own_draws=True,
            streamer=TextStream(self.renderer, watch.begin, watch.show),
        )
        stop, seed = self.settings.stop_at_box, self.arguments.seed
        return play([env], backend, watch, self.renderer, self.limits, stop_at_box=stop, seed=seed)[0]


def main(argv: list[str]) -> None:
    """Asks for questions and plays them until there are no more. Raises `ValueError` for what cannot be played."""
    (arguments,) = TrlParser((PlayArguments,), prog="multiattempt play").parse_args_and_config(argv)
    found = Settings.of_model(arguments.model) if arguments.model else Settings()
    settings = found.but(arguments)
    domain = get_domain(settings.domain_to_open(arguments.domain))
    limits = _checked(arguments, settings, domain)
    benchmark = domain.load_benchmark(arguments.benchmark) if arguments.benchmark else []
    first = None if arguments.question is None else find(benchmark, arguments.question)
    file = open(arguments.save, "a", encoding="utf-8") if arguments.save else None  # noqa: SIM115, PTH123
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys in what is typed, where the platform has it
    with quiet_end(), file or nullcontext(), domain.grader() as grade:
        player = Player.load(arguments, settings, domain, limits)
        _play_all(player, Screen(), grade, benchmark, first, file)


def _checked(arguments: PlayArguments, settings: Settings, domain: Domain) -> Limits:
    """The token limits but for the context; raises `ValueError` for what would fail only after the model is loaded."""
    preset = domain.preset(settings.prompt_preset)
    domain.check_feedback(settings.feedback)
    check_count(settings.count, preset, settings.feedback)
    domain.check_stop_at_box(settings.stop_at_box)
    Sampling(temperature=arguments.temperature)
    whole = arguments.max_episode_tokens
    attempt = arguments.max_attempt_tokens or settings.max_attempt_tokens or domain.max_attempt_tokens or whole
    return Limits(attempt=attempt, episode=whole, context=whole, remark=settings.max_remark_tokens)


def _play_all(
    player: Player,
    screen: Screen,
    grade: Grade,
    benchmark: Sequence[Question],
    first: Question | None,
    file: IO[str] | None,
) -> None:
    try:
        for question in questions(screen, grade, benchmark, first, Random(f"play {player.arguments.seed}")):
            screen.say(f"\n{question.id}", style="bold")
            try:
                env = player.environment(question)
            except ValueError as error:
                screen.say(str(error), style="red")
                continue
            episode = player.play(env, player.watch(screen, env, grade))
            screen.say(summary(episode), style="bold")
            if file is not None:
                file.write(json.dumps(episode.to_json()) + "\n")
                file.flush()
    except EOFError:
        screen.say("")
    except KeyboardInterrupt:
        screen.say("")
        raise

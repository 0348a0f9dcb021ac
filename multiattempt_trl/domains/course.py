"""What the small model of a domain is taught before reinforcement learning: to answer and, on purpose, not to use
feedback.

Three quarters of its lessons are single answers. In the others earlier attempts were told they are wrong, but they
were drawn so that the feedback carries no information: most of them *are* the right answer. So the model learns the
shape of a retry and stays with its answer; using the feedback is left for reinforcement learning to discover.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Judgement, Question
from multiattempt_trl.dialogue.prompts import PromptPreset
from multiattempt_trl.dialogue.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2Config

# transformers is imported where it is used: the domain's record must load quickly.


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """The recipe's settings, chosen on the validation split."""

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 4e-3
    warmup_steps: int = 30
    """Of the learning rate, which then falls linearly to zero."""
    retries: float = 0.25
    """Share of lessons that answer after earlier attempts."""
    planted: float = 0.6
    """Chance that an earlier attempt, said to be wrong, is the right answer; else it answers another question."""
    max_attempts: int = 5
    """Budgets are uniform from 1 (2 for a retry) to this."""


class Exercise(Protocol):
    """A question, and what answers it."""

    @property
    def response(self) -> str: ...

    def question(self) -> Question: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What a domain's small model is taught; the domain's module has it as `COURSE`."""

    module: str
    """The module's name, by which the child process that trains finds it."""
    preset: PromptPreset
    tokenizer: "Callable[[], PreTrainedTokenizerFast]"
    exercises: Callable[[Random], Sequence[Iterator[Exercise]]]
    """Endless exercises from the train split, one iterator for each kind of question; all kinds come equally often."""
    judge: Callable[[Question, str], Judgement] | None = None
    """What makes the remarks of the feedback styles below. To carry no information, they are on another question."""
    styles: tuple[str, ...] = ()
    """Feedback styles of retries, besides `binary`."""
    settings: WarmStart = WarmStart()
    context: int = 512
    """The most tokens that a dialogue can have."""

    def architecture(self) -> "Qwen2Config":
        """The model's, known without making it."""
        from multiattempt_trl.domains.small_model import build_config

        return build_config(self.tokenizer(), self.context)

    def build_model(self, seed: int) -> Path:
        """The warm start of this seed, trained on first use."""
        from multiattempt_trl.domains import warm_start

        return warm_start.build_warm_start(self, seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One row: the tokens that reinforcement learning would see, and the last answer as the target."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    """The end-of-turn token included."""

    @property
    def input_ids(self) -> list[int]:
        return [*self.prompt_ids, *self.answer_ids]

    @property
    def labels(self) -> list[int]:
        return [-100] * len(self.prompt_ids) + list(self.answer_ids)


def lessons(course: Course, settings: WarmStart, renderer: Renderer, seed: int) -> Iterator[Lesson]:
    """Endless lessons, all kinds of question equally often."""
    random = Random(f"warm start {seed}")
    sources = course.exercises(random)
    while True:
        source = random.choice(sources)
        exercise = next(source)
        retry = random.random() < settings.retries
        budget = random.randint(2 if retry else 1, settings.max_attempts)
        earlier = [
            exercise if random.random() < settings.planted else next(source)
            for _ in range(random.randint(1, budget - 1) if retry else 0)
        ]
        feedback = random.choice(["binary", *course.styles]) if retry and course.styles else "binary"
        env = Environment(question=exercise.question(), budget=budget, preset=course.preset, feedback=feedback)
        remarks = [
            course.judge(next(source).question(), answered.response).remarks
            if env.remark_styles and course.judge
            else {}
            for answered in earlier
        ]
        yield _lesson(env, renderer, exercise, list(zip(earlier, remarks, strict=True)))


def _lesson(
    env: Environment, renderer: Renderer, exercise: Exercise, earlier: Sequence[tuple[Exercise, Mapping[str, str]]]
) -> Lesson:
    def response_ids(answered: Exercise) -> tuple[int, ...]:
        return (*renderer.tokenizer(answered.response, add_special_tokens=False)["input_ids"], renderer.stop_ids[0])

    prompt_ids = renderer.prompt_ids(env.first_messages())
    for used, (answered, remarks) in enumerate(earlier, start=1):
        said = response_ids(answered)
        prompt_ids += said + renderer.feedback_ids(env.feedback_message(used, remarks), said)
    return Lesson(prompt_ids=prompt_ids, answer_ids=response_ids(exercise))

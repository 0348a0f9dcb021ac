"""The scheduler: plays dialogues to their end over any backend. Training and evaluation both play through it."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Ending, Episode, Judgement, Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.rollout.live import Dialogue, Grade
from multiattempt_trl.rollout.requests import RolloutBackend, SharedBackend

GRADING_POLL_SECONDS = 0.01
"""How long an eager backend may keep the scheduler from looking whether a verdict has come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a rollout is."""

    dialogues: int
    done: int
    solved: int
    running: int
    """Attempts that are being generated."""
    tokens: int
    """Sampled in the attempts that have ended."""


class Admission:
    """Who is generated next, where a backend takes no more than `slots` attempts together."""

    def __init__(self, dialogues: Sequence[Dialogue], capacity: int | None) -> None:
        self.fresh = deque(sorted(range(len(dialogues)), key=lambda index: -dialogues[index].env.budget))
        self.again: deque[int] = deque()
        self.slots = len(dialogues) if capacity is None else capacity

    def next(self, generating: int, judging: int) -> Iterable[int]:
        """Those that find a place: dialogues that have begun first, then new ones, the largest budget first."""
        for _ in range(self.slots - generating):
            if self.again:
                yield self.again.popleft()
            elif self.fresh and judging < self.slots:
                yield self.fresh.popleft()
            else:
                return


def play(
    envs: Sequence[Environment],
    backend: RolloutBackend,
    grade: Grade,
    renderer: Renderer,
    limits: Limits,
    *,
    stop_at_box: bool = False,
    seed: int = 0,
    on_episode: Callable[[Episode], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Episode]:
    """Plays every dialogue to its end and returns the episodes in the order of `envs`.

    Attempts are judged while others are generated. To an eager backend the next attempt is submitted as soon as the
    last one is judged; for one in lock step all wait until the round is over, so that who is generated together with
    whom, and with that what is sampled, does not depend on how long a grader takes.

    Dialogues with the largest budget are begun first, since they take the most rounds. At most `backend.capacity`
    attempts are generated together, and those of dialogues that have begun go before new ones. While as many answers
    wait for their verdict, none is begun: a slow grader holds generation up rather than being buried.

    A request that fails ends its dialogue as `Ending.FAILED`.

    Args:
        seed: of all attempts' own random numbers.
        on_episode: called with each episode as it ends, in the order of their ends (a progress bar, a file).
        on_progress: called whenever the backend was asked.

    Raises `ValueError` before any generation where a prompt leaves no room for an answer, where the chat template
    has no place for the feedback, or where the backend cannot hold a dialogue; `RuntimeError` where all requests
    failed.
    """
    dialogues = [Dialogue(env, renderer, limits) for env in envs]
    between = [tokens for one in dialogues for tokens in one.feedback]
    backend.expect([one.longest for one in dialogues], min(between, default=0))
    admission = Admission(dialogues, backend.capacity)
    judging: dict[int, Future[Verdict | Judgement]] = {}
    generating = done = solved = tokens = 0
    with backend:
        while done < len(dialogues):
            if begun := list(admission.next(generating, len(judging))):
                backend.submit([dialogues[one].request(one, stop_at_box=stop_at_box, seed=seed) for one in begun])
                generating += len(begun)
            if generating:
                results = backend.poll(GRADING_POLL_SECONDS if judging else None)
                generating -= len(results)
                tokens += sum(len(one.token_ids) for one in results)
                judging |= {one.request_id: dialogues[one.request_id].hand_in(one, grade) for one in results}
            elif not (isinstance(backend, SharedBackend) and backend.step_for_others()):
                wait(judging.values(), return_when=FIRST_COMPLETED)
            for index in judged(judging, generating, eager=backend.eager):
                dialogue = dialogues[index]
                dialogue.advance(judging.pop(index).result())
                if dialogue.ending is None:
                    admission.again.append(index)
                    continue
                done, solved = done + 1, solved + (dialogue.ending is Ending.SOLVED)
                if on_episode is not None:
                    on_episode(dialogue.episode())
            if on_progress is not None:
                on_progress(
                    Progress(dialogues=len(dialogues), done=done, solved=solved, running=generating, tokens=tokens)
                )
    check_not_all_failed(dialogues)
    return [dialogue.episode() for dialogue in dialogues]


def judged(judging: dict[int, Future[Verdict | Judgement]], generating: int, *, eager: bool) -> list[int]:
    """The dialogues that can go on, in the order in which their attempts were generated."""
    if not eager:
        return [] if generating else list(judging)
    return [index for index, verdict in judging.items() if verdict.done()]


def check_not_all_failed(dialogues: Sequence[Dialogue]) -> None:
    """Raises `RuntimeError` where no dialogue says anything of the model."""
    failures = [one.failure for one in dialogues if one.ending is Ending.FAILED]
    if failures and len(failures) == len(dialogues):
        raise RuntimeError(f"all {len(failures)} dialogues of this rollout failed; the first one: {failures[0]}")

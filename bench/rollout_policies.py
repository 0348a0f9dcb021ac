"""The ways to play a rollout that `bench/rollout_sim.py` compares, each by the decode steps that it takes."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar

from rollout_lengths import Dialogues

from multiattempt_trl.rollout.play import Admission

Piece = TypeVar("Piece")
CHUNK, PUBLISHED_BATCH = 64, 256
"""`token_per_step` and `mini_batch_size` of the published code."""
OURS, BOUND = "no barrier", "lower bound"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a rollout took."""

    steps: int
    slots: int
    slot_steps: int
    """Rows that were computed, over all steps."""
    under_way: int
    """The most dialogues that had begun and were not over: so many caches would save reading them again."""


def known(dialogues: Dialogues) -> Any:
    """What `Admission` reads of its dialogues."""
    return [SimpleNamespace(env=SimpleNamespace(budget=budget)) for budget in dialogues.budgets]


def rounds(pieces: Sequence[Sequence[Piece]]) -> Iterator[list[Piece]]:
    """The first piece of every dialogue, then the second of those that have one, and so on."""
    for turn in range(max(map(len, pieces))):
        yield [each[turn] for each in pieces if turn < len(each)]


def refilled(lengths: Sequence[int], slots: int) -> int:
    """Steps until all are done, where the first slot that falls free takes the next one."""
    ends = list(lengths[:slots])
    heapq.heapify(ends)
    for length in lengths[slots:]:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def lock_step(dialogues: Dialogues, slots: int, grading: int) -> Outcome:
    """Rounds of attempts in batches of `slots` rows; a batch is judged while the next one is generated."""
    steps = slot_steps = 0
    order = Admission(known(dialogues), None).fresh
    for lengths in rounds([dialogues.attempts[index] for index in order]):
        batches = [lengths[first : first + slots] for first in range(0, len(lengths), slots)]
        steps += sum(map(max, batches)) + grading
        slot_steps += sum(len(batch) * max(batch) for batch in batches)
    return Outcome(steps=steps, slots=slots, slot_steps=slot_steps, under_way=len(order))


def all_at_once(dialogues: Dialogues, _: int, grading: int) -> Outcome:
    """Lock step with a slot for every dialogue."""
    return lock_step(dialogues, len(dialogues.attempts), grading)


def rounds_refilled(dialogues: Dialogues, slots: int, grading: int) -> Outcome:
    """Rounds of attempts, each over slots that are refilled."""
    steps = sum(refilled(lengths, slots) + grading for lengths in rounds(dialogues.attempts))
    return Outcome(steps=steps, slots=slots, slot_steps=dialogues.tokens, under_way=len(dialogues.attempts))


def chunked(dialogues: Dialogues, slots: int, grading: int, batch: int | None = None) -> Outcome:
    """Batches of dialogues one after the other, in rounds of chunks; a round in which attempts end is judged."""
    everyone, steps = dialogues.attempts, 0
    batch = min(batch or len(everyone), len(everyone))
    for first in range(0, len(everyone), batch):
        pieces = [[chunk for tokens in each for chunk in chunks(tokens)] for each in everyone[first : first + batch]]
        for turn in rounds(pieces):
            steps += refilled([tokens for tokens, _ in turn], slots) + grading * any(last for _, last in turn)
    return Outcome(steps=steps, slots=slots, slot_steps=dialogues.tokens, under_way=batch)


def chunks(tokens: int) -> list[tuple[int, bool]]:
    """An attempt in pieces, each with whether it is the last one."""
    whole, rest = divmod(tokens - 1, CHUNK)
    return [(CHUNK, False)] * whole + [(rest + 1, True)]


class InOrderOfArrival(Admission):
    """New dialogues as they come."""

    def __init__(self, dialogues: Sequence[Any], capacity: int | None) -> None:
        super().__init__(dialogues, capacity)
        self.fresh = deque(range(len(dialogues)))


class NewOnesFirst(Admission):
    """New dialogues before those that have begun."""

    def next(self, generating: int, judging: int) -> Iterable[int]:
        for _ in range(self.slots - generating):
            if self.fresh and judging < self.slots:
                yield self.fresh.popleft()
            elif self.again:
                yield self.again.popleft()


def no_barrier(
    dialogues: Dialogues, slots: int, grading: int, admission: type[Admission] = Admission, late: int = 0
) -> Outcome:
    """What `play` does over an eager backend, from one end of an attempt or of its grading to the next."""
    queue, ahead = admission(known(dialogues), slots), [deque(each) for each in dialogues.attempts]
    running: list[tuple[int, int, int]] = []  # (end, which to be admitted, dialogue)
    judging: deque[tuple[int, int]] = deque()  # (time of the verdict, dialogue)
    now, over, under_way, admitted = 0, 0, 0, count()
    while over < len(ahead):
        for index in list(queue.next(len(running), len(judging))):
            heapq.heappush(running, (now + ahead[index].popleft(), next(admitted), index))
        under_way = max(under_way, len(ahead) - len(queue.fresh) - over)
        now = min(events[0][0] for events in (running, judging) if events)
        while running and running[0][0] == now:
            judging.append((now + grading + late, heapq.heappop(running)[2]))
        while judging and judging[0][0] == now:
            index = judging.popleft()[1]
            if ahead[index]:
                queue.again.append(index)
            else:
                over += 1
    return Outcome(steps=now, slots=slots, slot_steps=dialogues.tokens, under_way=under_way)


def lower_bound(dialogues: Dialogues, slots: int, grading: int) -> Outcome:
    """No order takes less than its longest dialogue, nor than all tokens over all slots."""
    longest = max(sum(each) + grading * len(each) for each in dialogues.attempts)
    steps = max(longest, -(-dialogues.tokens // slots))
    under_way = min(slots, len(dialogues.attempts))
    return Outcome(steps=steps, slots=slots, slot_steps=dialogues.tokens, under_way=under_way)


POLICIES: dict[str, Callable[[Dialogues, int, int], Outcome]] = {
    "barrier, all at once": all_at_once,
    "barrier, batches of slots": lock_step,
    "barrier, slots refilled": rounds_refilled,
    f"chunks of {CHUNK}, batches of {PUBLISHED_BATCH}": partial(chunked, batch=PUBLISHED_BATCH),
    f"chunks of {CHUNK}, all at once": chunked,
    OURS: no_barrier,
    "  in order of arrival": partial(no_barrier, admission=InOrderOfArrival),
    "  new ones first": partial(no_barrier, admission=NewOnesFirst),
    "  verdicts 20 steps late": partial(no_barrier, late=20),
    BOUND: lower_bound,
}

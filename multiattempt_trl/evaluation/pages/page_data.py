"""The dialogues of an evaluation as a page holds them: an index, and compressed parts with the responses."""

import gzip
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.evaluation.pages.words import PROBLEM, environment, title, words
from multiattempt_trl.evaluation.protocols import EvalPlan

Evaluation = Mapping[str, Mapping[str, Sequence[Episode]]]
"""benchmark -> run -> episodes."""

Value = TypeVar("Value")

Shortened = str | list[str | int]
"""A response as it is, or [its beginning, how many characters are left out, its end]."""

BYTES = 18_500_000
"""What the dialogues may take of a page, so that all of it stays under 20 MB."""
SHORTEST = 240
"""Characters of a response that are always kept. With very many dialogues the page grows rather than lose these."""
PART = 400_000
"""Characters in a part: long enough to compress well, short enough to open in a few milliseconds."""
ANSWER, PROBLEM_TEXT = 300, 20_000
"""Characters of an answer and of a problem that are kept."""
SAMPLED = 400
"""Responses from which the rate of compression is estimated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageData:
    """What is embedded, each piece as base64 of gzip of JSON: letters, digits, + / and =, which no tag can end."""

    index: str
    """Everything but the responses; read when the page opens."""
    parts: list[str]
    """The responses of consecutive dialogues; read when one of them is opened, or all of them for a search."""
    limit: int | None
    """The most characters of a response; None where all are whole."""


def page_data(evaluation: Evaluation, plan: EvalPlan, size: int = BYTES) -> PageData:
    """The dialogues in at most `size` bytes, shortening the middle of the longest responses first."""
    rows = [(run, episode) for runs in evaluation.values() for run, episodes in runs.items() for episode in episodes]
    responses = [[attempt.response for attempt in episode.attempts] for _, episode in rows]
    every = [response for each in responses for response in each]
    lengths = sorted(map(len, every))
    room = size - len(_pack(_index(rows, plan, [])))
    characters = room / _rate(every)
    while True:
        limit = _limit(lengths, characters)
        shortened = [[shorten(response, limit) for response in each] for each in responses]
        cuts = list(_cuts(responses, limit))
        parts = [_pack(shortened[start:end]) for start, end in cuts]
        total = sum(map(len, parts))
        if total <= room or limit == SHORTEST:
            return PageData(index=_pack(_index(rows, plan, [start for start, _ in cuts])), parts=parts, limit=limit)
        characters *= 0.98 * room / total


def shorten(response: str, limit: int | None) -> Shortened:
    """The response, or a third of `limit` characters from its beginning and the rest from its end.

    >>> shorten("abcdefgh", 6)
    ['ab', 2, 'efgh']
    """
    if limit is None or len(response) <= limit:
        return response
    head = limit // 3
    tail = limit - head
    return [response[:head], len(response) - limit, response[-tail:]]


def _limit(lengths: Sequence[int], characters: float) -> int | None:
    """The cap under which responses of these lengths (sorted) take this many characters; None where none is needed.

    The cap L solves sum(min(length, L)) = characters: the longest are levelled first.
    """
    left = characters
    for done, length in enumerate(lengths):
        longer = len(lengths) - done
        if length * longer > left:
            return max(SHORTEST, int(left / longer))
        left -= length
    return None


def _rate(responses: Sequence[str]) -> float:
    """Bytes on the page for a character of a response, from a sample of them."""
    sample = responses[:: max(1, len(responses) // SAMPLED)]
    return (len(_pack(sample)) + 1) / (sum(map(len, sample)) + 1)


def _cuts(responses: Sequence[Sequence[str]], limit: int | None) -> Iterator[tuple[int, int]]:
    """[start, end) of the dialogues in each part."""
    start, held = 0, 0
    for i, each in enumerate(responses):
        held += sum(len(response) if limit is None else min(len(response), limit) for response in each)
        if held >= PART or i == len(responses) - 1:
            yield start, i + 1
            start, held = i + 1, 0


def _pack(data: Any) -> str:
    """No date in it: the same dialogues give the same page. Half of a surrogate pair becomes `?`."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return b64encode(gzip.compress(text.encode("utf-8", errors="replace"), compresslevel=6, mtime=0)).decode("ascii")


def _index(rows: Sequence[tuple[str, Episode]], plan: EvalPlan, starts: Sequence[int]) -> dict[str, Any]:
    """What lists and filters need. Columns have one entry a dialogue; questions and runs are named by number."""
    questions = _numbered(_identity(episode.question) for _, episode in rows)
    runs = _numbered(run for run, _ in rows)
    spoken = _numbered((run, episode.budget) for run, episode in rows)
    return {
        "starts": list(starts),
        "mark": PROBLEM,
        "budget": plan.budget,
        "questions": [list(question) for question in questions],
        "runs": [[run, *title(run)] for run in runs],
        "words": {f"{run} {budget}": words(plan, run, budget) for run, budget in spoken},
        "question": [questions[_identity(episode.question)] for _, episode in rows],
        "run": [runs[run] for run, _ in rows],
        "budgets": [episode.budget for _, episode in rows],
        "sample": [episode.sample for _, episode in rows],
        "ending": [episode.ending.value for _, episode in rows],
        "attempts": [list(_attempts(episode, plan, run)) for run, episode in rows],
    }


def _attempts(episode: Episode, plan: EvalPlan, run: str) -> Iterator[list[Any]]:
    """[verdict, tokens, finish reason, answer, the earlier attempt that gave it already or 0] of each attempt.

    Where the feedback to it said a remark, its words are the sixth.
    """
    env = environment(plan, run, episode.budget)
    answers = [attempt.answer for attempt in episode.attempts]
    for k, (attempt, answer) in enumerate(zip(episode.attempts, answers, strict=True)):
        again = answers.index(answer) + 1 if answer is not None and answer in answers[:k] else 0
        shown = answer if answer is None else answer[:ANSWER]
        remarked = k + 1 < len(answers) and any(attempt.remarks.get(style) for style in env.remark_styles)
        said = [env.feedback_message(k + 1, attempt.remarks)["content"]] if remarked else []
        yield [attempt.verdict.value, attempt.tokens, attempt.finish_reason, shown, again, *said]


def _identity(question: Question) -> tuple[str, ...]:
    problem = question.problem[:PROBLEM_TEXT]
    return question.benchmark, question.id, question.level, question.subject, question.answer[:ANSWER], problem


def _numbered(values: Iterable[Value]) -> dict[Value, int]:
    """Each different value with its number, in the order in which they come."""
    return {value: i for i, value in enumerate(dict.fromkeys(values))}

"""From an episode to one flat row of tokens, and from rows to tensors.

A row is the first prompt, then a completion in which attempts and feedback alternate. One number per completion token
says whose it is: k >= 1 for a token the policy sampled in attempt k, 0 for feedback and padding. Every mask follows
from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from multiattempt_trl.dialogue.episode import Ending, Episode


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSequence:
    """An episode as the tokens that were sampled and read, none of them re-tokenised."""

    prompt_ids: list[int]
    completion_ids: list[int]
    attempt_index: list[int]
    """For each completion token the attempt (from 1) that sampled it, 0 for feedback."""
    sampled_logprobs: list[float | None]
    """For each completion token the log-probability it was sampled with; None for feedback, and where nobody told."""

    @property
    def policy_mask(self) -> list[int]:
        """1 where the policy sampled the token."""
        return [int(index > 0) for index in self.attempt_index]


def flatten(episode: Episode) -> TokenSequence:
    """The episode as one row. Of a failed episode no token is the policy's: it is read by nobody.

    Raises `ValueError` where an attempt's prompt does not begin with everything before it: the trained ids would not
    be the sampled ids.
    """
    first = episode.attempts[0]
    prompt = list(first.prompt_ids)
    ids, index = list(prompt), list[int]()
    logprobs: list[float | None] = []
    for k, attempt in enumerate(episode.attempts, start=1):
        if attempt.prompt_ids[: len(ids)] != tuple(ids):
            raise ValueError(
                f"attempt {k} of question {episode.question.id!r} was given a prompt that does not extend the tokens "
                "before it; the renderer must be append-only"
            )
        feedback = attempt.prompt_ids[len(ids) :]
        ids += [*feedback, *attempt.response_ids]
        index += [0] * len(feedback) + [k] * attempt.tokens
        logprobs += [None] * len(feedback) + list(attempt.logprobs or [None] * attempt.tokens)
    completion = ids[len(prompt) :]
    if episode.ending is Ending.FAILED:
        completion = completion or prompt[-1:]  # TRL takes no empty row
        index, logprobs = [0] * len(completion), [None] * len(completion)
    return TokenSequence(prompt_ids=prompt, completion_ids=completion, attempt_index=index, sampled_logprobs=logprobs)


def collate(rows: Sequence[Sequence[float]], width: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of numbers, padded on the right with 0 to (B, width)."""
    padded = torch.zeros(len(rows), width, dtype=dtype)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = torch.as_tensor(values, dtype=dtype)
    return padded


def spread(per_attempt: torch.Tensor, attempt_index: torch.Tensor) -> torch.Tensor:
    """Each token gets its attempt's number, feedback and padding get 0.

    Args:
        per_attempt: (B, K), one number per attempt.
        attempt_index: (B, T), values in 0 ... K.

    Returns: (B, T).
    """
    with_nobody = torch.nn.functional.pad(per_attempt, (1, 0))  # column 0: tokens of no attempt
    return with_nobody.gather(1, attempt_index)


def place_rewards(per_attempt: torch.Tensor, attempt_index: torch.Tensor) -> torch.Tensor:
    """Each attempt's reward on the last token that the policy sampled in it; 0 elsewhere.

    Args:
        per_attempt: (B, K).
        attempt_index: (B, T).

    Returns: (B, T).
    """
    return torch.where(ends_of_attempts(attempt_index), spread(per_attempt, attempt_index), 0.0)


def ends_of_attempts(attempt_index: torch.Tensor) -> torch.Tensor:
    """(B, T) -> (B, T): True on the last token that the policy sampled in each attempt."""
    following = torch.nn.functional.pad(attempt_index[:, 1:], (0, 1))
    # Where no feedback stands between two attempts the index still changes; where one attempt ends a row, 0 follows.
    return (attempt_index > 0) & (attempt_index != following)


def forward_by_length(
    forward: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    width: int,
    rows: int,
) -> torch.Tensor:
    """One forward pass's numbers, from passes over `rows` rows of similar length without their common padding.

    Dialogues differ in length several-fold, and a padded token costs as much as a real one.

    Args:
        forward: (ids, mask, width) -> (b, width, ...), a number or more for each of the last `width` tokens.
        input_ids, attention_mask: (B, P + T), padded on the left of P and on the right of T.
        width: T.

    Returns: (B, T, ...), 0 on the padding that was left out.
    """
    lengths = attention_mask[:, -width:].sum(1)
    order = lengths.argsort(stable=True)
    outputs = []
    for index in order.split(rows):
        kept = max(int(lengths[index].max()), 1)
        end = input_ids.size(1) - width + kept
        output = forward(input_ids[index, :end], attention_mask[index, :end], kept)
        outputs.append(torch.nn.functional.pad(output, (0, 0) * (output.dim() - 2) + (0, width - kept)))
    return torch.cat(outputs)[order.argsort()]

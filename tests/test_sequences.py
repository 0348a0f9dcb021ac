"""From an episode to one flat row: whose each token is, and where each reward stands."""

from dataclasses import replace

import pytest
import torch

from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Question, Verdict
from multiattempt_trl.training.sequences import collate, flatten, place_rewards, spread


def episode(*attempts: tuple[list[int], list[int]]) -> Episode:
    """An episode of (prompt_ids, response_ids)."""
    return Episode(
        question=Question(id="q", problem="p", answer="a"),
        budget=len(attempts),
        attempts=tuple(
            Attempt(
                prompt_ids=tuple(prompt),
                response_ids=tuple(response),
                response="",
                verdict=Verdict.WRONG,
                finish_reason="eos",
            )
            for prompt, response in attempts
        ),
        ending=Ending.EXHAUSTED,
    )


# --- flatten -------------------------------------------------------------------------------------------------------


def test_one_attempt() -> None:
    row = flatten(episode(([1, 2], [3, 4])))
    assert (row.prompt_ids, row.completion_ids, row.attempt_index) == ([1, 2], [3, 4], [1, 1])


def test_three_attempts_with_feedback() -> None:
    row = flatten(
        episode(
            ([1, 2], [10, 11]),
            ([1, 2, 10, 11, 90, 91], [20]),
            ([1, 2, 10, 11, 90, 91, 20, 92], [30, 31]),
        )
    )
    assert row.prompt_ids == [1, 2]
    assert row.completion_ids == [10, 11, 90, 91, 20, 92, 30, 31]
    assert row.attempt_index == [1, 1, 0, 0, 2, 0, 3, 3]
    assert row.policy_mask == [1, 1, 0, 0, 1, 0, 1, 1]


def test_empty_feedback() -> None:
    row = flatten(episode(([1], [10]), ([1, 10], [20, 21])))
    assert (row.completion_ids, row.attempt_index) == ([10, 20, 21], [1, 2, 2])


def test_the_row_ends_with_the_last_sampled_token() -> None:
    # Field notes, trap 2: a row that ends in a masked turn would lose its reward.
    row = flatten(episode(([1], [10]), ([1, 10, 90], [20])))
    assert row.policy_mask[-1] == 1


def test_an_attempt_that_sampled_nothing_leaves_its_feedback_masked() -> None:
    row = flatten(episode(([1], [10]), ([1, 10, 90], []), ([1, 10, 90, 91], [30])))
    assert (row.completion_ids, row.attempt_index) == ([10, 90, 91, 30], [1, 0, 0, 3])


def test_of_a_failed_episode_nothing_is_the_policys() -> None:
    failed = replace(episode(([1], [10, 11]), ([1, 10, 11, 90], [])), ending=Ending.FAILED)
    row = flatten(failed)
    assert (row.completion_ids, row.attempt_index) == ([10, 11, 90], [0, 0, 0])
    assert row.sampled_logprobs == [None] * 3
    # A row that lost its first request holds one token, which is nobody's.
    row = flatten(replace(episode(([1, 2], [])), ending=Ending.FAILED))
    assert (row.prompt_ids, row.completion_ids, row.attempt_index) == ([1, 2], [2], [0])


def test_the_samplers_logprobs_stand_beside_their_tokens_and_nothing_beside_feedback() -> None:
    told = episode(([1], [10, 11]), ([1, 10, 11, 90, 91], [20]))
    first, second = told.attempts
    attempts = (replace(first, logprobs=(-0.1, -0.2)), replace(second, logprobs=(-0.3,)))
    assert flatten(replace(told, attempts=attempts)).sampled_logprobs == [-0.1, -0.2, None, None, -0.3]
    assert flatten(told).sampled_logprobs == [None] * 5


@pytest.mark.parametrize(
    "second_prompt",
    [
        [1, 2, 10, 99, 90],  # another last token
        [1, 2, 10],  # shorter than what was read and sampled before
        [2, 1, 10, 11, 90],  # another first prompt
        [],
    ],
)
def test_a_prompt_that_does_not_extend_the_row(second_prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="attempt 2 of question 'q' was given a prompt that does not extend"):
        flatten(episode(([1, 2], [10, 11]), (second_prompt, [20])))


# --- to tensors ----------------------------------------------------------------------------------------------------


def test_collate() -> None:
    tensor = collate([[1.5, 2.0], [], [3.0, 4.0, 5.0]], 4, torch.float64)
    expected = torch.tensor([[1.5, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0]], dtype=torch.float64)
    torch.testing.assert_close(tensor, expected)
    assert collate([[1, 2]], 2, torch.long).dtype is torch.long


def test_collate_keeps_large_ids_exact() -> None:
    # 2**24 + 1 has no float32.
    assert collate([[2**24 + 1]], 1, torch.long).tolist() == [[2**24 + 1]]


def test_a_row_longer_than_the_width_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        collate([[1, 2, 3]], 2, torch.long)


INDEX = torch.tensor(
    [
        [1, 1, 0, 2, 2, 0],  # feedback between the attempts, one pad
        [1, 2, 2, 3, 3, 3],  # no feedback between the attempts, the row ends at full width
        [1, 0, 0, 0, 3, 0],  # attempt 2 sampled nothing
        [0, 0, 0, 0, 0, 0],  # padding only
    ]
)
PER_ATTEMPT = torch.tensor([[0.5, -1.0, 7.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])


def test_spread() -> None:
    expected = [
        [0.5, 0.5, 0, -1, -1, 0],
        [1, 2, 2, 3, 3, 3],
        [4, 0, 0, 0, 6, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(spread(PER_ATTEMPT, INDEX), torch.tensor(expected))


def test_place_rewards() -> None:
    expected = [
        [0, 0.5, 0, 0, -1, 0],
        [1, 0, 2, 0, 0, 3],
        [4, 0, 0, 0, 6, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(place_rewards(PER_ATTEMPT, INDEX), torch.tensor(expected))


def test_every_reward_of_an_attempt_with_tokens_is_placed_once() -> None:
    # The unreached third attempt of row 0 has no token, and its number stands nowhere.
    placed = place_rewards(PER_ATTEMPT, INDEX).sum(1)
    torch.testing.assert_close(placed, torch.tensor([0.5 - 1.0, 1.0 + 2.0 + 3.0, 4.0 + 6.0, 0.0]))


def test_rewards_stand_on_policy_tokens_of_a_flattened_episode() -> None:
    row = flatten(episode(([1], [10, 11]), ([1, 10, 11, 90], [20]), ([1, 10, 11, 90, 20], [30, 31])))
    index = collate([row.attempt_index], len(row.attempt_index), torch.long)
    assert place_rewards(torch.tensor([[-1.0, 0.5, 1.5]]), index).tolist() == [[0, -1.0, 0, 0.5, 0, 1.5]]

"""How tokens are drawn: by hand, by frequency, and at the edges."""

import math
from collections import Counter
from random import Random

import pytest
import torch

from multiattempt_trl.dialogue.seeds import stable_seed
from multiattempt_trl.rollout.sampling import draw, uniform

TOP = 1 - 2.0**-52
"""The largest number that `uniform` gives."""


def test_draw_by_hand() -> None:
    # Cumulative 0.1, 0.3, 0.3, 1.0: the third token has no probability.
    logprobs = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().expand(8, 4)
    tokens, told = draw(logprobs, [0.0, 0.05, 0.1000001, 0.2, 0.29999, 0.3000001, 0.5, TOP])
    assert tokens.tolist() == [0, 0, 1, 1, 1, 3, 3, 3]
    torch.testing.assert_close(told, torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2, 0.7, 0.7, 0.7]).log())
    tokens, told = draw(logprobs + 5, None)  # a constant is nothing
    assert tokens.tolist() == [3] * 8
    torch.testing.assert_close(told, torch.tensor(0.7).log().expand(8))


def test_log_probabilities_are_exact_over_a_large_vocabulary() -> None:
    torch.manual_seed(0)
    scores = 3 * torch.randn(8, 151_936)
    tokens, told = draw(scores, [0.1 * row for row in range(8)])
    expected = scores.double().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(told.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("uniforms", [None, [0.5, 0.5]])
def test_scores_that_are_no_numbers_are_an_error(bad: float, uniforms: list[float] | None) -> None:
    scores = torch.zeros(2, 4)
    scores[1, 2] = bad
    if bad == -math.inf:
        assert draw(scores, uniforms)[1].tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 3)])
        scores[1] = bad  # a row without a token that can be
    with pytest.raises(FloatingPointError, match="the model's scores are not numbers in 1 of 2 rows"):
        draw(scores, uniforms)


def test_each_row_has_its_own_number() -> None:
    logprobs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]]).log()
    assert draw(logprobs, [0.6, 0.6, 0.6])[0].tolist() == [1, 0, 1]
    assert draw(logprobs, [0.4, 0.95, 0.05])[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_number_draws_a_token_that_can_be(seed: int) -> None:
    # Sums of float32 probabilities end a little above or below 1, and the last tokens may have none.
    torch.manual_seed(seed)
    scores = torch.randn(64, 5_000)
    scores[:, 4_000:] = -math.inf
    assert (draw(scores, [TOP] * 64)[0] < 4_000).all()
    assert (draw(scores, [0.0] * 64)[0] == 0).all()


def test_frequencies() -> None:
    # 20,000 draws: the standard deviation of a share is at most 0.0035.
    random, probabilities = Random(0), [0.5, 0.25, 0.2, 0.05]
    logprobs = torch.tensor(probabilities).log().expand(20_000, 4)
    counts = Counter(draw(logprobs, [uniform(random) for _ in range(20_000)])[0].tolist())
    for token, probability in enumerate(probabilities):
        assert counts[token] / 20_000 == pytest.approx(probability, abs=0.012)


def test_an_attempts_seed_is_its_own_and_stable() -> None:
    seeds = {stable_seed(seed, name, k) for seed in range(5) for name in ("a", "b", "ab") for k in range(1, 6)}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)
    # int(blake2b(b"3\\0q\\x002", digest_size=8).hexdigest(), 16) >> 1
    assert stable_seed(3, "q", 2) == 9096968759788897246

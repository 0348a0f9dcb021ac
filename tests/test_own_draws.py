"""Attempts that draw from random numbers of their own in lock step: the same beside whomever, on any backend."""

from contextlib import nullcontext

import pytest
import torch
from talkers import RENDERER, TOKENIZER, dialogues, lock_step, talker
from transformers import GenerationConfig, LogitsProcessorList

from multiattempt_trl.rollout.continuous_backend import ContinuousBackend
from multiattempt_trl.rollout.sampling import OwnDraws, Sampling

WARM = Sampling(temperature=1.0)
SHARP = Sampling(temperature=0.7, top_p=0.9, top_k=20, min_p=0.02)


@pytest.mark.parametrize("sampling", [WARM, SHARP])
def test_what_is_sampled_does_not_depend_on_the_neighbours(sampling: Sampling) -> None:
    together = dialogues(lock_step(talker(), sampling=sampling, own_draws=True))
    fewer = dialogues(lock_step(talker(), sampling=sampling, own_draws=True, batch_size=5))
    assert together == fewer
    again = dialogues(lock_step(talker(), sampling=sampling, own_draws=True), seed=1)
    assert sum(one != other for one, other in zip(together, again, strict=True)) > len(together) // 3


def test_continuous_batching_samples_the_same() -> None:
    continuous = ContinuousBackend(
        lambda: nullcontext(talker()), TOKENIZER, stop_ids=RENDERER.stop_ids, sampling=WARM, dialogues=16
    )
    free, bound = dialogues(continuous), dialogues(lock_step(talker(), sampling=WARM, own_draws=True))
    ids = [[[attempt.response_ids for attempt in one.attempts] for one in episodes] for episodes in (free, bound)]
    assert ids[0] == ids[1]


def test_torchs_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    dialogues(lock_step(talker(), sampling=WARM, own_draws=True), 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_are_drawn_from_the_distribution_that_transformers_draws_from() -> None:
    """4,000 rows at once: a share's standard deviation is below 0.008."""
    torch.manual_seed(0)
    scores = (2 * torch.randn(1, 12)).repeat(4000, 1)
    ids = torch.zeros(4000, 1, dtype=torch.long)
    chosen = OwnDraws(SHARP, range(4000))(ids, scores.clone()).argmax(-1)
    config = GenerationConfig(**SHARP.generation_kwargs())
    stock: LogitsProcessorList = talker()._get_logits_processor(config, device="cpu")  # type: ignore[assignment]
    expected = stock(ids, scores)[0].softmax(-1)
    shares = torch.bincount(chosen, minlength=12) / 4000
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)
    assert set(chosen.tolist()) <= set(expected.nonzero().flatten().tolist())

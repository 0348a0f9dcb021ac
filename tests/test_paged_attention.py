"""Attention over pages: against a plain loop over rows, and the size of pages by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from multiattempt_trl.rollout.paged_attention import Step, paged_attention
from multiattempt_trl.rollout.paging import KeyValues, Paging

PAGE, LAYERS, HEADS, SHARED, SIZE = 4, 3, 4, 2, 8
STRIDE = 2 * LAYERS
"""Pages of a block: one for keys and one for values of each layer."""
BLOCKS = 20


class Cache:
    """What attention asks of transformers' cache: of each layer, views of its pages that begin at its first one."""

    def __init__(self, layer: int) -> None:
        self.flat = torch.full((BLOCKS * STRIDE + STRIDE, PAGE, SHARED, SIZE), 7.0)
        self.layer = layer
        self.layer_to_allocator = {layer: self}

    def get_cache_for_block_table(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.flat[2 * layer :], self.flat[2 * layer + 1 :]

    def put(self, table: list[int], keys: torch.Tensor, values: torch.Tensor) -> None:
        for place, (key, value) in enumerate(zip(keys, values, strict=True)):
            page = table[place // PAGE] * STRIDE + 2 * self.layer
            self.flat[page, place % PAGE], self.flat[page + 1, place % PAGE] = key, value


def plain(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """The last q tokens of one row, one at a time: (q, H, D) over (k, G, D)."""
    said = []
    for place, asked in enumerate(query):
        seen = keys.size(0) - query.size(0) + place + 1
        for head in range(HEADS):
            shared = head // (HEADS // SHARED)
            weights = (keys[:seen, shared] @ asked[head] * scale).softmax(0)
            said.append(weights @ values[:seen, shared])
    return torch.stack(said).view(query.size(0), HEADS, SIZE)


# (tokens in this pass, tokens with it): rows that decode, prompts from the start and after earlier attempts.
@pytest.mark.parametrize(
    "rows",
    [
        [(1, 1), (1, 4), (1, 5), (1, 13)],
        [(6, 6), (4, 4)],
        [(1, 9), (5, 11), (1, 3), (7, 7), (2, 16), (1, 8)],
        [(3, 10)],
    ],
)
@pytest.mark.parametrize("layer", [0, 2])
def test_each_row_attends_to_its_own_pages(rows: list[tuple[int, int]], layer: int) -> None:
    torch.manual_seed(0)
    cache, blocks = Cache(layer), iter(torch.randperm(BLOCKS - 1).add(1).tolist())  # block 0 is nobody's
    tables, queries, new_keys, new_values, expected = [], [], [], [], []
    for asked, known in rows:
        # A block more than is filled, as where the next token opens one.
        table = [next(blocks) for _ in range(known // PAGE + 1)]
        keys, values = torch.randn(known, SHARED, SIZE), torch.randn(known, SHARED, SIZE)
        cache.put(table, keys[: known - asked], values[: known - asked])
        query = torch.randn(asked, HEADS, SIZE)
        expected.append(plain(query, keys, values, 0.3))
        tables.append(table)
        queries.append(query)
        new_keys.append(keys[known - asked :])
        new_values.append(values[known - asked :])
    step = Step.of(
        tables,
        [row[0] for row in rows],
        [row[1] for row in rows],
        page=PAGE,
        stride=STRIDE,
        device=torch.device("cpu"),
    )
    inputs = (torch.cat(part).transpose(0, 1)[None] for part in (queries, new_keys, new_values))
    module: Any = SimpleNamespace(layer_idx=layer)
    said, _ = paged_attention(module, *inputs, None, cache=cache, step=step, scaling=0.3)
    torch.testing.assert_close(said, torch.cat(expected)[None])
    # What was read is in its place for the next pass, and nothing else was touched.
    after = Cache(layer)
    for table, known, asked, keys, values in zip(tables, rows, queries, new_keys, new_values, strict=True):
        kept = known[1] - len(asked)
        page_keys, page_values = cache.get_cache_for_block_table(layer)
        for place, (key, value) in enumerate(zip(keys, values, strict=True), start=kept):
            assert torch.equal(page_keys[table[place // PAGE] * STRIDE, place % PAGE], key)
            assert torch.equal(page_values[table[place // PAGE] * STRIDE, place % PAGE], value)
    untouched = [n for n in range(len(cache.flat)) if n // STRIDE not in {b for table in tables for b in table}]
    assert torch.equal(cache.flat[untouched], after.flat[untouched])


SHAPE = Qwen2Config(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
"""Heads of 16 numbers: in bf16 a token has 2 x 2 x 16 x 2 = 128 bytes in a layer, 384 in all."""


def paging(**options: Any) -> Paging:
    given: dict[str, Any] = {"by_row": True, "longest": [100, 50], "feedback": 20, "memory_gib": 1.0}
    return Paging.of(KeyValues.of(SHAPE, torch.bfloat16), **(given | options))


@pytest.mark.parametrize(("feedback", "size"), [(0, 4), (3, 4), (12, 4), (28, 8), (59, 8), (60, 16), (1000, 16)])
def test_of_a_page_at_most_an_eighth_of_the_feedback_is_read_again(feedback: int, size: int) -> None:
    # On average (size - 1) / 2 tokens, at most feedback / 8 where a smaller page could be had.
    assert paging(feedback=feedback).page_size == size
    assert size == 4 or (size - 1) / 2 <= feedback / 8


def test_pages_for_all_dialogues() -> None:
    # 25 and 13 pages of 4 tokens, and 15 % to spare: 38 / 0.85 = 44.7.
    assert (paging().page_size, paging().pages, paging().step_tokens) == (4, 45, 2 + 8_192)


def test_pages_that_fit() -> None:
    # Copies: two rows of 100 tokens, 128 bytes each. The rest holds 30 pages of 4 x 384 bytes.
    room = 2 * 100 * 128 + 30 * 4 * 384
    assert paging(memory_gib=room / 2**30).pages == 30
    assert paging(memory_gib=(room - 1) / 2**30).pages == 29
    with pytest.raises(ValueError, match=r"one dialogue of 100 tokens does not fit into .* GiB, which hold 96"):
        paging(memory_gib=(room - 6 * 4 * 384) / 2**30)


def test_behind_a_mask_each_token_costs_its_column() -> None:
    # A token has its values once (64 bytes), keys and values for all four heads (256), and a column of 514 rows.
    room = 30 * 4 * (384 + 64 + 256 + 2 * 514)
    masked = paging(by_row=False, memory_gib=room / 2**30)
    assert (masked.pages, masked.step_tokens) == (30, 2 + 512)

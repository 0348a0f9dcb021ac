"""Attention over a paged cache, each row over its own pages: transformers' own reads all pages for every row.

Without flash attention, continuous batching lays the pages of all requests side by side and attends to them behind a
mask, so that a step costs the square of the dialogues under way. Here the rows that decode are gathered into one
padded batch, and each prompt is read by itself. Pages are PagedAttention's (https://arxiv.org/abs/2309.06180).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "multiattempt_paged"
"""Under which transformers finds `paged_attention`. No mask is registered under it, so none is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One row that reads several tokens."""

    queries: slice
    pages: torch.Tensor
    """(W,), the pages that hold its keys, for one layer; the last may be filled in part."""
    keys: int
    mask: torch.Tensor | None
    """(q, k), True where a token may look; None where nothing stands before it, which is plainly causal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Who reads what in one forward pass; the same for all layers. R rows decode, on W pages at most."""

    slots: torch.Tensor
    """(Q,): where the key of each token is written, counted in tokens from the layer's first page."""
    decoding: torch.Tensor
    """(R,): which of the Q tokens belong to rows that decode."""
    pages: torch.Tensor
    """(R, W)."""
    mask: torch.Tensor
    """(R, 1, 1, W * page size), True on the keys of the row."""
    prompts: tuple[Prompt, ...]

    @classmethod
    def of(cls, tables: Sequence[Sequence[int]], queries: Sequence[int], keys: Sequence[int], page: int,
           stride: int, device: torch.device) -> Self:  # fmt: skip
        """From the rows' block tables, their tokens in this pass, and their tokens with it.

        Args:
            page: tokens of a page.
            stride: pages of a block, one for the keys and one for the values of each layer.
        """
        ends = list(accumulate(queries, initial=0))
        slots, decoding, prompts = [], [], []
        for row, (table, asked, known) in enumerate(zip(tables, queries, keys, strict=True)):
            at = np.arange(known - asked, known)
            blocks = np.asarray(table)
            slots.append(blocks[at // page] * (stride * page) + at % page)
            if asked == 1:
                decoding.append(row)
                continue
            used = torch.from_numpy(blocks[: -(-known // page)] * stride).to(device)
            mask = None if asked == known else torch.ones(asked, known, dtype=torch.bool, device=device)
            prompts.append(
                Prompt(
                    queries=slice(ends[row], ends[row + 1]),
                    pages=used,
                    keys=known,
                    mask=None if mask is None else mask.tril(known - asked),
                )
            )
        lengths = np.array([keys[row] for row in decoding], dtype=np.int64)
        width = -(-int(lengths.max(initial=0)) // page)
        pages = np.zeros((len(decoding), width), dtype=np.int64)  # what is masked is page 0, which is always there
        for line, row in enumerate(decoding):
            filled = tables[row][: -(-keys[row] // page)]
            pages[line, : len(filled)] = filled
        columns = torch.arange(width * page, device=device)
        return cls(
            slots=torch.from_numpy(np.concatenate(slots)).to(device),
            decoding=torch.tensor([ends[row] for row in decoding], dtype=torch.long, device=device),
            pages=torch.from_numpy(pages * stride).to(device),
            mask=(columns < torch.from_numpy(lengths).to(device)[:, None])[:, None, None],
            prompts=tuple(prompts),
        )


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    cache: Any,
    step: Step,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Writes the new keys and values into their pages, then lets each row attend to its own.

    Args:
        query: (1, H, Q, D).
        key, value: (1, G, Q, D), with G heads, each shared by H / G of the query's.

    Returns: (1, Q, H, D).
    """
    keys, values = cache.layer_to_allocator[module.layer_idx].get_cache_for_block_table(module.layer_idx)
    for pages, new in ((keys, key), (values, value)):
        pages.view(-1, *pages.shape[2:]).index_copy_(0, step.slots, new[0].transpose(0, 1).to(pages.dtype))
    query = query[0].unflatten(0, (key.size(1), -1)).to(keys.dtype)  # (G, H / G, Q, D)
    if not step.prompts:  # nearly always
        return _decode(query, keys, values, step, scaling).flatten(0, 1).transpose(0, 1)[None].contiguous(), None
    said = torch.empty_like(query)
    if len(step.decoding):
        said[:, :, step.decoding] = _decode(query[:, :, step.decoding], keys, values, step, scaling)
    for prompt in step.prompts:
        asked = query[:, :, prompt.queries]
        k, v = (
            pages[prompt.pages].flatten(0, 1)[: prompt.keys].transpose(0, 1)[:, None].expand(-1, asked.size(1), -1, -1)
            for pages in (keys, values)
        )  # (G, H / G, keys, D)
        said[:, :, prompt.queries] = scaled_dot_product_attention(
            asked, k, v, attn_mask=prompt.mask, is_causal=prompt.mask is None, scale=scaling
        )
    return said.flatten(0, 1).transpose(0, 1)[None].contiguous(), None


def _decode(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step, scaling: float | None
) -> torch.Tensor:
    """Of the rows that decode: (G, H / G, R, D) over pages of shape (page, G, D), to the same shape."""
    rows = query.permute(2, 0, 1, 3)  # (R, G, H / G, D): heads that share their keys are so many queries
    k, v = (pages[step.pages].flatten(1, 2).transpose(1, 2) for pages in (keys, values))  # (R, G, W * page, D)
    return scaled_dot_product_attention(rows, k, v, attn_mask=step.mask, scale=scaling).permute(1, 2, 0, 3)


AttentionInterface.register(NAME, paged_attention)

"""How large the pages of a rollout's cache are, and how many there are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

SMALLEST_PAGE, LARGEST_PAGE = 4, 16
"""Tokens. transformers has none below 4; a step goes through the list of pages, which 16 makes short enough."""
READ_TOKENS = 8_192
"""Prompt tokens that one step may read beside the token of each dialogue that decodes. A rollout answers to nobody who
waits for a single token, so that only memory speaks against reading all at once."""
MASKED_READ_TOKENS = 512
"""The same where attention needs a mask, whose size is this times the cache."""
FREE_SHARE = 0.15
"""Where less of the cache is free, transformers drops what finished attempts left in it (its own default)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paging:
    """A paged cache.

    Raises `ValueError` where not even one dialogue fits.
    """

    page_size: int
    pages: int
    step_tokens: int
    """Most tokens of one forward pass."""
    free_share: float = FREE_SHARE

    @classmethod
    def of(
        cls,
        config: Any,
        dtype: torch.dtype,
        *,
        by_row: bool,
        longest: Sequence[int],
        feedback: int,
        memory_gib: float,
    ) -> Self:
        """For as many dialogues under way together as there are in `longest`, or as many pages as the memory holds.

        The next attempt finds whole pages only, so that of the last one half is read again on average, beside the
        feedback. The page is as large as it can be with that below an eighth.

        Args:
            config: the text model's.
            by_row: whether each row attends to its own pages; else there is a mask over all.
            longest: the most tokens that each dialogue may come to, the longest first.
            feedback: tokens between two attempts.
        """
        page_size = max(SMALLEST_PAGE, min(LARGEST_PAGE, 2 ** int(math.log2(max(feedback, 1) / 4 + 1))))
        step_tokens = len(longest) + (READ_TOKENS if by_row else MASKED_READ_TOKENS)
        sizes = _Sizes.of(config, dtype)
        copies = sizes.copies_by_row(len(longest) * longest[0]) if by_row else 0
        per_token = sizes.token + (0 if by_row else sizes.copies_behind_a_mask(step_tokens))
        pages = [math.ceil(tokens / page_size) for tokens in longest]
        wanted = math.ceil(sum(pages) / (1 - FREE_SHARE))
        fits = int((memory_gib * 2**30 - copies) / (page_size * per_token))
        if fits < pages[0]:
            raise ValueError(
                f"one dialogue of {longest[0]} tokens does not fit into {memory_gib} GiB, which hold "
                f"{max(fits, 0) * page_size}: allow more memory, or shorten the context"
            )
        return cls(page_size=page_size, pages=min(wanted, fits), step_tokens=step_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    """Bytes."""

    token: int
    """Keys and values of a token in all layers."""
    shared: int
    """Keys and values of a token in one layer."""
    repeated: int
    """The same, once for each head of the query."""
    number: int

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> Self:
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        head = (getattr(config, "head_dim", None) or config.hidden_size // heads) * dtype.itemsize
        shared = 2 * kv_heads * head
        return cls(
            token=config.num_hidden_layers * shared, shared=shared, repeated=2 * heads * head, number=dtype.itemsize
        )

    def copies_by_row(self, tokens: int) -> int:
        """Of the layer at work, all rows padded to the longest."""
        return tokens * self.shared

    def copies_behind_a_mask(self, step_tokens: int) -> int:
        """Of one token of the cache: its values as read, both repeated, and its column of the mask."""
        return self.shared // 2 + self.repeated + step_tokens * self.number

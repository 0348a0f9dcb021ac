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
class KeyValues:
    """The shape of a model's keys and values, and what they take in bytes."""

    layers: int
    heads: int
    """Of the query."""
    kv_heads: int
    head_dim: int
    itemsize: int
    """Bytes per number."""

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> Self:
        """From a text model's configuration."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            itemsize=dtype.itemsize,
        )

    @property
    def layer(self) -> int:
        """Keys and values of a token in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.itemsize

    @property
    def token(self) -> int:
        """The same in all layers."""
        return self.layers * self.layer

    def behind_a_mask(self, step_tokens: int) -> int:
        """Of a token of the cache beside that: its values as read, keys and values repeated to all heads of the query,
        and its column of the mask over the tokens of a step."""
        return self.layer // 2 + (2 * self.heads * self.head_dim + step_tokens) * self.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Paging:
    """A paged cache."""

    page_size: int
    pages: int
    step_tokens: int
    """Most tokens of one forward pass."""
    bytes: int
    """Of the cache, and of what attention copies of it."""
    free_share: float = FREE_SHARE

    @classmethod
    def of(cls, shape: KeyValues, *, by_row: bool, longest: Sequence[int], feedback: int, memory_gib: float) -> Self:
        """For as many dialogues under way together as there are in `longest`, or as many pages as the memory holds.

        The next attempt finds whole pages only, so that of the last one half is read again on average, beside the
        feedback. The page is as large as it can be with that below an eighth.

        Args:
            by_row: whether each row attends to its own pages, padded to the longest; else there is a mask over all.
            longest: the most tokens that each dialogue may come to, the longest first.
            feedback: tokens between two attempts.

        Raises `ValueError` where not even one dialogue fits.
        """
        page_size = max(SMALLEST_PAGE, min(LARGEST_PAGE, 2 ** int(math.log2(max(feedback, 1) / 4 + 1))))
        step_tokens = len(longest) + (READ_TOKENS if by_row else MASKED_READ_TOKENS)
        copies = len(longest) * longest[0] * shape.layer if by_row else 0
        page = page_size * (shape.token + (0 if by_row else shape.behind_a_mask(step_tokens)))
        needed = [math.ceil(tokens / page_size) for tokens in longest]
        fits = int((memory_gib * 2**30 - copies) / page)
        if fits < needed[0]:
            raise ValueError(
                f"one dialogue of {longest[0]} tokens does not fit into {memory_gib} GiB, which hold "
                f"{max(fits, 0) * page_size}: allow more memory, or shorten the context"
            )
        pages = min(math.ceil(sum(needed) / (1 - FREE_SHARE)), fits)
        return cls(page_size=page_size, pages=pages, step_tokens=step_tokens, bytes=copies + pages * page)

"""An attempt's text while it is being sampled, token by token."""

from collections.abc import Callable

import torch
from transformers.generation.streamers import BaseStreamer

from multiattempt_trl.dialogue.rendering import Renderer

UNFINISHED = "\ufffd"
"""What decoding puts for bytes that are no character, or not yet: the next token may bring the rest."""


class TextStream(BaseStreamer):
    """Tells of each attempt that `generate` makes: that it begins, and then every piece of its text.

    The pieces of an attempt put together are its text as the episode has it. A character whose bytes are spread over
    several tokens comes with the last of them.

    Args:
        renderer: decodes, as it does for the episode.
        begin: called when the model has been given what it reads.
        show: called with each piece, none of which is empty.
    """

    def __init__(self, renderer: Renderer, begin: Callable[[], None], show: Callable[[str], None]) -> None:
        self.renderer, self.begin, self.show = renderer, begin, show
        self._ids: list[int] = []
        self._shown = self._context = 0  # tokens that were shown, and those before the last piece

    def put(self, value: torch.Tensor) -> None:
        """The prompt, (1, T), and after it the sampled tokens, (1,) each."""
        if value.dim() == 2:
            self._ids, self._shown, self._context = [], 0, 0
            self.begin()
        else:
            self._ids += value.tolist()
            self._advance()

    def end(self) -> None:
        """Shows what was held back, since nothing follows that could complete it."""
        self._advance(last=True)

    def _advance(self, *, last: bool = False) -> None:
        # Decoded together with the piece before it: at the start of a text some tokenizers leave out a space.
        before = self.renderer.response_text(self._ids[self._context : self._shown])
        text = self.renderer.response_text(self._ids[self._context :])
        if len(text) > len(before) and (last or not text.endswith(UNFINISHED)):
            self._context, self._shown = self._shown, len(self._ids)
            self.show(text[len(before) :])

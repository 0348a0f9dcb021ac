"""Where an attempt ends, by our own count: an end-of-turn token, the first closed box, the token cap."""

from collections.abc import Callable, Sequence

from multiattempt_trl.dialogue.boxes import BoxMatcher
from multiattempt_trl.dialogue.rendering import ChatTokenizer
from multiattempt_trl.rollout.requests import GenRequest


class Pieces:
    r"""Each token's own text. `\boxed{}` is ASCII, so decoding token by token never splits one of its characters."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token_id: int) -> str:
        if token_id not in self._known:
            self._known[token_id] = str(self.tokenizer.decode([token_id]))
        return self._known[token_id]


def end_of(
    request: GenRequest, token_ids: Sequence[int], stop_ids: Sequence[int], piece: Callable[[int], str]
) -> tuple[int, str]:
    """How many of the sampled tokens belong to the attempt, and why it ended there."""
    matcher = BoxMatcher()
    for count, token_id in enumerate(token_ids, start=1):
        if token_id in stop_ids:
            return count, "eos"
        if request.stop_at_box and matcher.feed(piece(token_id)) is not None:
            return count, "stop"
        if count == request.max_new_tokens:
            return count, "length"
    raise AssertionError("generation stopped before the end of turn, the box or the token cap of an attempt")

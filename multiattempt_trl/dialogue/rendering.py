"""From messages to token ids through the model's own chat template, append-only.

Only our words are ever tokenised: the opening turns once, and each feedback as the difference of two renderings. What
the model sampled is kept as it was sampled.
"""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

from multiattempt_trl.dialogue.prompts import Message

_ANSWER = "so \\boxed{1}"
_REASONED = "some reasoning\n</think>\n\n" + _ANSWER
_TAILS = 65_536
"""How many renderings of a feedback are kept; those with remarks do not repeat for ever."""
_ROLE = "use a prompt_preset whose feedback is a 'user' turn, such as 'paper', or another --chat_template"


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that rendering needs."""

    chat_template: Any

    @property
    def all_special_tokens(self) -> list[str]: ...
    def get_added_vocab(self) -> dict[str, int]: ...
    def convert_tokens_to_ids(self, tokens: Any) -> Any: ...

    def apply_chat_template(self, conversation: list[Message], **kwargs: Any) -> Any: ...
    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def decode(self, token_ids: list[int], **kwargs: Any) -> Any: ...


class Renderer:
    """Renders openings and feedback for one tokenizer.

    Args:
        tokenizer: a tokenizer with a chat template.
        stop_ids: ids that end a turn besides the template's own end-of-turn token (the model's EOS ids).

    Raises `ValueError` where there is no chat template, where it rewrites earlier turns, so that a prompt would not
    extend the tokens the model sampled, or where its end of turn is not a special token of this tokenizer.
    """

    def __init__(self, tokenizer: ChatTokenizer, stop_ids: Sequence[int] = ()) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                "the tokenizer has no chat template; pass --chat_template with a file, or with the name of one that "
                "TRL ships (qwen2_5, llama3, ...)"
            )
        self.tokenizer = tokenizer
        self._tail = lru_cache(_TAILS)(self._render_tail)
        self._answer = _answer_to(self._text([{"role": "user", "content": "question"}]))
        self._check_append_only()
        end_of_turn = self._tail("user", "feedback")[0]
        if text := self.response_text([end_of_turn]):
            raise ValueError(
                f"the chat template ends a turn with {text!r}, which is no special token of this tokenizer: every "
                "attempt would stop there. Pass --chat_template with the model's own one"
            )
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((end_of_turn, *stop_ids)))
        """Ids that end an attempt. The first is the template's end-of-turn token, which feedback must not repeat."""

    def prompt_ids(self, messages: list[Message]) -> tuple[int, ...]:
        """The opening turns, up to where the model's first answer begins."""
        return self._encode(self._text(messages))

    def feedback_ids(self, message: Message, response_ids: Sequence[int]) -> tuple[int, ...]:
        """What stands between an attempt and the next one: the end of its turn, the feedback, the next turn's opening.

        The end-of-turn token is brought along only where the model did not sample it: after a stop at the closed box,
        after the token cap, or after another of the model's EOS tokens.

        Raises `ValueError` where the template has no place for a turn of this role after an answer.
        """
        tail = self._tail(message["role"], message["content"])
        return tail[1:] if response_ids and response_ids[-1] == tail[0] else tail

    def response_text(self, response_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(response_ids), skip_special_tokens=True))

    def more_tokens(self, plain: Message, longer: Message) -> int | None:
        """How many tokens a feedback takes beyond another one, in which all is known to be text.

        None where it holds other special tokens than that one, or cannot be rendered.
        """
        of_plain = self.feedback_ids(plain, ())
        try:
            of_longer = self.feedback_ids(longer, ())
        except ValueError:  # of the template, which takes the plain one
            return None
        known, held = ([token for token in ids if token in self._marker_ids] for ids in (of_plain, of_longer))
        return None if known != held else len(of_longer) - len(of_plain)

    @cached_property
    def markers(self) -> re.Pattern[str] | None:
        """The spelling of whatever is a token by itself, special ones among them; None where there is none."""
        spelled = sorted((name for name in self._added if name.strip()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spelled))) if spelled else None

    @cached_property
    def _added(self) -> dict[str, int]:
        special = list(self.tokenizer.all_special_tokens)
        ids = self.tokenizer.convert_tokens_to_ids(special)
        return {**dict(zip(special, ids, strict=True)), **self.tokenizer.get_added_vocab()}

    @cached_property
    def _marker_ids(self) -> frozenset[int]:
        return frozenset(self._added.values())

    def _render_tail(self, role: str, content: str) -> tuple[int, ...]:
        messages: list[Message] = [{"role": "user", "content": "question"}]
        before = self._text(messages) + self._answer
        messages += [{"role": "assistant", "content": self._answer}, {"role": role, "content": content}]
        try:
            text = self._text(messages)
        except Exception as error:  # whatever a template raises
            raise ValueError(f"the chat template refuses a {role!r} turn: {error}; {_ROLE}") from error
        if not text.startswith(before) or content.strip() not in text[len(before) :]:
            raise ValueError(f"the chat template drops or moves a {role!r} turn; {_ROLE}")
        return self._encode(text[len(before) :])

    def _text(self, messages: list[Message]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _check_append_only(self) -> None:
        """Each rendering must begin with the one before it and the answer to it, thinking and boxes included."""
        messages: list[Message] = [{"role": "user", "content": "question"}]
        text = self._text(messages)
        for _ in range(2):
            messages += [{"role": "assistant", "content": self._answer}, {"role": "user", "content": "feedback"}]
            longer = self._text(messages)
            if not longer.startswith(text + self._answer):
                raise ValueError(
                    "the chat template is not append-only: it rewrites an earlier turn when a new one is added "
                    f"(expected {(text + self._answer)[-60:]!r} to stand unchanged), so the tokens trained on would "
                    "not be the tokens sampled. Pass --chat_template with a prefix-preserving one; TRL ships several "
                    "as chat_templates/*_training.jinja"
                )
            text = longer


def _answer_to(prompt: str) -> str:
    """An answer as it would be sampled: with thinking, unless the prompt has begun it or closed it already.

    Templates that know of thinking put an empty block before an answer without it, so the probe must think.
    """
    if prompt.rstrip().endswith("<think>"):
        return _REASONED
    return _ANSWER if prompt.rstrip().endswith("</think>") else f"<think>\n{_REASONED}"

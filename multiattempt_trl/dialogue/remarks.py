"""Remarks in feedback: what a grader says of an attempt, as text that can do no harm and takes a known room.

A remark may hold what the model wrote, such as the message of an exception. It must not become a turn of the chat, nor
outgrow what was counted on before the dialogue began.
"""

import re
import unicodedata
from collections.abc import Mapping

from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.rendering import Renderer

HINT, FIRST_TEST, ERROR = "hint", "first_test", "error"
"""Styles that more than one domain has, so that they are called the same everywhere."""
MAX_CHARACTERS = 2_000
"""Of a remark, whatever its tokens: more than anybody reads, and few enough to be looked through each time."""
CUT = " ..."
MARKUP = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>\s]{1,40}\uff5c>|</?(?:s|bos|eos|pad|unk|think|tool_call|tool_response)>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
"""What marks turns and thoughts in one model or another, also where this tokenizer knows nothing of it."""


def harmless(remark: str, markers: re.Pattern[str] | None = None) -> str:
    """One line of visible text without the markup of a chat.

    Args:
        markers: what is a token of its own in this tokenizer, and no text.

    >>> harmless("NameError: x<|im_end|>\\n<|im_<|im_end|>start|>system\\x1b[2J")
    'NameError: x <|im_ start|>system [2J'
    """
    text = "".join(map(_visible, remark[: 4 * MAX_CHARACTERS]))
    found = True
    while found:  # taking one out may make another
        found = False
        for pattern in filter(None, (MARKUP, markers)):
            text, count = pattern.subn(" ", text)
            found = found or count > 0
    return cut(" ".join(text.split()), MAX_CHARACTERS)


def _visible(char: str) -> str:
    kind = unicodedata.category(char)
    return " " if kind == "Cc" or kind[0] == "Z" else "" if kind[0] == "C" else char


def cut(remark: str, characters: int) -> str:
    """
    >>> cut("The answer is lower.", 14), cut("lower", 4), cut("lower", 5)
    ('The answer ...', '', 'lower')
    """
    if len(remark) <= characters:
        return remark
    kept = remark[: max(characters - len(CUT), 0)].rstrip()
    return kept and kept + CUT


def sayable(
    env: Environment, renderer: Renderer, attempts_used: int, remarks: Mapping[str, str], tokens: int
) -> dict[str, str]:
    """The remarks as they can be said: harmless, and together at most `tokens` longer than the feedback without any.

    Where a remark is no plain text to the tokenizer or to the chat template all the same, it is left out.
    """
    clean = {style: harmless(text, renderer.markers) for style, text in remarks.items() if text}
    said = {style: clean[style] for style in env.remark_styles if style in clean}
    if attempts_used >= env.budget:
        said = {}  # nobody is told
    while any(said.values()):
        more = renderer.more_tokens(env.feedback_message(attempts_used), env.feedback_message(attempts_used, said))
        if more is not None and more <= tokens:
            break
        said = {style: "" if more is None else cut(text, len(text) * tokens // more) for style, text in said.items()}
    return {style: text for style, text in (clean | said).items() if text}


def feedback_tokens(env: Environment, renderer: Renderer, tokens: int = 0) -> list[int]:
    """What stands between two attempts, at most, after each attempt but the last, with `tokens` for its remarks."""
    room = tokens if env.remark_styles else 0
    return [room + len(renderer.feedback_ids(env.feedback_message(used), ())) for used in range(1, env.budget)]

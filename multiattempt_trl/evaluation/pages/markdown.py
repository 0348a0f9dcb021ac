"""Text for the report, in which nothing that a model or a data set wrote can act as Markdown."""

import re
from collections.abc import Sequence

VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
"""Control characters as their pictures: an escape sequence must not reach the terminal of who prints the report."""


def percent(share: float) -> str:
    """
    >>> percent(0.4188)
    '41.9'
    """
    return f"{100 * share:.1f}"


def interval(limits: Sequence[float]) -> str:
    """
    >>> interval([0.389, 0.45])
    '38.9 to 45.0'
    """
    lower, upper = limits
    return f"{percent(lower)} to {percent(upper)}"


def fenced(text: str, limit: int = 3_000) -> str:
    """`text` in a fenced block that it cannot leave, since the fence is longer than any run of backticks in it.

    Beyond `limit` characters the middle is left out, and said to be; `episodes.jsonl` has all of it.
    """
    if len(text) > limit:
        head, tail = limit // 3, limit - limit // 3
        text = f"{text[:head]}\n[... {len(text) - limit:,} characters left out ...]\n{text[-tail:]}"
    fence = "`" * max(3, _longest_run(text) + 1)
    # A lone carriage return ends a line for some readers and not for others.
    body = text.replace("\r\n", "\n").replace("\r", "\n").translate(VISIBLE)
    return f"{fence}text\n{body}\n{fence}"


def one_line(text: str, limit: int = 80) -> str:
    """`text` on one line, at most `limit` characters of it, with nothing that a font or UTF-8 cannot write."""
    text = " ".join(text.split()).translate(VISIBLE).encode("utf-8", errors="replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def code(text: str, limit: int = 80) -> str:
    """`text` as inline code, see `one_line`.

    >>> code("a `b`")
    '`` a `b` ``'
    """
    text = one_line(text, limit)
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if "`" in text or not text else ""
    return f"{ticks}{space}{text or ' '}{space}{ticks}"


def cell(text: str) -> str:
    """`text` in a cell of a table, its own bars and Markdown escaped.

    >>> cell("a|b_c")
    'a\\\\|b\\\\_c'
    """
    return plain(one_line(text, limit=500))


def plain(text: str) -> str:
    """`text` with its own bars and Markdown escaped."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)

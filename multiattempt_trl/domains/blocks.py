"""Programs in responses: fenced blocks."""

import re
from collections.abc import Collection

_FENCE = re.compile(r" {0,3}(`{3,})([^`\n]*)")


def last_block(response: str, languages: Collection[str]) -> str | None:
    r"""What stands in the last block of one of these languages; None where there is none, or the last block is not
    closed.

    Args:
        languages: what a block may be called, in lower case, "" for no name; one of another language is passed over.

    >>> last_block("So:\n```python\nx = 1\n```\nDone.", ["python"]), last_block("```python\nx = 1", ["python"])
    ('x = 1\n', None)
    >>> last_block("```python\nx = 1\n```\n```\nx = 2\n```\n```text\nx = 3\n```", ["python", ""])
    'x = 2\n'
    """
    found: str | None = None
    fence, language, lines = "", "", list[str]()
    for line in response.replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line) if line.lstrip(" ").startswith("```") else None
        named = match[2].strip(" \t") if match else ""
        if not fence:
            if match:
                fence, language, lines = match[1], named.lower(), []
        elif match and not named and len(match[1]) >= len(fence):
            if language in languages:
                found = "".join(line + "\n" for line in lines)
            fence = ""
        else:
            lines.append(line)
    return None if fence else found


def block(program: str, language: str = "") -> str:
    r"""A block with that program, closed by a fence that is longer than any in it.

    >>> block("x = 1", "python"), block("'``` ````'\n")
    ('```python\nx = 1\n```', "`````\n'``` ````'\n`````")
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", program)), default=0))
    return f"{fence}{language}\n{program.removesuffix(chr(10))}\n{fence}"

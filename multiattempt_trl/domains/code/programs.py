"""The program in a response: its last fenced block of Python."""

import re

MAX_PROGRAM = 50_000
"""Characters; the longest reference solution of the benchmarks has 1,500."""
_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^`\n]*?)[ \t]*")
_PYTHON = ("python", "py", "python3", "")
"""What a block may be called; one of another language is passed over."""


def last_program(response: str) -> str | None:
    r"""What stands in the last block of Python; None where there is none, or the last block is not closed.

    >>> last_program("So:\n```python\nx = 1\n```\nDone."), last_program("```python\nx = 1"), last_program("x = 1")
    ('x = 1\n', None, None)
    >>> last_program("```python\nx = 1\n```\n```\nx = 2\n```\n```text\nx = 3\n```")
    'x = 2\n'
    """
    found: str | None = None
    fence, language, lines = "", "", list[str]()
    for line in response.replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line) if line.lstrip(" ").startswith("```") else None
        if not fence:
            if match:
                fence, language, lines = match[1], match[2].lower(), []
        elif match and not match[2] and len(match[1]) >= len(fence):
            if language in _PYTHON:
                found = "".join(line + "\n" for line in lines)
            fence = ""
        else:
            lines.append(line)
    return None if fence else found

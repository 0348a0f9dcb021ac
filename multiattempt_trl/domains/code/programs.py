"""The program in a response: its last fenced block of Python."""

from multiattempt_trl.domains.blocks import block, last_block

MAX_PROGRAM = 50_000
"""Characters; the longest reference solution of the benchmarks has 1,500."""
_PYTHON = ("python", "py", "python3", "")


def last_program(response: str) -> str | None:
    r"""What stands in the last block of Python; None where there is none, or the last block is not closed.

    >>> last_program("```python\nx = 1\n```\n```text\nx = 2\n```"), last_program("x = 1")
    ('x = 1\n', None)
    """
    return last_block(response, _PYTHON)


def written(program: str) -> str:
    """A response with nothing but the program."""
    return block(program, "python")

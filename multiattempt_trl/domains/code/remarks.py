"""What the grader of programs says to a model: the first test that fails, or the error, without paths."""

import re

from multiattempt_trl.dialogue.remarks import ERROR, FIRST_TEST

STYLES = {
    FIRST_TEST: "the first test that fails",
    ERROR: "what the program raised, or why there was nothing to run",
}
MAX_CHARACTERS = 600
"""Of a test or an error, before it is cut to its room in tokens."""
_PATH = re.compile(
    r"(?P<quote>['\"])(?:file:/*|[A-Za-z]:\\|~?/)[\w.~-][^'\"\n]*(?P=quote)|(?<![\w.])(?:[A-Za-z]:\\|~?/)[\w.~-][^\s'\"<>,;()]*"
)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,16}")
_REASONS = {
    "ended early": "It ended by itself.",
    "timeout": "It took too long.",
    "no program": "No closed block of Python was found.",
    "too long": "It is too long to be run.",
}


def remarks(reason: str, test: str, error: str) -> dict[str, str]:
    """By feedback style, of the fields of a `Grading`; a style is absent where there is nothing to say in it.

    >>> remarks("failed test", "assert double(2) == 4", "")
    {'first_test': 'The first test that fails: `assert double(2) == 4`.'}
    >>> remarks("exception", "", "line 1: OSError: '/home/me/x'"), remarks("timeout", "", "")
    ({'error': "It raised: line 1: OSError: '(path)'."}, {'error': 'It took too long.'})
    """
    found = {}
    if test:
        found[FIRST_TEST] = f"The first test that fails: `{test[:MAX_CHARACTERS]}`."
    if error:
        what = "It is not Python" if reason == "not Python" else "It raised"
        found[ERROR] = f"{what}: {without_machine(error)[:MAX_CHARACTERS]}."
    elif reason in _REASONS:
        found[ERROR] = _REASONS[reason]
    return found


def without_machine(error: str) -> str:
    """An error without paths and addresses, which tell of the machine and differ from run to run.

    >>> without_machine("unsupported operand type(s) for /: 'str' and '/'; /usr/lib/x.py, <f at 0x7f3a12bc>")
    "unsupported operand type(s) for /: 'str' and '/'; (path), <f at (address)>"
    """

    def path(found: re.Match[str]) -> str:
        quote = found["quote"] or ""
        return f"{quote}(path){quote}"

    return _ADDRESS.sub("(address)", _PATH.sub(path, error))

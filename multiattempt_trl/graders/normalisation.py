r"""Writing one answer in one way, so that answers that differ only in their typing compare equal as strings.

Everything here is linear in the length of its input and knows no mathematics.
"""

import re

MAX_ANSWER = 1_000
"""Characters of an answer that is still read; the longest gold answer of the benchmarks has 210."""

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∞": r"\infty ", "π": r"\pi ", "×": r"\times "}
    | {"·": r"\cdot ", "°": r"^\circ ", "∪": r"\cup ", "∈": r"\in ", "\u00a0": " ", "\u200b": "", "\ufeff": ""}
)
_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # colours, and control characters
_SPACING = re.compile(r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|displaystyle|left|right)(?![A-Za-z])|~")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_STYLES = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|boldsymbol|operatorname)\s*\{([^{}]*)\}")
_MATHS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")  # where mathematics begins and ends; `\\[2pt]` is a matrix row
_CHOICE = re.compile(r"\(([A-Z])\)")


def clean(answer: str) -> str:
    r"""The answer without what only a typesetter or a terminal sees; still the LaTeX that a parser expects.

    >>> clean("$\\left(1,\\;\\dfrac{1}{2}\\right)$")
    '(1, \\frac{1}{2})'
    >>> clean("$\u22125$.")
    '-5'
    """
    text = _MATHS.sub("", _TERMINAL.sub("", answer).translate(_CHARACTERS))
    # `\!` closes a gap, every other spacing command opens one. Not after a backslash: `\\\\ ` is a new matrix row.
    text = _SPACING.sub(lambda found: "" if found[0] in (r"\!", r"\left", r"\right") else " ", text)
    return _FRACTION.sub(r"\\frac", text).strip().removesuffix(".").strip()


def key(cleaned: str) -> str:
    r"""What two equal answers have in common as strings; empty where nothing was answered.

    Blanks stay only between two digits, where "1 2" is not "12".

    >>> key(r"x = \text{ odd }"), key(r"\text{(C)}"), key(r"\text{}"), key("{{5}}"), key(r"\$5")
    ('x=odd', 'C', '', '5', '5')
    """
    text = _STYLES.sub(r"\1", cleaned).replace(r"\$", "")
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)
    while text.startswith("{") and text.endswith("}") and "{" not in text[1:-1].strip("{}"):
        text = text[1:-1]
    match = _CHOICE.fullmatch(text)
    return match[1] if match else text

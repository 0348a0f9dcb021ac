r"""Whether an answer is a formula from end to end. math-verify reads what it can and drops the rest without a word."""

import re

_KNOWN = frozenset(
    r"""
    frac sqrt cdot times div pm mp pi alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa
    lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi
    Omega hbar ell sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim sum prod int infty
    binom lfloor rfloor lceil rceil leq geq neq in notin cup cap setminus emptyset mathbb mathrm mathbf mathit text
    textbf operatorname begin end circ prime overline angle triangle max min det odot dot ddot
    """.split()  # noqa: SIM905  # one word after another reads best
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SETS = re.compile(r"\\(?:cup|cap|in|notin|setminus|emptyset|mathbb)(?![A-Za-z])")
_EDGE = re.compile(
    r"^\s*(?:[=<>*/^_!]|\\(?:leq|geq|neq|cdot|times|div|in|cup|cap)(?![A-Za-z]))"
    r"|(?:[-+=<>*/^_]|\\(?:leq|geq|neq|cdot|times|div|pm|in|cup|cap))\s*$"
)
_MATRIX = re.compile(r"\\begin\{[a-z]*matrix\}.*?\\end\{[a-z]*matrix\}|\\begin\{array\}.*?\\end\{array\}", re.DOTALL)
_LABEL = re.compile(r"\(([A-Z])\)")
_OPENING, _CLOSING = {"{": "}", "(": ")]", "[": ")]"}, "})]"


def is_formula(answer: str, gold: str) -> bool:
    r"""Whether math-verify can be trusted to have read all of a cleaned answer, `gold` showing what may stand in it.

    >>> is_formula(r"\frac{1}{2}\pi", "x"), is_formula(r"(0,1] \cup \{2\}", "[0,1]")
    (True, True)
    >>> texts = (r"5 \Rightarrow 6", r"5 \\ 6", r"\sqrt{5", "5+", "< 5", r"5 \cup 6", "5 & 6", "5 | 6", "5_7")
    >>> any(is_formula(text, "5") for text in texts)
    False
    """
    commands = set(_COMMAND.findall(answer))
    outside = _MATRIX.sub("", answer)
    return (
        commands <= _KNOWN
        and set(_COMMAND.findall(gold)) <= _KNOWN
        and not _EDGE.search(answer)
        and not re.search(r"\\\\|\\?&|#|@|\"|`|\?|vmatrix|\d\}?\s*_|\.\.\.", outside)
        and answer.count("|") % 2 == 0
        and re.search(r"\([^()]*=[^()]*\)", answer) is None
        and (
            _SETS.search(answer) is None
            or _SETS.search(gold) is not None
            or re.search(r"[<>\[\]]|\\[lg]eq", gold) is not None
        )
        and balanced(answer)
    )


def balanced(text: str) -> bool:
    r"""Whether every bracket is closed; an interval may close with another one.

    >>> balanced(r"[0, \{1\})"), balanced("(1"), balanced("1}"), balanced("{(}")
    (True, False, False, False)
    """
    open_brackets: list[str] = []
    for char in text.replace(r"\{", "{").replace(r"\}", "}"):
        if char in _OPENING:
            open_brackets.append(char)
        elif char in _CLOSING and (not open_brackets or char not in _OPENING[open_brackets.pop()]):
            return False
    return not open_brackets


def several_labels(answer: str) -> bool:
    """Whether several choices are named by their letters in brackets.

    >>> several_labels("(A) 0 (B) 6"), several_labels("(A) 0"), several_labels("f(A) + f(A)")
    (True, False, False)
    """
    return len(set(_LABEL.findall(answer))) > 1

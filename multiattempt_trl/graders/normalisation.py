r"""Writing one answer in one way, so that answers that differ only in their typing compare equal as strings.

Everything here is linear in the length of its input and knows no mathematics.
"""

import re
import unicodedata
from functools import lru_cache

MAX_ANSWER = 1_000
"""Characters of an answer that is still read; the longest gold answer of the benchmarks has 210."""

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "⁄": "/", "÷": "/", "∕": "/", "∶": ":", "′": "'", "’": "'"}
    | {"≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "±": r"\pm "}
    | {"→": r"\to ", "⇒": r"\to ", "、": ",", "，": ","}
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "∓": r"\mp ", "≅": r"\approx "}
    | {"∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "𝜋": r"\pi "}
    | {"γ": r"\gamma ", "δ": r"\delta ", "φ": r"\phi ", "ω": r"\omega ", "σ": r"\sigma ", "τ": r"\tau ", "ρ": r"\rho "}
    | {"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}"}
    | {"°": r"^\circ ", "º": r"^\circ ", "⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "∠": r"\angle ", "“": '"', "”": '"'}
)
ZERO_WIDTH = r"\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
"""Characters without a width and changes of direction, as the inside of a regular expression's brackets."""
_INVISIBLE = re.compile(rf"\x1b\[[0-9;]*[A-Za-z]|[{ZERO_WIDTH}\u00ad]")  # colours of a terminal, and soft hyphens
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]*\)|\{)")

_SPACING = re.compile(r"(?<!\\)\\[,;:!> \n]|\\(?:quad|qquad|thinspace|enspace|space)(?![A-Za-z])|~")
_LAYOUT = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|strut"
    r"|[hv]?phantom(?!\*?\{)|large|Large|LARGE|huge|Huge|small|normalsize|bf|rm|it|sf|checkmark|blacksquare|square|ensuremath)(?![A-Za-z])"
    r"|\\(?:[hv]space|[hv]?phantom|label|tag|color|textcolor|class)\*?\{[^{}]*\}"
)
_SYNONYMS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "frac"),
    **dict.fromkeys(("le", "leqslant", "leqq"), "leq"),
    **dict.fromkeys(("ge", "geqslant", "geqq"), "geq"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("lbrace",), r"\{"),
    **dict.fromkeys(("rbrace",), r"\}"),
    **{"lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "langle": "(", "rangle": ")"},
    **{"lt": "<", "gt": ">", "ne": "neq", "varnothing": "emptyset", "infin": "infty", "ast": "*", "colon": ":"},
    **{"dotsc": "ldots", "dots": "ldots", "cdots": "ldots", "R": r"\mathbb{R}", "imath": "i", "percent": r"\%"},
    **{"approxeq": "approx", "thickapprox": "approx", "vee": "lor", "wedge": "land", "degree": r"^\circ"},
}
_COMMAND = re.compile(rf"(?<!\\)\\({'|'.join(sorted(_SYNONYMS, key=len, reverse=True))})(?![A-Za-z])")
_BLACKBOARD = re.compile(r"\\(?:mathbb|Bbb|mathbf)\s*(?:\{\s*([RZQNC])\s*\}|([RZQNC]))")
_DEGREE = re.compile(r"(?:\{\})?\^\s*(?:\\circ(?![A-Za-z])|\{\s*(?:\\circ|\\text\{o\}|\\mathrm\{o\})\s*\})\s*")
_FONT_SWITCH = re.compile(r"\{\s*\\(?:bf|it|rm|em|tt|sf|cal)(?![A-Za-z])\s*([^{}]*)\}")
_BARE_ARGUMENTS = re.compile(r"\\frac\s*(\\[A-Za-z]+|[A-Za-z0-9])\s*(\\[A-Za-z]+|[A-Za-z0-9])")
_BARE_ARGUMENT = re.compile(r"\\(frac\s*\{[^{}]*\}|sqrt)\s*([A-Za-z0-9])")
_PYTHON = re.compile(r"(?<![A-Za-z\\{])(pi|ln|log|sin|cos|tan|exp|arcsin|arccos|arctan)(?=\(|\b(?![A-Za-z ]))")
_PERCENT = re.compile(r"\\(?:text|mathrm|mbox)\{\s*percent\s*\}|(?<![A-Za-z\\])percent(?![A-Za-z])")
_ONE_CHARACTER = re.compile(r"([_^])\s*\{\s*([A-Za-z0-9])\s*\}(?![0-9A-Za-z])")
_MATHS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")  # where mathematics begins and ends; `\\[2pt]` is a matrix row
_STYLE = r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt|cal|normal)|[mhf]box|boldsymbol|bm|emph"
_STYLES = re.compile(_STYLE + r"|underline|operatorname\*?|pmb|bold)\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(([A-Z])\)")


def clean(answer: str) -> str:
    r"""The answer without what only a typesetter or a terminal sees; still the LaTeX that a parser expects.

    Cleaning twice changes nothing more.

    >>> clean("$\\left(1,\\;\\dfrac{1}{2}\\right)$")
    '(1, \\frac{1}{2})'
    >>> clean("$\u22125$."), clean("**7**"), clean("x\u00b2 \u2264 \u221a5"), clean("3\u00bd")
    ('-5', '7', 'x^2 \\leq \\sqrt{5}', '3\\frac{1}{2}')
    """
    text = _ascii(_CONTROL.sub(" ", _INVISIBLE.sub("", answer)))
    text = _LAYOUT.sub("", _MATHS.sub("", text))
    # `\!` closes a gap, every other spacing command opens one. Not after a backslash: `\\\\ ` is a new matrix row.
    text = re.sub(r"(?<=,)\s*\\!\s*", "", text)  # within a number
    text = _SPACING.sub(lambda found: "" if found[0] == r"\!" else " ", text)
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{\s*\}", " ", text)
    text = _COMMAND.sub(_synonym, _FONT_SWITCH.sub(r"\\mathrm{\1}", text))
    text = _DEGREE.sub(r"^\\circ ", text)
    text = _BARE_ARGUMENT.sub(r"\\\1{\2}", _BARE_ARGUMENTS.sub(r"\\frac{\1}{\2}", text))
    text = _PYTHON.sub(r"\\\1", re.sub(r"(?<!\\)sqrt\(([^()]*)\)", r"\\sqrt{\1}", text))
    text = re.sub(r"(?<=[\w)}])\*\*(\w+|\([^()]*\))", r"^{\1}", text)
    text = _PERCENT.sub(r"\\%", text)
    text = _ONE_CHARACTER.sub(r"\1\2", text)
    text = _BLACKBOARD.sub(lambda found: rf"\mathbb{{{found[1] or found[2]}}}", text)
    return _unwrap(re.sub(r"\s+", " ", text))


def _ascii(text: str) -> str:
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub(r"[₀-₉]+", lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    text = _ROOT.sub(lambda found: r"\sqrt{" if found[1] == "{" else rf"\sqrt{{{found[1]}}}", text)
    text = re.sub(r"[¼-¾⅐-⅞]", _vulgar_fraction, text)
    # Full-width digits and the like; after the above, which it would flatten.
    return unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)


def _vulgar_fraction(found: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", found[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _synonym(found: re.Match[str]) -> str:
    name = _SYNONYMS[found[1]]
    return rf"\{name}" if name.isalpha() and len(name) > 1 else f"{name} "


def _unwrap(text: str) -> str:
    """Without the markdown and the punctuation around it."""
    text = re.sub(r"^(?:\s*\{\})+", "", text)
    before = None
    while before != text:
        before = text
        text = text.strip().removesuffix(r"\\").rstrip(" ,;")
        text = text.removesuffix(".") if not text.endswith("...") else text
        text = text.removeprefix("=").lstrip()
        for mark in ("**", "__", "`", "*"):
            if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
                text = text[len(mark) : -len(mark)]
    return text


def plain(cleaned: str) -> str:
    r"""Without the commands that only say how a word looks.

    >>> plain(r"\text{ odd } + \mathbf{x}"), plain(r"\textbf{\text{(C)}}")
    (' odd  + x', '(C)')
    """
    for _ in range(3):  # nested styles, as deep as anybody writes them
        cleaned = _STYLES.sub(r"\1", cleaned)
    return cleaned


@lru_cache(maxsize=65_536)  # each rule asks again
def key(cleaned: str) -> str:
    r"""What two equal answers have in common as strings; empty where nothing was answered.

    Blanks stay only between two digits, where "1 2" is not "12".

    >>> key(r"x = \text{ odd }"), key(r"\text{(C)}"), key(r"\text{}"), key("{{5}}"), key(r"\$5")
    ('x=odd', 'C', '', '5', '5')
    """
    text = re.sub(r"\s+", " ", plain(cleaned).replace(r"\$", ""))
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)
    while text.startswith("{") and text.endswith("}") and "{" not in text[1:-1].strip("{}"):
        text = text[1:-1]
    match = _CHOICE.fullmatch(text)
    return match[1] if match else text

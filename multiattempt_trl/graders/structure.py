r"""The parts of an answer: what stands around an equals sign, between commas, in brackets, in a column."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from multiattempt_trl.graders.normalisation import key, plain

_PUNCTUATION = re.compile(r"\\[{}|A-Za-z]?|[()\[\]{},;=<>]")
_CONJUNCTION = re.compile(
    r"[,;]?\s*(?:\\(?:text(?:rm|bf|it|normal)?|mathrm|mbox)\s*\{\s*,?\s*(?:and|or|\\&)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|\\lor(?![A-Za-z])|\\&|\\text\s*\{\s*\\?&\s*\}|\\text\s*\{\s*[,;]\s*\})\s*",
    re.IGNORECASE,
)
_TEXT = re.compile(r"(\\(?:text(?:rm|bf|it|normal)?|mathrm|mbox)\s*\{)([^{}]*)\}")
_IN_TEXT = re.compile(r"\s*[,;]\s*(?:(?:and|or)\b)?\s*|\s+(?:and|or)\s+", re.IGNORECASE)
_NAME = re.compile(
    r"(?:(?:m?\\angle|\\triangle|\\overline|\\hat|\\vec|\\bar)?(?:[A-Z]{1,5}|\{[A-Z]{1,5}\}|[A-Za-z][a-z]*|\\[A-Za-z]+)'{0,3}"
    r"(?:_(?:\w|\{[^{}]*\}|\\[a-z]+))?(?:\([A-Za-z0-9,\\]*\))?|\([A-Za-z](?:_\w)?(?:,[A-Za-z\\]\w*)+\)|\|[A-Z]{1,2}\||\[[A-Z]{2,5}\])"
    r"|\\frac\{d\^?\d?\w+\}\{d\w+\^?\d?\}"
)
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])|\+/-|\+-")
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\{([pbB]?(?:small)?matrix|array)\}(?:\s*\{[^{}]*\})?(.*)\\end\{\1\}\s*[)\]]?", re.DOTALL
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """An answer taken apart at its outermost commas."""

    brackets: str
    r"""`()`, `[]`, `(]`, `[)` or `{}` around all of it; empty for a bare answer."""
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "{}")


def split_top(text: str, separators: str) -> list[str]:
    r"""Splits at separators that stand in no bracket; an interval's brackets need not match.

    >>> split_top(r"(1,2), \{3,4\}, [5,6)", ","), split_top(r"f(x)=\frac{a=b}{c}=2", "=")
    (['(1,2)', ' \\{3,4\\}', ' [5,6)'], ['f(x)', '\\frac{a=b}{c}', '2'])
    """
    pieces, depth, start = [], 0, 0
    for found in _PUNCTUATION.finditer(text):
        mark = found[0]
        if mark in ("(", "[", "{", r"\{"):
            depth += 1
        elif mark in (")", "]", "}", r"\}"):
            depth -= 1
        elif (
            depth == 0
            and mark in separators
            and not (mark == "=" and text[found.start() - 1 : found.start()] in ("<", ">", "!", ":"))
        ):
            pieces.append(text[start : found.start()])
            start = found.end()
    return [*pieces, text[start:]]


@lru_cache(maxsize=65_536)
def parts(cleaned: str) -> Parts:
    r"""Takes an answer apart; "and" and "or" separate like commas.

    >>> parts(r"\{1, 2\}"), parts(r"1 \text{ and } -2")
    (Parts(brackets='{}', items=('1', '2')), Parts(brackets='', items=('1', '-2')))
    >>> parts("(0,9) \\cup (9,36)").items, parts("(1,2),(3,4)").items, parts("[2,5)").brackets
    (('(0,9) \\cup (9,36)',), ('(1,2)', '(3,4)'), '[)')
    """
    text = _CONJUNCTION.sub(", ", _TEXT.sub(_split_text, cleaned)).strip()
    bare = split_items(text)
    inner, brackets = inside(text)
    if len(bare) == 1 and brackets:
        items = split_items(inner)
        if len(items) > 1 or brackets == "{}":
            return Parts(brackets=brackets, items=tuple(items))
    return Parts(brackets="", items=tuple(bare))


def _split_text(found: re.Match[str]) -> str:
    r"""`\text{A, B and C}` as three texts; `\text{ and }` alone is left as it is."""
    conjunction = re.match(r"\s*(?:and|or)\s+(?=\S)", found[2], re.IGNORECASE)
    pieces = [piece for piece in _IN_TEXT.split(found[2][conjunction.end() if conjunction else 0 :]) if piece.strip()]
    if not conjunction and len(pieces) < 2:
        return found[0]
    return ", " * bool(conjunction) + ", ".join(found[1] + piece + "}" for piece in pieces)


def split_items(text: str) -> list[str]:
    """What stands between the outermost commas and semicolons; one empty string for nothing."""
    return [item.strip() for item in split_top(text, ",;") if item.strip()] or [""]


def inside(text: str) -> tuple[str, str]:
    r"""What stands in the brackets around a text, and these; empty brackets where none enclose all of it."""
    for opening, closings in (("(", ")]"), ("[", ")]"), (r"\{", (r"\}",))):
        if text.startswith(opening):
            for closing in closings:
                inner = text[len(opening) : -len(closing)]
                if text.endswith(closing) and len(text) > len(opening) and _balanced(inner):
                    return inner, (opening + closing).replace("\\", "")
    return text, ""


def _balanced(text: str) -> bool:
    depth = 0
    for found in _PUNCTUATION.finditer(text):
        if found[0] in ("(", "[", "{", r"\{"):
            depth += 1
        elif found[0] in (")", "]", "}", r"\}"):
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def without_brackets(cleaned: str) -> str:
    r"""The answer without the brackets around all of it where they hold one thing; a French interval in English ones.

    >>> without_brackets("(-7)"), without_brackets("(1,2)"), without_brackets("(1)(2)"), without_brackets("]0,1]")
    ('-7', '(1,2)', '(1)(2)', '(0,1]')
    """
    french = re.fullmatch(r"([\[\]])([^\[\],]+,[^\[\],]+)([\[\]])", cleaned.strip())
    if french and (french[1], french[3]) != ("[", "]"):  # ]0,1[
        return {"[": "[", "]": "("}[french[1]] + french[2] + {"]": "]", "[": ")"}[french[3]]
    inner, brackets = inside(cleaned.strip())
    one_thing = brackets == "()" or (brackets == "{}" and not re.search(r"[|:]", inner))
    return inner.strip() if one_thing and len(split_items(inner)) == 1 and inner.strip() else cleaned


def split_name(cleaned: str) -> tuple[str, str]:
    r"""The name before the first equals sign and what stands behind; an empty name where an expression does.

    >>> split_name("x = 5"), split_name("f(x)=x+1"), split_name(r"\text{Area} = 12"), split_name("2x = 4")
    (('x', '5'), ('f(x)', 'x+1'), ('Area', '12'), ('', '2x = 4'))
    >>> split_name(r"x \in [2,3]"), split_name(r"x \approx 3")
    (('x', '[2,3]'), ('x', '3'))
    """
    head, *rest = split_top(cleaned, "=")
    if not rest:
        found = re.fullmatch(
            r"([A-Za-z](?:_\{?\w\}?|\([a-z]\))?|\\[a-z]+)\s*\\(?:in|approx|mapsto)(?![A-Za-z])\s*(.+)",
            cleaned,
            re.DOTALL,
        )
        return (found[1].strip(), found[2].strip()) if found else ("", cleaned)
    if re.search(r"(?<![\\A-Za-z])[A-Za-z]\s+[A-Za-z]", head) and not re.search(r"[A-Za-z]{2}", head):
        return "", cleaned  # n f(n) = n is no name
    name = key(head)
    is_name = _NAME.fullmatch(name) and not re.match(
        r"\\(?:d?frac|sqrt|begin|pm|sum|int|prod|binom)(?![A-Za-z])", name
    )
    if head.strip().startswith((r"\text", r"\mbox", r"\mathrm")) or re.fullmatch(
        r"[A-Za-z]+(?: [A-Za-z]+)+", plain(head).strip()
    ):
        is_name = is_name or not re.search(r"\d", name)
    value = cleaned[len(head) + 1 :].strip()
    return (name, value) if is_name and value else ("", cleaned)


def chain(cleaned: str) -> list[str]:
    r"""The members of a chain of equalities or approximations.

    >>> chain(r"3 \times 5 = 15"), chain(r"\frac{1}{3} \approx 0.33"), chain("x")
    (['3 \\times 5', '15'], ['\\frac{1}{3}', '0.33'], ['x'])
    """
    text = re.sub(r"\\(?:approx|simeq|equiv)(?![A-Za-z])", "=", cleaned)
    return [piece.strip() for piece in split_top(text, "=") if piece.strip()] or [cleaned]


def both_signs(item: str) -> list[str]:
    r"""The two values of an expression with one plus-minus sign; itself where there is none, or several.

    >>> both_signs(r"\frac{-1 \pm \sqrt{5}}{2}"), both_signs(r"\pm 2"), both_signs("x")
    (['\\frac{-1 +\\sqrt{5}}{2}', '\\frac{-1 -\\sqrt{5}}{2}'], ['2', '-2'], ['x'])
    """
    if len(_PLUS_MINUS.findall(item)) != 1:
        return [item]
    return [_PLUS_MINUS.sub(sign, item).replace(f"{sign} ", sign).removeprefix("+") for sign in "+-"]


def signs_apart(items: Iterable[str]) -> tuple[str, ...]:
    r"""The parts of a list, each plus-minus sign taken for two of them.

    >>> signs_apart((r"\pm 2", "5"))
    ('2', '-2', '5')
    """
    return tuple(sign for item in items for sign in both_signs(item))


def has_plus_minus(cleaned: str) -> bool:
    """Whether it stands for two values at once."""
    return _PLUS_MINUS.search(cleaned) is not None


def matrix_rows(cleaned: str) -> list[list[str]] | None:
    r"""The cells of a matrix; None for anything else.

    >>> matrix_rows(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"), matrix_rows("(1,2)")
    ([['1', '2'], ['3', '4']], None)
    """
    found = _MATRIX.fullmatch(cleaned.strip())
    if found is None or r"\begin" in found[2]:
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]

r"""Intervals and inequalities, which say the same: `x > 3`, `(3,\infty)`, `\{x \mid x > 3\}`."""

import re

from multiattempt_trl.graders.structure import inside, parts, split_items

_SET_BUILDER = re.compile(r"\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\})?\s*[|:](.*)\\\}", re.DOTALL)


def inequality(cleaned: str) -> tuple[list[str], list[str]] | None:
    r"""The members of a chain of inequalities and the relations between them, from small to large.

    >>> inequality(r"82 \geq g(x) > -80"), inequality("x = 2")
    ((['-80', 'g(x)', '82'], ['<', '\\leq']), None)
    """
    pieces = re.split(r"(<=|>=|<|>|\\leq(?![A-Za-z])|\\geq(?![A-Za-z]))", cleaned)
    members = [piece.strip() for piece in pieces[::2]]
    relations = [{"<=": r"\leq", ">=": r"\geq"}.get(piece, piece) for piece in pieces[1::2]]
    if not relations or not all(members):
        return None
    if set(relations) <= {">", r"\geq"}:
        return members[::-1], [{">": "<", r"\geq": r"\leq"}[relation] for relation in relations[::-1]]
    return (members, relations) if set(relations) <= {"<", r"\leq"} else None


def intervals(cleaned: str) -> list[str] | None:
    r"""The intervals that an answer is the union of, written so or as inequalities; None for anything else.

    >>> intervals(r"(-\infty,-1) \cup (3,\infty)"), intervals(r"x < -1 \text{ or } x \geq 3")
    (['(-\\infty,-1)', '(3,\\infty)'], ['(-\\infty,-1)', '[3,\\infty)'])
    >>> intervals(r"-2 \leq x < 7"), intervals(r"x \neq 3"), intervals("(1,2)"), intervals("x < y")
    (['[-2,7)'], ['(-\\infty,3)', '(3,\\infty)'], ['(1,2)'], None)
    """
    if builder := _SET_BUILDER.fullmatch(cleaned):
        return intervals(builder[1].strip())
    if cleaned == r"\mathbb{R}":
        return [r"(-\infty,\infty)"]
    united = [piece.strip() for piece in re.split(r"\\cup(?![A-Za-z])", cleaned)]
    if all(inside(piece)[1] not in ("", "{}") and len(split_items(inside(piece)[0])) == 2 for piece in united):
        return united
    items = parts(cleaned).items
    if len(items) > 1 and all(
        inside(item)[1] not in ("", "{}") and len(split_items(inside(item)[0])) == 2 for item in items
    ):
        return list(items)
    found = [_as_intervals(item) for item in items]
    return [piece for pieces in found for piece in pieces or ()] if all(found) else None


def _as_intervals(item: str) -> list[str] | None:
    different = re.fullmatch(r"[A-Za-z]\s*\\neq\s*(.+)", item)
    if different:
        return [rf"(-\infty,{different[1]})", rf"({different[1]},\infty)"]
    members, relations = inequality(item) or ([], [])
    variables = [index for index, member in enumerate(members) if re.fullmatch(r"[a-z]|\\theta", member)]
    if len(variables) != 1 or not 2 <= len(members) <= 3 or (len(members) == 3 and variables != [1]):
        return None
    index = variables[0]
    below = ("[" if relations[index - 1] == r"\leq" else "(") + members[index - 1] if index else r"(-\infty"
    above = (
        members[index + 1] + ("]" if relations[index] == r"\leq" else ")") if index < len(relations) else r"\infty)"
    )
    return [f"{below},{above}"]

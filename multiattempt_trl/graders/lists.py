r"""Answers of several parts: lists, sets, tuples, intervals, inequalities and matrices, compared part by part.

A part is compared by the function `equal` that the caller gives: True, False, or None where only math-verify can tell;
then None is returned for the whole, unless another part differs.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from multiattempt_trl.graders.decision import Decision, by_rule, wrong
from multiattempt_trl.graders.intervals import inequality, intervals
from multiattempt_trl.graders.structure import (
    Parts,
    has_plus_minus,
    matrix_rows,
    parts,
    signs_apart,
    split_name,
)

Equal = Callable[[str, str], bool | None]

MAX_PARTS = 40
"""Parts of an answer that are compared here; a set of n costs up to n^2 comparisons."""
_NOT_ONE_VALUE = re.compile(
    r"[=<>]|\\(?:leq|geq|neq|in|cup|cap|subset\w*|equiv|mathbb|begin|ldots)(?![A-Za-z])|\\(?:text|mathrm)\{[^{}]*[,;]"
)


def same_parts(gold: str, answer: str, equal: Equal) -> Decision | None:
    r"""Compares two answers of which at least one has several parts; None where it does not apply or cannot tell.

    >>> def equal(gold, answer):
    ...     return gold == answer
    >>> same_parts("1,2", r"\{2, 1\}", equal).reason, same_parts("(1,2)", "(2,1)", equal).reason
    ('same parts', 'different parts')
    >>> same_parts("5", "5, 6", equal).reason, same_parts("[2,5]", "(2,5)", equal).reason
    ('several answers', 'different brackets')
    """
    for rule in (_same_cells, _same_intervals, _same_inequality):
        if (decision := rule(gold, answer, equal)) is not None:
            return decision
    gold_parts, answer_parts = _expanded(parts(gold)), _expanded(parts(answer))
    gold_count, answer_count = len(gold_parts.items), len(answer_parts.items)
    if gold_count == 1 or answer_count == 1:
        return _one_against_several(gold, answer, gold_count, answer_count)
    if (values := _named_values(gold_parts, answer_parts)) is not None:
        return _all(map(equal, *values)) if len(values[0]) == len(values[1]) else wrong("different number of answers")
    if any(has_plus_minus(item) or r"\ldots" in item for item in gold_parts.items + answer_parts.items):
        return None
    if gold_parts.ordered != answer_parts.ordered:
        if {gold_parts.brackets, answer_parts.brackets} != {"", "()"}:
            return wrong("different brackets")
        in_order = _all(map(equal, gold_parts.items, answer_parts.items)) if gold_count == answer_count else None
        return in_order or wrong("different brackets")
    if gold_parts.ordered and gold_parts.brackets != answer_parts.brackets:
        return wrong("different brackets")
    if gold_count != answer_count:
        return wrong("different number of answers")
    if gold_count > MAX_PARTS:
        return None
    if gold_parts.ordered:
        return _all(map(equal, gold_parts.items, answer_parts.items))
    return _same_set(gold_parts.items, answer_parts.items, equal)


def _expanded(found: Parts) -> Parts:
    r"""In a list or a set, `\pm` stands for two parts."""
    if found.ordered:
        return found
    return Parts(brackets=found.brackets, items=signs_apart(found.items))


def _one_against_several(gold: str, answer: str, gold_count: int, answer_count: int) -> Decision | None:
    """Several answers where one is asked are wrong, whatever stands among them; and the other way round."""
    if gold_count == answer_count or _NOT_ONE_VALUE.search(gold):
        return None
    if _NOT_ONE_VALUE.search(split_name(answer)[1]):
        # A list of equations or words is several answers too; an interval or a set relation may be one.
        listed = parts(answer)
        return wrong("several answers") if len(listed.items) > 1 and not listed.ordered else None
    return wrong("several answers" if gold_count == 1 else "one answer of several")


def _named_values(gold: Parts, answer: Parts) -> tuple[list[str], list[str]] | None:
    """What belongs together by name: `x = 1, y = 2` and another in any order, or a pair, which must be in this one."""
    (gold_names, gold_values), (answer_names, answer_values) = _names(gold), _names(answer)
    if gold_names and answer_names and sorted(gold_names) == sorted(answer_names):
        by_name = dict(zip(answer_names, answer_values, strict=True))
        return gold_values, [by_name[name] for name in gold_names]
    if (gold_names and answer.brackets == "()") or (answer_names and gold.brackets == "()"):
        return gold_values, answer_values
    return None


def _names(found: Parts) -> tuple[list[str], list[str]]:
    """Names, where each part of a list has one of its own, and the values of all parts."""
    names, values = zip(*map(split_name, found.items), strict=True)
    named = all(names) and len(set(names)) == len(names) and not found.ordered
    return list(names) if named else [], list(values)


def _same_cells(gold: str, answer: str, equal: Equal) -> Decision | None:
    """Matrices; a tuple is the matrix of one column."""
    gold_rows, answer_rows = matrix_rows(gold), matrix_rows(answer)
    if not (gold_rows or answer_rows):
        return None
    gold_rows, answer_rows = gold_rows or _column(gold), answer_rows or _column(answer)
    if gold_rows is None or answer_rows is None:
        return None
    if [len(row) for row in gold_rows] != [len(row) for row in answer_rows]:
        return wrong("different shape")
    cells = [[cell for row in rows for cell in row] for rows in (gold_rows, answer_rows)]
    return None if len(cells[0]) > MAX_PARTS else _all(map(equal, *cells))


def _column(text: str) -> list[list[str]] | None:
    found = parts(text)
    return [[item] for item in found.items] if found.brackets == "()" and len(found.items) > 1 else None


def _same_intervals(gold: str, answer: str, equal: Equal) -> Decision | None:
    """Unions of intervals, and inequalities in one variable; a pair alone may be a point."""
    if not all(re.search(r"\\(?:cup|leq|geq|neq|infty|mathbb)(?![A-Za-z])|[<>\[\]]", text) for text in (gold, answer)):
        return None
    one, other = intervals(split_name(gold)[1]), intervals(split_name(answer)[1])
    if one is None or other is None or len(one) > MAX_PARTS or len(other) > MAX_PARTS:
        return None
    if len(one) != len(other):  # they may overlap or touch
        return None

    def same_interval(left: str, right: str) -> bool | None:
        if (left[0], left[-1]) != (right[0], right[-1]):
            return False
        found = _all(map(equal, parts(left).items, parts(right).items))
        return None if found is None else found.equal

    return _same_set(one, other, same_interval)


def _same_inequality(gold: str, answer: str, equal: Equal) -> Decision | None:
    """`82 > f(x)` is `f(x) < 82`; other inequalities are left to math-verify."""
    one, other = inequality(gold), inequality(answer)
    if one is None or other is None or one[1] != other[1]:
        return None
    found = _all(map(equal, one[0], other[0]))
    return found if found is not None and found.equal else None


def _same_set(gold: Sequence[str], answer: Sequence[str], equal: Equal) -> Decision | None:
    """Each gold part takes the first answer that equals it; None where a part has none and one is unclear."""
    left = list(answer)
    unclear = False
    for one in gold:
        outcomes = [equal(one, other) for other in left]
        if True in outcomes:
            del left[outcomes.index(True)]
        elif None in outcomes:
            unclear = True
        else:
            return by_rule(False, "parts")
    return None if unclear else by_rule(True, "parts")


def _all(found: Iterable[bool | None]) -> Decision | None:
    outcomes = list(found)
    if False in outcomes:
        return by_rule(False, "parts")
    return None if None in outcomes else by_rule(True, "parts")

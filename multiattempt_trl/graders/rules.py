r"""Whether an answer equals the gold one, as far as strings and exact numbers tell; the rest goes to math-verify."""

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from multiattempt_trl.graders import notations
from multiattempt_trl.graders.decision import Decision, Stage, Undecided, by_rule, wrong
from multiattempt_trl.graders.lists import same_parts
from multiattempt_trl.graders.normalisation import key, plain
from multiattempt_trl.graders.numbers import TOLERANCE, join_thousands, numbers_equal, plain_number
from multiattempt_trl.graders.structure import chain, has_plus_minus, parts, signs_apart, split_name, without_brackets
from multiattempt_trl.graders.syntax import is_formula, several_labels
from multiattempt_trl.graders.units import split_unit, units_differ
from multiattempt_trl.graders.values import values_differ
from multiattempt_trl.graders.words import meaning, phrase, without_lead, without_qualifier

SAME_TEXT = Decision(equal=True, stage=Stage.STRING, reason="same text")
_PLACEHOLDER = re.compile(
    r"(?:(?:your|the|my)?(?:final|correct)?(?:answer|solution|result|number|value|expression)(?:here|goeshere)?"
    r"|\?+|\.\.\.|\\ldots|_+|\*+|-+|\\square|\\boxed|correct|wrong|incorrect|true|false|todo|tbd|insert.*|fillin.*)",
    re.IGNORECASE,
)
_RELATION = re.compile(
    r"[=<>]|\\(?:leq?|geq?|neq|in|cup|cap|subset\w*|equiv|mathbb|begin|ldots|text|mathrm)(?![A-Za-z])"
)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox|mathbf)\s*\{[^{}]*[A-Za-z]{2}")
_ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^\s*)?\{?\s*(?:\\(?:text|mathrm|textrm|mbox)\s*\{\s*)?(?:st|nd|rd|th)\s*\}{0,2}(?![A-Za-z])"
)
_MAX_DEPTH = 4


def decide(gold: str, answer: str, tolerance: Fraction = TOLERANCE, depth: int = 0) -> Decision | Undecided:
    r"""Compares two cleaned answers (`normalisation.clean`), `tolerance` being that between decimals.

    >>> [decide(gold, answer).reason for gold, answer in (("5", "5"), (r"\frac{1}{2}", "0.5"), ("12", "1,2"))]
    ['same text', 'same number', 'several answers']
    >>> decide(r"3\text{ hours}", r"3\text{ minutes}").reason, decide(r"\sqrt{8}", r"2\sqrt{2}\text{ cm}")
    ('different unit', Undecided(gold='\\sqrt{8}', answer='2\\sqrt{2}'))
    """
    if key(gold) == key(answer):
        return SAME_TEXT
    if (decision := _as_numbers(gold, answer, tolerance)) is not None:
        return decision
    if several_labels(answer) and not several_labels(gold) and not _has_letters(gold):
        return wrong("several answers")
    if _PLACEHOLDER.fullmatch(key(answer)):
        return wrong("placeholder")
    for reason, rule in notations.NOTATIONS.items():
        if (equal := rule(gold, answer)) is not None:
            return by_rule(equal, reason)
    simple_gold, simple_answer = _simplify(gold), _simplify(notations.without_label(answer))
    if depth < _MAX_DEPTH and (simple_gold, simple_answer) != (gold, answer):
        return decide(simple_gold, simple_answer, tolerance, depth + 1)
    for step in (_by_unit, _by_name, _by_parts, _by_chain, _by_words):
        if depth < _MAX_DEPTH and (outcome := step(gold, answer, tolerance, depth)) is not None:
            return outcome
    if values_differ(gold, answer, margin=float(10 * tolerance)):
        return by_rule(False, "values")
    if not is_formula(answer, gold):
        return wrong("not understood")
    return Undecided(gold=gold, answer=answer)


def _as_numbers(gold: str, answer: str, tolerance: Fraction) -> Decision | None:
    gold_number, answer_number = plain_number(gold), plain_number(answer)
    if gold_number is None or answer_number is None:
        return None
    if re.search(r",\s", gold + answer):  # 100, 400 are two answers
        return None
    if gold_number.percent != answer_number.percent and r"\$" in gold + answer:
        return wrong("different unit")
    equal = numbers_equal(gold_number, answer_number, tolerance)
    return Decision(equal=equal, stage=Stage.NUMBER, reason="same number" if equal else "different number")


@lru_cache(maxsize=65_536)
def _simplify(text: str) -> str:
    """Without leading words, ordinal endings, separators of thousands and brackets that hold one thing."""
    text = without_lead(without_qualifier(text))
    text = meaning(text) or text
    return without_brackets(join_thousands(_ORDINAL.sub("", text))).strip()


def _by_unit(gold: str, answer: str, tolerance: Fraction, depth: int) -> Decision | Undecided | None:
    bare_gold, gold_unit = split_unit(gold)
    bare_answer, answer_unit = split_unit(answer, letters=plain_number(bare_gold) is not None)
    if units_differ(gold_unit, answer_unit):
        return wrong("different unit")
    if (bare_gold, bare_answer) == (gold, answer):
        return None
    return decide(bare_gold, bare_answer, tolerance, depth + 1)


def _by_parts(gold: str, answer: str, tolerance: Fraction, depth: int) -> Decision | Undecided | None:
    def equal(one: str, other: str) -> bool | None:
        outcome = decide(one, other, tolerance, depth + 1)
        return outcome.equal if isinstance(outcome, Decision) else None

    if has_plus_minus(gold + answer) and not parts(gold).ordered:
        listed = [", ".join(signs_apart(parts(text).items)) for text in (gold, answer)]
        if not has_plus_minus("".join(listed)):
            return same_parts(listed[0], listed[1], equal) or Undecided(gold=listed[0], answer=listed[1])
    return same_parts(gold, answer, equal)


def _by_name(gold: str, answer: str, tolerance: Fraction, depth: int) -> Decision | Undecided | None:
    """`x = 5` is 5; where both name a variable, it must be the same one."""
    (gold_name, gold_value), (answer_name, answer_value) = split_name(gold), split_name(answer)
    if not (gold_name or answer_name):
        return None
    if any("=" in value and len(parts(value).items) > 1 for value in (gold_value, answer_value)):
        return None
    if any(r"\frac" in name for name in (gold_name, answer_name)) and gold_name != answer_name:
        return None  # derivatives
    if gold_name and answer_name and gold_name != answer_name:
        if (gold_name, answer_name) == (key(answer_value), key(gold_value)):  # a = b and b = a
            return by_rule(True, "equation")
        numbers = [plain_number(split_unit(value)[0]) for value in (gold_value, answer_value)]
        if len(gold_name) == len(answer_name) == 1 and all(numbers):
            return wrong("different variable")
        if not (_depends(gold_name) and _depends(answer_name)):
            return None
    elif _RELATION.search(gold_value if answer_name else answer_value) and not (gold_name and answer_name):
        other = gold_value if answer_name else answer_value
        if parts(other).brackets == "" and "=" in other:  # an equation that solves for nothing
            return None
    return decide(gold_value, answer_value, tolerance, depth + 1)


def _depends(name: str) -> bool:
    """Whether a name is that of a function's value, which everybody calls as they like: y, f(x), a_n, Area."""
    return len(name) > 1 or name == "y"


def _by_chain(gold: str, answer: str, tolerance: Fraction, depth: int) -> Decision | Undecided | None:
    r"""`3 \times 5 = 15`, `\frac{1}{3} \approx 0.33`: one answer in several forms, which must agree."""
    gold_forms, answer_forms = chain(gold), chain(answer)
    if len(gold_forms) == len(answer_forms) == 1 or not _is_chain(gold):
        return None
    if re.search(r"[<>]|\\(?:leq|geq|neq)", answer):
        return None
    numbers = [form for form in (split_unit(form)[0] for form in answer_forms) if plain_number(form) is not None]
    if any(not _rounds_to(*pair) for pair in pairwise(numbers)):
        return wrong("several answers")
    if any(_values_disagree(*pair, approximately=r"\approx" in answer) for pair in pairwise(answer_forms)):
        return wrong("several answers")
    if len(gold_forms) == 1 and len(numbers) < 2:
        last = plain_number(gold) or not numbers or _has_letters(gold)
        return decide(gold, answer_forms[-1 if last else 0], tolerance, depth + 1)
    outcomes = [decide(one, other, tolerance, depth + 1) for one in gold_forms[:3] for other in answer_forms[:3]]
    equal = next((found for found in outcomes if isinstance(found, Decision) and found.equal), None)
    return equal or outcomes[0]


def _values_disagree(one: str, other: str, *, approximately: bool) -> bool:
    """Whether two forms are no forms of one value; a formula and what came of it for certain letters may differ."""
    if _has_letters(one) != _has_letters(other):
        return False
    return values_differ(one, other, margin=0.02 if approximately or "." in one + other else 1e-5)


def _has_letters(text: str) -> bool:
    return re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+|(?<![A-Za-z])[ei](?![A-Za-z])", "", text)) is not None


def _is_chain(text: str) -> bool:
    """Whether its members are forms of one value, and it is no equation to be met."""
    forms = chain(text)
    return len(forms) == 1 or (
        not re.search(r"[<>]|\\(?:leq|geq|neq)", text)
        and (r"\approx" in text or all(plain_number(split_unit(form)[0]) is not None for form in forms))
    )


def _rounds_to(one: str, other: str) -> bool:
    """Whether two forms of one number agree, the second perhaps rounded to the decimals it shows."""
    number, rounded = plain_number(one), plain_number(other)
    assert number is not None
    assert rounded is not None
    if (number.exact and rounded.exact) or number.percent != rounded.percent:
        return numbers_equal(number, rounded)
    return abs(number.value - rounded.value) <= Fraction(1, 10 ** len(key(other).partition(".")[2]))


def _by_words(gold: str, answer: str, *_: object) -> Decision | None:
    """Names and words; a gold answer in words is not met by a formula, nor a number by a number and words."""
    gold_words = phrase(gold)
    if gold_words is None:
        return wrong("words in the answer") if plain_number(gold) and _TEXT.search(answer) else None
    answer_words = phrase(answer)
    if answer_words is None and re.fullmatch(r"[A-Za-z]+", plain(answer).strip()):
        answer_words = (plain(answer).strip().lower(),)
    return by_rule(gold_words == answer_words, "words")

r"""Answers in words: numbers written out, names, months, "no solution", and what people say before an answer."""

import re
from fractions import Fraction

from multiattempt_trl.graders.normalisation import plain

_UNITS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
""".split()  # noqa: SIM905  # one word after another reads best
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * k for k, word in enumerate(_TENS, start=2)}
_LARGE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_NUMBER_WORDS = {*_SMALL, *_LARGE, "dozen", "half", "halves", "third", "quarter", "trillion", "gross", "pair", "twice"}
_MONTHS = frozenset(
    "january february march april may june july august september october november december".split()  # noqa: SIM905
)

_MEANINGS = {
    **dict.fromkeys(("infinity", "positive infinity", "inf"), r"\infty"),
    **dict.fromkeys(("negative infinity", "minus infinity"), r"-\infty"),
    **dict.fromkeys(("all real numbers", "all reals", "real numbers", "all real x", "reals"), r"\mathbb{R}"),
    **dict.fromkeys(("all integers", "integers", "the set of integers"), r"\mathbb{Z}"),
    **dict.fromkeys(("empty", "empty set", "no solution", "no solutions", "no real solution"), r"\emptyset"),
    **dict.fromkeys(("no real solutions", "none", "there is no solution", "there are no solutions"), r"\emptyset"),
    **dict.fromkeys(("does not exist", "dne", "not defined"), r"\text{undefined}"),
    "pi": r"\pi",
}
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore|then)[,\s]+)?(?:"
    r"(?:the|my|our|a|an)?\s*(?:(?:final|correct|right|exact|required)\s+)*"
    r"(?:answer|ans|result|solution|value|total|sum|probability|option|choice)\b\s*(?:is|are|equals|:|=)\s*"
    r"(?:equal to\s+)?:?\s*"
    r"|(?:it|this|that|which|we|there)\s+(?:is|are|equals|get|have|obtain)\s*:?\s+"
    r"|(?:answer|final answer|option|choice|ans)\s*:?\s+"
    r"|(?!.*\b(?:not|or|isn|never)\b)[A-Za-z][A-Za-z ,'\-]{0,60} (?:is|are|equals)\s*:?\s+|(?:so|thus|hence)\s+"
    r"|(?:approximately|approx\.?|about|roughly|exactly|on|equals|is)\s+)",
    re.IGNORECASE,
)
_SYMBOL_LEAD = re.compile(
    r"(?:[a-z]\s*\\mapsto(?![A-Za-z])|\\(?:approx|therefore|implies|Rightarrow|Longrightarrow|rightarrow|to|sim|simeq|doteq)(?![A-Za-z])|=|:|~|\\text\s*\{\s*\})\s*"
)
_STYLED_LEAD = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}\s*[:=]?\s*")
_QUALIFIER = re.compile(
    r"[,;]?\s*\\forall(?![A-Za-z])[^0-9]*$|[,;]\s*[a-z]\s*\\in\s*\\mathbb\{[A-Z]\}[^0-9]*$|"
    r"[,;]?\s*\(?(?:\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox)\s*\{\s*)?[,;]?\s*\(?(?<![A-Za-z\\])"
    r"(?:where|for (?:all|any|every|each|some|real|integers?|positive))\s[^0-9]*$"
)
_WORDS = re.compile(r"[A-Za-z](?:[A-Za-z'\"., \-]|(?<=[a-z] )\d{1,4})*")
_ARTICLES = re.compile(r"\b(?:the|a|an)\b")


def without_lead(cleaned: str) -> str:
    r"""Without what is said before the answer itself.

    >>> without_lead(r"\text{The answer is } 5"), without_lead(r"\text{The final answer is: 5}"), without_lead("= 3")
    ('5', '5', '3')
    >>> without_lead(r"\text{not } 5"), without_lead(r"\text{Area} = 5")
    ('\\text{not } 5', '\\text{Area} = 5')
    """
    text = _SYMBOL_LEAD.sub("", cleaned, count=1) if _SYMBOL_LEAD.match(cleaned) else cleaned
    styled = _STYLED_LEAD.match(text)
    said = styled[1].strip() if styled else ""
    if styled and styled.end() < len(text) and (said.endswith(":") or _LEAD.fullmatch(said + " ")):
        return text[styled.end() :].strip() or text
    unstyled = plain(text).strip()
    lead = _LEAD.match(unstyled)
    if lead and lead.end() < len(unstyled):
        return unstyled[lead.end() :].strip()
    return text


def without_qualifier(cleaned: str) -> str:
    r"""Without what is said of the letters in it: "for all x", "where k is an integer".

    >>> without_qualifier(r"f(z) = z \text{ for all } z"), without_qualifier(r"2k, where $k$ is odd")
    ('f(z) = z', '2k')
    """
    found = _QUALIFIER.search(cleaned)
    return cleaned[: found.start()].strip() or cleaned if found else cleaned


def number_in_words(text: str) -> int | None:
    """The integer that words write out, below a trillion; None for anything else.

    >>> number_in_words("twenty-one"), number_in_words("Two hundred and five"), number_in_words("ten thousand")
    (21, 205, 10000)
    >>> number_in_words("one or two"), number_in_words("hundred"), number_in_words("two two")
    (None, None, None)
    """
    words = text.lower().replace("-", " ").replace(" and ", " ").split()
    if not words or len(words) > 12 or not all(word in _SMALL or word in _LARGE for word in words):
        return None
    total = group = 0
    before = 1_000  # the next small number must be below this
    for word in words:
        if word in _SMALL:
            if _SMALL[word] >= before:
                return None
            group += _SMALL[word]
            before = 10 if _SMALL[word] >= 20 else 1
        elif group == 0:
            return None
        else:
            group *= _LARGE[word]
            before = 100
            if word != "hundred":
                total, group, before = total + group, 0, 1_000
    return total + group


def names_a_number(cleaned: str) -> bool:
    r"""Whether a word for a number stands in it, whatever the whole says.

    >>> [names_a_number(text) for text in (r"\text{a dozen dozen}", "hundreds", "twenty-odd", "maybe", "often")]
    [True, True, True, False, False]
    """
    words = re.findall(r"[a-z]+", plain(cleaned).lower())
    return any(word in _NUMBER_WORDS or word.removesuffix("s") in _NUMBER_WORDS for word in words)


def meaning(cleaned: str) -> str | None:
    r"""The mathematics that a phrase stands for; None for any other text.

    >>> meaning(r"\text{No solutions}"), meaning("all real numbers"), meaning(r"\text{five}"), meaning("x")
    ('\\emptyset', '\\mathbb{R}', '5', None)
    """
    text = re.sub(r"[.,!]", "", plain(cleaned)).strip().lower()
    large = re.fullmatch(rf"(\d[\d,]*(?:\.\d+)?)\s*({'|'.join(_LARGE)})", text)
    if large:
        return str(Fraction(large[1].replace(",", "")) * _LARGE[large[2]])
    number = number_in_words(text)
    return str(number) if number is not None else _MEANINGS.get(text)


def phrase(cleaned: str) -> tuple[str, ...] | None:
    r"""The words of a text that is nothing but words, in lower case and without articles; None for anything else.

    A single letter is a variable, and letters that stand without `\text` may be a product, unless there are four.

    >>> phrase(r"\text{The Ellipse.}"), phrase(r"\textbf{Navin}"), phrase(r"\text{October 30}")
    (('ellipse',), ('navin',), ('30', 'october'))
    >>> phrase("x"), phrase("ab"), phrase(r"\sqrt{two}"), phrase("5 apples")
    (None, None, None, None)
    """
    text = plain(cleaned).strip().strip("'\"`")
    if text == cleaned and not re.fullmatch(r"[A-Za-z]{4,}|[A-Za-z]{2,}(?:[ \-][A-Za-z]+)+[.]?", text):
        return None
    text = re.sub(r"^(\d{1,2})(?:st|nd|rd|th)? ([A-Za-z]{3,})$", r"\2 \1", text)
    if not _WORDS.fullmatch(text) or len(re.sub(r"[^A-Za-z]", "", text)) < 2:
        return None
    words = re.sub(r"[.,'\"\-]", " ", _ARTICLES.sub(" ", text.lower())).split()
    words = [str(number) if (number := number_in_words(word)) is not None else word for word in words]
    return tuple(sorted(words)) if _MONTHS.intersection(words) and len(words) > 1 else tuple(words)

r"""Units: `15\text{ cm}^2`, `\$36`, `8 lbs`, `30^\circ`. One that is missing is forgiven, a different one is not."""

import re
from collections import Counter
from functools import lru_cache

from multiattempt_trl.graders.normalisation import plain

Unit = tuple[tuple[str, int], ...]
"""Names with their powers, sorted: `m/s` is `(("m", 1), ("s", -1))`."""

# The name that stands for a unit, then its other spellings. A plural s is taken off before looking.
_SPELLINGS = """
mm millimeter millimetre | cm centimeter centimetre | m meter metre | km kilometer kilometre | nm nanometer nanometre
µm um micrometer micron | in inch inche | ft foot feet | yd yard | mi mile | ly lightyear light-year | pc parsec | au
s sec second | min minute | h hr hour | day d | week wk | month | year yr | ms millisecond | decade | century centurie
g gram gm gms | kg kilogram | mg milligram | lb pound | oz ounce | ton tonne | l liter litre | ml milliliter millilitre
gal gallon | quart qt | pint | cup | cc | acre | hectare ha | degree deg | rad radian | °c celsius | °f fahrenheit
K kelvin | dollar usd \\$ | cent ¢ | euro € eur | gbp £ | yen ¥ | rupee ₹ | J joule | kJ | erg | eV | keV | MeV | GeV
W watt | kW kilowatt | N newton | Pa pascal | kPa | Hz hertz | kHz | MHz | V volt | A ampere amp | C coulomb | T tesla
G gauss | Ω ohm | cal calorie | mol mole | atm | dyne | cgs | mph | kph | rpm | Å angstrom | arcsec arcsecond | arcmin
"""
_NAMES = {
    name: group.split()[0] for group in re.split(r"[|\n]", _SPELLINGS) if group.strip() for name in group.split()
}
_COMPOUND = {"mph": (("h", -1), ("mi", 1)), "kph": (("h", -1), ("km", 1)), "cc": (("cm", 3),)}
_ONE_LETTER = frozenset("msghLlJNWKVACTGÅΩ")
_POWERS_BEFORE, _POWERS_AFTER = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}, {"squared": 2, "cubed": 3}
_NEUTRAL = frozenset(
    """
    unit way value number integer solution time point digit term element pair case possibility possibilitie
    choice item thing person people total answer object each in all distinct different real positive possible whole
    linear
    """.split()  # noqa: SIM905  # one word after another reads best
)
"""Words that count rather than measure: they match any other."""
_NO_UNIT = frozenset(
    """
    and or any not no if is are was when where for with then than because since so but the only both either neither
    true false correct wrong answer otherwise except maybe also undefined infinity infinite none to by as sin cos
    tan log ln exp lim max mod gcd lcm det sqrt pi choose
    plus minus times half halves third thirds quarter quarters fourth fourths fifths tenth tenths hundredths factorial
    hundred thousand million billion trillion dozen one two three four five six seven eight nine ten percent
    """.split()  # noqa: SIM905  # one word after another reads best
)
_STYLE = r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|hbox|operatorname|rm)"
_POWER = r"(?:\s*\^\s*(?:\{\s*(?P<power>-?\d)\s*\}|(?P<power1>-?\d)))?"
_TRAILING = re.compile(
    rf"(?<![\s/])(?P<join>(?:\s|/|\\cdot(?![A-Za-z])|\\,|\^(?=\\circ))*)"
    rf"(?:{_STYLE}\s*\{{(?P<styled>(?:[^{{}}]|\^\{{-?\d\}})*)\}}|(?P<bare>(?<![A-Za-z\\])[A-Za-zµΩÅ]+|[€£¥¢₹]|\\\$)|(?P<circle>\\circ)\s*(?P<scale>[CF]|\\(?:text|mathrm)\s*\{{\s*[CF]\s*\}})?)"
    rf"{_POWER}[.,;]?\s*$"
)
_TRIGONOMETRY = re.compile(r"\\(?:a?sin|a?cos|a?tan|cot|sec|csc|arc\w+)")
_LEADING_CURRENCY = re.compile(r"^(-?)\s*(?:\\text\s*\{)?\s*(?:US\s*)?(\\\$|€|£|¥|₹|USD)\s*\}?\s*")
_QUOTIENT = re.compile(
    r"(.*[\d}])\s*\\frac\{(\\[a-z]+\{[^{}]*\}|[A-Za-z^ 0-9]*)\}\{(\\[a-z]+\{[^{}]*\}(?:\^\d)?|[A-Za-z^ 0-9]*)\}",
    re.DOTALL,
)
_PRIME = re.compile(r"([-\d.]+)\s*('+|\^\{?(?:\s*\\prime)+\s*\}?)")
_TOKEN = re.compile(r"[A-Za-zµΩÅ°€£¥¢₹]+|\\\$|\^?-?\d+|/")
_MAX_WORDS = 5


@lru_cache(maxsize=65_536)
def split_unit(cleaned: str, *, letters: bool = False) -> tuple[str, Unit]:
    r"""The answer without its unit, and the unit; empty where there is none.

    With `letters` a single letter that stands apart, as in `5 m`, is a unit too and not a variable.

    >>> split_unit(r"15\mbox{ cm}^2"), split_unit(r"\$36"), split_unit(r"\frac{270}7^\circ ")
    (('15', (('cm', 2),)), ('36', (('dollar', 1),)), ('\\frac{270}7', (('degree', 1),)))
    >>> split_unit(r"3 \text{ miles per hour}"), split_unit("8 kg"), split_unit(r"9.8 \mathrm{m/s^2}")
    (('3', (('h', -1), ('mi', 1))), ('8', (('kg', 1),)), ('9.8', (('m', 1), ('s', -2))))
    >>> split_unit("5x"), split_unit(r"5 \text{ or any number}"), split_unit(r"\tan 15^\circ ")
    (('5x', ()), ('5 \\text{ or any number}', ()), ('\\tan 15^\\circ ', ()))
    """
    quotient = _QUOTIENT.fullmatch(cleaned)
    if quotient and (unit := parse_unit(f"{plain(quotient[2])}/{plain(quotient[3])}")) and len(unit) > 1:
        return quotient[1].strip(), unit
    prime = _PRIME.fullmatch(cleaned)
    if prime:
        return prime[1], (("second of arc" if len(re.findall("'|prime", prime[2])) > 1 else "minute of arc", 1),)
    currency = _LEADING_CURRENCY.match(cleaned)
    text, leading = cleaned, ""
    if currency:
        text, leading = currency[1] + cleaned[currency.end() :], currency[2]
    pieces: list[str] = []
    while len(pieces) < _MAX_WORDS and (found := _TRAILING.search(text)):
        piece = _unit_piece(found, text[: found.start()], letters)
        if piece is None:
            break
        pieces.insert(0, piece)
        text = text[: found.start()]
    if not text.strip() or not (pieces or leading):
        return cleaned, ()
    units = {parse_unit(part) for part in (leading, " ".join(pieces)) if part}  # \$40 and USD say the same
    unit = units.pop() if len(units) == 1 else None
    return (cleaned, ()) if unit is None else (text.strip(), unit)


def _unit_piece(found: re.Match[str], head: str, letters: bool) -> str | None:
    """The trailing piece as text, or None where it belongs to the answer."""
    join, word = found["join"], found["styled"] if found["styled"] is not None else found["bare"]
    head = head.rstrip()
    power = found["power"] or found["power1"]
    if not head or head[-1] in "_^=+-*,(<>\\&":
        return None
    if found["circle"]:
        return None if _TRIGONOMETRY.search(head) else "°" + re.sub(r"[^CF]", "", found["scale"] or "")
    bare = found["bare"] is not None
    known = all(_name(token) is not None for token in re.findall(r"[A-Za-zµΩÅ]+", word))
    counted = head[-1].isdigit() or head[-1] == "}"
    if bare and word.isalpha():  # letters may be variables
        known_unit = (
            known and counted and (len(word) > 1 or (letters and re.search(r"[ /]", join) and word in _ONE_LETTER))
        )
        counted_noun = len(word) >= 4 and head[-1].isdigit() and " " in join and word.islower()
        if not (known_unit or counted_noun):
            return None
    if not bare and len(word.strip()) == 1 and word.strip() not in _ONE_LETTER:
        return None
    return ("/" if "/" in join else "") + word + (f"^{power}" if power else "")


@lru_cache(maxsize=4_096)
def parse_unit(text: str) -> Unit | None:
    r"""The unit that a text names; None where it says something else.

    >>> parse_unit("square centimeters"), parse_unit("km/h"), parse_unit("cm2"), parse_unit("right triangles")
    ((('cm', 2),), (('h', -1), ('km', 1)), (('cm', 2),), (('triangle', 1),))
    >>> parse_unit(" units"), parse_unit("or any number")
    ((), None)
    """
    powers: Counter[str] = Counter()
    factor, pending, last = 1, 1, ""
    unknown: list[str] = []
    tokens = _TOKEN.findall(text)
    if len(tokens) > 2 * _MAX_WORDS:
        return None
    for token in tokens:
        word = token.lower()
        if word.lstrip("^-").isdigit():
            if not last:
                return None
            powers[last] += factor * (int(word.lstrip("^")) - 1)
        elif word in ("/", "per"):
            factor = -1
        elif word in _POWERS_AFTER and not last:  # three squared
            return None
        elif word in _POWERS_AFTER:
            powers[last] += factor * (_POWERS_AFTER[word] - 1)
        elif word in _POWERS_BEFORE:
            pending = _POWERS_BEFORE[word]
        elif word in _NO_UNIT:
            return None
        elif (name := _name(token)) is not None:
            for part, power in _COMPOUND.get(name, ((name, 1),)):
                powers[part] += factor * power * pending
            last, pending = name, 1
        elif _singular(word) in _NEUTRAL or word in ("of", "a", "an"):
            pending = 1
        else:
            unknown.append(word)
    if unknown and not powers:  # "right triangles": the noun decides
        powers[_singular(unknown[-1])] = 1
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def units_differ(gold: Unit, answer: Unit) -> bool:
    r"""Whether both have a unit, and not the same one.

    >>> units_differ(parse_unit("hours"), parse_unit("minutes")), units_differ(parse_unit("lbs"), parse_unit("pounds"))
    (True, False)
    >>> units_differ(parse_unit("hours"), ())
    False
    """
    return bool(gold and answer and gold != answer)


def _name(token: str) -> str | None:
    """The unit that a word names: as it stands (`K`, `MeV`), else in lower case and singular."""
    lower = token.lower()
    for spelling in (token, lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if spelling in _NAMES and (len(spelling) > 1 or spelling == token or spelling in "°"):
            return _NAMES[spelling]
    return {"°": "degree", "°C": "°c", "°F": "°f"}.get(token)


def _singular(word: str) -> str:
    return word.removesuffix("s") if not word.endswith("ss") else word

r"""What is said to the model: the prompt presets and the feedback styles, as chat messages."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from string import Formatter
from types import MappingProxyType

Message = dict[str, str]

NO_REMARKS: Mapping[str, str] = MappingProxyType({})
FIELDS = ("problem", "attempts", "attempts_left")
"""What every template may name."""
OWN_STYLES = ("none", "binary")
"""Feedback styles that need no domain."""
_END = r"(?<!\bi\.e)(?<!\be\.g)[.!?]+[\"')]*(?=\s|$)"
"""Of a sentence: not the point of a decimal, nor of "i.e."."""
_SENTENCE = re.compile(rf"[^\n]*?{_END}")
_PART = rf"(?:(?!{_END})[^\n{{}}])*"
_COUNTING = re.compile(rf"{_PART}(?<!\{{)(?:\{{\{{)*\{{attempts(?:_left)?\}}{_PART}(?:{_END})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptPreset:
    """Role and wording of the first prompt and of the feedback.

    Templates are `str.format` strings over `problem`, `attempts` ("1 attempt", "2 attempts") and `attempts_left` (the
    number). Only these names may stand in braces.
    """

    name: str
    system: str | None
    """Template of the opening system turn; None for no such turn of ours."""
    user: str
    feedback_role: str
    feedback: str
    """What a wrong or invalid answer is told, in the style `binary`."""
    plural: bool = True
    """Whether one attempt is written "1 attempt"; the published code always writes "attempts"."""

    def __post_init__(self) -> None:
        for template in filter(None, (self.system, self.user, self.feedback)):
            check_template(template, f"preset {self.name!r}")

    def attempts_text(self, count: int) -> str:
        return f"{count} attempt" if self.plural and count == 1 else f"{count} attempts"

    def first_messages(self, problem: str, attempts: int, *, counted: bool = True) -> list[Message]:
        """The opening turns for a question with this many attempts.

        Args:
            counted: whether to say how many; else the sentences that name them are left out, and a system turn of
                which nothing is left.
        """
        system, user = self.system, self.user
        if not counted:
            system, user = (system and uncounted(system)) or None, uncounted(user)
        fill = {"problem": problem, "attempts": self.attempts_text(attempts), "attempts_left": attempts}
        messages = [{"role": "user", "content": user.format(**fill)}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system.format(**fill)})
        return messages

    def feedback_message(
        self,
        style: str,
        problem: str,
        attempts_left: int,
        remarks: Mapping[str, str] = NO_REMARKS,
        *,
        counted: bool = True,
    ) -> Message:
        """The turn after an attempt that was not correct.

        `style` is `binary` (the preset's own sentence), `none` (the question again, nothing said of the answer), a
        style of the domain (the preset's own sentence with that remark after its verdict), or a template of the user's
        own, whose fields may be styles of the domain too. Where there is no such remark, nothing stands in its place,
        and the preset's own sentence where nothing else is in the template.

        Args:
            counted: whether to say how many attempts are left; else the sentences that name them are left out.
        """
        styles = remark_styles(style)
        template = self.feedback_template(style, counted=counted)
        for name in styles:
            if not remarks.get(name):
                template = re.sub(rf"(?<!\{{)(?: \{{{name}\}}$|\{{{name}\}} ?)", "", template)
        template = template if template.strip() else self.feedback_template("binary", counted=counted)
        fill = {"problem": problem, "attempts": self.attempts_text(attempts_left), "attempts_left": attempts_left}
        content = template.format_map({**dict.fromkeys(styles, ""), **remarks, **fill})
        return {"role": self.feedback_role, "content": content}

    def feedback_template(self, style: str, *, counted: bool = True) -> str:
        """What `feedback_message` fills in."""
        template = {"binary": self.feedback, "none": "{problem}"}.get(style, style)
        if style in remark_styles(style):
            template = with_remark(self.feedback, style)
        return template if counted else uncounted(template)

    def check_uncounted(self, style: str) -> None:
        """Raises `ValueError` where a turn is left with nothing to say without the number of attempts."""
        for template in (self.user, self.feedback_template(style)):
            if not uncounted(template):
                raise ValueError(
                    f"nothing is left of {template!r} with the number of attempts hidden: say something else in a "
                    "sentence of its own"
                )


def with_remark(feedback: str, style: str) -> str:
    """A preset's feedback with a field for the remark of a style after its first sentence, which is the verdict.

    >>> with_remark("Wrong. You have {attempts} left.", "hint"), with_remark("No", "hint")
    ('Wrong. {hint} You have {attempts} left.', 'No {hint}')
    """
    end = _SENTENCE.match(feedback)
    verdict = end[0] if end else feedback
    return f"{verdict} {{{style}}}{feedback[len(verdict) :]}".lstrip()


def remark_styles(style: str) -> tuple[str, ...]:
    """The styles of a domain whose remarks are said in this style: itself, or the fields of a template.

    >>> remark_styles("hint"), remark_styles("No. {hint} You have {attempts}."), remark_styles("binary")
    (('hint',), ('hint',), ())
    """
    if style in OWN_STYLES:
        return ()
    if style.isidentifier():
        return (style,)
    return tuple(dict.fromkeys(name for name in _names(style) if name not in FIELDS))


def uncounted(template: str) -> str:
    """A template without the sentences that name the attempts.

    >>> uncounted("{problem} You have {attempts}."), uncounted("Wrong. {attempts_left} left! Go on.")
    ('{problem}', 'Wrong. Go on.')
    >>> uncounted("Within 1.5 minutes, i.e. soon, use your {attempts}. Write {{attempts}}."), uncounted("{attempts}.")
    ('Write {{attempts}}.', '')
    """
    return _COUNTING.sub("", template).lstrip()


def check_template(template: str, where: str, more: Collection[str] | None = ()) -> None:
    """Raises `ValueError` where a template names anything but `FIELDS` and `more` (None: whatever may be a name), or
    has more than a name in its braces.
    """
    try:
        names = _names(template)
    except ValueError as error:
        raise ValueError(f"{where}: {template!r} is not a template ({error}); write literal braces doubled") from error
    known = {*FIELDS, *(filter(str.isidentifier, names) if more is None else more)}
    unknown = sorted(set(names) - known)
    if unknown:
        fields = [f"{{{name}}}" for name in (*FIELDS, *(more or ()))]
        raise ValueError(
            f"{where}: unknown field {unknown[0]!r} in {template!r}; "
            f"use {', '.join(fields[:-1])} or {fields[-1]}, and write literal braces doubled"
        )
    if re.findall(r"\{([^{}]*)\}", re.sub(r"\{\{|\}\}", "", template)) != names:
        raise ValueError(f"{where}: a field of {template!r} has a conversion or a format; write its name alone")


def check_feedback(style: str, styles: Mapping[str, str] | None = NO_REMARKS) -> None:
    """Raises `ValueError` unless `style` is `none`, `binary`, one of a domain's styles, or a usable template.

    `styles` says what each of these tells. Where no domain is known yet (None), any one word may be a style of it.
    """
    if style in OWN_STYLES or style in (styles or ()):
        return
    if " " in style.strip():  # a sentence has a space: one word is a misspelt style
        check_template(style, "feedback", styles)
    elif styles is not None or not style.isidentifier():
        known = [*map(repr, OWN_STYLES), *(f"{name!r} ({tells})" for name, tells in (styles or {}).items())]
        raise ValueError(f"feedback {style!r} is neither {', '.join(known)} nor a sentence of your own")


def _names(template: str) -> list[str]:
    """The fields of a template. Raises `ValueError` where it is none."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


PAPER = PromptPreset(
    name="paper",
    system=None,
    # The paper shows an R1-style instruction in the user turn; the wording is ours, the parts are the paper's:
    # reason first, answer in a box, the number of attempts.
    user=(
        "Answer the question below. First think about the reasoning process step by step, then give the final answer "
        "inside \\boxed{{}}. You have {attempts}.\n\nQuestion: {problem}"
    ),
    feedback_role="user",
    feedback="Your answer is wrong. Try alternatives and refine your answer. You have {attempts} left.",
)

PAPER_CODE = PromptPreset(
    name="paper-code",
    system=(
        "Please reason step by step, and put your final answer within \\boxed{{}}. You have {attempts} to answer the "
        "questions, and you should provide the full reasoning steps in each attempt."
    ),
    user="{problem}",
    feedback_role="system",
    feedback="Your answer is incorrect. You have {attempts} left. Try an alternative.",
    plural=False,
)

PRESETS: dict[str, PromptPreset] = {preset.name: preset for preset in (PAPER, PAPER_CODE)}


def get_preset(name: str, more: Mapping[str, PromptPreset] | None = None) -> PromptPreset:
    """The preset of that name, among `PRESETS` and `more`; raises `ValueError` that lists them."""
    known = {**PRESETS, **(more or {})}
    if name not in known:
        raise ValueError(f"prompt_preset {name!r} is unknown; choose one of {', '.join(sorted(known))}")
    return known[name]

"""A dialogue on the screen: what is said to the model, its attempts as they come, the verdicts, perhaps by hand."""

import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace

from rich.console import Console

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.env import Environment
from multiattempt_trl.dialogue.episode import Ending, Episode, Judgement, Question, Verdict
from multiattempt_trl.evaluation.pages.markdown import VISIBLE
from multiattempt_trl.rollout.live import Grade

NO_GOLD = "(judged by hand)"
"""The gold answer of a question whose asker gave none."""
STYLES = {Verdict.CORRECT: "bold green", Verdict.WRONG: "bold red", Verdict.INVALID: "bold yellow"}
KEYS = {"r": Verdict.CORRECT, "w": Verdict.WRONG, "i": Verdict.INVALID}
WIDTH = 11
"""Of the column in which the roles and the verdicts stand, and where no line of a model's can begin."""


Said = Callable[[int, Mapping[str, str]], Mapping[str, str]]


def harmless(text: str) -> str:
    r"""The text without what a terminal would obey: control characters become pictures of themselves, and those that
    turn the direction of writing, or are half of a pair, the sign for an unknown character.

    >>> harmless("\x1b[2J\r\n\u202e5\x9b")
    '␛[2J␍\n�5�'
    """
    known = text.translate(VISIBLE)
    return "".join("\ufffd" if _commands(char) else char for char in known)


def _commands(char: str) -> bool:
    kind = unicodedata.category(char)
    direction = unicodedata.bidirectional(char)  # LRE, RLE, LRO, RLO, PDF, LRI, RLI, FSI, PDI
    return kind in ("Cs", "Zl", "Zp") or (kind == "Cc" and char not in "\n\t") or (kind == "Cf" and direction != "BN")


class Screen:
    """Where text goes out, never taken for markup or commands, and lines come in, from a terminal or a pipe."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        for stream in (sys.stdin, sys.stdout):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="replace")  # what an encoding lacks must not end the dialogue

    def say(self, text: str, style: str | None = None, end: str = "\n") -> None:
        self.console.out(harmless(text), style=style, end=end, highlight=False)

    def ask(self, prompt: str) -> str:
        """The next line. Raises `EOFError` where there is none."""
        line = input(prompt)
        if not sys.stdin.isatty():
            self.say(line)  # a terminal shows what is typed, a pipe does not
        return line.strip()


class Watch:
    """One dialogue on the screen: shows what the model reads and says, and judges, asking where it must.

    It is the `Grade` of the dialogue, and its `begin` and `show` are those of a `TextStream`.

    Args:
        grade: the domain's grader, not asked where there is no gold answer.
        said: the remarks as they will be said after so many attempts, see `remarks.sayable`.
        by_hand: who plays has the last word on each attempt; where there is no gold answer, the only one.
    """

    def __init__(
        self,
        screen: Screen,
        env: Environment,
        grade: Grade,
        *,
        by_hand: bool,
        said: Said = lambda _, remarks: remarks,
    ) -> None:
        self.screen, self.env, self.grade = screen, env, grade
        self.known = env.question.answer != NO_GOLD
        self.by_hand = by_hand or not self.known
        self.attempt, self.said = 0, said
        self.remarks: Mapping[str, str] = {}

    def begin(self) -> None:
        """What the model reads now, and the role of who speaks next."""
        used, self.attempt = self.attempt, self.attempt + 1
        for message in [self.env.feedback_message(used, self.remarks)] if used else self.env.first_messages():
            self.screen.say(f"{message['role']:<{WIDTH}}{_indented(message['content'])}", style="cyan")
        self.screen.say(f"{'assistant':<{WIDTH}}", style="bold", end="")

    def show(self, piece: str) -> None:
        self.screen.say(_indented(piece), end="")

    def __call__(self, question: Question, response: str) -> Judgement:
        self.screen.say("")
        boxless = Verdict.INVALID if last_boxed(response) is None else None
        judged = Judgement.of(self.grade(question, response)) if self.known else None
        verdict = judged.verdict if judged else boxless
        if self.by_hand:
            verdict = self._asked(question, verdict)
        assert verdict is not None, "a grader or a person has judged"
        self.screen.say(f"{verdict.value:<{WIDTH}}", style=STYLES[verdict], end="")
        self.screen.say(f"attempt {self.attempt} of {self.env.budget}")
        judged = replace(judged, verdict=verdict) if judged else Judgement(verdict=verdict)
        self.remarks = self.said(self.attempt, judged.remarks)
        return judged

    def _asked(self, question: Question, proposed: Verdict | None) -> Verdict:
        if self.known:
            self.screen.say(f"The answer is {question.answer}, and the grader says {proposed}.")
        enter = f", Enter: {proposed}" if proposed else ""
        while True:
            line = self.screen.ask(f"right, wrong or invalid? [r, w, i{enter}] ").lower()
            if not line and proposed:
                return proposed
            if line in KEYS or line in ("right", "wrong", "invalid"):
                return KEYS[line[0]]


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * WIDTH)


def summary(episode: Episode) -> str:
    """How a dialogue ended, in one line."""
    attempts, tokens = _counted(episode.attempts_used, "attempt"), _counted(episode.sampled_tokens, "token")
    if episode.ending is Ending.SOLVED:
        return f"Solved at attempt {episode.attempts_used} of {episode.budget}, with {tokens}."
    cut = sum(attempt.finish_reason == "length" for attempt in episode.attempts)
    limit = f", {cut} of them cut by the token limit" if cut else ""
    known = episode.question.answer != NO_GOLD
    return f"Not solved: {attempts}{limit}, with {tokens}." + (f" The answer is {episode.question.answer}." * known)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"

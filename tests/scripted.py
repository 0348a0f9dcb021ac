"""A tokenizer of characters and a backend that answers from a script, for evaluations that are checked by hand."""

from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER, Message
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.evaluation.protocols import EvalPlan, Run
from multiattempt_trl.evaluation.run import Evaluation, evaluate
from multiattempt_trl.rollout.requests import GenRequest, GenResult

TURN, END = "\x02", "\x03"


class CharTokenizer:
    """One id a character; a turn opens with one special character and ends with another."""

    chat_template = "characters"
    pad_token_id = 0
    all_special_tokens: ClassVar[list[str]] = [TURN, END]

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [ord(token) for token in tokens]

    def apply_chat_template(self, conversation: list[Message], *, add_generation_prompt: bool, **kwargs: Any) -> str:
        turns = "".join(f"{TURN}{turn['role']}\n{turn['content']}{END}" for turn in conversation)
        return turns + f"{TURN}assistant\n" * add_generation_prompt

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        text = "".join(map(chr, token_ids))
        return text.replace(TURN, "").replace(END, "") if skip_special_tokens else text


class ScriptedBackend:
    """Answers from a table: attempt k at a problem gets its k-th line, an independent sample the next of its own.

    The base model always says the first line.
    """

    eager = False
    capacity = None

    def __init__(self, script: dict[str, list[str]], independent: dict[str, list[str]], run: Run) -> None:
        self.script, self.independent, self.run = script, independent, run
        self.prompts: list[str] = []
        self.drawn: dict[str, int] = defaultdict(int)
        self.waiting: list[GenRequest] = []

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def submit(self, requests: list[GenRequest]) -> None:
        self.waiting += requests

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        requests, self.waiting = self.waiting, []
        return [self.answer(request) for request in requests]

    def answer(self, request: GenRequest) -> GenResult:
        prompt = "".join(map(chr, request.prompt_ids))
        self.prompts.append(prompt)
        problem = next(problem for problem in self.script if f"Question: {problem}{END}" in prompt)
        if self.run.name == "independent":
            text = self.independent[problem][self.drawn[problem]]
            self.drawn[problem] += 1
        else:
            text = self.script[problem][0 if self.run.of_base else prompt.count(f"{TURN}assistant") - 1]
        ids = tuple(ord(char) for char in text + END)
        return GenResult(request_id=request.request_id, token_ids=ids, finish_reason="eos")


def exact(question: Question, response: str) -> Verdict:
    answer = last_boxed(response)
    return Verdict.INVALID if answer is None else Verdict.CORRECT if answer == question.answer else Verdict.WRONG


R, W, X = "\\boxed{1}", "so \\boxed{5}", "no idea"
SCRIPT = {"a?": [R], "b?": [W, R], "c?": [W, W, R], "d?": [X, W, W]}
INDEPENDENT = {"a?": [R, R, R], "b?": [W, R, W], "c?": [X, X, W], "d?": [R, W, R]}
QUESTIONS = [Question(id=problem[0], problem=problem, answer="1") for problem in SCRIPT]
LIMITS = Limits(attempt=2_000, episode=4_000, context=8_000)


def plan(**changes: Any) -> EvalPlan:
    return EvalPlan(**{"model": "scripted", "preset": PAPER, "limits": LIMITS, "budget": 3, **changes})


def play_script(
    a_plan: EvalPlan,
    benchmarks: dict[str, list[Question]] | None = None,
    script: dict[str, list[str]] = SCRIPT,
    **options: Any,
) -> tuple[Evaluation, list[ScriptedBackend]]:
    """The evaluation, and the backends that were opened for it, one for each shard."""
    opened: list[ScriptedBackend] = []

    def open_backend(run: Run) -> ScriptedBackend:
        opened.append(ScriptedBackend(script, INDEPENDENT, run))
        return opened[-1]

    given: dict[str, Any] = {"shard_size": 100, "progress": False}
    toy = {"toy": QUESTIONS}
    played = evaluate(a_plan, benchmarks or toy, open_backend, exact, Renderer(CharTokenizer()), **(given | options))
    return played, opened

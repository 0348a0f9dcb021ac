"""The scheduler over a scripted backend, and the lock-step backend over tiny models."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Timer
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Ending, Episode, Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER, PAPER_CODE, Message
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.dialogue.rewards import price
from multiattempt_trl.rollout.play import Progress, play
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling
from multiattempt_trl.rollout.transformers_backend import TransformersBackend
from multiattempt_trl.training.sequences import flatten

END = 0


class Characters:
    """A tokenizer of one id per character, with the end of turn as id 0."""

    chat_template = "one that apply_chat_template knows"

    def apply_chat_template(self, conversation: list[Message], **kwargs: Any) -> str:
        assert kwargs == {"tokenize": False, "add_generation_prompt": True}
        return "".join(f"{turn['role'][0]}:{turn['content']}\0" for turn in conversation) + "a:"

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        text = "".join(map(chr, token_ids))
        return text.replace("\0", "") if kwargs.get("skip_special_tokens") else text


RIGHT, WRONG, INVALID = "\\boxed{1}", "\\boxed{2}", "none"
LIMITS = Limits(attempt=50, episode=1000, context=2000)
RENDERER = Renderer(Characters())


def grade(question: Question, response: str) -> Verdict:
    answer = last_boxed(response)
    return Verdict.INVALID if answer is None else Verdict.CORRECT if answer == question.answer else Verdict.WRONG


def env(budget: int, name: str = "q") -> Environment:
    return Environment(question=Question(id=name, problem=name, answer="1"), budget=budget, preset=PAPER)


class Scripted:
    """Answers each dialogue with its own list of texts, cut at the cap, and notes what it was asked.

    A text is followed by the end of turn. An answer of None is a failed request.
    """

    eager = True
    capacity = None

    def __init__(
        self, scripts: list[list[str | None]], order: Callable[[list[int]], list[int]] = lambda ids: ids
    ) -> None:
        self.scripts = [list(script) for script in scripts]
        self.order = order
        self.asked: list[GenRequest] = []
        self.rounds: list[list[int]] = []
        self.waiting: list[GenRequest] = []
        self.state = "closed"

    def expect(self, longest: Sequence[int], feedback: int) -> None:
        pass

    def __enter__(self) -> "Scripted":
        self.state = "open"
        return self

    def __exit__(self, *error: object) -> None:
        self.state = "closed again"

    def submit(self, requests: list[GenRequest]) -> None:
        assert self.state == "open"
        self.asked += requests
        self.waiting += requests

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        waiting, self.waiting = {request.request_id: request for request in self.waiting}, []
        assert waiting, "polled with nothing running: this would wait for ever"
        self.rounds.append(list(waiting))
        return [self._answer(waiting[request_id]) for request_id in self.order(list(waiting))]

    def _answer(self, request: GenRequest) -> GenResult:
        text = self.scripts[request.request_id].pop(0)
        if text is None:
            return GenResult(request_id=request.request_id, token_ids=(), finish_reason="error", error="gone")
        token_ids = [*map(ord, text), END]
        cut = token_ids[: request.max_new_tokens]
        reason = "eos" if cut == token_ids else "length"
        return GenResult(request_id=request.request_id, token_ids=tuple(cut), finish_reason=reason)


def one(budget: int, script: list[str | None], limits: Limits = LIMITS) -> Episode:
    backend = Scripted([script])
    (episode,) = play([env(budget)], backend, grade, RENDERER, limits)
    assert backend.state == "closed again"
    assert backend.scripts == [[]], "not every scripted answer was asked for"
    flatten(episode)  # raises where an attempt's prompt does not extend what came before
    return episode


def verdicts(episode: Episode) -> list[Verdict]:
    return [attempt.verdict for attempt in episode.attempts]


# --- endings -------------------------------------------------------------------------------------------------------


def test_solved_ends_at_once() -> None:
    episode = one(5, [WRONG, RIGHT])
    assert (episode.ending, episode.attempts_used, episode.budget) == (Ending.SOLVED, 2, 5)
    assert verdicts(episode) == [Verdict.WRONG, Verdict.CORRECT]


def test_solved_at_the_last_attempt() -> None:
    assert one(2, [WRONG, RIGHT]).ending is Ending.SOLVED


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_exhausted_uses_the_whole_budget(budget: int) -> None:
    episode = one(budget, [WRONG] * budget)
    assert (episode.ending, episode.attempts_used) == (Ending.EXHAUSTED, budget)


@pytest.mark.parametrize("first", [WRONG, INVALID])
def test_a_negative_price_does_not_end_the_dialogue(first: str) -> None:
    # Field notes, trap 5: "while reward == 0" stopped after attempt 1 once a wrong answer cost -0.5.
    episode = one(3, [first, first, RIGHT])
    stopped = Episode(question=episode.question, budget=1, attempts=episode.attempts[:1], ending=Ending.EXHAUSTED)
    assert price(stopped)[0] < 0
    assert (episode.ending, episode.attempts_used) == (Ending.SOLVED, 3)


def test_one_answer_per_attempt() -> None:
    # Field notes, trap 6: two answers in one turn are one attempt, and the last box is its answer.
    episode = one(2, [f"{RIGHT} or {WRONG}", f"{WRONG} or {RIGHT}"])
    assert verdicts(episode) == [Verdict.WRONG, Verdict.CORRECT]
    assert [attempt.answer for attempt in episode.attempts] == ["2", "1"]


def test_an_attempt_is_judged_by_its_own_text() -> None:
    # The right answer of attempt 1 would be found again in the prompt of attempt 2.
    question = Question(id="q", problem="Is it \\boxed{1}?", answer="1")
    asking = Environment(
        question=question, budget=2, preset=PAPER, feedback="It is not \\boxed{{2}} but \\boxed{{1}}."
    )
    (episode,) = play([asking], Scripted([[INVALID, INVALID]]), grade, RENDERER, LIMITS)
    assert verdicts(episode) == [Verdict.INVALID, Verdict.INVALID]


def test_what_each_attempt_read() -> None:
    first, second = one(2, [WRONG, RIGHT]).attempts
    sentence = "Your answer is wrong. Try alternatives and refine your answer. You have 1 attempt left."
    opening = PAPER.first_messages("q", 2)[0]["content"]
    assert Characters().decode(first.prompt_ids) == f"u:{opening}\0a:"
    assert Characters().decode(second.prompt_ids) == f"u:{opening}\0a:{WRONG}\0u:{sentence}\0a:"
    assert first.response_ids == (*map(ord, WRONG), END)
    assert first.response == WRONG


def test_the_attempt_cap() -> None:
    # WRONG is 9 characters and an end of turn: cut at 5, the attempt is invalid, and the next has its chance.
    limits = Limits(attempt=5, episode=1000, context=2000)
    episode = one(2, [WRONG, "no"], limits)
    assert [attempt.finish_reason for attempt in episode.attempts] == ["length", "eos"]
    assert [attempt.tokens for attempt in episode.attempts] == [5, 3]
    assert episode.ending is Ending.EXHAUSTED
    # Cut at its last attempt, the episode was not given its full chance.
    assert one(2, ["no", WRONG], limits).ending is Ending.TRUNCATED
    assert one(1, [WRONG], limits).ending is Ending.TRUNCATED


def test_an_attempt_that_ends_on_its_cap_is_whole() -> None:
    # 10 tokens, the last of them the end of turn.
    episode = one(1, [WRONG], Limits(attempt=10, episode=10, context=2000))
    assert (episode.attempts[0].finish_reason, episode.ending) == ("eos", Ending.EXHAUSTED)


def test_the_episode_cap() -> None:
    # 10 + 10 tokens of 23: the third attempt may have 3, and after it none is left.
    episode = one(5, [WRONG, WRONG, WRONG], Limits(attempt=50, episode=23, context=2000))
    assert [attempt.tokens for attempt in episode.attempts] == [10, 10, 3]
    assert (episode.ending, episode.attempts[-1].finish_reason) == (Ending.TRUNCATED, "length")
    # Used up to the last token by whole attempts: no room for a third.
    episode = one(5, [WRONG, WRONG], Limits(attempt=50, episode=20, context=2000))
    assert [attempt.tokens for attempt in episode.attempts] == [10, 10]
    assert (episode.ending, episode.attempts[-1].finish_reason) == (Ending.TRUNCATED, "eos")
    # A correct answer on the last token is a correct answer.
    assert one(5, [WRONG, RIGHT], Limits(attempt=50, episode=20, context=2000)).ending is Ending.SOLVED


def test_the_context() -> None:
    prompt = len(RENDERER.prompt_ids(env(2).first_messages()))
    tail = len(RENDERER.feedback_ids(env(2).feedback_message(1), [END]))
    # Prompt, 10 sampled, feedback: the second attempt has 4 tokens left in the context ...
    episode = one(2, [WRONG, WRONG], Limits(attempt=50, episode=1000, context=prompt + 10 + tail + 4))
    assert [attempt.tokens for attempt in episode.attempts] == [10, 4]
    assert episode.ending is Ending.TRUNCATED
    # ... or none, and then feedback is not the last thing in it.
    episode = one(2, [WRONG], Limits(attempt=50, episode=1000, context=prompt + 10 + tail))
    assert (episode.ending, episode.attempts_used) == (Ending.TRUNCATED, 1)
    assert flatten(episode).policy_mask[-1] == 1


def test_a_failed_request_ends_its_dialogue_only() -> None:
    backend = Scripted([[WRONG, None], [WRONG, RIGHT]])
    failed, solved = play([env(3), env(3)], backend, grade, RENDERER, LIMITS)
    assert (failed.ending, failed.attempts_used) == (Ending.FAILED, 2)
    assert (failed.attempts[1].verdict, failed.attempts[1].finish_reason) == (Verdict.INVALID, "error")
    assert solved.ending is Ending.SOLVED


# --- many dialogues ------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_questions() -> None:
    # However the backend orders its results, and whichever dialogue ends first.
    names = ["a", "b", "c", "d"]
    scripts: list[list[str | None]] = [[WRONG, RIGHT], [RIGHT], [WRONG, WRONG, WRONG], [WRONG, WRONG, RIGHT]]
    for order in (lambda ids: ids, lambda ids: ids[::-1], lambda ids: sorted(ids, key=lambda i: (i * 7) % 4)):
        ended: list[Episode] = []
        envs = [env(3, name) for name in names]
        episodes = play(envs, Scripted(scripts, order), grade, RENDERER, LIMITS, on_episode=ended.append)
        assert [episode.question.id for episode in episodes] == names
        assert [episode.attempts_used for episode in episodes] == [2, 1, 3, 3]
        assert [episode.attempts_used for episode in ended] == [1, 2, 3, 3]  # told as they end
        assert {id(episode.question) for episode in ended} == {id(episode.question) for episode in episodes}


def test_samples_of_one_question_stay_apart() -> None:
    envs = [
        Environment(question=Question(id="q", problem="q", answer="1"), budget=2, preset=PAPER, sample=sample)
        for sample in range(3)
    ]
    episodes = play(envs, Scripted([[RIGHT], [WRONG, WRONG], [WRONG, RIGHT]]), grade, RENDERER, LIMITS)
    assert [(e.sample, e.ending.value) for e in episodes] == [(0, "solved"), (1, "exhausted"), (2, "solved")]


def test_the_largest_budget_is_admitted_first() -> None:
    backend = Scripted([[RIGHT]] * 5)
    play([env(budget) for budget in (1, 5, 3, 5, 2)], backend, grade, RENDERER, LIMITS)
    assert backend.rounds == [[1, 3, 2, 4, 0]]  # of equal budgets, the first stays first


def test_only_live_dialogues_are_asked_again() -> None:
    backend = Scripted([[RIGHT], [WRONG, WRONG, RIGHT], [WRONG, RIGHT]])
    play([env(3)] * 3, backend, grade, RENDERER, LIMITS)
    assert backend.rounds == [[0, 1, 2], [1, 2], [1]]


def test_no_dialogues() -> None:
    assert play([], Scripted([]), grade, RENDERER, LIMITS) == []


def test_what_is_asked_of_the_backend() -> None:
    backend = Scripted([[WRONG, RIGHT]])
    play([env(2)], backend, grade, RENDERER, Limits(attempt=50, episode=30, context=2000), stop_at_box=True)
    assert [(request.max_new_tokens, request.stop_at_box) for request in backend.asked] == [(30, True), (20, True)]


# --- no more than there are places for -----------------------------------------------------------------------------


class Few(Scripted):
    """Takes two attempts together, and answers the one that waits longest."""

    capacity = 2

    def submit(self, requests: list[GenRequest]) -> None:
        super().submit(requests)
        assert len(self.waiting) <= 2

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        self.rounds.append([request.request_id for request in self.waiting])
        first, self.waiting = self.waiting[0], self.waiting[1:]
        return [self._answer(first)]


def test_dialogues_that_have_begun_go_before_new_ones() -> None:
    backend = Few([[WRONG, WRONG, RIGHT], [RIGHT], [WRONG, RIGHT], [RIGHT]])
    episodes = play([env(budget) for budget in (3, 2, 4, 1)], backend, grade, RENDERER, LIMITS)
    # Budgets 4 and 3 begin; each goes on until it is over, and then the next largest takes its place.
    assert backend.rounds == [[2, 0], [0, 2], [2, 0], [0, 1], [1, 0], [0, 3], [3]]
    assert [episode.attempts_used for episode in episodes] == [3, 1, 2, 1]


def test_a_slow_grader_holds_new_dialogues_up() -> None:
    slow, begun = Slow(), []

    class Noting(Few):
        def submit(self, requests: list[GenRequest]) -> None:
            super().submit(requests)
            begun.append(([request.request_id for request in requests], sum(not one.done() for _, one in slow.asked)))
            if len(begun) == 2:
                Timer(0.2, lambda: slow.let_go("right 0", "right 1", "right 2")).start()
            if len(begun) == 3:
                Timer(0.1, lambda: slow.let_go("right 3", "right 4")).start()

    backend = Noting([[f"right {k}"] for k in range(5)])
    episodes = play([env(1, str(k)) for k in range(5)], backend, slow, RENDERER, LIMITS)
    assert all(episode.ending is Ending.SOLVED for episode in episodes)
    # 2 begins while 0 waits for its verdict. With two answers at the grader none does, although there is a place.
    assert begun == [([0, 1], 0), ([2], 1), ([3, 4], 0)]


def test_progress_is_told() -> None:
    told: list[Progress] = []
    scripts: list[list[str | None]] = [[WRONG, RIGHT], [RIGHT], [None]]
    play([env(2)] * 3, Scripted(scripts), grade, RENDERER, LIMITS, on_progress=told.append)
    # 10 tokens each, the end of turn included; the failed request has none.
    assert told == [
        Progress(dialogues=3, done=2, solved=1, running=0, tokens=20),
        Progress(dialogues=3, done=3, solved=2, running=0, tokens=30),
    ]


@pytest.mark.parametrize("eager", [True, False])
def test_where_all_requests_fail_it_says_so_once(eager: bool) -> None:
    backend = Scripted([[None], [WRONG, None]])
    backend.eager = eager
    with pytest.raises(RuntimeError, match="all 2 dialogues of this rollout failed; the first one: gone"):
        play([env(2), env(2)], backend, grade, RENDERER, LIMITS)
    assert backend.state == "closed again"


def test_seeds_are_of_the_rollout_the_question_the_sample_and_the_attempt() -> None:
    def seeds(seed: int, *names: str) -> list[int]:
        backend = Scripted([[WRONG, RIGHT] for _ in names])
        envs = [
            Environment(question=Question(id=name, problem="?", answer="1"), budget=2, preset=PAPER, sample=sample)
            for sample, name in enumerate(names)
        ]
        play(envs, backend, grade, RENDERER, LIMITS, seed=seed)
        return [request.seed for request in backend.asked]

    assert len({*seeds(0, "a", "b", "b"), *seeds(1, "a", "b", "b")}) == 12
    assert seeds(0, "a", "b")[1::2] == seeds(0, "c", "b")[1::2]  # whoever is played beside it


# --- what a dialogue can come to ---------------------------------------------------------------------------------


def test_a_backend_is_told_how_long_dialogues_can_get() -> None:
    told: list[tuple[Sequence[int], int]] = []

    class Told(Scripted):
        def expect(self, longest: Sequence[int], feedback: int) -> None:
            assert self.state == "closed"  # before anything is made for them
            told.append((longest, feedback))

    prompts = [len(RENDERER.prompt_ids(env(budget).first_messages())) for budget in (1, 3)]
    tails = [len(RENDERER.feedback_ids(env(3).feedback_message(k), ())) for k in (1, 2)]
    assert tails[0] != tails[1]  # "2 attempts left", "1 attempt left"

    def longest(limits: Limits) -> Sequence[int]:
        play([env(1), env(3)], Told([[RIGHT], [RIGHT]]), grade, RENDERER, limits)
        return told[-1][0]

    assert longest(LIMITS) == [prompts[0] + 50, prompts[1] + sum(tails) + 3 * 50]
    assert told[-1][1] == min(tails)
    assert longest(Limits(attempt=50, episode=70, context=2000)) == [prompts[0] + 50, prompts[1] + sum(tails) + 70]
    assert longest(Limits(attempt=50, episode=1000, context=prompts[1] + 60))[1] == prompts[1] + 60


# --- bad input: before anything is generated -----------------------------------------------------------------------


def test_a_prompt_without_room_for_an_answer() -> None:
    prompt = len(RENDERER.prompt_ids(env(1).first_messages()))
    backend = Scripted([[RIGHT], [RIGHT]])
    message = f"'q' leaves no room for an answer: its prompt takes {prompt} of {prompt} tokens"
    with pytest.raises(ValueError, match=message):
        play([env(1)], backend, grade, RENDERER, Limits(attempt=9, episode=9, context=prompt))
    assert (backend.asked, backend.state) == ([], "closed")
    one(1, ["."], Limits(attempt=9, episode=9, context=prompt + 2))


def test_feedback_that_the_template_drops() -> None:
    class NoSystem(Characters):
        def apply_chat_template(self, conversation: list[Message], **kwargs: Any) -> str:
            kept = [turn for turn in conversation if turn["role"] != "system"]
            return super().apply_chat_template(kept, **kwargs)

    renderer, backend = Renderer(NoSystem()), Scripted([[WRONG, RIGHT]])
    question = Question(id="q", problem="q", answer="1")
    with pytest.raises(ValueError, match="drops or moves a 'system' turn"):
        play([Environment(question=question, budget=2, preset=PAPER_CODE)], backend, grade, renderer, LIMITS)
    assert backend.asked == []


def test_a_grader_that_answers_something_else() -> None:
    with pytest.raises(ValueError, match="True is not a valid Verdict"):
        play([env(1)], Scripted([[RIGHT]]), lambda question, response: True, RENDERER, LIMITS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["attempt", "episode", "context"])
def test_limits_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"the {name} token limit must be at least 1, got 0"):
        Limits(**{"attempt": 1, "episode": 1, "context": 1, name: 0})


def test_a_budget_below_one() -> None:
    with pytest.raises(ValueError, match="question 'q' needs a budget of at least 1 attempt, got 0"):
        env(0)


# --- the lock-step backend over forced tokens ----------------------------------------------------------------------

PIECES = ["<pad>", "<end>", "<other eos>", "\\boxed", "{", "1", "}", "}.", "word", " ", "\\"]
PAD, STOP, OTHER, BOX, OPEN, ONE, CLOSE, CLOSE_DOT, WORD, SPACE, SLASH = range(len(PIECES))


class Vocabulary:
    """Only what the backend asks of a tokenizer."""

    chat_template = None

    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        return "".join(PIECES[token] for token in token_ids)


def config(vocabulary: int = len(PIECES)) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=PAD,
    )


class Forced(Qwen2ForCausalLM):
    """A model that wants to say what it is told to, row by row, and WORD after that; `generate` is the real one."""

    def say(self, *rows: list[int]) -> "Forced":
        self.rows, self.step = rows, 0
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        for row, tokens in enumerate(self.rows):
            token = tokens[self.step] if self.step < len(tokens) else WORD
            output.logits[row, -1] = -1e9
            output.logits[row, -1, token] = 0
        self.step += 1
        return output


def request(request_id: int, prompt: list[int], cap: int, stop_at_box: bool = True) -> GenRequest:
    return GenRequest(request_id=request_id, prompt_ids=tuple(prompt), max_new_tokens=cap, stop_at_box=stop_at_box)


def generate(model: Any, requests: list[GenRequest], temperature: float = 0.0, **kwargs: Any) -> list[GenResult]:
    backend = TransformersBackend.for_model(
        model,
        kwargs.pop("tokenizer", Vocabulary()),
        pad_token_id=PAD,
        stop_ids=kwargs.pop("stop_ids", [STOP, OTHER]),
        sampling=Sampling(temperature=temperature),
        **kwargs,
    )
    with backend:
        backend.submit(requests)
        results: list[GenResult] = []
        while len(results) < len(requests):
            results += backend.poll()
        return results


@pytest.fixture
def forced() -> Forced:
    torch.manual_seed(0)
    return Forced(config()).eval()


def test_every_row_ends_at_its_own_end(forced: Forced) -> None:
    boxed, inner = [BOX, OPEN, ONE, CLOSE_DOT], [BOX, SPACE, OPEN, OPEN, ONE, CLOSE, CLOSE]
    rows = {
        "end of turn": ([WORD, STOP], 20, True, [WORD, STOP], "eos"),
        "other eos": ([WORD, WORD, OTHER], 20, True, [WORD, WORD, OTHER], "eos"),
        "box": ([WORD, *boxed, WORD, STOP], 20, True, [WORD, *boxed], "stop"),  # with the whole closing token
        "box, by option": ([WORD, *boxed, WORD, STOP], 20, False, [WORD, *boxed, WORD, STOP], "eos"),
        "box, empty": ([BOX, OPEN, CLOSE, *boxed], 20, True, [BOX, OPEN, CLOSE, *boxed], "stop"),
        "box, inner": ([*inner, WORD], 20, True, inner, "stop"),
        "own cap": ([WORD] * 9, 3, True, [WORD] * 3, "length"),
        "longest cap": ([WORD] * 20, 20, True, [WORD] * 20, "length"),
        "box on the cap": (boxed, 4, True, boxed, "stop"),
        "end on the cap": ([WORD, STOP], 2, True, [WORD, STOP], "eos"),
        "cap before the box closes": (boxed, 3, True, boxed[:3], "length"),
        "ends at once": ([STOP], 20, True, [STOP], "eos"),
    }  # fmt: skip
    forced.say(*(tokens for tokens, *_ in rows.values()))
    requests = [
        request(number, [WORD] * (1 + number % 4), cap, stop)
        for number, (_, cap, stop, *_) in enumerate(rows.values())
    ]
    results = generate(forced, requests)
    for (name, (*_, token_ids, reason)), result, asked in zip(rows.items(), results, requests, strict=True):
        assert (name, list(result.token_ids), result.finish_reason) == (name, token_ids, reason)
        assert result.request_id == asked.request_id


def test_generation_ends_with_the_last_row(forced: Forced) -> None:
    # The box closes at token 4, though both may go on; the cap of row 0 is reached at token 3; and so on.
    for rows, caps, steps in (
        (([BOX, OPEN, ONE, CLOSE], [WORD, STOP]), (200, 100), 4),
        (([WORD] * 9, [WORD, STOP]), (3, 100), 3),
        (([WORD] * 4 + [OTHER], [WORD, STOP]), (200, 100), 5),
    ):
        generate(forced.say(*rows), [request(number, [WORD], cap) for number, cap in enumerate(caps)])
        assert forced.step == steps


def test_a_box_in_the_prompt_does_not_count(forced: Forced) -> None:
    forced.say([CLOSE, WORD, STOP])
    (result,) = generate(forced, [request(0, [BOX, OPEN, ONE], 20)])
    assert result.token_ids == (CLOSE, WORD, STOP)


def test_chunks_and_rounds_give_the_same(forced: Forced) -> None:
    rows = [[WORD, STOP], [BOX, OPEN, ONE, CLOSE], [WORD, WORD, OTHER]]

    class InChunks(Forced):
        def generate(self, **kwargs: Any) -> Any:
            mine, self.left = self.left[: len(kwargs["input_ids"])], self.left[len(kwargs["input_ids"]) :]
            self.say(*mine)
            return super().generate(**kwargs)

    requests = [request(number, [WORD] * (number + 1), 20) for number in range(3)]
    whole = generate(forced.say(*rows), requests)
    for size in (1, 2, 3, 50):
        chunked = InChunks(config()).eval()
        chunked.left = rows
        assert generate(chunked, requests, batch_size=size) == whole
        assert chunked.left == []


def test_nothing_waiting(forced: Forced) -> None:
    assert generate(forced, []) == []
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        generate(forced, [], batch_size=0)


def test_without_need_no_criterion_is_passed() -> None:
    # Equal caps and no stop at the box: `generate` is called as stock GRPO calls it.
    seen: list[Any] = []

    def fake_generate(**kwargs: Any) -> torch.Tensor:
        seen.append(kwargs["stopping_criteria"])
        return torch.cat([kwargs["input_ids"], torch.full((len(kwargs["input_ids"]), 1), STOP)], dim=1)

    model = SimpleNamespace(device=torch.device("cpu"), generate=fake_generate)
    for caps, box in (((5, 5), False), ((5, 6), False), ((5, 5), True)):
        generate(model, [request(number, [WORD], cap, box) for number, cap in enumerate(caps)])
    assert [criteria is None for criteria in seen] == [True, False, False]


def test_the_model_is_opened_once_per_rollout_and_closed_after_an_error(forced: Forced) -> None:
    opened: list[str] = []

    class Opening:
        def __enter__(self) -> Forced:
            opened.append("open")
            return forced

        def __exit__(self, *error: object) -> None:
            opened.append("close")

    backend = TransformersBackend(Opening, Vocabulary(), pad_token_id=PAD, stop_ids=[STOP], sampling=Sampling())
    with backend:
        for _ in range(2):
            forced.say([STOP])
            backend.submit([request(0, [WORD], 5)])
            backend.poll()
    assert opened == ["open", "close"]

    def interrupted() -> None:
        with backend:
            backend.submit([request(0, [WORD], 5)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert opened == ["open", "close"] * 2
    with backend:
        assert backend.poll() == []  # what an interrupted rollout left behind is not generated


# --- judging in the background --------------------------------------------------------------------------------------


class Slow:
    """A grader whose verdicts come when they are let go; it remembers in which order it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Future[Verdict]]] = []

    def __call__(self, question: Question, response: str) -> Verdict:
        raise AssertionError("a grader with workers is asked by submit")

    def submit(self, question: Question, response: str) -> Future[Verdict]:
        self.asked.append((response, Future()))
        return self.asked[-1][1]

    def let_go(self, *responses: str) -> None:
        for response, verdict in self.asked:
            if response in responses and not verdict.done():
                verdict.set_result(Verdict.CORRECT if "right" in response else Verdict.WRONG)


class Halves(Scripted):
    """In lock step, two attempts at a time; between two polls it lets a grader go on."""

    eager = False

    def __init__(self, scripts: list[list[str | None]], between: Callable[[int], None]) -> None:
        super().__init__(scripts)
        self.between = between

    def poll(self, timeout: float | None = None) -> list[GenResult]:
        chunk, self.waiting = self.waiting[:2], self.waiting[2:]
        self.rounds.append([request.request_id for request in chunk])
        self.between(len(self.rounds))
        return [self._answer(request) for request in chunk]


def test_in_lock_step_judging_overlaps_the_next_chunk_and_no_round_begins_early() -> None:
    slow = Slow()

    def between(rounds: int) -> None:
        if rounds == 2:  # the first chunk is at the grader while the second one is generated
            assert [response for response, _ in slow.asked] == ["wrong 0", "wrong 1"]
            slow.let_go("wrong 0", "wrong 1")
            Timer(0.2, lambda: slow.let_go("wrong 2", "right 3")).start()  # after the round
        if rounds == 3:
            assert len(slow.asked) == 4
            assert all(verdict.done() for _, verdict in slow.asked)
            Timer(0.1, lambda: slow.let_go("right 0", "right 1", "right 2")).start()

    scripts: list[list[str | None]] = [[f"wrong {k}", f"right {k}"] for k in range(3)] + [["right 3"]]
    backend = Halves(scripts, between)
    episodes = play([env(2) for _ in range(4)], backend, slow, RENDERER, LIMITS)
    assert backend.rounds == [[0, 1], [2, 3], [0, 1], [2]]
    assert [episode.attempts_used for episode in episodes] == [2, 2, 2, 1]
    assert all(episode.ending is Ending.SOLVED for episode in episodes)


def test_to_an_eager_backend_an_attempt_is_submitted_as_soon_as_the_last_one_is_judged() -> None:
    slow = Slow()

    class OneByOne(Scripted):
        def poll(self, timeout: float | None = None) -> list[GenResult]:
            self.rounds.append([request.request_id for request in self.waiting])
            if len(self.rounds) == 1:
                assert timeout is None  # nothing is being judged yet: wait for the model
                Timer(0.1, lambda: slow.let_go("wrong 1")).start()
                first, self.waiting = self.waiting[:], []
                return [self._answer(request) for request in first]
            answered, self.waiting = self.waiting[:1], self.waiting[1:]
            Timer(0.05, lambda: slow.let_go("right 1", "wrong 0", "right 0")).start()
            return [self._answer(request) for request in answered]

    backend = OneByOne([["wrong 0", "right 0"], ["wrong 1", "right 1"]])
    episodes = play([env(2), env(2)], backend, slow, RENDERER, LIMITS)
    assert backend.rounds[:2] == [[0, 1], [1]]  # 1 goes on alone while 0 is still being judged
    assert [episode.ending for episode in episodes] == [Ending.SOLVED, Ending.SOLVED]


def test_while_all_answers_are_judged_a_step_is_taken_for_others_who_need_it() -> None:
    slow = Slow()

    class Shared(Scripted):
        others, steps = True, 0

        def step_for_others(self) -> bool:
            assert not self.waiting
            if not self.others:
                Timer(0.05, lambda: slow.let_go("right 0", "right 1")).start()
                return False
            self.steps += 1
            slow.let_go({3: "wrong 0", 6: "wrong 1"}.get(self.steps, ""))
            self.others = self.steps < 8
            return True

    backend = Shared([["wrong 0", "right 0"], ["wrong 1", "right 1"]])
    episodes = play([env(2), env(2)], backend, slow, RENDERER, LIMITS)
    # A verdict that comes between two steps is seen at once; without others it is waited for.
    assert backend.rounds == [[0, 1], [0], [1]]
    assert backend.steps == 8
    assert [episode.ending for episode in episodes] == [Ending.SOLVED, Ending.SOLVED]


def test_what_a_background_grader_raises_is_raised() -> None:
    class Closed(Slow):
        def submit(self, question: Question, response: str) -> Future[Verdict]:
            verdict: Future[Verdict] = Future()
            verdict.set_exception(RuntimeError("the grading pool is not open"))
            return verdict

    with pytest.raises(RuntimeError, match="not open"):
        play([env(2)], Scripted([["wrong"]]), Closed(), RENDERER, LIMITS)


# --- the lock-step backend over a real forward pass ----------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config(vocabulary=64)).eval()


class Numbers(Vocabulary):
    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str:
        return " ".join(map(str, token_ids))


PROMPTS = [[5, 9, 33], [7], [60, 61, 62, 63, 5, 6, 7, 8, 9], [12, 40, 3, 3, 51]]
CAPS = [12, 25, 7, 18]


def plain(model: Qwen2ForCausalLM, prompt: list[int], cap: int) -> list[int]:
    """`model.generate` of one row, with no padding, and nothing of ours."""
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=cap,
        do_sample=False,
        eos_token_id=[STOP, OTHER],
        pad_token_id=PAD,
    )
    return output[0, len(prompt) :].tolist()


def requests_for(stop_at_box: bool) -> list[GenRequest]:
    return [
        request(number, prompt, cap, stop_at_box)
        for number, (prompt, cap) in enumerate(zip(PROMPTS, CAPS, strict=True))
    ]


@pytest.mark.parametrize("stop_at_box", [False, True])
def test_greedy_equals_plain_generate_row_by_row(model: Qwen2ForCausalLM, stop_at_box: bool) -> None:
    expected = [plain(model, prompt, cap) for prompt, cap in zip(PROMPTS, CAPS, strict=True)]
    assert len({tuple(row) for row in expected}) == len(expected)  # the rows do differ
    # Together, padded on the left to 9, beside longer and shorter rows; and each alone.
    together = generate(model, requests_for(stop_at_box), tokenizer=Numbers())
    assert [list(result.token_ids) for result in together] == expected
    assert generate(model, requests_for(stop_at_box), tokenizer=Numbers(), batch_size=1) == together
    ends = [row[-1] in (STOP, OTHER) for row in expected]
    assert [result.finish_reason for result in together] == ["eos" if end else "length" for end in ends]


def test_the_models_own_sampling_settings_do_not_leak(model: Qwen2ForCausalLM) -> None:
    expected = generate(model, requests_for(False), tokenizer=Numbers())
    torch.manual_seed(0)
    sampled = generate(model, requests_for(False), tokenizer=Numbers(), temperature=1.0)
    settings = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.1, "repetition_penalty": 5.0}
    before = {name: getattr(model.generation_config, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        assert generate(model, requests_for(False), tokenizer=Numbers()) == expected
        torch.manual_seed(0)
        assert generate(model, requests_for(False), tokenizer=Numbers(), temperature=1.0) == sampled
    finally:
        for name, value in before.items():
            setattr(model.generation_config, name, value)
    assert sampled != expected


def test_a_negative_temperature() -> None:
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        Sampling(temperature=-0.1)


def test_whole_dialogues_over_a_real_model() -> None:
    # An untrained model that reads characters: it fails, in one piece, in rows of uneven length.
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config(vocabulary=128)).eval()
    backend = TransformersBackend.for_model(
        model, Characters(), pad_token_id=127, stop_ids=RENDERER.stop_ids, sampling=Sampling()
    )
    envs = [env(budget, "q" * budget) for budget in (1, 3, 2)]
    episodes = play(envs, backend, grade, RENDERER, Limits(attempt=6, episode=100, context=1000), stop_at_box=True)
    assert [episode.attempts_used for episode in episodes] == [1, 3, 2]
    for episode in episodes:
        assert all(0 < attempt.tokens <= 6 for attempt in episode.attempts)
        assert sum(flatten(episode).policy_mask) == episode.sampled_tokens

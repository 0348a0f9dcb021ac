"""Watching a dialogue: what streams is the attempt, nothing in it acts on the terminal, and a pipe can drive it."""

import doctest
import io
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talkers import (
    LIMITS,
    RENDERER,
    TOKENIZER,
    environments,
    facts,
    grade_by_length,
    lock_step,
    lock_step_facts,
    talker,
)
from tokenizers import decoders

from multiattempt_trl.cli import main, play_screen
from multiattempt_trl.cli.arguments import Settings
from multiattempt_trl.cli.play import PlayArguments, Player
from multiattempt_trl.cli.play_questions import find
from multiattempt_trl.cli.play_screen import NO_GOLD, Screen, Watch, harmless, summary
from multiattempt_trl.dialogue.env import Environment, Limits
from multiattempt_trl.dialogue.episode import Attempt, Ending, Episode, Judgement, Question, Verdict
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.domains.arithmetic.grading import judge_exactly
from multiattempt_trl.domains.arithmetic.questions import questions
from multiattempt_trl.rollout.loading import load_tokenizer
from multiattempt_trl.rollout.play import play
from multiattempt_trl.rollout.streaming import TextStream

TEST = questions("test")


class Pieces:
    """What a stream says of one attempt after the other."""

    def __init__(self, renderer: Renderer = RENDERER) -> None:
        self.attempts: list[list[str]] = []
        self.stream = TextStream(
            renderer, lambda: self.attempts.append([]), lambda piece: self.attempts[-1].append(piece)
        )

    def feed(self, token_ids: Iterable[int]) -> list[str]:
        """One attempt, as `generate` tells of it."""
        self.stream.put(torch.tensor([[1, 2, 3]]))
        for token_id in token_ids:
            self.stream.put(torch.tensor([token_id]))
        self.stream.end()
        return self.attempts[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says digits and boxes, as training would leave it."""
    path = tmp_path_factory.mktemp("talker") / "model"
    talker().save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    Settings(domain="arithmetic", max_attempt_tokens=16).save(path)
    return path


class Played:
    """A run of the command."""

    def __init__(self, out: str, code: object, saved: list[Episode]) -> None:
        self.out, self.code, self.saved = out, code, saved


@pytest.fixture
def command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(lines: str | io.StringIO, *options: str) -> Played:
        file = tmp_path / "saved.jsonl"
        monkeypatch.setattr("sys.stdin", io.StringIO(lines) if isinstance(lines, str) else lines)
        code: object = None
        try:
            main(["play", "--model", str(folder), "--device", "cpu", "--save", str(file), *options])
        except SystemExit as ended:
            code = ended.code
        rows = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return Played(capsys.readouterr().out, code, [Episode.from_json(json.loads(row)) for row in rows])

    return run


class TestStreaming:
    def test_pieces_come_token_by_token(self) -> None:
        ids = TOKENIZER("12\\boxed{3}", add_special_tokens=False)["input_ids"]
        assert Pieces().feed([*ids, RENDERER.stop_ids[0]]) == ["1", "2", "\\boxed{", "3", "}"]

    def test_a_character_comes_with_its_last_byte(self) -> None:
        ids = TOKENIZER("é€5", add_special_tokens=False)["input_ids"]  # two bytes, three bytes, one
        assert len(ids) == 6
        assert Pieces().feed(ids) == ["é", "€", "5"]

    def test_bytes_that_are_no_character_are_shown_when_nothing_can_complete_them(self) -> None:
        half = TOKENIZER("€", add_special_tokens=False)["input_ids"][:2]
        assert Pieces().feed(half) == ["\ufffd"]
        five = TOKENIZER("5", add_special_tokens=False)["input_ids"]
        assert Pieces().feed([*half, *five]) == ["\ufffd5"]

    def test_the_next_attempt_begins_with_nothing_of_the_last(self) -> None:
        pieces = Pieces()
        pieces.feed(TOKENIZER("12", add_special_tokens=False)["input_ids"])
        pieces.stream.put(torch.tensor([[1, 2]]))  # and its first token is not there yet
        assert pieces.attempts == [["1", "2"], []]

    def test_a_tokenizer_that_drops_the_first_space_keeps_the_others(self) -> None:
        words, decoder = ["▁so", "▁it", "s", "▁5"], decoders.Metaspace()
        assert decoder.decode(words[1:]) == "its 5"
        stand_in: Any = SimpleNamespace(response_text=lambda ids: decoder.decode([words[one] for one in ids]))
        assert Pieces(stand_in).feed(range(4)) == ["so", " it", "s", " 5"]

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
    def test_together_they_are_the_response(self, ids: list[int]) -> None:
        pieces = Pieces().feed(ids)
        assert "".join(pieces) == RENDERER.response_text(ids)
        assert all(pieces)

    def test_together_they_are_the_response_with_the_real_tokenizer(self, shared: Path) -> None:
        renderer = Renderer(load_tokenizer(shared / "qwen2.5-tokenizer", "qwen2_5"))
        texts = ["So $x = \\frac{1}{2}$, 答案是 \\boxed{½} 👩‍🔬!\n\n\tDone.", " leading", "e\u0301 \u202e x", "नमस्ते"]
        for text in texts:
            ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert "".join(Pieces(renderer).feed([*ids, renderer.stop_ids[0]])) == unicodedata.normalize("NFC", text)
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            ids = torch.randint(0, 151_000, (60,), generator=generator).tolist()
            assert "".join(Pieces(renderer).feed(ids)) == renderer.response_text(ids)

    @pytest.mark.parametrize("stop_at_box", [True, False])
    def test_a_watched_model_says_the_same_and_each_attempt_is_shown_whole(self, stop_at_box: bool) -> None:
        pieces = Pieces()
        shown: list[Episode] = []
        for env in environments(20):
            backend = lock_step(talker(), batch_size=1, streamer=pieces.stream)
            shown += play([env], backend, grade_by_length, RENDERER, LIMITS, stop_at_box=stop_at_box)
        attempts = [attempt for episode in shown for attempt in episode.attempts]
        assert ["".join(one) for one in pieces.attempts] == [attempt.response for attempt in attempts]
        assert len(attempts) > 30
        assert {attempt.finish_reason for attempt in attempts} >= {"stop" if stop_at_box else "eos", "length"}
        if stop_at_box:
            assert facts(shown) == lock_step_facts()[:20]

    @pytest.mark.parametrize("size", [None, 2])
    def test_several_attempts_at_a_time_are_refused(self, size: int | None) -> None:
        with pytest.raises(ValueError, match=f"one attempt at a time: set batch_size=1, got {size}"):
            lock_step(talker(), batch_size=size, streamer=Pieces().stream)


HOSTILE = "\x1b[2J\x1b]0;owned\x07 [red]5[/red] :smile: \r\x9b31m\u202etxt\ud800 [link=http://x]y"


class TestScreen:
    def test_nothing_that_a_model_says_acts(self, capsys: pytest.CaptureFixture[str]) -> None:
        question = Question(id="q", problem=HOSTILE, answer="5")
        watch = Watch(Screen(), Environment(question=question, budget=2, preset=PRESET), _right, by_hand=False)
        watch.begin()
        for piece in (*HOSTILE, "a", "\n", "\n b  ", "  ", "c"):
            watch.show(piece)
        watch(question, HOSTILE)
        out = capsys.readouterr().out
        pictures = "␛[2J␛]0;owned␇ [red]5[/red] :smile: ␍�31m�txt� [link=http://x]y"
        assert out.splitlines() == [
            f"user       {pictures} You have 2 attempts.",
            f"assistant  {pictures}a",
            11 * " ",
            11 * " " + " b    c",
            "correct    attempt 1 of 2",
        ]

    def test_a_terminal_gets_our_colours_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen, file = Screen(), io.StringIO()
        screen.console = type(screen.console)(file=file, force_terminal=True, color_system="standard", width=40)
        screen.say(HOSTILE + " 12345 'text' True", style="cyan")
        screen.say("x" * 100, end="")
        assert re.findall("\x1b[^m]*m", file.getvalue()) == ["\x1b[36m", "\x1b[0m"]
        assert file.getvalue().endswith("\n" + "x" * 100)  # what is too wide is for the terminal to wrap

    def test_what_is_harmless_stays(self) -> None:
        text = "Größe: 答案 👩\u200d🔬 \\frac{1}{2}\n\t[bold]"
        assert harmless(text) == text

    def test_what_stdout_cannot_write_does_not_end_the_dialogue(self, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
        Screen().say("答 5")
        assert raw.getvalue() == b"? 5\n"

    def test_the_remark_is_shown_as_it_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        env = Environment(question=Question(id="q", problem="p", answer="5"), budget=3, preset=PRESET, feedback="hint")
        judged = Judgement(verdict=Verdict.WRONG, remarks={"hint": "Too high.", "other": "Nothing."})
        said = lambda used, remarks: {style: f"{text} {used}" for style, text in remarks.items()}  # noqa: E731
        watch = Watch(Screen(), env, lambda question, response: judged, by_hand=False, said=said)
        watch.begin()
        assert watch(env.question, "7") == judged
        watch.begin()
        out = capsys.readouterr().out.splitlines()
        left = "Try alternatives and refine your answer. You have 2 attempts left."
        assert out[-2:] == [f"user       Your answer is wrong. Too high. 1 {left}", "assistant  "]


class TestJudging:
    def ask(
        self, monkeypatch: pytest.MonkeyPatch, lines: str, response: str, *, gold: str = NO_GOLD, by_hand: bool = True
    ) -> Verdict:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        question = Question(id="q", problem="p", answer=gold)
        watch = Watch(Screen(), Environment(question=question, budget=2, preset=PRESET), _right, by_hand=by_hand)
        return watch(question, response).verdict

    @pytest.mark.parametrize(
        ("lines", "verdict"),
        [
            ("r\n", Verdict.CORRECT),
            ("Right\n", Verdict.CORRECT),
            ("w\n", Verdict.WRONG),
            ("wrong\n", Verdict.WRONG),
            ("i\n", Verdict.INVALID),
            ("\nyes\nrw\n w \n", Verdict.WRONG),  # asked until it is an answer
        ],
    )
    def test_without_a_gold_answer_who_plays_is_asked(
        self, monkeypatch: pytest.MonkeyPatch, lines: str, verdict: Verdict
    ) -> None:
        assert self.ask(monkeypatch, lines, r"\boxed{5}") is verdict
        assert self.ask(monkeypatch, lines, r"\boxed{5}", by_hand=False) is verdict

    def test_enter_takes_what_is_proposed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask(monkeypatch, "\n", "no box") is Verdict.INVALID
        assert self.ask(monkeypatch, "\n", "anything", gold="5") is Verdict.CORRECT

    def test_a_right_answer_can_be_marked_wrong(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.ask(monkeypatch, "w\n", r"\boxed{5}", gold="5") is Verdict.WRONG
        assert "The answer is 5, and the grader says correct." in capsys.readouterr().out

    def test_nobody_is_asked_where_the_grader_judges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask(monkeypatch, "", r"\boxed{5}", gold="5", by_hand=False) is Verdict.CORRECT


class TestCommand:
    def test_a_question_of_the_benchmark_is_played_as_evaluation_plays_it(self, command: Any) -> None:
        played = command("", "--benchmark", "arithmetic", "--question", TEST[4].id, "--budget", "3")
        (episode,) = played.saved
        assert (episode.question, episode.budget, played.code) == (TEST[4], 3, None)
        env = Environment(question=TEST[4], budget=3, preset=PRESET)
        limits = Limits(attempt=16, episode=8000, context=512)
        (expected,) = play([env], lock_step(talker()), judge_exactly, RENDERER, limits)
        assert episode.to_json() == expected.to_json()
        # What the model says may have lines of its own, which do not begin where ours do.
        blocks = [attempt.response.replace("\n", "\n" + 11 * " ") for attempt in episode.attempts]
        verdicts = [f"{attempt.verdict.value:<11}" for attempt in episode.attempts]
        told = "user       Your answer is wrong. Try alternatives and refine your answer. You have"
        assert len(blocks) == 3
        assert played.out.removesuffix("question> \n") == (
            f"\n{TEST[4].id}\nuser       {TEST[4].problem} You have 3 attempts.\n"
            f"assistant  {blocks[0]}\n{verdicts[0]}attempt 1 of 3\n{told} 2 attempts left.\n"
            f"assistant  {blocks[1]}\n{verdicts[1]}attempt 2 of 3\n{told} 1 attempt left.\n"
            f"assistant  {blocks[2]}\n{verdicts[2]}attempt 3 of 3\n{summary(episode)}\n"
            "\nType a question, Enter for any of arithmetic, #id or #index for that one; Ctrl-D to end.\n"
        )
        assert sum("\n" in block for block in blocks) > 0

    def test_questions_are_picked_typed_and_judged(self, command: Any) -> None:
        lines = ["", "#3", f"#{TEST[9].id}", "#none", "#5000", "How many?", "7", "And now?", "", "w", "r"]
        played = command("\n".join(lines) + "\n", "--benchmark", "arithmetic", "--budget", "2")
        assert played.code is None
        first, any_, third, ninth, typed, judged = played.saved
        assert [third.question.id, ninth.question.id] == [TEST[3].id, TEST[9].id]
        assert {first.question.id, any_.question.id} < {one.id for one in TEST}
        assert (typed.question.problem, typed.question.answer) == ("How many?", "7")
        assert (judged.question.problem, judged.question.answer) == ("And now?", NO_GOLD)
        assert [one.verdict for one in judged.attempts] == [Verdict.WRONG, Verdict.CORRECT]
        assert judged.ending is Ending.SOLVED
        assert "question '5000' is unknown: arithmetic has" in played.out
        assert "question> #3\n" in played.out  # a pipe does not show what it says

    def test_the_same_seed_asks_the_same_and_the_next_time_other_tokens_are_drawn(self, command: Any) -> None:
        options = ("--benchmark", "arithmetic", "--temperature", "1", "--budget", "2", "--judge", "grader")
        command("\n#0\n#0\n#0\n", *options)
        both = command("\n#0\n#0\n#0\n", *options).saved
        assert len(both) == 10
        assert [one.to_json() for one in both[:5]] == [one.to_json() for one in both[5:]]
        assert [one.sample for one in both[2:5]] == [0, 1, 2]
        assert len({tuple(a.response for a in one.attempts) for one in both[2:5]}) > 1
        other = command("", *options, "--seed", "1").saved
        assert other[-1].question.id != both[0].question.id

    def test_the_words_are_those_of_training_unless_told(self, command: Any, folder: Path) -> None:
        played = command("How many?\n\nw\nw\n", "--budget", "2", "--feedback", "No, {attempts_left} left.")
        assert "user       No, 1 left.\n" in played.out
        assert PlayArguments().stop_at_box is None
        box = command("", "--benchmark", "arithmetic", "--question", "0", "--budget", "1", "--stop_at_box", "true")
        assert box.saved[-1].attempts[0].finish_reason in ("stop", "length")

    def test_a_question_that_is_too_long_is_said_to_be_and_the_next_one_played(self, command: Any) -> None:
        played = command("9" * 600 + "\n1\nHow many?\n1\n", "--budget", "1")
        assert re.search("leaves no room for an answer: its prompt takes 6.. of 512 tokens", played.out)
        assert [one.question.problem for one in played.saved] == ["How many?"]

    def test_an_answer_that_nothing_can_be_graded_against_is_asked_for_again(self, command: Any) -> None:
        options = ("--domain", "maths", "--prompt_preset", "paper-code", "--feedback", "none", "--budget", "1")
        played = command("1+1?\n$\\text{}$\n\\frac{4}{2}\n", *options)
        assert "is empty; nothing can be graded against it" in played.out
        assert [one.question.answer for one in played.saved] == ["\\frac{4}{2}"]

    @pytest.mark.parametrize("lines", ["", "How many?\n", "How many?\n\n", "How many?\n\nw\n"])
    def test_the_end_of_what_is_typed_ends_it_quietly(self, command: Any, lines: str) -> None:
        played = command(lines, "--budget", "3")
        assert (played.code, played.saved) == (None, [])
        assert played.out.endswith("\n")

    @pytest.mark.parametrize("after", ["", "How many?\n", "How many?\n\n"])
    def test_ctrl_c_where_something_is_typed_ends_it_quietly(self, command: Any, after: str) -> None:
        played = command(Interrupted(after))
        assert (played.code, played.saved) == (130, [])
        assert played.out.endswith("\n")

    def test_ctrl_c_while_the_model_speaks_ends_it_quietly(
        self, command: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(self: Watch, piece: str) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Watch, "show", interrupted)
        played = command("How many?\n7\n")
        assert (played.code, played.saved) == (130, [])

    def test_dialogues_are_appended(self, command: Any, tmp_path: Path) -> None:
        command("", "--benchmark", "arithmetic", "--question", "1")
        played = command("", "--benchmark", "arithmetic", "--question", "2")
        assert [one.question.id for one in played.saved] == [TEST[1].id, TEST[2].id]

    def test_without_a_model_the_domains_own_is_asked(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from multiattempt_trl.domains import warm_start

        monkeypatch.setattr(warm_start, "build_warm_start", lambda course, seed: folder)
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        main(["play", "--domain", "arithmetic", "--benchmark", "arithmetic-validation", "--question", "0"])
        assert questions("validation")[0].problem in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--benchmark", "math5000"], "benchmark 'math5000' is unknown: arithmetic makes its own"),
            (["--benchmark", "arithmetic", "--question", "x"], "question 'x' is unknown: arithmetic has 'gcd-.*' to "),
            (["--benchmark", "arithmetic", "--question", "1000"], "an index from 0 to 999"),
            (["--benchmark", "arithmetic", "--question", "-1"], "question '-1' is unknown"),
            (["--question", "3"], "question='3' needs a benchmark to be found in; add --benchmark"),
            (["--budget", "0"], "budget must be at least 1 attempt, got 0"),
            (["--temperature", "-1"], r"temperature must be at least 0 \(0 is greedy\), got -1"),
            (["--max_attempt_tokens", "0"], "max_attempt_tokens must be at least 1, got 0"),
            (["--max_episode_tokens", "0"], "token limit must be at least 1, got 0"),
            (["--feedback", "binry"], "feedback 'binry' is neither 'none', 'binary', 'hint' "),
            (["--prompt_preset", "x"], "prompt_preset 'x' is unknown"),
            (["--domain", "chess"], "domain 'chess' is unknown"),
            (["--chat_template", "x"], "chat_template 'x' is neither a file nor"),
            (["--model", "/no/where"], "no checkpoint could be opened at '/no/where'"),
            (["--save", "/no/where/x.jsonl"], "No such file or directory: '/no/where/x.jsonl'"),
            (["--judge", "nobody"], "invalid choice: 'nobody'"),
        ],
    )
    def test_a_mistake_ends_in_one_line_that_says_so(
        self, folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["play", "--model", str(folder), *options])
        assert ended.value.code == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("multiattempt play: error: ")
        assert re.search(message, last)

    @pytest.mark.parametrize("place", ["play.yaml", "multi_attempt.json"])
    def test_a_count_that_is_none_is_refused_before_a_model_is_loaded(
        self, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / place).write_text(json.dumps({"domain": "arithmetic", "count": "guessed"}), encoding="utf-8")
        monkeypatch.setattr(Player, "load", lambda *given: pytest.fail("loaded"))
        with pytest.raises(SystemExit):
            main(["play", *(["--config", str(tmp_path / place)] if "yaml" in place else ["--model", str(tmp_path)])])
        assert "count 'guessed' is unknown; choose one of shown, hidden, wrong" in capsys.readouterr().err

    def test_a_domain_without_a_model_of_its_own_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["play", "--domain", "maths"])
        assert "domain 'maths' has no model of its own: name one with --model" in capsys.readouterr().err


def test_a_question_is_found_by_its_id_before_its_index() -> None:
    rows = [Question(id=name, problem="p", answer="1") for name in ("1", "a", "٣")]
    assert [find(rows, which).id for which in ("1", "0", "a", "2", "٣")] == ["1", "1", "a", "٣", "٣"]


@pytest.mark.parametrize(
    ("verdicts", "reasons", "gold", "text"),
    [
        ("wc", ["eos", "eos"], "5", "Solved at attempt 2 of 3, with 6 tokens."),
        ("www", ["eos", "length", "length"], "5", "Not solved: 3 attempts, 2 of them cut by the token limit, with 9"),
        ("w", ["eos"], "5", "Not solved: 1 attempt, with 3 tokens. The answer is 5."),
        ("w", ["eos"], NO_GOLD, "Not solved: 1 attempt, with 3 tokens."),
    ],
)
def test_the_summary_is_one_line(verdicts: str, reasons: list[str], gold: str, text: str) -> None:
    known = {"w": Verdict.WRONG, "c": Verdict.CORRECT}
    attempts = tuple(
        Attempt(prompt_ids=(), response_ids=(1, 2, 3), response="", verdict=known[verdict], finish_reason=reason)
        for verdict, reason in zip(verdicts, reasons, strict=True)
    )
    ending = Ending.SOLVED if verdicts[-1] == "c" else Ending.EXHAUSTED
    question = Question(id="q", problem="p", answer=gold)
    said = summary(Episode(question=question, budget=3, attempts=attempts, ending=ending))
    assert said.startswith(text)
    assert said == text or len(text) > 60
    assert "\n" not in said


def test_the_example_in_the_module() -> None:
    assert doctest.testmod(play_screen) == doctest.TestResults(failed=0, attempted=1)


class Interrupted(io.StringIO):
    """Lines, and then somebody presses Ctrl-C."""

    def readline(self, size: int | None = -1, /) -> str:
        if line := super().readline():
            return line
        raise KeyboardInterrupt


def _right(question: Question, response: str) -> Verdict:
    return Verdict.CORRECT

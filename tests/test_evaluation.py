"""Protocols, report and picture of an evaluation: played by a scripted model, and by a small random one."""

import doctest
import json
from collections import defaultdict
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import torch
from markdown_it import MarkdownIt
from rich.console import Console
from transformers import Qwen2Config, Qwen2ForCausalLM

from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.env import Limits
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.dialogue.prompts import PAPER, Message
from multiattempt_trl.dialogue.rendering import Renderer
from multiattempt_trl.evaluation import markdown
from multiattempt_trl.evaluation.figures import Series, draw_accuracy_by_attempt
from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.protocols import EvalPlan
from multiattempt_trl.evaluation.report import print_table, report, write_evaluation
from multiattempt_trl.evaluation.run import Evaluation, evaluate, evaluate_model
from multiattempt_trl.rollout.requests import GenRequest, GenResult
from multiattempt_trl.rollout.sampling import Sampling

TURN, END = "\x02", "\x03"


class CharTokenizer:
    """One id a character; a turn opens with one special character and ends with another."""

    chat_template = "characters"
    pad_token_id = 0

    def apply_chat_template(self, conversation: list[Message], *, add_generation_prompt: bool, **kwargs: Any) -> str:
        turns = "".join(f"{TURN}{turn['role']}\n{turn['content']}{END}" for turn in conversation)
        return turns + f"{TURN}assistant\n" * add_generation_prompt

    def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(char) for char in text]}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        text = "".join(map(chr, token_ids))
        return text.replace(TURN, "").replace(END, "") if skip_special_tokens else text


class ScriptedBackend:
    """Answers from a table: attempt k at a problem gets its k-th line, an independent sample the next of its own."""

    eager = False
    capacity = None

    def __init__(self, script: dict[str, list[str]], independent: dict[str, list[str]], sampling: Sampling) -> None:
        self.script, self.independent, self.sampling = script, independent, sampling
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
        if self.sampling.temperature == 0:
            text = self.script[problem][prompt.count(f"{TURN}assistant") - 1]
        else:
            text = self.independent[problem][self.drawn[problem]]
            self.drawn[problem] += 1
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
    a_plan: EvalPlan, benchmarks: dict[str, list[Question]] | None = None, script: dict[str, list[str]] = SCRIPT
) -> tuple[Evaluation, list[ScriptedBackend]]:
    opened: list[ScriptedBackend] = []

    def open_backend(sampling: Sampling, seed: int) -> ScriptedBackend:
        opened.append(ScriptedBackend(script, INDEPENDENT, sampling))
        return opened[-1]

    renderer = Renderer(CharTokenizer())
    played = evaluate(a_plan, benchmarks or {"toy": QUESTIONS}, open_backend, exact, renderer, progress=False)
    return played, opened


def test_nested_by_hand() -> None:
    played, opened = play_script(plan())
    block = played.blocks["toy"]
    assert len(opened) == 2  # one run at budget 3, and the independent samples
    assert block["accuracy"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    # Second attempts: b, c, d, of which c repeats 5; d had no answer to repeat. Third: c (no), d (yes).
    assert block["repeat_rate"] == pytest.approx({"2": 1 / 3, "3": 1 / 2})
    assert block["well_formed_rate"] == pytest.approx(8 / 9)  # 1 + 2 + 3 + 3 attempts, one without a box
    assert block["mean_attempts"] == 9 / 4
    # 3, 1, 0 and 2 of 3 right: see test_statistics.test_block_by_hand.
    assert block["pass_at_k"] == pytest.approx({"1": 1 / 2, "2": 2 / 3, "3": 3 / 4})
    assert played.average == block  # to the last digit: there is nothing to average


def test_nested_announces_the_whole_budget_and_the_control_one_attempt() -> None:
    _, (nested, control) = play_script(plan())
    assert all("You have 3 attempts.\n" in prompt for prompt in nested.prompts)
    assert len(control.prompts) == 4 * 3
    assert all("You have 1 attempt.\n" in prompt and "wrong" not in prompt for prompt in control.prompts)
    assert control.sampling.temperature == 1.0


def test_paper_protocol_prompts_each_budget_in_its_own_words() -> None:
    played, opened = play_script(plan(protocol="paper", independent=0))
    announced = [{prompt.split("You have ")[1].split(".")[0] for prompt in backend.prompts} for backend in opened]
    assert announced == [{"1 attempt"}, {"2 attempts"}, {"3 attempts"}]
    assert [episode.budget for episode in played.episodes["toy"]] == [1] * 4 + [2] * 4 + [3] * 4
    assert played.blocks["toy"]["accuracy"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    assert played.independent == {}


def test_files_hold_what_was_played(tmp_path: Path) -> None:
    played, _ = play_script(plan())
    write_evaluation(played, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy_by_attempt.png",
        "episodes.jsonl",
        "episodes_independent.jsonl",
        "report.md",
        "summary.json",
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == ["model", "protocol", "seed", "budget", "versions", "benchmarks", "average"]
    assert summary["benchmarks"] == {"toy": played.blocks["toy"]}
    assert {"torch", "transformers", "trl", "python", "multiattempt_trl"} <= set(summary["versions"])
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    assert lines[1]["benchmark"] == "toy"
    assert lines[1]["attempts"][1] == {
        "response": R,
        "answer": "1",
        "verdict": "correct",
        "finish_reason": "eos",
        "tokens": len(R) + 1,  # the end of turn is sampled too
    }
    assert len((tmp_path / "episodes_independent.jsonl").read_text().splitlines()) == 12

    without, _ = play_script(plan(independent=0))
    write_evaluation(without, tmp_path)
    assert not (tmp_path / "episodes_independent.jsonl").exists()
    assert json.loads((tmp_path / "summary.json").read_text())["average"]["pass_at_k"] == {}


def test_report_says_the_numbers() -> None:
    text = report(play_script(plan())[0])
    assert "**25.0 %** are solved within 1 attempt and **75.0 %** within 3" in text
    assert "3 independent attempts without feedback solve **75.0 %**." in text
    row = next(line for line in text.splitlines() if line.startswith("| 2 |"))
    low, high = (100 * limit for limit in play_script(plan())[0].blocks["toy"]["ci95"]["2"])
    assert row == f"| 2 | 50.0 | {low:.1f} to {high:.1f} | 66.7 | 33.3 |"
    for kind in ("Solved at the first attempt", "Solved at a later attempt", "Never solved"):
        assert f"### {kind}\n" in text


def test_what_a_model_writes_cannot_leave_its_block() -> None:
    hostile = "```\n# injected\n````text\n</details>\r# again\x1b[2J\n``` ![x](http://example.org) \\boxed{5`|`}"
    text = report(play_script(plan(), script={**SCRIPT, "d?": [hostile] * 3})[0])
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    blocks = [token.content for token in tokens if token.type == "fence"]
    assert blocks.count(hostile.replace("\r", "\n").replace("\x1b", "␛") + "\n") == 3
    titles = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert not [title for title in titles if "injected" in title or "again" in title]
    assert sum("example.org" in token.content for token in tokens if token.type == "inline") == 0


def test_report_of_several_benchmarks_and_odd_names(tmp_path: Path) -> None:
    benchmarks = {"one|two": QUESTIONS, "three": QUESTIONS[:2]}
    played, _ = play_script(plan(model="a`b", budget=1, independent=0), benchmarks)
    text = report(played)
    assert text.startswith("# `` a`b ``, by attempts allowed")
    assert "On 2 benchmarks, 6 questions, **37.5 %** are solved within 1 attempt." in text  # (1/4 + 1/2) / 2
    assert "## one\\|two: 4 questions" in text
    write_evaluation(played, tmp_path / "new" / "folder")
    assert (tmp_path / "new/folder/accuracy_by_attempt.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_of_a_run_do_not_depend_on_its_neighbours() -> None:
    def seeds(names: list[str]) -> dict[tuple[str, int], int]:
        found: list[int] = []

        def open_backend(sampling: Sampling, seed: int) -> ScriptedBackend:
            found.append(seed)
            return ScriptedBackend(SCRIPT, INDEPENDENT, sampling)

        renderer = Renderer(CharTokenizer())
        evaluate(plan(), dict.fromkeys(names, QUESTIONS), open_backend, exact, renderer, progress=False)
        return {(name, run): found[2 * i + run] for i, name in enumerate(names) for run in (0, 1)}

    both, alone = seeds(["x", "y"]), seeds(["y"])
    assert both[("y", 0)] == alone[("y", 0)]
    assert len(set(both.values())) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "at least 1 attempt, got 0"),
        ({"protocol": "papre"}, "choose one of nested, paper"),
        ({"samples": 0}, "at least 1, got 0"),
        ({"samples": 2}, "greedy samples would all be the same"),
        ({"independent": 2}, "pass@3 needs at least 3"),
        ({"independent_sampling": Sampling(temperature=0)}, "temperature above 0"),
        ({"feedback": "binray"}, "neither 'none', 'binary'"),
    ],
)
def test_bad_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("a_plan", "benchmarks", "message"),
    [
        (plan(), {"toy": []}, "'toy' has no questions"),
        (plan(), {"toy": QUESTIONS + QUESTIONS[:1]}, "question id 'a' twice"),
        (plan(limits=Limits(attempt=9, episode=9, context=20)), {"toy": QUESTIONS}, "no room for an answer"),
    ],
)
def test_bad_benchmarks_are_refused_before_anything_is_generated(
    a_plan: EvalPlan, benchmarks: dict[str, list[Question]], message: str
) -> None:
    def open_backend(sampling: Sampling, seed: int) -> ScriptedBackend:
        raise AssertionError("generation began")

    with pytest.raises(ValueError, match=message):
        evaluate(a_plan, benchmarks, open_backend, exact, Renderer(CharTokenizer()), progress=False)


def small_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=ord(END),
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def test_a_model_gives_the_same_episodes_for_the_same_seed() -> None:
    model = small_model().train()
    state = torch.random.get_rng_state()

    def texts(seed: int) -> list[str]:
        a_plan = plan(
            seed=seed,
            budget=2,
            limits=Limits(attempt=8, episode=16, context=600),
            samples=2,
            sampling=Sampling(temperature=1.0),
        )
        played = evaluate_model(
            a_plan, {"toy": QUESTIONS}, model, CharTokenizer(), exact, batch_size=3, progress=False
        )
        assert played.blocks["toy"]["n"] == 4
        dialogues = [*played.episodes["toy"], *played.independent["toy"]]
        assert len(dialogues) == 4 * 2 + 4 * 2
        return [attempt.response for dialogue in dialogues for attempt in dialogue.attempts]

    first = texts(0)
    assert first == texts(0)
    assert first != texts(1)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_mode_is_put_back_after_an_error() -> None:
    model = small_model().train()
    with pytest.raises(ValueError, match="has no questions"):
        evaluate_model(plan(), {"toy": []}, model, CharTokenizer(), exact, batch_size=1, progress=False)
    assert model.training


def test_table_prints_names_as_they_are() -> None:
    played, _ = play_script(plan())
    out = StringIO()
    print_table({"[bold]toy": played.blocks["toy"]}, title="Toy", console=Console(file=out, width=120))
    assert "[bold]toy" in out.getvalue()
    for number in ("25.0", "50.0", "75.0", "66.7", "33.3", "88.9", "2.25", "n = 4"):
        assert number in out.getvalue()


def test_picture_of_every_style(tmp_path: Path) -> None:
    accuracy = {"1": 0.0, "2": 1.0}
    lines = [
        Series(label="curve", accuracy=accuracy, ci95={"1": [0.0, 0.2], "2": [0.9, 1.0]}),
        Series(label="control", accuracy=accuracy, style="dashed"),
        Series(label="", accuracy=accuracy, style="thin", hue=1),
        Series(label="named", accuracy={"1": 0.5}, style="thin", hue=2),
    ]
    draw_accuracy_by_attempt(lines, tmp_path / "a.png", title="$not maths$ and 100 %")
    draw_accuracy_by_attempt(lines, tmp_path / "b.png", title="$not maths$ and 100 %")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw_accuracy_by_attempt([Series(label="one", accuracy={"1": 0.5})], tmp_path / "one.png")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_doctests() -> None:
    results = doctest.testmod(markdown)
    assert results.attempted == 4
    assert results.failed == 0

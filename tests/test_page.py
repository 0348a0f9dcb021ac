"""The report's pages: what they hold of the dialogues, and that nothing in them can get out of its place."""

import doctest
import gzip
import json
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import invented
import pytest
from invented import attempt, episode, plan

from multiattempt_trl.dialogue.episode import Ending, Episode, Question
from multiattempt_trl.dialogue.prompts import PAPER, PAPER_CODE, PromptPreset
from multiattempt_trl.evaluation.pages import page, page_data, words
from multiattempt_trl.evaluation.pages.page_data import PageData, shorten
from multiattempt_trl.evaluation.pages.report import write_comparison, write_report
from multiattempt_trl.evaluation.protocols import PROBES, plan_runs

FIRST = Question(id="a", problem="a?", answer="1", benchmark="toy", level="5", subject="Algebra")
SECOND = Question(id="b", problem="b?", answer="2", benchmark="toy")
PLAYED = {
    "toy": {
        "main": [
            episode(FIRST, attempt("\\boxed{3}"), attempt("no", "invalid", 2, "length"), attempt("\\boxed{3}")),
            episode(SECOND, attempt("\\boxed{2}", "correct")),
        ],
        "independent": [episode(FIRST, attempt("\\boxed{1}", "correct"), budget=1, sample=1)],
    }
}


def unpack(packed: str) -> Any:
    return json.loads(gzip.decompress(b64decode(packed)))


def responses(data: PageData) -> list[Any]:
    return [dialogue for part in data.parts for dialogue in unpack(part)]


def long_ones(count: int, characters: int) -> dict[str, dict[str, list[Episode]]]:
    writer = invented.Writer(["Let $x$ be a number.", "How many are there?"], characters)
    questions = [Question(id=str(i), problem=f"{i}?", answer="1", benchmark="toy") for i in range(count)]
    return invented.evaluation({"toy": questions}, writer, runs=("main",))


# --- the dialogues -------------------------------------------------------------------------------------------------


def test_the_index_by_hand() -> None:
    data = page_data.page_data(PLAYED, plan())
    index = unpack(data.index)
    assert data.limit is None
    assert index["starts"] == [0]
    assert index["questions"] == [["toy", "a", "5", "Algebra", "1", "a?"], ["toy", "b", "", "", "2", "b?"]]
    assert [run[:2] for run in index["runs"]] == [["main", "Main"], ["independent", "Independent samples"]]
    assert index["question"] == [0, 1, 0]
    assert index["run"] == [0, 0, 1]
    assert index["budgets"] == [3, 3, 1]
    assert index["sample"] == [0, 0, 1]
    assert index["ending"] == ["exhausted", "solved", "solved"]
    # verdict, tokens, finish reason, answer, the attempt that gave it before
    assert index["attempts"][0] == [
        ["wrong", 7, "eos", "3", 0],
        ["invalid", 2, "length", None, 0],
        ["wrong", 7, "eos", "3", 1],
    ]
    assert responses(data) == [["\\boxed{3}", "no", "\\boxed{3}"], ["\\boxed{2}"], ["\\boxed{1}"]]


def test_parts_begin_where_the_index_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "PART", 5_000)
    evaluation = long_ones(30, 900)
    data = page_data.page_data(evaluation, plan())
    starts = unpack(data.index)["starts"]
    lengths = [len(unpack(part)) for part in data.parts]
    assert len(lengths) > 5
    assert starts == [sum(lengths[:i]) for i in range(len(lengths))]
    assert responses(data) == [[a.response for a in e.attempts] for e in evaluation["toy"]["main"]]


def test_long_responses_are_shortened_until_they_fit() -> None:
    evaluation = long_ones(40, 6_000)
    whole = page_data.page_data(evaluation, plan())
    size = len(whole.index) + sum(map(len, whole.parts))
    half = page_data.page_data(evaluation, plan(), size // 2)
    assert whole.limit is None
    assert half.limit is not None
    held = len(half.index) + sum(map(len, half.parts))
    assert 0.8 * size / 2 < held <= size // 2
    for dialogue, played in zip(responses(half), evaluation["toy"]["main"], strict=True):
        for shown, said in zip(dialogue, played.attempts, strict=True):
            if isinstance(shown, str):
                assert shown == said.response
                assert len(shown) <= half.limit
            else:
                head, omitted, tail = shown
                assert len(head) + omitted + len(tail) == len(said.response)
                assert len(head) + len(tail) == half.limit
                assert said.response.startswith(head)
                assert said.response.endswith(tail)


def test_the_shortest_responses_stay_however_many_there_are() -> None:
    data = page_data.page_data(long_ones(40, 3_000), plan(), 10)
    assert data.limit == page_data.SHORTEST


def test_the_longest_are_levelled_first() -> None:
    # 1,000 + 2,000 + 2 L = 9,000: L = 3,000. With 14,001 characters all fit.
    assert page_data._limit([1_000, 2_000, 5_000, 6_000], 9_000) == 3_000
    assert page_data._limit([1_000, 2_000, 5_000, 6_000], 14_001) is None
    assert shorten("0123456789", 9) == ["012", 1, "456789"]
    assert shorten("0123456789", None) == shorten("0123456789", 10) == "0123456789"


def test_the_same_dialogues_give_the_same_bytes() -> None:
    data = page_data.page_data(PLAYED, plan())
    assert data == page_data.page_data(PLAYED, plan())
    assert b64decode(data.index)[4:8] == bytes(4)  # no date


def test_odd_characters_arrive() -> None:
    odd = "\x00 </script><!-- \u2028 \U0001f600 é \x1b[2J"
    evaluation = {"toy": {"main": [episode(FIRST, attempt(odd + "\ud800"))]}}
    data = page_data.page_data(evaluation, plan())
    assert responses(data) == [[odd + "?"]]
    assert re.fullmatch("[A-Za-z0-9+/=]+", data.index + "".join(data.parts))


# --- what the model was told ---------------------------------------------------------------------------------------


def said(run: str, budget: int = 3) -> list[str]:
    told = words.words(plan(), run, budget)
    every = [*told["first"], *told["feedback"]]
    assert {message["role"] for message in every} == {"user"}
    return [message["content"] for message in every]


def test_words_of_every_run() -> None:
    main = said("main")
    assert f"You have 3 attempts.\n\nQuestion: {words.PROBLEM}" in main[0]
    assert main[1].endswith("You have 2 attempts left.")
    assert main[2].endswith("You have 1 attempt left.")
    assert said("base") == main
    assert len(said("independent", 1)) == 1
    assert "You have 1 attempt.\n" in said("independent", 1)[0]
    assert "You have 2 attempts.\n" in said("announced_2", 1)[0]
    false = said("false_feedback", 2)
    assert "You have 3 attempts.\n" in false[0]
    assert false[1].endswith("You have 2 attempts left.")
    assert not [text for text in said("hidden_count") if "attempt" in text]
    wrong = said("wrong_count")
    # Half of 3 further on and round again: 3 -> 1, 2 -> 3, 1 -> 2.
    assert "You have 1 attempt.\n" in wrong[0]
    assert [text.split("You have ")[1] for text in wrong[1:]] == ["3 attempts left.", "2 attempts left."]


@pytest.mark.parametrize("protocol", ["nested", "paper"])
@pytest.mark.parametrize("count", ["shown", "hidden", "wrong"])
@pytest.mark.parametrize("preset", [PAPER, PAPER_CODE])
def test_the_words_are_those_that_were_said(protocol: str, count: str, preset: PromptPreset) -> None:
    a_plan = plan(protocol=protocol, count=count, preset=preset, base_model="base", probes=PROBES, budget=3)
    seen = set()
    for run in plan_runs(a_plan, "toy", [FIRST]):
        played = run.environments[0]
        told = words.words(a_plan, run.name, played.budget)
        first = [{**message, "content": message["content"].replace(words.PROBLEM, "a?")} for message in told["first"]]
        assert first == played.first_messages()
        assert told["feedback"] == [played.feedback_message(used) for used in range(1, played.budget)]
        seen.add(run.name)
    assert seen == {*words.RUNS, "announced_1", "announced_2", "announced_3"}


def test_a_remark_is_shown_as_it_was_said() -> None:
    wrong = attempt("wrong")
    hinted = replace(wrong, remarks={"hint": "Too high.", "error": "not said"})
    played = Episode(question=FIRST, budget=3, attempts=(hinted, wrong, hinted), ending=Ending.EXHAUSTED)
    index = unpack(page_data.page_data({"toy": {"main": [played]}}, plan(feedback="hint")).index)
    left = "Try alternatives and refine your answer. You have 2 attempts left."
    assert [row[5:] for row in index["attempts"][0]] == [[f"Your answer is wrong. Too high. {left}"], [], []]
    plain = unpack(page_data.page_data({"toy": {"main": [played]}}, plan()).index)
    assert [row[5:] for row in plain["attempts"][0]] == [[], [], []]


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_report(folder, invented.summary(("aime24", "toy")), PLAYED, plan())
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_no_network(html: str) -> None:
    body = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body)
    assert not re.search(r"https?://|@import|url\((?!#)", body)
    assert re.findall(r'(?:src|href)="([^"#][^"]*)"', body) == ["data:,"]


def test_only_the_pages_own_scripts_may_run(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digests = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed} ;" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_figures_are_part_of_the_page(html: str) -> None:
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 60
    figures = re.findall(r'<svg class="figure".*?</svg>', html, flags=re.DOTALL)
    assert len(figures) == 2  # the average is not the paper's, one benchmark is
    assert 'aria-label="Share of questions' in figures[0]
    for figure in figures:
        assert "#0072b2" not in figure.lower()
        assert "var(--hue-0)" in figure
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', figure))
        assert len(used) > 3
        assert used <= set(ids)


def test_a_page_without_katex_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(page, "files", missing)
    with pytest.raises(ValueError, match="pip install sphinxcontrib-katex"):
        page.katex()


def test_names_and_sentences_are_escaped(tmp_path: Path) -> None:
    evil = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\x00\ud800\" onload='x'"
    summary = invented.summary((evil, "aime24"), model=evil, base_model=evil)
    summary["benchmarks"][evil]["levels"] = {evil: summary["benchmarks"][evil]["levels"]["1"]}
    write_report(tmp_path, summary, PLAYED, plan(model=evil, feedback=f"{evil} {{attempts_left}}"), [evil])
    write_comparison(tmp_path, [(evil, summary), ("b", summary)], [evil])
    for name, scripts in {"report.html": 2, "comparison.html": 0}.items():
        html = (tmp_path / name).read_text(encoding="utf-8")
        assert html.count("alert(1)") > 4
        assert html.count("<script>") == scripts
        assert "\x00" not in html
        tags = re.findall(r"<[a-z][^<>]*", re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))
        assert not [tag for tag in tags if "alert" in tag or "onload=" in tag or tag.startswith("<img")]
    assert "alert(1)" in (tmp_path / "comparison.svg").read_text(encoding="utf-8")
    assert "<script" not in (tmp_path / "comparison.svg").read_text(encoding="utf-8")


def test_doctests() -> None:
    results = [doctest.testmod(module) for module in (page_data, words)]
    assert [result.attempted for result in results] == [1, 1]
    assert [result.failed for result in results] == [0, 0]

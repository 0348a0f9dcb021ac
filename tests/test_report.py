"""The report as Markdown, its figures and the printed table: the numbers, and what models write stays where it is."""

import doctest
from io import StringIO
from pathlib import Path
from typing import Any

import invented
import pytest
from invented import attempt, episode, plan
from markdown_it import MarkdownIt
from rich.console import Console

from multiattempt_trl.dialogue.episode import Episode, Question
from multiattempt_trl.evaluation.numbers.intervals import mover
from multiattempt_trl.evaluation.pages import curves, examples, page, paper_numbers, tables
from multiattempt_trl.evaluation.pages.figures import Series, draw_accuracy_by_attempt, draw_panels
from multiattempt_trl.evaluation.pages.headline import headline
from multiattempt_trl.evaluation.pages.paper_numbers import NAMES
from multiattempt_trl.evaluation.pages.report import print_table, write_comparison, write_report
from multiattempt_trl.evaluation.pages.second import second_sentence

QUESTIONS = [Question(id=name, problem=f"{name}?", answer="1", benchmark="toy") for name in "abcd"]
A, B, C, D = QUESTIONS
R, W = "\\boxed{1}", "so \\boxed{5}"
MAIN = [
    episode(A, attempt(R, "correct")),
    episode(B, attempt(W), attempt(R, "correct")),
    episode(C, attempt(W), attempt(W), attempt(R, "correct")),
    episode(D, attempt("no", "invalid"), attempt(W), attempt(W)),
]
EMPTY: dict[str, Any] = {
    **{key: {} for key in ("pass_at_k", "pass_ci95", "maj_at_k", "maj_ci95", "base_accuracy", "base_ci95")},
    "refinement": None,
    **{key: {} for key in ("announced", "probes", "levels", "subjects")},
}


def toy(main: list[Episode] = MAIN) -> dict[str, dict[str, list[Episode]]]:
    return {"toy": {"main": main}}


def write(folder: Path, summary: dict[str, Any], main: list[Episode] = MAIN, **changes: Any) -> str:
    write_report(folder, summary, toy(main), plan(**changes))
    return (folder / "report.md").read_text(encoding="utf-8")


def bare() -> dict[str, Any]:
    """A summary of a run without any control or probe."""
    block = invented.block(**EMPTY)
    return invented.summary(benchmarks={"toy": block}, average=block, base_model=None)


# --- Markdown ------------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    write(tmp_path, invented.summary())
    figures = [
        f"{name}.{kind}"
        for name in ("accuracy_by_attempt", "paper_figure_1", "paper_figure_5")
        for kind in ("png", "svg")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*figures, "report.html", "report.md"]


def test_the_numbers_of_a_block_stand_in_the_report(tmp_path: Path) -> None:
    text = write(tmp_path, invented.summary())
    # The invented block starts at 0.3 and rises by 0.05; its intervals reach 0.06 to both sides.
    rows = [line for line in text.splitlines() if line.startswith("|")]
    at = rows.index("| Solved within k attempts, % | 30.0 | 35.0 | 40.0 |")
    assert rows[at + 1] == "| 95 % interval | 24.0 to 36.0 | 29.0 to 41.0 | 34.0 to 46.0 |"
    for row in (
        "| pass@k: independent samples, % | 28.0 | 32.0 | 36.0 |",
        "| maj@k: their majority, % | 36.0 | 37.0 | 38.0 |",
        "| Base model, % | 20.0 | 23.0 | 26.0 |",
        "| Count hidden, % | 33.0 | 35.0 | 37.0 |",
        "| Solved at k after k−1 failures, % | 41.0 | 31.0 | 21.0 |",
        "| Same answer again, % | – | 22.0 | 33.0 |",
        "| Different answers so far | 0.90 | 1.80 | 2.70 |",
        "| Cut at a token limit, % | 1.5 | 4.5 | 7.5 |",
        "| First attempt, k announced, % | 42.0 | 41.5 | 41.0 |",
        "| 5 | 20 | 30.0 | 35.0 | 40.0 | 30.0 to 50.0 |",
        "| 26 questions whose first answer was wrong | right, % | 95 % interval | second answer minus it "
        "| 95 % interval |",
        "| Second answer | 31.0 | 15.0 to 45.0 | – | – |",
        "| Commonest other answer | 27.0 | 15.0 to 45.0 | +4.0 | -5.0 to 10.0 |",
        "| Another sample, not the same | 25.0 | 15.0 to 45.0 | +6.0 | -5.0 to 10.0 |",
        "| Algebra | 20 | 30.0 | 35.0 | 40.0 | 30.0 to 50.0 |",
    ):
        assert row in rows
    for fact in (
        "- Lost dialogues: 2",
        "- Well-formed attempts: 93.7 %",
        "- Attempts used: 1.83",
        "- Tokens for a solved one: 2,346",
        "- Attempts for a solved one: –",
        "- Right answer abandoned: 23.5 % (95 % interval 9.6 to 47.3)",
    ):
        assert fact in text.splitlines()
    for kind in ("Solved at the first attempt", "Solved at a later attempt", "Never solved"):
        assert f"### {kind}\n" in text


def test_what_is_said_of_second_answers(tmp_path: Path) -> None:
    text = write(tmp_path, invented.summary())
    assert (
        "Of 26 questions whose first answer was wrong, the second is right in 31.0 %, and the commonest other answer "
        "of the independent samples in 27.0 %, which is as good as far as these questions tell (+4.0 points, 95 % "
        "interval -5.0 to 10.0). For 12.5 % of them no sample has another answer.\n"
    ) in text
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "which is as good as far as these questions tell" in html
    assert "26 questions whose first answer was wrong: right at the second" in html
    assert "<td>27.0<small>15.0 to 45.0</small></td><td>+4.0<small>-5.0 to 10.0</small></td>" in html
    several = write(tmp_path / "several", invented.summary(("toy", "other")))
    many = invented.summary(("toy", "other"))["average"]["refinement"]["n"]
    assert f"Where the first answer was wrong ({many:,} questions; each benchmark has the same weight), the" in several
    assert "For 12.5 % in the same mean no sample has another answer." in several
    assert "12.5 % in the same mean" in (tmp_path / "several" / "report.html").read_text(encoding="utf-8")
    for limits, n, said in (
        ([0.01, 0.1], 26, "which is worse: feedback brings more"),
        ([-0.1, -0.01], 26, "which is better: crossing out"),
        ([0.01, 0.1], 19, "which is as good as far as"),
    ):
        told = invented.block(3, n=40, start=0.3)
        told["refinement"]["differences_ci95"]["best_other"] = limits
        told["refinement"]["n"] = n
        assert said in second_sentence(told)


def test_what_the_words_said_of_the_count(tmp_path: Path) -> None:
    assert "In the main run the words said how many attempts were left." in write(tmp_path, bare(), budget=3)
    assert "No words said how many" in write(tmp_path, bare(), count="hidden")
    assert "always named another number" in write(tmp_path, bare(), count="wrong")


def test_what_was_not_played_is_left_out(tmp_path: Path) -> None:
    text = write(tmp_path, bare(), independent=0)
    for word in ("pass@k: ind", "maj@k: ", "Base model, %", "Count hidden, %", "abandoned", "| Level |", "was wrong"):
        lines = [line for line in text.splitlines() if word in line and not line.startswith("- ")]
        assert lines == []
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Base model within" not in html
    assert "<caption>Solved within k attempts by level" not in html


def test_headline_says_what_the_controls_say() -> None:
    said = "".join(text for text, _ in headline(invented.summary(), plan()))
    assert said == (
        "On toy, 40 questions, 30.0 % are solved within 1 attempt and 40.0 % within 3, with feedback after each "
        "failure; 3 independent attempts without feedback solve 36.0 %; the base model solves 26.0 %."
    )
    assert [text for text, stressed in headline(bare(), plan()) if stressed] == ["40.0 %", "50.0 %"]


def test_sentences_stand_below_the_curve(tmp_path: Path) -> None:
    write_report(tmp_path, invented.summary(), toy(), plan(), ["B − A: +6.1 [3.9, 8.4] *sic* <b>"])
    assert "- B − A: +6.1 \\[3.9, 8.4\\] \\*sic\\* \\<b\\>\n" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<li>B − A: +6.1 [3.9, 8.4] *sic* &lt;b&gt;</li>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_a_model_writes_cannot_leave_its_block(tmp_path: Path) -> None:
    hostile = "```\n# injected\n````text\n</details>\r# again\x1b[2J\n``` ![x](http://example.org) \\boxed{5`|`}"
    text = write(tmp_path, invented.summary(), [episode(D, attempt(hostile), attempt(hostile))])
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    blocks = [token.content for token in tokens if token.type == "fence"]
    assert blocks.count(hostile.replace("\r", "\n").replace("\x1b", "␛") + "\n") == 2
    titles = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert not [title for title in titles if "injected" in title or "again" in title]
    assert sum("example.org" in token.content for token in tokens if token.type == "inline") == 0


def test_odd_names(tmp_path: Path) -> None:
    text = write(tmp_path, invented.summary(("one|two", "three")), model="a`b")
    assert text.startswith("# `` a`b ``, by attempts allowed")
    assert "## one\\|two: 40 questions" in text
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    widths = {len(row) for row in table_rows(tokens) if row[0].startswith(("Solved", "pass", "95"))}
    assert widths == {4}


def table_rows(tokens: list[Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append(tokens[i + 1].content)
    return rows


def test_a_write_that_fails_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, invented.summary())
    before = (tmp_path / "report.html").read_bytes()

    def broken(*_: Any, **__: Any) -> str:
        raise ValueError("no page")

    monkeypatch.setattr(page, "render", broken)
    with pytest.raises(ValueError, match="no page"):
        write(tmp_path, invented.summary(("other",)))
    assert (tmp_path / "report.html").read_bytes() == before


# --- examples ------------------------------------------------------------------------------------------------------


def test_the_dialogue_of_figure_3_is_wrong_once_and_right_then() -> None:
    played = {"x": {"main": MAIN[:1], "independent": MAIN[1:3]}, "y": {"base": MAIN[:2], "main": MAIN[::-1]}}
    # One and two of x, two of y's base model, then d and c: the third dialogue of y's main run is b.
    assert examples.figure_3(played) == 1 + 2 + 2 + 2
    assert examples.figure_3({"x": {"main": [MAIN[0], MAIN[2], MAIN[3]]}}) is None


def test_examples_are_the_first_of_each_kind_and_never_lost_ones() -> None:
    lost = episode(A, attempt("", "invalid", finish="error"), ending="failed")
    chosen = examples.choose_examples({"x": {"main": [lost, MAIN[3], MAIN[1]]}, "y": {"main": MAIN}}, 3)
    ids = {kind: [shown.question.id for shown in each] for kind, each in chosen.items()}
    assert ids == {
        "Solved at the first attempt": ["a"],
        "Solved at a later attempt": ["b", "b"],
        "Never solved": ["d", "d"],
    }


# --- the paper -----------------------------------------------------------------------------------------------------


def test_the_papers_averages_do_not_add_up() -> None:
    multi, baseline = paper_numbers.MODELS
    assert multi.mean_of_row == pytest.approx((73.4 + 20.0 + 65.0 + 35.3 + 33.9) / 5)  # 45.52
    assert baseline.mean_of_row == pytest.approx(216.5 / 5)  # 43.3
    assert len(paper_numbers.disagreements()) == 2
    assert "42.3 in the text, 43.5 in Table 1" in paper_numbers.disagreements()[1]
    assert set(NAMES) == set(multi.single) == set(baseline.single) == set(paper_numbers.QUESTIONS)


def test_figure_1_is_the_average_of_the_papers_five_alone() -> None:
    summary = invented.summary((*NAMES, "fresh-arithmetic"))
    run, multi, baseline = curves.paper_figure_1(summary)
    # The invented blocks start at 0.30, 0.36, 0.42, 0.48, 0.54; the sixth is not of the paper.
    assert run.accuracy == pytest.approx({"1": 0.42, "2": 0.47, "3": 0.52})
    five = [summary["benchmarks"][name] for name in NAMES]
    assert run.ci95 is not None
    assert run.ci95["1"] == mover([block["accuracy"]["1"] for block in five], [block["ci95"]["1"] for block in five])
    assert multi.accuracy == pytest.approx({"1": 0.456, "2": 0.525})  # not played to 4 attempts
    assert baseline.accuracy == pytest.approx({"1": 0.423, "2": 0.432})
    assert multi.style == baseline.style == "points"


def test_the_paper_is_left_out_where_it_cannot_be_compared(tmp_path: Path) -> None:
    (alone,) = curves.paper_figure_1(invented.summary())
    assert alone.label == "This run: toy"
    assert [line.style for line in curves.paper_figure_5(invented.summary())["toy"]] == ["curve", "dashed"]
    text = write(tmp_path, invented.summary())
    assert "none of the paper's five benchmarks" in text
    assert "![The paper's" not in text

    some = invented.summary(("aime24", "toy"))
    assert len(curves.paper_figure_1(some)) == 1
    multi, baseline = curves.paper_figure_5(some)["AIME 2024"][2:]
    assert (multi.accuracy, baseline.accuracy) == ({"1": 0.2}, {"1": 0.133})
    text = write(tmp_path, some)
    assert "1 of the paper's five benchmarks" in text
    assert "paper_figure_5.png" in text
    assert "paper_figure_1.png" not in text
    assert "paper_figure_1.png" in write(tmp_path, invented.summary(tuple(NAMES)))


# --- figures -------------------------------------------------------------------------------------------------------


def test_a_figure_of_every_style_is_the_same_twice(tmp_path: Path) -> None:
    accuracy = {"1": 0.0, "2": 1.0}
    lines = [
        Series(label="curve", accuracy=accuracy, ci95={"1": [0.0, 0.2], "2": [0.9, 1.0]}),
        Series(label="control", accuracy=accuracy, style="dashed"),
        Series(label="vote", accuracy=accuracy, style="dotted"),
        Series(label="paper", accuracy={"2": 0.5}, style="points", hue=3),
        Series(label="", accuracy=accuracy, style="thin", hue=1),
        Series(label="named", accuracy={"1": 0.5}, style="thin", hue=2),
    ]
    for name in ("a", "b"):
        svg = draw_accuracy_by_attempt(lines, tmp_path / f"{name}.png", title="$not maths$ and 100 %")
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8") == svg
        draw_panels({"x": lines, "y": lines[:1], "z": lines, "u": lines[1:2]}, tmp_path / f"{name}2.png", title="t")
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
        assert (tmp_path / f"a2.{kind}").read_bytes() == (tmp_path / f"b2.{kind}").read_bytes()
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert ">$not maths$ and 100 %<" in svg  # text as text, and no formula
    assert ">50.0<" in svg  # the paper's number beside its point
    draw_accuracy_by_attempt([Series(label="one", accuracy={"1": 0.5})], tmp_path / "one.png")


def test_lines_of_the_main_figure() -> None:
    lines = curves.run_series(invented.summary(("x", "y")))
    assert [(line.style, line.hue) for line in lines] == [
        ("curve", 0),
        ("dashed", 0),
        ("dotted", 0),
        ("curve", curves.BASE_HUE),
        ("thin", 6),
        ("thin", 6),
    ]
    assert lines[0].label == "Average of 2 benchmarks, with 95 % interval"
    assert [line.label for line in curves.run_series(bare())] == ["toy, with 95 % interval"]


# --- comparison and table ------------------------------------------------------------------------------------------


def test_comparison(tmp_path: Path) -> None:
    summaries = [("first", invented.summary()), ("se|cond", bare())]
    lines = curves.comparison_series(summaries)
    assert [(line.style, line.hue) for line in lines] == [("curve", 0), ("dashed", 0), ("curve", 1)]
    write_comparison(tmp_path, summaries, ["second − first at 2 attempts: +10.0 [1.0, 19.0]."])
    names = ["comparison.html", "comparison.md", "comparison.png", "comparison.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    rows = table_rows(MarkdownIt("commonmark").enable("table").parse(text))
    assert rows == [
        ["solved within k attempts, %", "1", "2", "3"],
        ["**first**", "30.0", "35.0", "40.0"],
        ["95 % interval, n = 40", "24.0 to 36.0", "29.0 to 41.0", "34.0 to 46.0"],
        ["pass@k", "28.0", "32.0", "36.0"],
        ["maj@k", "36.0", "37.0", "38.0"],
        ["**se|cond**", "40.0", "45.0", "50.0"],
        ["95 % interval, n = 40", "34.0 to 46.0", "39.0 to 51.0", "44.0 to 56.0"],
    ]
    assert "- second − first at 2 attempts: +10.0 \\[1.0, 19.0\\].\n" in text
    html = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert '<svg class="figure"' in html
    assert "+10.0 [1.0, 19.0]" in html
    assert "<script" not in html


def test_table_prints_every_row_that_was_played() -> None:
    out = StringIO()
    blocks = {"[bold]toy": invented.block(), "bare": invented.block(**EMPTY)}
    print_table(blocks, title="Toy", console=Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    assert any("[bold]toy" in line for line in lines)
    found = {
        label: [line.split()[-3:] for line in lines if f" {label} " in line]
        for label in ("pass@k", "maj@k", "base model")
    }
    assert found == {
        "pass@k": [["38.0", "42.0", "46.0"]],
        "maj@k": [["36.0", "37.0", "38.0"]],
        "base model": [["20.0", "23.0", "26.0"]],
    }
    assert len([line for line in lines if "same answer again" in line]) == 2
    assert [line.split()[-5:] for line in lines if "bare" in line] == [["40.0", "45.0", "50.0", "93.7", "1.83"]]


def test_doctests() -> None:
    results = doctest.testmod(paper_numbers)
    assert (results.attempted, results.failed) == (1, 0)
    assert set(tables.MEANINGS) >= {"accuracy", *tables.COUNT_PROBES, *tables.DYNAMICS}

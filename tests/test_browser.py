"""The report's page in a real Chromium: it opens, filters, renders LaTeX, and runs nothing that a model wrote."""

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import invented
import pytest
from chromium import EXECUTABLE, Chromium
from invented import attempt, episode, plan

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.evaluation.pages import page_data
from multiattempt_trl.evaluation.pages.report import write_comparison, write_report

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium; apt-get install chromium")


class Dom:
    """A page after its scripts have run."""

    def __init__(self, html: str, messages: list[str]) -> None:
        self.html, self.messages = html, messages

    @property
    def data(self) -> dict[str, str]:
        """What the page's scripts say of themselves: its root's data attributes."""
        root = re.search("<html[^>]*>", self.html)
        assert root
        return dict(re.findall(r'data-([a-z0-9-]+)="([^"]*)"', root[0]))

    def inside(self, mark: str, end: str) -> str:
        """The HTML from an element with this mark to the next `end`."""
        start = self.html.index(mark)
        return self.html[start : self.html.index(end, start)]

    @property
    def rows(self) -> list[int]:
        return [int(number) for number in re.findall(r'class="row"[^>]*data-dialogue="(\d+)"', self.html)]

    @property
    def count(self) -> str:
        return self.inside('id="count"', "</p>").split(">")[1]

    @property
    def detail(self) -> str:
        return self.inside('id="detail"', "</article>")


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<annotation.*?</annotation>|<[^>]*>", " ", html, flags=re.DOTALL)).split())


class Browse:
    """Opens pages in a browser."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser

    def __call__(self, page: Path, **state: str) -> Dom:
        """The page with a state in its address, when all of it is there."""
        self.browser.open(f"{page.as_uri()}#{urlencode(state)}" if state else page.as_uri())
        self.browser.wait("document.documentElement.dataset.state === 'ready' || !document.scripts.length")
        return self.dom()

    def dom(self) -> Dom:
        """The page as it is now."""
        return Dom(self.browser.evaluate("document.documentElement.outerHTML"), list(self.browser.messages))


@pytest.fixture(scope="module")
def browse() -> Iterator[Browse]:
    with Chromium() as browser:
        yield Browse(browser)


X = Question(
    id="x-1", problem="What is $\\frac{6}{2}$ of \\$5?", answer="3", benchmark="toy", level="5", subject="Algebra"
)
Y = Question(
    id="y-1", problem="Let \\[y^2 = 9.\\] Find $y > 0$.", answer="3", benchmark="toy", level="1", subject="Number"
)
Z = Question(id="z-1", problem="Name it.", answer="\\sqrt{2}", benchmark="other", level="5", subject="Algebra")
RIGHT, WRONG = "So \\(y = \\boxed{3}\\).", "Thus \\boxed{4}, which is $4$."
PLAYED = {
    "toy": {
        "main": [
            episode(X, attempt(RIGHT, "correct")),  # 0
            episode(Y, attempt(WRONG), attempt(RIGHT, "correct")),  # 1
            episode(X, attempt(WRONG), attempt("zebra", "invalid", 9, "length"), attempt(WRONG), sample=1),  # 2
        ],
        "false_feedback": [episode(X, attempt(RIGHT, "correct"), attempt(WRONG), budget=2)],  # 3
    },
    "other": {
        "main": [episode(Z, attempt("\\boxed{\\sqrt2}", "correct"))],  # 4
        "independent": [
            episode(Z, attempt("a needle", "invalid"), budget=1, sample=n, ending="failed" if n else "")
            for n in (0, 1)
        ],  # 5, 6
    },
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, invented.summary(("toy", "other")), PLAYED, plan())
    return folder / "report.html"


def test_it_opens_with_the_main_dialogues(browse: Browse, report: Path) -> None:
    dom = browse(report)
    assert dom.messages == []
    assert dom.data["state"] == "ready"
    assert dom.rows == [0, 1, 2, 4]
    assert dom.count == "4 of 7 dialogues, 75.0 % solved"
    # The figure that is a dialogue: the first that was wrong once and right then.
    figure = dom.inside('id="figure-3"', "</section><p")
    assert "Attempt 1 of 3 wrong answer 4" in text(figure)
    assert "<math" in figure


@pytest.mark.parametrize(
    ("state", "rows"),
    [
        ({"run": "all"}, [0, 1, 2, 3, 4, 5, 6]),
        ({"benchmark": "other", "run": "independent"}, [5, 6]),
        ({"outcome": "2"}, [1]),
        ({"outcome": "never", "run": "all"}, [2, 5]),  # a lost one tells nothing
        ({"repeated": "1", "run": "all"}, [2]),
        ({"truncated": "1", "run": "all"}, [2]),
        ({"level": "5"}, [0, 2, 4]),
        ({"subject": "Number"}, [1]),
        ({"q": "ZEBRA"}, [2]),  # in a response
        ({"q": "y^2 = 9"}, [1]),  # in a problem
        ({"q": "sqrt", "run": "all"}, [4, 5, 6]),  # in a right answer
        ({"q": "needle", "outcome": "lost", "run": "all"}, [6]),
    ],
)
def test_filters(browse: Browse, report: Path, state: dict[str, str], rows: list[int]) -> None:
    dom = browse(report, **state)
    assert dom.messages == []
    assert dom.rows == rows
    assert dom.data["found"] == str(len(rows))
    assert dom.count.startswith(f"{len(rows)} of 7 dialogues")


def test_a_dialogue_as_it_went(browse: Browse, report: Path) -> None:
    dom = browse(report, open="2")
    assert dom.messages == []
    shown = text(dom.detail)
    for words in (
        "toy · x-1 · level 5 · Algebra · Main (sample 2)",
        "Right answer: 3",
        "Attempt 1 of 3 wrong answer 4 7 tokens, ended its turn",
        "user Your answer is wrong. Try alternatives and refine your answer. You have 2 attempts left.",
        "Attempt 2 of 3 no answer 9 tokens, cut at the token limit zebra",
        "You have 1 attempt left.",
        "Attempt 3 of 3 wrong answer 4 the same as in attempt 1",
        "Not solved: no attempt was left.",
    ):
        assert words in shown
    # The order in which it was said.
    places = [shown.index(words) for words in ("Attempt 1", "2 attempts left", "zebra", "1 attempt left", "Attempt 3")]
    assert places == sorted(places)
    assert 'aria-selected="true"' in dom.inside('id="row-2"', ">")
    # The same question in other runs: main twice, and under false feedback.
    assert re.findall('aria-label="([^"]*)" aria-current="([^"]*)"', dom.detail) == [
        ("Main: correct", "false"),
        ("Main: wrong, no answer, wrong", "true"),
        ("False feedback: correct, wrong", "false"),
    ]


def test_a_right_answer_that_was_called_wrong(browse: Browse, report: Path) -> None:
    shown = text(browse(report, open="3", run="all").detail)
    assert "Attempt 1 of 2 correct answer 3" in shown
    assert "Your answer is wrong. Try alternatives and refine your answer. You have 2 attempts left." in shown


def test_latex_is_rendered_and_its_answer_marked(browse: Browse, report: Path) -> None:
    detail = browse(report, open="1").detail
    problem = detail[: detail.index("gold")]
    assert "<mfrac>" not in problem
    assert '<span class="display"><span class="katex"><math' in problem
    wrong, right = detail.split('class="attempt is-')[1:]
    # A box outside of maths is rendered too, and the last box is the answer.
    assert '<menclose notation="box" class="answer wrong">' in wrong
    assert '<menclose notation="box" class="answer correct">' in right
    money = browse(report, open="0").detail
    assert "<mfrac>" in money
    assert "of \\$5?" in text(money)

    source = browse(report, open="1", source="1").detail
    assert "<math" not in source
    assert "Let \\[y^2 = 9.\\] Find $y > 0$ ." in text(source)
    assert '<mark class="answer correct">\\boxed{3}</mark>' in source


PWN = "document.documentElement.dataset.pwned=1"
HOSTILE = [
    [  # markup, links, odd characters, broken maths
        f'</script><script>{PWN}</script><img src=x onerror="{PWN}"><!--',
        f"$\\href{{javascript:{PWN}}}{{x}}$ \\(\\htmlData{{pwned=1}}{{y}}\\) $\\includegraphics{{http://example.org/x}}$",
        "a\x00b\x1b[2J \ud800 \u202e \ufeff \u2028",
        "$\\frac{1$ $\\nosuchcommand{1}$ $}{$ \\begin{aligned} x",
    ],
    [  # what would take long to look through
        "$" * 100_000 + "$ x" * 20_000,
        "x" * 300_000,
    ],
    ["\\(" * 50_000, "\\[" * 50_000, "[asy]" * 20_000 + "\\(" * 30_000, "\\boxed{" * 20_000 + "\\[" * 30_000],
    [  # what would be too deep or too large to draw
        "$" + "{" * 1_900 + "$ $" + "\\sqrt" * 390 + "1$ $" + "\\left(" * 300 + "$",
        "$" + "\\sqrt{" * 200 + "1" + "}" * 200 + "$",
        "$\\def\\a{xxxx}\\def\\b{\\a\\a\\a\\a}\\def\\c{\\b\\b\\b\\b}\\def\\d{\\c\\c\\c\\c}\\d\\d\\d\\d$",
        "$\\rule{99999em}{99999em}$",
    ],
]


def test_nothing_that_a_model_writes_runs_or_hangs(browse: Browse, tmp_path: Path) -> None:
    evil = Question(id="</script>", problem=HOSTILE[0][0], answer="$<b>$", benchmark="<img src=x>", level="<i>")
    dialogues = [episode(evil, *(attempt(said + "\\boxed{<i>}") for said in each), budget=4) for each in HOSTILE]
    played = {"<img src=x>": {"main": dialogues}}
    write_report(tmp_path, invented.summary(("<img src=x>",), budget=4), played, plan(budget=4))
    for number, said in enumerate(HOSTILE):
        dom = browse(tmp_path / "report.html", open=str(number))
        assert dom.messages == []
        assert dom.data["open"] == str(number)
        assert "pwned" not in dom.data
        assert dom.detail.count('class="attempt is-wrong"') == len(said)
        # Where there is much to render, that ends after 1.5 s; looking through what opens and never closes is quick.
        assert float(dom.data["open-ms"]) < (2_000 if number == 2 else 5_000)
        assert not re.search(r"<(script|img|b|i|a|iframe)[ >]", dom.detail.replace("<b>", "", 2 + len(said)))
        assert not re.search(r'="[^"]*(javascript:|example\.org)', dom.detail)
        assert ("240,011 characters are not shown" in dom.detail) == ("x" * 300_000 in said)
        nesting = max(len(re.findall("<msqrt>", line)) for line in dom.detail.split("<math"))
        assert nesting < 120


def test_keys_and_controls(browse: Browse, report: Path) -> None:
    browse(report)
    browser = browse.browser
    opened, found = "document.documentElement.dataset.open", "document.documentElement.dataset.found"
    browser.evaluate("document.getElementById('list').focus()")
    for key, number in (("ArrowDown", 0), ("ArrowDown", 1), ("End", 4), ("ArrowUp", 2), ("Home", 0), ("ArrowUp", 0)):
        browser.press(key)
        browser.wait(f"{opened} === '{number}' && location.hash === '#open={number}'")
    assert browser.evaluate("document.getElementById('list').getAttribute('aria-activedescendant')") == "row-0"

    browser.evaluate("document.querySelector('#filters [name=q]').focus()")
    browser.type("zebra")
    browser.wait(f"{found} === '1'")
    assert browser.evaluate("location.hash") == "#q=zebra&open=0"
    browser.evaluate("document.querySelector('#filters [type=reset]').click()")
    browser.wait(f"{found} === '4'")
    browser.evaluate("document.querySelector('#filters [name=truncated]').click()")
    browser.wait(f"{found} === '1'")
    browser.evaluate("location.hash = '#run=all&source=1'")
    browser.wait(f"{found} === '7' && document.getElementById('source').checked")
    assert browse.dom().messages == []


def test_only_the_rows_in_view_are_there(browse: Browse, tmp_path: Path) -> None:
    many = [episode(X, attempt(f"\\boxed{{{n}}}"), sample=n) for n in range(3_000)]
    write_report(tmp_path, invented.summary(), {"toy": {"main": many}}, plan())
    dom = browse(tmp_path / "report.html", open="2500")
    assert 2_500 in dom.rows
    assert len(dom.rows) < 40
    browse.browser.evaluate("document.getElementById('list').scrollTop = 64 * 1000")
    browse.browser.wait("document.getElementById('row-1000') !== null")
    assert len(browse.dom().rows) < 40
    assert "answer 2500" in text(dom.detail)


def test_shortened_responses_say_so(browse: Browse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "BYTES", 1)
    monkeypatch.setattr(page_data.page_data, "__defaults__", (1,))
    long = "begin " + "middle " * 300 + "\\boxed{3}"
    write_report(tmp_path, invented.summary(), {"toy": {"main": [episode(X, attempt(long, "correct"))]}}, plan())
    dom = browse(tmp_path / "report.html", open="0")
    shown = text(dom.detail)
    assert f"{len(long) - page_data.SHORTEST:,} characters left out; episodes.jsonl has them" in shown
    assert "begin middle" in shown
    assert 'class="answer correct"' in dom.detail
    assert f"at most {page_data.SHORTEST} characters" in text(dom.html)


def test_comparison_opens(browse: Browse, tmp_path: Path) -> None:
    write_comparison(tmp_path, [("A", invented.summary()), ("B", invented.summary())], ["B − A: 0"])
    dom = browse(tmp_path / "comparison.html")
    assert dom.messages == []
    assert "B − A: 0" in text(dom.html)


@pytest.mark.slow
def test_ten_thousand_dialogues(browse: Browse, tmp_path: Path, shared: Path) -> None:
    benchmarks = {}
    for name in ("math500", "aime24", "amc23", "minerva", "olympiadbench"):
        rows = map(json.loads, (shared / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        benchmarks[name] = [
            Question(id=row["id"], problem=row["problem"], answer=row["answer"], benchmark=name) for row in rows
        ]
    training = (shared / "data" / "math_l3to5_train.jsonl").read_text(encoding="utf-8").splitlines()
    sentences = [sentence for line in training for sentence in re.split(r"(?<=[.?!]) ", json.loads(line)["problem"])]
    played = invented.evaluation(benchmarks, invented.Writer(sentences, 8_000), runs=("main", "independent", "base"))
    every = [dialogue for runs in played.values() for dialogues in runs.values() for dialogue in dialogues]
    assert len(every) == 5 * 1_517
    played["math500"]["hidden_count"] = (played["math500"]["main"] * 5)[: 10_000 - len(every)]
    write_report(tmp_path, invented.summary(tuple(benchmarks)), played, plan())
    page = tmp_path / "report.html"
    assert page.stat().st_size < 20_000_000
    opened = browse(page, open="9000")
    assert opened.messages == []
    assert opened.count.startswith("1,517 of 10,000")
    assert float(opened.data["ready-ms"]) < 2_000
    assert float(opened.data["open-ms"]) < 2_000
    searched = browse(page, run="all", q="perpendicular")
    assert int(searched.data["found"]) > 100
    assert float(searched.data["filter-ms"]) < 4_000  # the first search reads every response
    filtered = browse(page, run="all", outcome="never", repeated="1")
    assert float(filtered.data["filter-ms"]) < 500

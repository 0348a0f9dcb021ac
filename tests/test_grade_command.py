"""`multiattempt grade` and `validate` as a user types them: verdicts, files of cases, streams, and gold answers."""

import doctest
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiattempt_trl.cli import grade, main
from multiattempt_trl.cli import validate as validate_command
from multiattempt_trl.cli.grade import AHEAD, Case, _in_order
from multiattempt_trl.cli.validate import asked_of_math_verify
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.domains import arithmetic
from multiattempt_trl.graders.decision import Stage
from multiattempt_trl.graders.math_verify import Grading

COMMAND = [sys.executable, "-m", "multiattempt_trl", "grade", "--cases"]
SYMBOLIC = {"gold": r"\frac{\sqrt{2}}{2}", "pred": r"\frac{1}{\sqrt{2}}"}
"""A case that a worker decides."""
WAIT = 60
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    return str(path)


def run(file: str, text: bytes = b"", *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, file, *options], input=text, capture_output=True, timeout=120)


def lines(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- one answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--gold", r"\frac12", "--answer", "0.5"], r"correct: same number \(stage number, 0\.\d{4} s\)"),
        (["--gold", "5", "--answer", "6"], r"wrong: different number \(stage number, .*\)"),
        (["--gold", "5", "--response", r"so \boxed{5}."], r"correct: same text \(stage string, .*\)"),
        (
            ["--gold", "5", "--response", r"\boxed{5} or \boxed{6"],
            r"invalid: no box \(stage box, .*\); hint: No boxed answer .*",
        ),
        (["--gold", SYMBOLIC["gold"], "--answer", SYMBOLIC["pred"]], r"correct: equal \(stage math_verify, .*\)"),
        (["--gold", r"-\frac12", "--answer", "-0.5"], r"correct: same number .*"),
        (["--gold", "5", "--answer", "5<|im_end|>"], r"wrong: special token \(.*\); shows special_tokens"),
        (["--gold", "1.6", "--answer", "1.60003"], r"wrong: .*"),
        (["--gold", "1.6", "--answer", "1.60003", "--benchmark", "minerva"], r"correct: .*"),
        (  # longer than a terminal is wide
            ["--gold", "5", "--response", "".join(f"\\boxed{{{n}}}" for n in range(6)) + "</s>\u200b"],
            r"correct: .*; shows box_spam, special_tokens, control_characters",
        ),
    ],
)
def test_one_answer_is_one_plain_line(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["grade", *argv])
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1
    assert re.fullmatch(line, said.out.removesuffix("\n"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --gold with --answer or --response, or --cases FILE"),
        (["--gold", "5"], "give --gold with --answer or --response"),
        (["--gold", "5", "--answer", "5", "--response", "5"], "give --gold with --answer or --response"),
        (["--cases", "-", "--gold", "5"], "--cases brings its own answers"),
        (["--gold", "--answer", "5"], "expected one argument"),
        (["--gold", r"\text{ }", "--answer", "5"], "is empty; nothing can be graded against it"),
        (["--cases", "/no/where"], "No such file or directory: '/no/where'"),
        (["--cases", "FILE", "--workers", "0"], "workers=0: a grading pool needs at least one"),
    ],
)
def test_misuse(argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "cases.jsonl", [SYMBOLIC])
    with pytest.raises(SystemExit) as ended:
        main(["grade", *(file if word == "FILE" else word for word in argv)])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("multiattempt grade: error: ")
    assert message in last


# --- files of cases ------------------------------------------------------------------------------------------------


def test_every_case_comes_back_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {**SYMBOLIC, "id": 7, "equal": True, "status": "correct", "note": ["\ud800", "é\u2028", None, 0.1]},
        {"gold": "5", "pred": "\ud83d \udc00", "equal": False, "status": "done"},
        {"gold": "5", "pred": r"\boxed{5}", "kind": "response", "equal": True, "status": "wrong"},
        {"gold": "5", "pred": "no box", "kind": "response", "equal": "yes", "status": "invalid"},
        {"gold": "1.6", "pred": "1.60003", "benchmark": "minerva", "equal": False, "verdict": "of an earlier time"},
        {"gold": "1.6", "pred": "1.60003", "status": ["wrong"]},
        {"gold": "5", "pred": "", "kind": "answer"},
    ]
    main(["grade", "--cases", write(tmp_path / "cases.jsonl", rows)])
    said = capsys.readouterr()
    assert said.out.isascii()
    graded = [json.loads(line) for line in said.out.splitlines()]
    verdicts = ["correct", "wrong", "correct", "invalid", "correct", "wrong", "invalid"]
    assert [row["verdict"] for row in graded] == verdicts
    own = ("verdict", "stage", "reason", "seconds", "hint", "exploits")
    for row, after in zip(rows, graded, strict=True):
        assert {name: value for name, value in after.items() if name not in own} == {
            name: value for name, value in row.items() if name != "verdict"
        }
        assert set(own) <= after.keys()
        assert isinstance(after["seconds"], float)
    assert (graded[0]["stage"], graded[0]["reason"], graded[0]["exploits"]) == ("math_verify", "equal", [])
    # equal: right for 0, 1 and 2, wrong for 4; a string is no boolean. status: right for 0 and 3, wrong for 2.
    summary = (
        "7 rows: 3 correct, 2 wrong, 2 invalid; 0 timeouts; agrees with equal in 3 of 4; agrees with status in 2 of 3"
    )
    assert said.err == summary + "\n"


def test_the_tolerance_of_rows_without_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"gold": "1.6", "pred": "1.60003"}, {"gold": "1.6", "pred": "1.60003", "benchmark": "math500"}]
    main(["grade", "--cases", write(tmp_path / "cases.jsonl", rows), "--benchmark", "minerva"])
    assert [row["verdict"] for row in map(json.loads, capsys.readouterr().out.splitlines())] == ["correct", "wrong"]


BAD = [
    (b"{oops", "not JSON: Expecting property name"),
    (b'{"gold": "5", "pred": "\xe9"}', "not JSON: 'utf-8' codec"),
    (b'{"gold": "5", "pred": "5", "n": ' + b"9" * 5_000 + b"}", "not JSON: Exceeds the limit"),
    (b"[" * 100_000, "not JSON: "),
    (b'["5", "5"]', "expected an object with gold and pred"),
    (b'{"pred": "5"}', "gold is missing"),
    (b'{"gold": 5, "pred": "5"}', "gold is no text"),
    (b'{"gold": "$ $", "pred": "5"}', "gold is empty"),
    (b'{"gold": "5"}', "pred is missing"),
    (b'{"gold": "5", "pred": 5}', "pred is no text"),
    (b'{"gold": "5", "pred": null}', "pred is no text"),
    (b'{"gold": "5", "gen": "\'x\' * 9"}', "gen without pred: gen is code, which is never evaluated"),
    (b'{"gold": "5", "gen": "\'x\' * 9", "pred": null}', "gen without pred: gen is code, which is never evaluated"),
    (b'{"gold": "5", "pred": "5", "kind": "text"}', "kind 'text' is unknown; choose one of answer, response"),
    (b'{"gold": "5", "pred": "5", "kind": null}', "kind None is unknown"),
    (b'{"gold": "5", "pred": "5", "benchmark": 5}', "benchmark 5 is no name"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message[:20] + f"-{n}" for n, (_, message) in enumerate(BAD)])
def test_a_bad_row_is_found_before_anything_is_graded(
    line: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_bytes(b'{"gold": "5", "pred": "5"}\n\n' + line + b"\n")
    with pytest.raises(SystemExit) as ended:
        main(["grade", "--cases", str(file)])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"multiattempt grade: error: {file}, line 3: {message}")


def test_an_empty_file_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["grade", "--cases", write(tmp_path / "cases.jsonl", [])])
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "0 rows: 0 correct, 0 wrong, 0 invalid; 0 timeouts\n")


def test_the_labelled_cases(shared: Path, tmp_path: Path) -> None:
    file = shared / "grading_cases.jsonl"
    rows = lines(file.read_bytes())
    code = [number for number, row in enumerate(rows, start=1) if row.get("pred") is None]
    refused = run(str(file))
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert f"{file}, line {code[0]}: gen without pred".encode() in refused.stderr
    given = [row for row in rows if row.get("pred") is not None]
    assert len(given) == len(rows) - len(code) >= 200
    done = run(write(tmp_path / "cases.jsonl", given))
    assert done.returncode == 0
    graded = lines(done.stdout)
    assert [row["id"] for row in graded] == [row["id"] for row in given]
    agree = sum((row["verdict"] == "correct") is row["equal"] for row in graded)
    assert f"agrees with equal in {agree} of {len(given)}".encode() in done.stderr
    assert agree >= 0.9 * len(given)  # how good the grader is, its own tests say


# --- streams -------------------------------------------------------------------------------------------------------


def test_stdin_that_is_a_file_is_read_through_first(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_bytes(b'{"gold": "5", "pred": "5"}\n{"gold": "6", "pred": "6"}\n{oops\n')
    with file.open("rb") as source:
        done = subprocess.run([*COMMAND, "-"], stdin=source, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, b"")
    file.write_bytes(file.read_bytes().replace(b"{oops\n", b""))
    with file.open("rb") as source:
        os.lseek(source.fileno(), 27, os.SEEK_SET)  # another reader took the first line
        done = subprocess.run([*COMMAND, "-"], stdin=source, capture_output=True, timeout=120)
    assert [row["gold"] for row in lines(done.stdout)] == ["6"]


def test_in_a_stream_what_stands_before_a_bad_row_is_graded() -> None:
    text = (json.dumps(SYMBOLIC) + "\n").encode() * 3 + b'{"gold": "5", "gen": "1"}\n{"gold": "5", "pred": "5"}'
    done = run("-", text)
    assert done.returncode == 2
    assert [row["verdict"] for row in lines(done.stdout)] == ["correct"] * 3
    assert done.stderr.startswith(b"multiattempt grade: error: stdin, line 4: gen without pred")
    assert done.stderr.count(b"\n") == 1


def test_the_last_line_needs_no_end_and_a_line_may_be_long() -> None:
    rows = [{"gold": "5", "pred": "x" * 300_000 + r"\boxed{5}", "kind": "response"}, {"gold": "5", "pred": "5"}]
    done = run("-", "\r\n".join(map(json.dumps, rows)).encode())
    assert [row["verdict"] for row in lines(done.stdout)] == ["correct", "correct"]


def talk() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    # Where the tests run in the background Ctrl-C is ignored, and would be by what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [*COMMAND, "-"], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env=BUFFERED
        )
    finally:
        signal.signal(signal.SIGINT, before)


def ask(process: subprocess.Popen[bytes], row: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(row).encode() + b"\n")
    process.stdin.flush()


def test_a_verdict_does_not_wait_for_the_next_line() -> None:
    with talk() as process:
        timer = threading.Timer(WAIT, process.kill)
        timer.start()
        for row in (SYMBOLIC, {"gold": "5", "pred": "6"}):
            ask(process, row)
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())  # while its stdin stays open
            assert {name: answer[name] for name in row} == row
        timer.cancel()
        _, said = process.communicate(timeout=WAIT)
    assert (process.returncode, said.count(b"\n")) == (0, 1)


def test_nobody_reads_on() -> None:
    with talk() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ask(process, SYMBOLIC)
        process.stdout.readline()
        process.stdout.close()
        ask(process, SYMBOLIC)  # is to be written to nobody, while stdin stays open
        assert process.wait(WAIT) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


def test_head_reads_a_few_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "cases.jsonl", [{"gold": "5", "pred": "5", "note": "x" * 1_000}] * 2_000)
    call = f"{' '.join(COMMAND)} {file} | head -n 2"
    done = subprocess.run(call, shell=True, capture_output=True, timeout=120)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == b""


def test_an_interrupt_ends_quietly_and_leaves_no_worker() -> None:
    with talk() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ask(process, SYMBOLIC)
        process.stdout.readline()
        workers = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [int(child) for task in workers for child in task.read_text().split()]
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 128 + signal.SIGINT
        assert process.stderr.read() == b""
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


class Waiting:
    """A grader that decides when it is told to."""

    def __init__(self) -> None:
        self.futures: list[Future[Grading]] = []

    def start(self, gold: str, answer: str | None, response: str, *, benchmark: str) -> Future[Grading]:
        self.futures.append(Future())
        return self.futures[-1]


def test_a_bounded_number_of_cases_waits_and_none_overtakes_another() -> None:
    grader, total = Waiting(), 3 * AHEAD
    cases = iter([Case(row={"id": n}, gold="5", pred="5", kind="answer", benchmark="") for n in range(total)])
    come: list[int] = []

    def collect() -> None:
        gradings: Iterator[tuple[Case, Grading]] = _in_order(cases, grader)  # type: ignore[arg-type]
        come.extend(case.row["id"] for case, _ in gradings)

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    settled = 0
    while settled < total:
        deadline = time.monotonic() + WAIT
        while len(grader.futures) < min(settled + AHEAD, total) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # it would go on now, if nothing stopped it
        # One is waited for, and one waits to be put into the queue.
        assert min(settled + AHEAD, total) <= len(grader.futures) <= settled + AHEAD + 2
        assert len(come) == settled
        ready, settled = grader.futures[settled:], len(grader.futures)
        for future in reversed(ready):  # the last one first
            future.set_result(Grading(verdict=Verdict.WRONG, stage=Stage.STRING, reason="", seconds=0.0))
        while len(come) < settled and time.monotonic() < deadline:
            time.sleep(0.01)
    reader.join(WAIT)
    assert come == list(range(total))


# --- gold answers --------------------------------------------------------------------------------------------------


def validate(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    status: object = 0
    try:
        main(["validate", *argv])
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr().out.splitlines()


GOLDS = [
    ("n", r"\frac12", "number"),
    ("u", r"3\text{ cm}", "rule"),
    ("c", r"\text{(C)}", "rule"),
    ("w", r"\text{Navin}", "rule"),
    ("l", "2, 1", "rule"),
    ("s", r"$\sqrt{2}$", "math-verify"),
    ("i", r"(-\infty, \sqrt{3}) \cup (2, \infty)", "math-verify"),
    ("p", r"(\sqrt{2}, 1)", "math-verify"),
    ("k", "k \\geq 2n", "math-verify"),
    ("a", r"\$\frac{2}{3} \approx \$0.67", "rule"),
    ("d", r"\approx 8.24 \text{ mph}", "rule"),
    ("x", r"x = \sqrt{2}\text{ cm}", "math-verify"),
    ("q", "x^2 + y^2 = 4", "math-verify"),
    ("t", "t(0,4]", "text"),
    ("m", r"\mho(a)+1", "text"),
    ("e", "9^{9^{9^{9}}}", "text"),
]


def test_what_can_be_recognised_of_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": name, "problem": f"{name}?", "answer": gold} for name, gold, _ in GOLDS]
    file = write(tmp_path / "golds.jsonl", rows)
    line = f"{file}: 16/16 accepted; compared as numbers 1, by rules 6, by math-verify 6, as text only 3"
    assert validate("--data", file, capsys=capsys) == (0, [line])
    reasons = ["t: t(0,4]: unparsed", r"m: \mho(a)+1: not understood", "e: 9^{9^{9^9}}: too expensive"]
    assert validate("--data", file, "--verbose", capsys=capsys) == (
        0,
        [line, *(f"  as text only: {reason}" for reason in reasons)],
    )


@pytest.mark.parametrize(("gold", "way"), [(gold, way) for _, gold, way in GOLDS])
def test_what_math_verify_is_asked_about(gold: str, way: str) -> None:
    assert (asked_of_math_verify(gold) is None) is (way in ("number", "rule"))


def test_golds_that_are_not_accepted_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golds = ["5", "$", "5 {", "x" * 1_001, "6", r"\boxed{", "", "7\ud800", "\ud800 {"]
    good = write(tmp_path / "good.jsonl", [{"problem": "?", "answer": "5"}])
    bad = write(tmp_path / "bad.jsonl", [{"problem": f"{gold}?", "answer": gold} for gold in golds])
    status, said = validate("--data", good, "--data", f"mine={bad}", "--data", good, capsys=capsys)
    assert status == 1
    assert (
        said[0]
        == said[-1]
        == f"{good}: 1/1 accepted; compared as numbers 1, by rules 0, by math-verify 0, as text only 0"
    )
    assert said[1].startswith(f"mine={bad}: 3/9 accepted; compared as numbers 2, ")
    assert said[2:-1] == [
        "  not accepted: mine-1: $: empty",
        "  not accepted: mine-3: ...: 1001 characters, and none above 1000 is graded",
        "  not accepted: mine-6: (nothing): empty",
        "  not accepted: mine-2: 5 {: no box",
        "  not accepted: mine-5: \\boxed{: no box",
        "  not accepted: mine-8: \\ud800 {: no box",
    ]


def test_the_benchmarks(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {name: f"{name}={shared / 'data' / name}.jsonl" for name in ("aime24", "amc23", "math500")}
    status, said = validate(*(word for spec in sets.values() for word in ("--data", spec)), capsys=capsys)
    assert status == 0
    assert [line.split(": ")[1].split(";")[0] for line in said] == [
        "30/30 accepted",
        "40/40 accepted",
        "500/500 accepted",
    ]
    assert all(line.endswith("as text only 0") for line in said)


def test_another_domain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--domain", "arithmetic", "--data", "train", "--data", "arithmetic"]
    assert validate(*argv, capsys=capsys) == (0, ["train: 4000/4000 accepted", "arithmetic: 1000/1000 accepted"])

    def load_benchmark(name: str) -> list[Question]:
        return [Question(id=name, problem="?", answer=answer) for answer in ("6", " 6")]

    monkeypatch.setattr(arithmetic, "DOMAIN", replace(arithmetic.DOMAIN, load_benchmark=load_benchmark))
    assert validate(*argv[:2], "--data", "x", capsys=capsys) == (1, ["x: 1/2 accepted", "  not accepted: x: 6: wrong"])


def test_programs_are_tried_in_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate("--domain", "lists", "--data", "train", capsys=capsys) == (0, ["train: 4000/4000 accepted"])


def test_the_training_set_of_the_domain_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared: Path
) -> None:
    rows = lines((shared / "data" / "math_l3to5_train.jsonl").read_bytes())
    known = [row for row in rows if row["id"] == "simplerl-1473"]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: known)  # it also stands in OlympiadBench
    status, said = validate("--data", "train", capsys=capsys)
    assert (status, said[0].split(";")[0]) == (0, "train: 1/1 accepted")


def test_doctests() -> None:
    for module, examples in ((grade, 1), (validate_command, 2)):
        assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=examples)

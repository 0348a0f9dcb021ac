"""`multiattempt grade`: the verdict on one answer, or on every line of a file."""

import argparse
import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import Any

from rich.console import Console
from rich.text import Text

from multiattempt_trl.cli import quiet_end
from multiattempt_trl.dialogue.boxes import last_boxed
from multiattempt_trl.dialogue.episode import Verdict
from multiattempt_trl.graders.math_verify import Grading, MathVerifyGrader
from multiattempt_trl.graders.normalisation import clean, key

KINDS = ("answer", "response")
AHEAD = 512
"""Cases that are read and graded before the first of them is written; more would only fill the memory."""
STYLES = {Verdict.CORRECT: "bold green", Verdict.WRONG: "bold red", Verdict.INVALID: "bold yellow"}
DESCRIPTION = r"""
Grades one answer:      multiattempt grade --gold '\frac12' --answer 0.5
or a whole response:    multiattempt grade --gold '\frac12' --response 'So it is \boxed{0.5}.'
or many:                multiattempt grade --cases cases.jsonl > graded.jsonl

A line of cases is {"gold": ..., "pred": ...}, with "kind": "response" where pred is a whole response and not what
stands in the box, and with "benchmark" where that decides the tolerance. It is written again with verdict (correct,
wrong, invalid), stage, reason, seconds of CPU time, and exploits. The summary on stderr also says how many verdicts
agree with "equal" (a boolean) and "status" (a verdict), where the lines have such fields.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A line of a file of cases."""

    row: dict[str, Any]
    """All its fields, to be written again."""
    gold: str
    pred: str
    kind: str
    benchmark: str

    def start(self, grader: MathVerifyGrader) -> Future[Grading]:
        answer = self.pred if self.kind == "answer" else last_boxed(self.pred)
        return grader.start(self.gold, answer, self.pred, benchmark=self.benchmark)


def main(argv: list[str]) -> None:
    """Grades. Raises `ValueError` for a bad case and an empty gold answer."""
    arguments = _parse(argv)
    with quiet_end():
        if arguments.cases is not None:
            _grade_cases(arguments.cases, arguments.benchmark, arguments.workers)
        else:
            _grade_one(arguments)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="multiattempt grade", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gold", help="the gold answer")
    parser.add_argument("--answer", help="what stands in the box")
    parser.add_argument("--response", help="a whole response, whose last box decides")
    parser.add_argument("--cases", metavar="FILE", help="JSON lines; - for stdin")
    parser.add_argument("--benchmark", default="", help="whose tolerance between decimals holds: minerva has its own")
    parser.add_argument("--workers", type=int, help="worker processes (default: up to two)")
    arguments = parser.parse_args(_with_texts_joined(argv))
    texts = [arguments.answer, arguments.response]
    if arguments.cases is not None:
        if arguments.gold is not None or any(text is not None for text in texts):
            parser.error("--cases brings its own answers: leave out --gold, --answer and --response")
    elif arguments.gold is None or texts.count(None) != 1:
        parser.error("give --gold with --answer or --response, or --cases FILE")
    return arguments


def _with_texts_joined(argv: Sequence[str]) -> list[str]:
    r"""`--gold -x` as `--gold=-x`: argparse would take an answer that begins with a minus for an option.

    >>> _with_texts_joined(["--gold", r"-\frac12", "--answer", "-0.5", "--benchmark", "minerva"])
    ['--gold=-\\frac12', '--answer=-0.5', '--benchmark', 'minerva']
    """
    words, joined = list(argv), []
    while words:
        word = words.pop(0)
        follows = words and words[0].startswith("-") and not words[0].startswith("--")
        joined.append(f"{word}={words.pop(0)}" if word in ("--gold", "--answer", "--response") and follows else word)
    return joined


def _grade_one(arguments: argparse.Namespace) -> None:
    with MathVerifyGrader(workers=1) as grader:
        if arguments.answer is not None:
            grading = grader.grade_answer(arguments.gold, arguments.answer, benchmark=arguments.benchmark)
        else:
            grading = grader.grade(arguments.gold, arguments.response, benchmark=arguments.benchmark)
    tricks = f"; shows {', '.join(grading.exploits)}" if grading.exploits else ""
    said = f": {grading.reason} (stage {grading.stage}, {grading.seconds:.4f} s){tricks}"
    said += f"; hint: {grading.hint}" if grading.hint else ""
    line = Text.assemble((grading.verdict.value, STYLES[grading.verdict]), said)
    Console(highlight=False).print(line, soft_wrap=True)


def _grade_cases(file: str, benchmark: str, workers: int | None) -> None:
    """Grades every line and writes it as soon as it and all before it are known; the summary goes to stderr.

    A file is read through first, so that nothing is graded where a line of it is bad. A stream cannot be.
    """
    name = "stdin" if file == "-" else file
    source = sys.stdin.fileno() if file == "-" else os.open(file, os.O_RDONLY)
    if stat.S_ISREG(os.fstat(source).st_mode):
        begin = os.lseek(source, 0, os.SEEK_CUR)
        for _ in _cases(source, name, benchmark):
            pass
        os.lseek(source, begin, os.SEEK_SET)
    counts: Counter[str] = Counter()
    with MathVerifyGrader(workers) as grader:
        for case, grading in _in_order(_cases(source, name, benchmark), grader):
            result = {**case.row, **_fields(grading)}
            sys.stdout.write(json.dumps(result) + "\n")  # ASCII only: half of a surrogate pair has no other bytes
            sys.stdout.flush()
            counts.update(_counted(case.row, grading))
    sys.stderr.write(_summary(counts) + "\n")


def _cases(source: int, name: str, benchmark: str) -> Iterator[Case]:
    """The cases of a file descriptor; `name` is what errors call it, `benchmark` that of rows without their own."""
    for number, line in enumerate(_lines(source), start=1):
        if line.strip():
            yield _case(line, f"{name}, line {number}", benchmark)


def _lines(source: int) -> Iterator[bytes]:
    """Lines as they arrive. Not by a file object: where a thread waits in one, the process cannot end in peace."""
    begun: list[bytes] = []  # a line whose end has not arrived
    while piece := os.read(source, 1 << 16):
        first, *lines = piece.split(b"\n")
        begun.append(first)
        for line in lines:
            yield b"".join(begun)
            begun = [line]
    yield b"".join(begun)


def _case(line: bytes, where: str, benchmark: str) -> Case:
    """Raises `ValueError`, in one line that says where, for what cannot be graded."""
    try:
        row = json.loads(line.decode("utf-8", errors="surrogatepass"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number without end, brackets without end
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with gold and pred")
    if "gen" in row and row.get("pred") is None:
        raise ValueError(f"{where}: gen without pred: gen is code, which is never evaluated; write its value as pred")
    for name in ("gold", "pred"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{where}: {name} is {'no text' if name in row else 'missing'}")
    if not key(clean(row["gold"])):
        raise ValueError(f"{where}: gold is empty, so nothing can be graded against it")
    kind, benchmark = row.get("kind", KINDS[0]), row.get("benchmark", benchmark)
    if kind not in KINDS:
        raise ValueError(f"{where}: kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if not isinstance(benchmark, str):
        raise ValueError(f"{where}: benchmark {benchmark!r} is no name")
    return Case(row=row, gold=row["gold"], pred=row["pred"], kind=kind, benchmark=benchmark)


def _in_order(cases: Iterator[Case], grader: MathVerifyGrader) -> Iterator[tuple[Case, Grading]]:
    """The gradings in the order of the cases, which a thread reads and submits ahead.

    So a case is written when its grading is there, not when the next line of a slow stream is. What reading raises,
    this raises after the last case before it.
    """
    ahead: Queue[tuple[Case, Future[Grading]] | BaseException | None] = Queue(AHEAD)

    def submit() -> None:
        try:
            for case in cases:
                ahead.put((case, case.start(grader)))
        except BaseException as error:
            ahead.put(error)
        else:
            ahead.put(None)

    Thread(target=submit, name="cases", daemon=True).start()
    while (item := ahead.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        case, grading = item
        yield case, grading.result()


def _fields(grading: Grading) -> dict[str, Any]:
    return {
        "verdict": grading.verdict.value,
        "stage": grading.stage.value,
        "reason": grading.reason,
        "seconds": round(grading.seconds, 6),
        "hint": grading.hint,
        "exploits": [exploit.value for exploit in grading.exploits],
    }


def _counted(row: dict[str, Any], grading: Grading) -> Iterator[str]:
    """What the summary counts of a row."""
    yield "rows"
    yield grading.verdict.value
    if grading.reason == "timeout":
        yield "timeouts"
    equal, status = row.get("equal"), row.get("status")
    if isinstance(equal, bool):
        yield "equal given"
        if equal is (grading.verdict is Verdict.CORRECT):
            yield "equal agrees"
    if isinstance(status, str) and status in set(Verdict):
        yield "status given"
        if status == grading.verdict:
            yield "status agrees"


def _summary(counts: Counter[str]) -> str:
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict)
    agreement = "".join(
        f"; agrees with {field} in {counts[f'{field} agrees']} of {counts[f'{field} given']}"
        for field in ("equal", "status")
        if counts[f"{field} given"]
    )
    return f"{counts['rows']} rows: {verdicts}; {counts['timeouts']} timeouts{agreement}"

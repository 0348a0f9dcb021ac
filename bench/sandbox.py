"""What does the sandbox cost? Programs judged by the grader, against a bare `python -c` for each, in one run.

    python bench/sandbox.py [--workers 2] [FILE ...]

A FILE is JSON lines of MBPP or HumanEval with the reference solution in `solution`; without one a small program is
judged 200 times. Both go through the same number of workers, by turns in rounds of 50, so that what else the machine
does slows both. The bare process runs the program and then the tests, with all rights and no limit.

Printed: programs in a second of the clock of both, and the ratio; the last line is all of it as JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from multiattempt_trl.domains.code.data import load_benchmark
from multiattempt_trl.domains.code.grading import CodeGrader
from multiattempt_trl.domains.code.suites import suite

ROUND = 50
SMALL = (suite("", "assert double(2) == 4\n", "def double(x): ...").text, "def double(x):\n    return x + x\n")


def read_programs(paths: list[str]) -> list[tuple[str, str]]:
    """(tests, reference solution) of each question."""
    if not paths:
        return [SMALL] * 200
    found = []
    for path in paths:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        golds = [question.answer for question in load_benchmark(f"{path}:all")]
        sources = [row["prompt"] + row["solution"] if "entry_point" in row else row["solution"] for row in rows]
        found += list(zip(golds, sources, strict=True))
    return found


def bare(tests: str, source: str) -> None:
    """One process for one program; raises where it fails."""
    subprocess.run([sys.executable, "-c", f"{source}\n{tests}"], check=True, stdout=subprocess.DEVNULL)


def main(argv: list[str]) -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    programs = read_programs(arguments.files)
    seconds = {"sandbox": 0.0, "bare": 0.0}
    with CodeGrader(arguments.workers) as grader, ThreadPoolExecutor(arguments.workers) as callers:
        for first in range(0, len(programs), ROUND):
            part = programs[first : first + ROUND]
            began = time.perf_counter()
            found = list(callers.map(lambda one: grader.grade(one[0], f"```python\n{one[1]}\n```"), part))
            seconds["sandbox"] += time.perf_counter() - began
            assert all(grading.reason == "passed" for grading in found)
            began = time.perf_counter()
            list(callers.map(lambda one: bare(*one), part))
            seconds["bare"] += time.perf_counter() - began
    rates = {f"{name}_per_second": len(programs) / spent for name, spent in seconds.items()}
    ratio = seconds["sandbox"] / seconds["bare"]
    print(f"{len(programs)} programs, {arguments.workers} workers")
    print(
        "  ".join(f"{name} {rate:.1f}" for name, rate in rates.items()), f" a sandbox costs {ratio:.2f} bare processes"
    )
    print(json.dumps({"programs": len(programs), "workers": arguments.workers, **rates, "ratio": ratio}))


if __name__ == "__main__":
    main(sys.argv[1:])

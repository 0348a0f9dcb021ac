"""The gold answer of a programming question: what the program is given, its tests, and a program that passes them."""

import ast
import builtins
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

_TESTS = "# The tests:\n"
_CALLS = "# They call: "
_SOLUTION = "# A solution:\n"
_CANDIDATE = "candidate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """What a program is judged by. As text it is a Python file, so that a report can show it.

    >>> Suite(given="import math\\n", calls=("area",), tests="assert area(2) == 4\\n").text
    'import math\\n# The tests:\\n# They call: area\\nassert area(2) == 4\\n'
    >>> Suite(given="", calls=("f",), tests="assert f()\\n", solution="def f(): return 1\\n").text
    '# The tests:\\n# They call: f\\nassert f()\\n# A solution:\\ndef f(): return 1\\n'
    """

    given: str
    """Imports and helpers that are run before the program, and again before the tests."""
    calls: tuple[str, ...]
    """The program's functions that the tests call."""
    tests: str
    solution: str = ""
    """A program that passes them, where the set has one; nothing is judged by it."""

    def __post_init__(self) -> None:
        if not self.calls:
            raise ValueError("the tests call no function of the program")
        for marker, text in ((_TESTS, self.given), (_SOLUTION, self.tests)):
            if marker in text:
                raise ValueError(f"what stands before it already holds the line {marker.strip()!r}")
        for text in (self.given, self.tests):
            try:
                ast.parse(text)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise ValueError(f"the tests are not Python ({error})") from error

    @property
    def text(self) -> str:
        judged = f"{self.given}{_TESTS}{_CALLS}{', '.join(self.calls)}\n{self.tests}"
        if not self.solution:
            return judged
        return judged + ("" if judged.endswith("\n") else "\n") + _SOLUTION + self.solution

    @classmethod
    @lru_cache(maxsize=1_024)
    def read(cls, text: str) -> "Suite":
        """What `text` wrote. Raises `ValueError` for anything else."""
        given, marker, rest = text.partition(_TESTS)
        first, newline, tests = rest.partition("\n")
        if not (marker and newline and first.startswith(_CALLS)):
            raise ValueError(f"{text[:100]!r} is no set of tests: load the questions with the domain `code`")
        tests, _, solution = tests.partition(_SOLUTION)
        return cls(given=given, calls=tuple(first.removeprefix(_CALLS).split(", ")), tests=tests, solution=solution)

    def statement_at(self, line: int | None) -> str:
        """The smallest statement of the tests that stands on that line. In a function of theirs that is given the
        program's as `candidate`, as in HumanEval, it is called by its own name: no other has been told.

        >>> tests = "def check(candidate):\\n    for x in (1, 2):\\n        assert candidate(x) < 3\\ncheck(area)"
        >>> Suite(given="", calls=("area",), tests=tests).statement_at(3)
        'assert area(x) < 3'
        """
        around = [
            node
            for node in ast.walk(ast.parse(self.tests))
            if line and isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
        ]
        if not around:
            return ""
        smallest = min(around, key=lambda node: (node.end_lineno or node.lineno) - node.lineno)
        text = ast.get_source_segment(self.tests, smallest) or ""
        functions = [node for node in around if isinstance(node, ast.FunctionDef)]
        given = any(argument.arg == _CANDIDATE for node in functions for argument in node.args.args)
        return re.sub(rf"\b{_CANDIDATE}\b", self.calls[0], text) if given else text


def suite(given: str, tests: str, solution: str = "") -> Suite:
    """Finds out what the tests call: what the solution defines or, without one, what is defined nowhere. A module of
    the standard library that the tests name without an import (MBPP's `math`) is imported.

    Raises `ValueError` where it is not Python, or the tests call nothing.

    >>> suite("", "assert math.isclose(area(2), 4.0)\\n").text
    'import math\\n# The tests:\\n# They call: area\\nassert math.isclose(area(2), 4.0)\\n'
    """
    try:
        named, bound = _names(tests)
        defined = {node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)}
        known = bound | _names(given)[1]
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"the tests are not Python ({error})") from error
    free = named - known - defined
    modules = sorted(free & sys.stdlib_module_names)
    calls = named & defined - known or free - set(modules) - set(dir(builtins))
    imports = "".join(f"import {name}\n" for name in modules)
    return Suite(given=imports + given, calls=tuple(sorted(calls)), tests=tests, solution=solution)


def helpers(prompt: str, entry_point: str) -> str:
    """The imports and functions that stand in the beginning of a file before the function that is asked for.

    Raises `ValueError` where it is not Python.

    >>> helpers("import math\\n\\ndef half(x):\\n    return x / 2\\n\\ndef area(x):\\n    '''Area.'''\\n", "area")
    'import math\\ndef half(x):\\n    return x / 2\\n'
    """
    try:
        body = ast.parse(prompt).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the prompt is not Python ({error})") from error
    kept = [
        node
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name != entry_point)
    ]
    return "".join(f"{ast.get_source_segment(prompt, node)}\n" for node in kept)


def first_test(tests: str) -> str:
    """The first statement of the tests."""
    return ast.get_source_segment(tests, ast.parse(tests).body[0]) or ""


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a file reads anywhere, and those that it binds anywhere."""
    read: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
    return read, bound


def joined(tests: Iterable[str]) -> str:
    """Tests as lines of one file."""
    return "".join(test.strip() + "\n" for test in tests)

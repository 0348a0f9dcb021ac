"""The folders show the architecture: imports point down only, the game needs no torch, and files stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "multiattempt_trl"
LEVELS = {"cli": 5, "training": 4, "evaluation": 4, "domains": 3, "graders": 2, "rollout": 2, "dialogue": 1}
"""A room imports itself and rooms of a lower level, nothing else: not even its neighbour (`docs/design.md`)."""
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 250


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a module of ours; "" for what stands at the top of the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVELS else ""


def imports(file: Path, nodes: Iterator[ast.AST] | None = None) -> Iterator[str]:
    """Every module that is imported anywhere in `file`, inside functions and `if TYPE_CHECKING` too."""
    own = module_name(file)
    for node in nodes or ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = own.split(".") if file.name == "__init__.py" else own.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            # `from package import name` may name a module of it.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def upward(file: Path) -> list[str]:
    """The imports of `file` that its room must not have."""
    mine = room(module_name(file))
    found = []
    for target in imports(file):
        if target.split(".")[0] != PACKAGE.name or not mine:
            continue
        theirs = room(target)
        # The top of the package holds the version, and the door of `python -m`, which nothing imports.
        if (theirs and theirs != mine and LEVELS[theirs] >= LEVELS[mine]) or target.endswith(".__main__"):
            found.append(f"{module_name(file)} imports {target}")
    return found


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == LEVELS.keys()
    top = {path.name for path in PACKAGE.glob("*.py")}
    assert top == {"__init__.py", "__main__.py"}
    assert not [file for file in FILES if file.stem in ("utils", "util", "helpers", "common", "misc")]


def test_imports_point_down_only() -> None:
    assert [line for file in FILES for line in upward(file)] == []
    # The visit was a real one: every room, and many imports between them.
    visited = {room(module_name(file)) for file in FILES} - {""}
    assert visited == LEVELS.keys()
    assert len(FILES) >= 40
    between = [target for file in FILES for target in imports(file) if target.startswith(f"{PACKAGE.name}.")]
    assert len(between) >= 80


@pytest.mark.parametrize(
    ("name", "line", "allowed"),
    [
        ("evaluation/x.py", "from multiattempt_trl.training.losses import masked_mean", False),
        ("training/x.py", "import multiattempt_trl.evaluation.run", False),
        ("graders/x.py", "from multiattempt_trl.rollout import play", False),
        ("dialogue/x.py", "def f():\n    from multiattempt_trl.rollout.play import play", False),
        ("dialogue/x.py", "from ..rollout import play", False),
        ("dialogue/x.py", "from multiattempt_trl import cli", False),
        ("domains/code/x.py", "from ...training import losses", False),
        ("cli/x.py", "import multiattempt_trl.__main__", False),
        ("domains/code/__init__.py", "from ..maths import data", True),
        ("evaluation/x.py", "from multiattempt_trl.domains import Domain\nimport torch", True),
        ("dialogue/x.py", "from .boxes import last_boxed\nfrom multiattempt_trl import __version__", True),
    ],
)
def test_the_check_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, line: str, allowed: bool
) -> None:
    package = tmp_path / PACKAGE.name
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    file = package / name
    file.parent.mkdir(parents=True)
    file.write_text(line, encoding="utf-8")
    assert (upward(file) == []) is allowed


def test_no_import_cycles() -> None:
    # At import time only: an import inside a function is a way out of a cycle.
    known = {module_name(file) for file in FILES}
    graph = {}
    for file in FILES:
        top = ast.parse(file.read_text(encoding="utf-8")).body
        targets = {target if target in known else target.rpartition(".")[0] for target in imports(file, iter(top))}
        graph[module_name(file)] = targets & known
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)  # raises CycleError, naming the cycle


def roots(folder: str) -> dict[str, set[str]]:
    """For each file of a room the top-level packages it imports, ours left out."""
    files = sorted((PACKAGE / folder).rglob("*.py"))
    return {module_name(file): {t.split(".")[0] for t in imports(file)} - {PACKAGE.name} for file in files}


def test_the_dialogue_needs_the_standard_library_only() -> None:
    found = roots("dialogue")
    assert len(found) >= 9
    assert {name: others for name, own in found.items() if (others := own - sys.stdlib_module_names)} == {}


def test_the_graders_do_not_import_torch() -> None:
    found = roots("graders")
    assert len(found) >= 6
    heavy = {"torch", "transformers", "trl", "accelerate", "datasets"}
    assert {name: others for name, own in found.items() if (others := own & heavy)} == {}


def test_no_torch_is_loaded_by_the_dialogue_and_the_graders() -> None:
    # Not even through what they import.
    names = sorted({*roots("dialogue"), *roots("graders")})
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "print(len([name for name in sys.modules if name.startswith('multiattempt_trl.')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(names)


def test_files_are_short() -> None:
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert len(lines) >= 40
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [str(file) for file in FILES if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    assert silent == []

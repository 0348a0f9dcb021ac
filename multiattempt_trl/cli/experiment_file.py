"""What an experiment is: a base recipe, cells that change some of it, seeds; read from YAML and checked by name."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Self

import yaml

ALGORITHMS = ("ppo", "grpo")
KEYS = ("recipe", "seeds", "set", "cells", "grid", "against", "show")
OF_THE_RUNNER = ("seed", "output_dir", "model_name_or_path", "resume_from_checkpoint", "config")
"""Fields that the runner gives itself; a model is named in the recipe, or is another cell's."""
NAME = re.compile(r"[\w][\w .,=+-]*")
"""Of a cell: it is a folder too."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training with its evaluation, for each seed; or the evaluation alone."""

    name: str
    recipe: str
    own: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the training and evaluation commands that this cell changes."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Those that all cells change."""
    train: bool = True
    """Else only the model that it would start from is evaluated."""
    model_of: str | None = None
    """A cell above, whose model of the same seed it starts from."""
    tokens_of: str | None = None
    """A cell above, whose sampled tokens decide how many steps this one takes."""
    length: float | None = None
    """Share of the training that its recipe describes."""

    @property
    def algorithm(self) -> str:
        return Path(self.recipe).resolve().parent.name

    @property
    def follows(self) -> tuple[str, ...]:
        """The cells that must be done first."""
        return tuple(name for name in (self.model_of, self.tokens_of) if name is not None)

    @property
    def options(self) -> dict[str, Any]:
        return {**self.common, **self.own}

    def __post_init__(self) -> None:
        where = f"cell {self.name!r}"
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{where}: a name is a folder too: use letters, digits, spaces and any of _ . , = + -")
        if not Path(self.recipe).is_file():
            raise ValueError(f"{where}: there is no recipe {self.recipe!r}; paths count from the folder you are in")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"{where}: recipe {self.recipe!r} is in no folder ppo or grpo, which says how to train")
        taken = [name for name in OF_THE_RUNNER if name in self.options]
        if taken:
            raise ValueError(f"{where}: {taken[0]!r} is not to be set, the experiment says it")
        if self.tokens_of is not None and ("max_steps" in self.options or not self.train):
            raise ValueError(f"{where}: tokens_of decides the steps, so leave out max_steps and train: false")
        if self.length is not None:
            number = isinstance(self.length, int | float) and not isinstance(self.length, bool)
            if not number or not 0 < self.length < inf:
                raise ValueError(
                    f"{where}: length must be a share of its recipe's steps, above 0, got {self.length!r}"
                )
            if self.tokens_of is not None or not self.train or {"max_steps", "num_train_epochs"} & set(self.options):
                raise ValueError(
                    f"{where}: length decides the steps, so leave out tokens_of, max_steps, num_train_epochs and "
                    "train: false"
                )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Cells, each to be run with every seed, and which of them the others are held against."""

    name: str
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    against: tuple[str, ...] = ()
    """Names of the cells that the others are held against; where there is none, the first."""
    show: tuple[str, ...] = ()
    """Names of further numbers for the results (`experiment_shown.numbers`)."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct, and at least one, got {list(self.seeds)}")
        if not self.cells:
            raise ValueError(f"experiment {self.name!r} has no cell: give cells, or a grid")
        above: dict[str, Cell] = {}
        for cell in self.cells:
            if cell.name in above:
                raise ValueError(f"two cells are called {cell.name!r}")
            for key, named in (("model_of", cell.model_of), ("tokens_of", cell.tokens_of)):
                if named is not None and (named not in above or not above[named].train):
                    raise ValueError(f"cell {cell.name!r}: {key} {named!r} is no trained cell above it")
            above[cell.name] = cell
        if unknown := [name for name in self.against if name not in above]:
            raise ValueError(f"against {unknown[0]!r}: there is no such cell")

    @property
    def references(self) -> tuple[str, ...]:
        return self.against or (self.cells[0].name,)

    @classmethod
    def read(cls, path: Path, seeds: tuple[int, ...] | None = None, recipes: Path | None = None) -> Self:
        """Raises `ValueError` for a file that is not an experiment, naming what is wrong with it.

        Args:
            seeds: other ones than the file's.
            recipes: a folder with recipes of the same names, `ppo/multi_attempt.yaml` and the like, which take the
                place of those that the file names.
        """
        content = _mapping(_load(path), str(path))
        _check_keys(content, KEYS, str(path))
        recipe = content.get("recipe")
        if not isinstance(recipe, str):
            raise ValueError(f"{path}: recipe must name the recipe that all cells start from, got {recipe!r}")
        common = _mapping(content.get("set"), f"{path}: set")
        cells = [
            _cell(str(name), _mapping(own, f"{path}: cell {name!r}"), recipe, common, recipes)
            for name, own in _mapping(content.get("cells"), f"{path}: cells").items()
        ]
        grid = _mapping(content.get("grid"), f"{path}: grid")
        cells += [_cell(_grid_name(own), own, recipe, common, recipes) for own in _combinations(grid, path)]
        given = content.get("seeds", [0, 1, 2])
        if not isinstance(given, list) or any(type(seed) is not int for seed in given):
            raise ValueError(f"{path}: seeds must be a list of integers, got {given!r}")
        name = path.stem if recipes is None else f"{path.stem}-{recipes.resolve().name}"
        against, show = (_names(content.get(key, []), f"{path}: {key}") for key in ("against", "show"))
        return cls(name=name, seeds=seeds or tuple(given), cells=tuple(cells), against=against, show=show)


def words(options: Mapping[str, Any]) -> list[str]:
    """Fields as a command line has them.

    >>> words({"credit": "attempt", "stop_at_box": True, "betas": [1, 2]})
    ['--credit', 'attempt', '--stop_at_box', 'true', '--betas', '1', '2']
    """
    line = []
    for name, value in options.items():
        line.append(f"--{name}")
        line += [_word(each) for each in value] if isinstance(value, list) else [_word(value)]
    return line


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _cell(name: str, fields: Mapping[str, Any], recipe: str, common: Mapping[str, Any], recipes: Path | None) -> Cell:
    own = dict(fields)
    empty = sorted(key for key, value in {**common, **own}.items() if value is None)
    if empty:
        raise ValueError(f"cell {name!r}: {empty[0]} has no value; what has none is set in a recipe of its own")
    ours = {key: own.pop(key) for key in ("recipe", "train", "model_of", "tokens_of", "length") if key in own}
    named = ours.pop("recipe", recipe)
    if not isinstance(named, str):
        raise ValueError(f"cell {name!r}: recipe must name a recipe, got {named!r}")
    if recipes is not None:
        named = str(recipes.joinpath(*Path(named).parts[-2:]))
    return Cell(name=name, recipe=named, own=own, common=common, **ours)


def _combinations(grid: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: grid: {name} must be a list of values, got {values!r}")
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []


def _grid_name(own: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in own.items())


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no experiment {str(path)!r}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where} must be a list of names, got {value!r}")
    return tuple(value)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{where} must be names with values, got {value!r}")
    return dict(value or {})


def _check_keys(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; an experiment has {', '.join(known)}")

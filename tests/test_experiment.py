"""Experiments: what a file may say, what is run and what is not run again, and what a killed one leaves."""

import doctest
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from math import hypot
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from test_recipes import ROOT

from multiattempt_trl.cli import experiment_file, main, reproduce, reuse
from multiattempt_trl.cli.arguments import Settings
from multiattempt_trl.cli.experiment import run_cells
from multiattempt_trl.cli.experiment_cost import seconds_left
from multiattempt_trl.cli.experiment_file import Cell, Experiment
from multiattempt_trl.cli.experiment_plan import CellPlan, done_runs, plan_cells
from multiattempt_trl.cli.experiment_results import print_results, write_results
from multiattempt_trl.cli.experiment_shown import numbers
from multiattempt_trl.cli.reuse import local_files
from multiattempt_trl.cli.runs import Run, Runner
from multiattempt_trl.domains.sources import HubSource
from multiattempt_trl.evaluation.numbers.bootstrap import widening
from multiattempt_trl.evaluation.numbers.seeds import over_seeds_interval, student

EXPERIMENTS = sorted(ROOT.glob("recipes/experiments/*.yaml"))
RECIPE = yaml.safe_load((ROOT / "recipes/arithmetic/ppo/multi_attempt.yaml").read_text(encoding="utf-8"))

CHILD = """
import json, os, pathlib, sys, time
words = sys.argv[2:]
value = lambda name: words[words.index(name) + 1]
folder = pathlib.Path(value("--output_dir"))
with (folder.parent.parent / "calls.txt").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
if os.environ.get("FAIL") in words:
    sys.exit("the cat stood on the keyboard")
wait = os.environ.get("WAIT")
while wait and pathlib.Path(wait).exists():
    time.sleep(0.02)
if words[0] != "eval":
    logged = [{"step": 4 * n, "tokens/attempt_1": 6.0, "tokens/attempt_2": 5.0, "accuracy/within_1": 0.5,
               "accuracy/within_2": 0.75, "sampled_tokens_total": 160 * n, "episodes_total": 16 * n} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in logged))
(folder / "eval").mkdir(exist_ok=True)
(folder / "eval" / "summary.json").write_text(json.dumps({"average": {}}))
"""
"""Stands in for a training or an evaluation: writes down that it was called, and leaves what is read of it."""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    """The arithmetic recipe, with 16 dialogues in a rollout and two rollouts."""
    small = {"model_name_or_path": str(tiny_model), "per_device_train_batch_size": 4, "max_steps": 8, "save_steps": 4}
    small |= {"max_attempts": 2, "critic_warmup_steps": 0, "budget": 2, "eval_limit": 4, "independent": 2}
    path = tmp_path / "ppo" / "small.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(RECIPE | small | {"base_model": "none"}), encoding="utf-8")
    return path


@pytest.fixture
def child(tmp_path: Path) -> Runner:
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    return Runner(Console(stderr=True), [str(script)])


def written(tmp_path: Path, **content: Any) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def plans_of(path: Path) -> tuple[list[CellPlan], tuple[int, ...]]:
    experiment = Experiment.read(path)
    return plan_cells(experiment), experiment.seeds


def calls(output: Path) -> list[str]:
    path = output / "calls.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


CELLS: dict[str, Any] = {
    "two": {},
    "one": {"max_attempts": 1, "tokens_of": "two"},
    "after": {"model_of": "two", "max_attempts": 1},
    "start": {"train": False},
}


# --- what a file may say ---------------------------------------------------------------------------------------------


def test_the_recipes_are_visited() -> None:
    assert {path.stem for path in EXPERIMENTS} == {
        *("attempts", "budget_draw", "count", "credit", "degradation", "feedback", "first_attempts", "refinement")
    }


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_recipe_can_be_planned_and_says_how_to_run_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plans, seeds = plans_of(path)
    assert len(plans) >= 3
    assert len(seeds) >= 3
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"make experiment NAME={path.stem}\n" in header
    assert f"--config recipes/experiments/{path.name}" in header


def test_a_grid_is_every_combination_below_the_named_cells(tmp_path: Path, recipe: Path) -> None:
    grid = {"max_attempts": [1, 2], "credit": ["terminal", "improvement"]}
    path = written(tmp_path, recipe=str(recipe), seeds=[3], set={"budget": 1}, cells={"base": {}}, grid=grid)
    experiment = Experiment.read(path)
    assert [cell.name for cell in experiment.cells] == [
        "base",
        "max_attempts=1, credit=terminal",
        "max_attempts=1, credit=improvement",
        "max_attempts=2, credit=terminal",
        "max_attempts=2, credit=improvement",
    ]
    assert experiment.cells[2].options == {"budget": 1, "max_attempts": 1, "credit": "improvement"}
    assert Experiment.read(path, seeds=(7, 8)).seeds == (7, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seedz": [1]}, "unknown key 'seedz'; an experiment has recipe, seeds, set, cells, grid, against, show"),
        ({"seeds": [1, 1]}, "seeds must be distinct"),
        ({"seeds": "all"}, "seeds must be a list of integers, got 'all'"),
        ({"cells": {}}, "has no cell"),
        ({"cells": {"a/b": {}}}, "cell 'a/b': a name is a folder too"),
        ({"cells": {"a": {"max_atempts": 1}}}, "cell 'a': unknown field 'max_atempts'"),
        ({"cells": {"a": {"max_attempt": 1}}}, "cell 'a': unknown field 'max_attempt'"),  # argparse would guess
        ({"cells": {"a": {"max_attempts": 0}}}, "cell 'a': max_attempts must be at least 1, got 0"),
        ({"cells": {"a": {"credit": "none"}}}, "cell 'a': .*none"),
        ({"cells": {"a": {"seed": 1}}}, "cell 'a': 'seed' is not to be set"),
        ({"cells": {"a": {"value_clip": None}}}, "cell 'a': value_clip has no value"),
        ({"cells": {"a": {"tokens_of": "b"}, "b": {}}}, "cell 'a': tokens_of 'b' is no trained cell above it"),
        ({"cells": {"a": {}, "b": {"tokens_of": "a", "max_steps": 8}}}, "cell 'b': tokens_of decides the steps"),
        ({"cells": {"a": {"recipe": 3}}}, "cell 'a': recipe must name a recipe, got 3"),
        ({"cells": {"a": {"length": 0}}}, "cell 'a': length must be a share of its recipe's steps, above 0, got 0"),
        ({"cells": {"a": {"length": float("inf")}}}, "cell 'a': length must be .* got inf"),
        (
            {"cells": {"a": {}, "b": {"tokens_of": "a", "update_batch_size": 512}}},
            "cell 'b': an update takes 512 dialogues, which must divide those of a rollout, 16 x 1",
        ),
        (
            {"cells": {"a": {"use_peft": True}, "b": {"model_of": "a"}}},
            "cell 'b': model_of 'a' leaves an adapter, which no training can start from",
        ),
        ({"cells": {"a": {"length": "half"}}}, "cell 'a': length must be .* got 'half'"),
        ({"cells": {"a": {"length": 0.5, "max_steps": 4}}}, "cell 'a': length decides the steps, so leave out"),
        ({"cells": {"a": {}, "b": {"length": 0.5, "tokens_of": "a"}}}, "cell 'b': length decides the steps"),
        ({"cells": {"a": {"train": False, "credit": "terminal"}}}, "cell 'a': it trains nothing, and 'credit'"),
        ({"cells": {"a": {"domain": "nope"}}}, "cell 'a': domain 'nope' is unknown"),
        ({"cells": {"a": {"feedback": "hnit"}}}, "cell 'a': feedback 'hnit' is neither"),
        (
            {"cells": {"a": {}, "b": {"train": False, "model_of": "a", "feedback": "hnit"}}},
            "cell 'b': feedback 'hnit'",
        ),
        ({"cells": {"a": {"prompt_preset": "papr"}}}, "cell 'a': .*'papr'"),
        ({"cells": {"a": {"probes": "anounced"}}}, "cell 'a': probe 'anounced' is unknown"),
        ({"cells": {"a": {"benchmarks": "nope"}}}, "cell 'a': benchmark 'nope' is unknown"),
        ({"cells": {"a": {"benchmarks": "arithmetic,arithmetic"}}}, "cell 'a': benchmark 'arithmetic' is named twice"),
        ({"cells": {"a": {"domain": "maths", "benchmarks": "x=no.jsonl"}}}, "cell 'a': .*there is no file 'no.jsonl'"),
        ({"cells": {"a": {"independent": 1}}}, "cell 'a': pass@2 needs at least 2 independent samples, got 1"),
        ({"cells": {"a": {"eval_backend": "vllm"}}}, "cell 'a': eval_backend 'vllm' evaluates a saved model"),
        ({"cells": {"a": {"domain": "lists", "stop_at_box": True}}}, "cell 'a': stop_at_box ends an attempt"),
        ({"recipe": "no/where.yaml"}, "there is no recipe 'no/where.yaml'"),
        ({"show": "refinement"}, "show must be a list of names, got 'refinement'"),
        ({"against": ["b"]}, "against 'b': there is no such cell"),
        ({"grid": {"max_attempts": 3}}, "grid: max_attempts must be a list of values, got 3"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], message: str, tmp_path: Path, recipe: Path) -> None:
    content = {"recipe": str(recipe), "seeds": [0], "cells": {"a": {}}, **change}
    with pytest.raises(ValueError, match=message):
        plans_of(written(tmp_path, **content))


def test_what_may_stand_on_the_hub_is_not_asked_for(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HubSource, "rows", lambda *_: pytest.fail("the Hub was asked"))
    cells = {"a": {}, "b": {"benchmarks": "math500,own=some/set"}}
    written(tmp_path, recipe=str(recipe), cells=cells, set={"domain": "maths", "prompt_preset": "paper"})
    plan_cells(Experiment.read(tmp_path / "small.yaml"))


def test_an_evaluation_of_an_untrained_model_says_what_training_would(
    tmp_path: Path, recipe: Path, tiny_model: Path
) -> None:
    def command(**fields: Any) -> str:
        content = {"recipe": str(recipe), "cells": {"a": {"train": False}}, "set": fields}
        plans, _ = plans_of(written(tmp_path, **content))
        return " ".join(plans[0].run(0, tmp_path).command)

    assert "--feedback binary" in command()
    assert "max_remark_tokens" not in command()  # the defaults, as earlier versions left them out
    assert "eval_count" not in command()
    assert "--max_remark_tokens 7 " in command(max_remark_tokens=7)
    assert "--eval_count hidden " in command(count="hidden")
    # A model that was told otherwise in its own training is told the defaults.
    told = tmp_path / "told"
    shutil.copytree(tiny_model, told)
    Settings(count="hidden", max_remark_tokens=7).save(told)
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(tiny_model), str(told)), encoding="utf-8")
    assert "--max_remark_tokens 96 " in command()
    assert "--eval_count shown " in command()


# --- what is run -----------------------------------------------------------------------------------------------------


def test_cells_follow_from_each_other_and_are_run_once(tmp_path: Path, recipe: Path, child: Runner) -> None:
    plans, seeds = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0, 5], cells=CELLS))
    output = tmp_path / "out"
    assert done_runs(plans, seeds, output) == {}
    runs = run_cells(plans, seeds, output, child, 2)
    assert len(calls(output)) == 8
    # 320 tokens were sampled in two rollouts. A single attempt takes 6 and a rollout has 16 of them: 320 / 96 = 3.33,
    # so 3 rollouts of 4 steps.
    assert "--max_steps 12 " in " ".join(runs["one"][5].command)
    assert runs["after"][5].command[-6:-4] == ["--model_name_or_path", str(output / "seed5" / "two")]
    assert runs["start"][0].command[:3] == ["eval", "--budget", "2"]
    assert "--domain arithmetic" in " ".join(runs["start"][0].command)
    assert done_runs(plans, seeds, output).keys() == {(name, seed) for name in CELLS for seed in (0, 5)}
    run_cells(plans, seeds, output, child, 2)
    assert len(calls(output)) == 8
    (output / "seed5" / "one" / "eval" / "summary.json").unlink()
    run_cells(plans, seeds, output, child, 2)
    assert len(calls(output)) == 9


def test_a_dialogue_of_several_attempts_is_as_long_as_the_other_cell_tells(tmp_path: Path, recipe: Path) -> None:
    cells = {"two": {}, "three": {"max_attempts": 3, "tokens_of": "two"}}
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), cells=cells))
    logged = {"tokens/attempt_1": 6.0, "tokens/attempt_2": 5.0, "accuracy/within_1": 0.5, "accuracy/within_2": 0.75}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(logged | {"sampled_tokens_total": 1000}) + "\n")
    # N is 1, 2 or 3: 6 + 2/3 x 0.5 x 5 + 1/3 x 0.25 x 5 = 8.083 tokens; 1000 / (16 x 8.083) = 7.7, so 8 rollouts.
    assert plans[1].equal_steps(tmp_path) == 32
    fixed = {"two": {}, "three": {"max_attempts": 3, "budget_draw": "fixed", "tokens_of": "two"}}
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), cells=fixed))
    # 6 + 0.5 x 5 + 0.25 x 5 = 9.75; 1000 / 156 = 6.4, so 6 rollouts.
    assert plans[1].equal_steps(tmp_path) == 24


def test_a_share_of_the_recipes_length(tmp_path: Path, recipe: Path) -> None:
    """Whole rollouts of 4 steps where the recipe, which has 8 steps, counts steps; else a share of its epochs."""
    cells = {"half": {"length": 0.5}, "most": {"length": 0.7}, "hardly any": {"length": 0.01}, "twice": {"length": 2}}
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), cells=cells))
    assert [plan.schedule.steps for plan in plans] == [4, 4, 4, 16]
    assert "--max_steps 4 " in " ".join(plans[0].run(0, tmp_path).command)
    epochs = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"max_steps": -1, "num_train_epochs": 3}
    recipe.write_text(yaml.safe_dump(epochs), encoding="utf-8")
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), cells={"whole": {}, "half": {"length": 0.5}}))
    command = " ".join(plans[1].run(0, tmp_path).command)
    assert "--num_train_epochs 1.5 " in command
    assert "--max_steps" not in command
    assert plans[1].schedule.steps == plans[0].schedule.steps / 2


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_same_file_runs_the_recipes_of_another_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ours, theirs = (Experiment.read(path, recipes=folder) for folder in (None, Path("recipes/qwen2.5-math-1.5b")))
    assert theirs.name == f"{path.stem}-qwen2.5-math-1.5b"
    assert [cell.name for cell in theirs.cells] == [cell.name for cell in ours.cells]
    plans = plan_cells(theirs, processes=8)
    for plan, cell in zip(plans, ours.cells, strict=True):
        assert plan.cell.recipe == cell.recipe.replace("recipes/arithmetic", "recipes/qwen2.5-math-1.5b")
        assert plan.args.credit == cell.own.get("credit", "terminal")
        assert plan.args.feedback == cell.own.get("feedback", "binary")
        assert plan.args.budget_draw == cell.own.get("budget_draw", "uniform")
        assert plan.args.max_attempts == cell.own.get("max_attempts", 1 if "single" in cell.recipe else 5)
        assert plan.model_args.model_name_or_path == "Qwen/Qwen2.5-Math-1.5B"


def test_the_experiments_share_their_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with those that were run when the paper's credit stood in the recipe."""
    monkeypatch.chdir(ROOT)
    of_each = [plan_cells(Experiment.read(path)) for path in EXPERIMENTS]
    first = [plans[0].run(0, Path("out")).essence for plans in of_each]
    assert len(first) == 8
    paper = Cell(name="a", recipe="recipes/arithmetic/ppo/paper.yaml", common={"budget": 7, "base_model": "none"})
    before = CellPlan.of(paper, {}, 1, True).run(0, Path("out")).essence
    assert all(one == before for one in first)
    assert before["options"]["credit"] == ["terminal"]
    every = [plan for plans in of_each for plan in plans]
    single = [plan for plan in every if plan.cell.recipe.endswith("ppo/single_attempt.yaml") and plan.reference]
    assert len({json.dumps(plan.cell.options, sort_keys=True) for plan in single}) == 1
    assert {plan.args.credit for plan in single} == {"terminal"}


def test_recipes_that_are_not_there(tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, recipe="no/where/ppo/small.yaml", cells={"a": {}})
    assert Experiment.read(path, recipes=tmp_path).cells[0].recipe == str(recipe)
    with pytest.raises(ValueError, match=f"cell 'a': there is no recipe '{tmp_path}/other/ppo/small.yaml'"):
        Experiment.read(path, recipes=tmp_path / "other")
    with pytest.raises(SystemExit, match="2"):
        main(["experiment", "--config", str(path), "--recipes", str(recipe)])
    assert "recipes must be a folder with recipes in ppo/ and grpo/" in capsys.readouterr().err


def test_other_settings_are_refused_before_anything_runs(tmp_path: Path, recipe: Path, child: Runner) -> None:
    output = tmp_path / "out"
    plans, seeds = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0], cells={"a": {}, "b": {"beta": 0}}))
    run_cells(plans, seeds, output, child, 1)
    before = (output / "seed0" / "b" / "command.json").read_text()
    cells = {"new": {}, "a": {}, "b": {"learning_rate": 0.5}}
    plans, seeds = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0], cells=cells))
    with pytest.raises(ValueError, match=r"seed 0: b: .*seed0/b holds a run with other settings"):
        run_cells(plans, seeds, output, child, 1)
    assert len(calls(output)) == 2
    assert (output / "seed0" / "b" / "command.json").read_text() == before
    # So is a recipe of the same name that says something else, but not one with another comment.
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text("# again\n" + text, encoding="utf-8")
    plans, seeds = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0], cells={"a": {}, "b": {"beta": 0}}))
    assert len(done_runs(plans, seeds, output)) == 2
    recipe.write_text(text.replace("max_steps: 8", "max_steps: 12"), encoding="utf-8")
    with pytest.raises(ValueError, match="other settings"):
        done_runs(plans, seeds, output)


def test_a_failure_names_the_run_and_its_log_and_leaves_the_others(
    tmp_path: Path, recipe: Path, child: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {"bad": {"learning_rate": 0.125}, "after": {"model_of": "bad"}, "good": {}}
    plans, seeds = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0], cells=cells))
    output = tmp_path / "out"
    monkeypatch.setenv("FAIL", "0.125")
    message = r"^seed 0: bad failed with status 1; see .*seed0/bad/log.txt, which ends: the cat stood on the keyboard$"
    with pytest.raises(ValueError, match=message):
        run_cells(plans, seeds, output, child, 1)
    assert len(calls(output)) == 2  # the one that follows from it was not begun
    monkeypatch.delenv("FAIL")
    run_cells(plans, seeds, output, child, 1)
    assert len(calls(output)) == 4


def test_what_is_left_of_a_broken_run(tmp_path: Path, recipe: Path) -> None:
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0], cells={"a": {}}))
    run = plans[0].run(0, tmp_path)
    assert run.next_command() == run.command
    for step, whole in ((4, True), (8, False)):
        folder = run.folder / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 8}))
        for name in ("model.safetensors", "optimizer.pt"):
            (folder / name).write_text(str(step))
        if whole:
            (folder / "checkpoint.json").touch()
    assert run.next_command() == [*run.command, "--resume_from_checkpoint", "true"]
    (run.folder / "checkpoint-8" / "checkpoint.json").touch()
    last = run.next_command()
    assert last[0] == "eval"
    assert last[-2:] == ["--model", str(run.folder)]
    assert "--resume_from_checkpoint" not in last
    assert (run.folder / "model.safetensors").read_text() == "8"
    assert not (run.folder / "optimizer.pt").exists()


def test_the_time_that_is_left_follows_from_finished_runs(tmp_path: Path, recipe: Path) -> None:
    cells = {"a": {}, "b": {"max_steps": 16}, "c": {"train": False}}
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0, 1], cells=cells))
    a, b, c = plans
    run = a.run(0, tmp_path)
    assert seconds_left(plans, {("a", 0): run}, [a, b, b, c]) is None
    run.folder.mkdir(parents=True)
    (run.folder / "took.json").write_text('{"seconds": 30.0}')
    # b is twice as long as a: one a and two b are five times 30 s.
    assert seconds_left(plans, {("a", 0): run}, [a, b, b, c]) == pytest.approx(150)


@pytest.mark.parametrize("killed_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_experiment_goes_on(tmp_path: Path, recipe: Path, killed_by: signal.Signals) -> None:
    """SIGTERM ends the children too; after SIGKILL they go on, and whoever comes next waits for them."""
    written(tmp_path, recipe=str(recipe), seeds=[0], cells={"a": {}, "b": {"beta": 0}})
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    output, gate = tmp_path / "out", tmp_path / "gate"
    gate.touch()
    code = (
        "import sys; from pathlib import Path; from rich.console import Console;"
        "from multiattempt_trl.cli.experiment import run_cells;"
        "from multiattempt_trl.cli.experiment_plan import plan_cells;"
        "from multiattempt_trl.cli.experiment_file import Experiment; from multiattempt_trl.cli.runs import Runner;"
        f"root = Path({str(tmp_path)!r}); plans = plan_cells(Experiment.read(root / 'small.yaml'));"
        "run_cells(plans, (0,), root / 'out', Runner(Console(stderr=True), [str(root / 'child.py')]), 1)"
    )
    start = [sys.executable, "-c", code]
    environment = os.environ | {"WAIT": str(gate)}
    first = subprocess.Popen(start, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    _until(lambda: len(calls(output)) == 1)
    first.send_signal(killed_by)
    first.wait(timeout=30)
    second = subprocess.Popen(start, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if killed_by is signal.SIGTERM:
        _until(lambda: len(calls(output)) == 2)
    assert second.stderr is not None
    line = second.stderr.readline()
    while "seed 0: a" not in line:
        line = second.stderr.readline()
    assert ("waiting for it" in line) == (killed_by is signal.SIGKILL)
    gate.unlink()
    second.communicate(timeout=60)
    assert second.returncode == 0
    # a (again after SIGTERM), and b.
    assert len(calls(output)) == (3 if killed_by is signal.SIGTERM else 2)


def _until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


# --- what another experiment has done --------------------------------------------------------------------------------


def planned_as(tmp_path: Path, name: str, cells: dict[str, Any], recipe: Path) -> tuple[list[CellPlan], Path]:
    """An experiment of that name with seed 0, and its folder beside the others."""
    plans, _ = plans_of(written(tmp_path, recipe=str(recipe), seeds=[0], cells=cells))
    return plans, tmp_path / "experiments" / name


def test_a_run_that_another_experiment_has_finished_is_linked(tmp_path: Path, recipe: Path, child: Runner) -> None:
    plans, first = planned_as(tmp_path, "first", CELLS, recipe)
    run_cells(plans, (0,), first, child, 1)
    # The same under other names, with a run that follows from two of them and is new.
    again = {"zwei": {}, "eins": {"max_attempts": 1, "tokens_of": "zwei"}, "nach": {"model_of": "zwei"}}
    again["nach"] |= {"max_attempts": 1}
    again |= {"hidden": {"train": False, "model_of": "zwei", "eval_count": "hidden"}, "start": {"train": False}}
    plans, second = planned_as(tmp_path, "second", again, recipe)
    assert done_runs(plans, (0,), second).keys() == {("zwei", 0), ("eins", 0), ("nach", 0)}
    assert not second.exists()
    runs = run_cells(plans, (0,), second, child, 2)
    assert len(calls(first)) == 4
    (new,) = calls(second)
    assert new.startswith("eval ")
    assert f"--model {second}/seed0/zwei " in new
    links = {name: str((second / "seed0" / name).readlink()) for name in ("zwei", "eins", "nach", "start")}
    assert links == {name: f"../../first/seed0/{to}" for name, to in zip(links, CELLS, strict=True)}
    assert done_runs(plans, (0,), second).keys() == {(name, 0) for name in again}
    assert runs["nach"][0].is_done()
    assert runs["nach"][0].seconds() is not None
    # A third finds what the second has linked and what it ran, and links to where it really is.
    plans, third = planned_as(tmp_path, "third", {"a": {}, "b": again["hidden"] | {"model_of": "a"}}, recipe)
    run_cells(plans, (0,), third, child, 1)
    assert calls(third) == []
    assert str((third / "seed0" / "a").readlink()) == "../../first/seed0/two"
    assert str((third / "seed0" / "b").readlink()) == "../../second/seed0/hidden"


def test_nothing_but_a_finished_run_with_the_same_settings_is_linked(
    tmp_path: Path, recipe: Path, child: Runner
) -> None:
    plans, first = planned_as(
        tmp_path, "first", {"two": {}, "after": {"model_of": "two"}, "open": {"beta": 0}}, recipe
    )
    run_cells(plans, (0,), first, child, 1)
    (first / "seed0" / "open" / "eval" / "summary.json").unlink()
    (tmp_path / "experiments" / "broken" / "seed0" / "two").mkdir(parents=True)
    (tmp_path / "experiments" / "broken" / "seed0" / "two" / "command.json").write_text("[")
    cells = {
        "other": {"learning_rate": 0.5},
        "after other": {"model_of": "other"},  # of the same command but for the path of a model that is another one
        "open": {"beta": 0},
    }
    plans, second = planned_as(tmp_path, "second", cells, recipe)
    run_cells(plans, (0,), second, child, 1)
    assert len(calls(second)) == 3
    assert not any(path.is_symlink() for path in (second / "seed0").iterdir())
    # Another seed is another run.
    plans, third = planned_as(tmp_path, "third", {"two": {}}, recipe)
    run_cells(plans, (1,), third, child, 1)
    assert len(calls(third)) == 1
    # And so is what another recipe of the same name said.
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("max_steps: 8", "max_steps: 12"), encoding="utf-8")
    plans, fourth = planned_as(tmp_path, "fourth", {"two": {}}, recipe)
    run_cells(plans, (0,), fourth, child, 1)
    assert len(calls(fourth)) == 1


def test_a_link_that_leads_nowhere_or_elsewhere(tmp_path: Path, recipe: Path, child: Runner) -> None:
    plans, first = planned_as(tmp_path, "first", {"two": {}}, recipe)
    run_cells(plans, (0,), first, child, 1)
    plans, second = planned_as(tmp_path, "second", {"two": {}}, recipe)
    run_cells(plans, (0,), second, child, 1)
    (first / "seed0").rename(first / "seed9")
    assert done_runs(plans, (0,), second) == {}
    run_cells(plans, (0,), second, child, 1)
    assert len(calls(second)) == 1
    assert not (second / "seed0" / "two").is_symlink()
    # What it leads to is now another run, and stays as it is.
    plans, first = planned_as(tmp_path, "first", {"two": {"beta": 0}}, recipe)
    run_cells(plans, (0,), first, child, 1)
    shutil.rmtree(second)
    plans, third = planned_as(tmp_path, "third", {"two": {}}, recipe)
    (third / "seed0").mkdir(parents=True)
    (third / "seed0" / "two").symlink_to("../../first/seed0/two")
    before = left_in(first)
    run_cells(plans, (0,), third, child, 1)
    assert len(calls(third)) == 1
    assert not (third / "seed0" / "two").is_symlink()
    assert left_in(first) == before


def test_nothing_is_written_through_a_link(
    tmp_path: Path, recipe: Path, child: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {"two": {}, "after": {"model_of": "two"}}
    plans, first = planned_as(tmp_path, "first", cells, recipe)
    run_cells(plans, (0,), first, child, 1)
    again, second = planned_as(tmp_path, "second", {"zwei": {}, "nach": {"model_of": "zwei"}}, recipe)
    run_cells(again, (0,), second, child, 1)
    assert calls(second) == []
    # What one link leads to is evaluated again, what the other leads to is only begun.
    (first / "seed0" / "after" / "eval" / "summary.json").unlink()
    shutil.rmtree(first / "seed0" / "two")
    (first / "seed0" / "two").mkdir()
    (first / "seed0" / "two" / "log.txt").touch()
    before = left_in(first)
    capsys.readouterr()
    run_cells(again, (0,), second, child, 1)
    said = " ".join(capsys.readouterr().err.split())
    assert "seed0/nach led to ../../first/seed0/after, where no such run is finished: link removed" in said
    assert left_in(first) == before
    assert len(calls(second)) == 2
    assert not any(path.is_symlink() for path in (second / "seed0").iterdir())


def test_a_link_that_somebody_else_has_removed(
    tmp_path: Path, recipe: Path, child: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, output = planned_as(tmp_path, "first", {"two": {}}, recipe)
    (output / "seed0").mkdir(parents=True)
    (output / "seed0" / "two").symlink_to("../../gone/seed0/two")
    say = Runner._say

    def a_moment_later(runner: Runner, line: str) -> None:
        if "link removed" in line:
            (output / "seed0" / "two").unlink()
        say(runner, line)

    monkeypatch.setattr(Runner, "_say", a_moment_later)
    run_cells(plans, (0,), output, child, 1)
    assert len(calls(output)) == 1


def test_a_folder_in_which_nothing_was_begun_becomes_a_link(tmp_path: Path, recipe: Path, child: Runner) -> None:
    plans, first = planned_as(tmp_path, "first", {"two": {}}, recipe)
    run_cells(plans, (0,), first, child, 1)
    plans, second = planned_as(tmp_path, "second", {"never": {}, "kept": {}}, recipe)
    for name in ("never", "kept"):
        (second / "seed0" / name).mkdir(parents=True)
        for file in ("log.txt", "command.json", ".lock"):
            (second / "seed0" / name / file).touch()
    (second / "seed0" / "kept" / "notes.txt").touch()
    run_cells(plans, (0,), second, child, 1)
    assert str((second / "seed0" / "never").readlink()) == "../../first/seed0/two"
    assert len(calls(second)) == 1
    assert (second / "seed0" / "kept" / "notes.txt").is_file()


def left_in(folder: Path) -> dict[str, float]:
    """Everything below, with the time it was written."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


# --- which runs are the same -----------------------------------------------------------------------------------------


def test_the_examples_hold() -> None:
    assert doctest.testmod(reuse) == doctest.TestResults(failed=0, attempted=4)
    assert doctest.testmod(experiment_file) == doctest.TestResults(failed=0, attempted=1)


def test_what_a_run_started_from_is_remembered(tmp_path: Path, recipe: Path, child: Runner) -> None:
    cells = {"two": {}, "after": {"model_of": "two"}, "seen": {"train": False, "model_of": "two"}}
    plans, first = planned_as(tmp_path, "first", cells, recipe)
    run_cells(plans, (0,), first, child, 1)
    told = json.loads((first / "seed0" / "seen" / "command.json").read_text())
    assert told["start"] == plans[0].run(0, first).essence
    assert json.loads((first / "seed0" / "two" / "command.json").read_text())["start"] is None
    # `two` is another one now, under the same path.
    shutil.rmtree(first / "seed0" / "two")
    plans, first = planned_as(tmp_path, "first", cells | {"two": {"learning_rate": 0.5}}, recipe)
    with pytest.raises(ValueError, match="seed0/after holds a run with other settings") as refused:
        run_cells(plans, (0,), first, child, 1)
    assert "seed0/seen holds a run with other settings" in str(refused.value)
    assert len(calls(first)) == 4
    other = {"base": {"learning_rate": 0.5}, "x": {"model_of": "base"}}
    plans, second = planned_as(tmp_path, "second", other, recipe)
    run_cells(plans, (0,), second, child, 1)
    assert [call.split("--output_dir ")[1] for call in calls(second)] == [str(second / "seed0" / "x")]


def test_a_run_that_tells_no_start_stays_valid_where_it_had_none(tmp_path: Path, recipe: Path, child: Runner) -> None:
    """As earlier versions have left it."""
    cells = {"two": {}, "start": {"train": False}, "after": {"model_of": "two"}}
    plans, output = planned_as(tmp_path, "first", cells, recipe)
    run_cells(plans, (0,), output, child, 1)
    for name in cells:
        path = output / "seed0" / name / "command.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({"command": told["command"], "recipe": told["recipe"]}))
    assert all(plan.run(0, output).is_done() for plan in plans[:2])
    with pytest.raises(ValueError, match=r"after: .*other settings"):
        plans[2].run(0, output).is_done()


def test_a_field_is_the_same_wherever_it_is_said(tmp_path: Path, recipe: Path, child: Runner) -> None:
    plans, first = planned_as(tmp_path, "first", {"two": {"credit": "own", "lam": 0.9}}, recipe)
    run_cells(plans, (0,), first, child, 1)
    plans, _ = planned_as(tmp_path, "first", {"two": {"lam": 0.9, "credit": "own"}}, recipe)
    assert plans[0].run(0, first).is_done()
    # What the recipe says anyway, and in the recipe what was a field.
    plans, _ = planned_as(tmp_path, "first", {"two": {"lam": 0.9, "credit": "own", "max_attempts": 2}}, recipe)
    assert plans[0].run(0, first).is_done()
    said = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"lam": 0.9}
    recipe.write_text(yaml.safe_dump(said), encoding="utf-8")
    plans, second = planned_as(tmp_path, "second", {"two": {"credit": "own"}}, recipe)
    run_cells(plans, (0,), second, child, 1)
    assert calls(second) == []
    plans, third = planned_as(tmp_path, "third", {"two": {"lam": 0.9, "credit": "terminal"}}, recipe)
    run_cells(plans, (0,), third, child, 1)
    assert len(calls(third)) == 1


def test_processes_that_train_together_make_another_run(tmp_path: Path, recipe: Path, child: Runner) -> None:
    cells = {"two": {}, "start": {"train": False}}
    plans, first = planned_as(tmp_path, "first", cells, recipe)
    run_cells(plans, (0,), first, child, 1)
    assert "processes" not in json.loads((first / "seed0" / "two" / "command.json").read_text())
    plans = plan_cells(Experiment.read(tmp_path / "small.yaml"), 2)
    run_cells(plans, (0,), tmp_path / "experiments" / "second", child, 1)
    (call,) = calls(tmp_path / "experiments" / "second")  # an evaluation is shared out, and the same
    assert call.startswith("ppo ")
    with pytest.raises(ValueError, match=r"two: .*other settings"):
        plans[0].run(0, first).is_done()


@pytest.mark.parametrize("name", ["dataset_name", "benchmarks", "chat_template", "domain"])
def test_what_stands_in_a_file_that_is_named_decides_too(name: str, tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from multiattempt_trl.domains.arithmetic import DOMAIN\n")
    value = f"arithmetic,mine={file}" if name == "benchmarks" else str(file)
    command = ["ppo", "--config", str(recipe), f"--{name}", value]
    run = Run(label="a", folder=tmp_path / "a", command=command, evaluation=[])
    assert list(run.identity["files"]) == [str(file)]
    before = run.essence
    assert run.essence == before
    file.write_text("from multiattempt_trl.domains.lists import DOMAIN\n")
    assert run.essence != before
    assert "files" not in Run(label="a", folder=tmp_path, command=command[:3], evaluation=[]).identity


def test_a_saved_set_is_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "data.arrow").write_text("1")
    identity = {"command": ["ppo", "--dataset_name", f"{tmp_path}/set:train"], "recipe": None}
    before = local_files(identity)
    assert list(before) == [f"{tmp_path}/set"]
    (tmp_path / "set" / "train" / "data.arrow").write_text("2")
    assert local_files(identity) != before


def test_reproduce_makes_its_own_runs(
    tmp_path: Path, recipe: Path, child: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, first = planned_as(tmp_path, "first", {"two": {}}, recipe)
    run_cells(plans, (0,), first, child, 1)
    alone = plan_cells(Experiment.read(tmp_path / "small.yaml"), reuse=False)
    second = tmp_path / "experiments" / "second"
    assert done_runs(alone, (0,), second) == {}
    run_cells(alone, (0,), second, child, 1)
    assert len(calls(second)) == 1
    monkeypatch.chdir(ROOT)
    given: list[CellPlan] = []

    def stop(plans: list[CellPlan], *_: Any) -> None:
        given.extend(plans)
        raise ValueError("enough")

    monkeypatch.setattr(reproduce, "run_cells", stop)
    for algorithm in ("ppo", "grpo"):
        with pytest.raises(ValueError, match="enough"):
            reproduce.main(["--output_dir", str(tmp_path / "out"), "--algorithm", algorithm])
    assert [plan.reuse for plan in given] == [False] * 6
    assert {plan.args.credit for plan in given} == {"terminal"}
    assert [plan.cell.algorithm for plan in given] == ["ppo"] * 3 + ["grpo"] * 3


def test_a_run_made_elsewhere_is_known_by_its_command(tmp_path: Path, recipe: Path, child: Runner) -> None:
    """Experiments may have been moved since they ran, and name their folders as they were."""
    plans, first = planned_as(tmp_path, "first", {"two": {}, "after": {"model_of": "two"}}, recipe)
    run_cells(plans, (0,), first, child, 1)
    first.rename(tmp_path / "experiments" / "moved")
    plans, second = planned_as(tmp_path, "second", {"base": {}, "next": {"model_of": "base"}}, recipe)
    run_cells(plans, (0,), second, child, 1)
    assert calls(second) == []
    assert str((second / "seed0" / "next").readlink()) == "../../moved/seed0/after"


# --- what comes of it ------------------------------------------------------------------------------------------------


def test_the_interval_over_seeds_is_students() -> None:
    # 0.4, 0.5, 0.6: s = 0.1, 4.303 x 0.1 / sqrt(3) = 0.2484.
    told = over_seeds_interval([0.4, 0.5, 0.6])
    assert told.mean == pytest.approx(0.5)
    assert told.ci95 == pytest.approx((0.2516, 0.7484), abs=1e-4)
    assert over_seeds_interval([0.3]).ci95 is None
    # Tables: 2.131 at 15 degrees of freedom, 2.042 at 30.
    assert (student(15), student(30)) == pytest.approx((2.131, 2.042), abs=6e-4)
    with pytest.raises(ValueError, match="at least one degree"):
        student(0)


def test_a_small_experiment_from_beginning_to_end(
    tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real commands: a training with its evaluation, and the evaluation of the model that it starts from."""
    cells = {"two": {}, "start": {"train": False}}
    path, output = written(tmp_path, recipe=str(recipe), seeds=[0], cells=cells), tmp_path / "out"
    command = ["experiment", "--config", str(path), "--output_dir", str(output), "--jobs", "1"]
    main([*command, "--dry_run", "true"])
    assert not output.exists()
    assert "2 of 2 runs are left; in training 8 steps, 32 dialogues" in " ".join(capsys.readouterr().err.split())
    main(command)
    shown = capsys.readouterr()
    assert "seed 0: two ..." in shown.err
    assert "solved, %, mean of 1 seed" in shown.out
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert list(results["cells"]) == ["two", "start"]
    assert list(results["differences"]) == ["two"]
    assert results["cells"]["two"]["sampled_tokens"]["0"] > 0
    assert results["cells"]["start"]["sampled_tokens"]["0"] is None
    assert set(results["differences"]["two"]["start"]["over_seeds"]) == {"1", "2"}
    assert results["differences"]["two"]["start"]["over_questions"]["2"]["questions"] == 4
    assert (output / "accuracy_by_attempt.png").is_file()
    main(command)
    assert "seed 0: two is done already" in capsys.readouterr().err


def test_numbers_over_seeds(tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, recipe=str(recipe), seeds=[0, 1], cells={"a": {}, "b": {}}, against=["a", "b"])
    plans, seeds = plans_of(path)
    accuracy = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.3, ("b", 1): 0.7}
    monkeypatch.setattr(Run, "block", lambda run: {"accuracy": {"1": accuracy[run.folder.name, run.command_seed]}})
    monkeypatch.setattr(Run, "command_seed", property(lambda run: int(run.folder.parent.name[4:])), raising=False)
    shares = {"a": {"q": 0.0, "r": 0.2}, "b": {"q": 0.2, "r": 1.0}}
    monkeypatch.setattr(
        "multiattempt_trl.cli.experiment_results._shares",
        lambda runs: {"1": {"set": shares[runs[0].folder.name]}},
    )
    runs = [(plan, {seed: plan.run(seed, tmp_path) for seed in seeds}) for plan in plans]
    results = write_results(Experiment.read(path), runs, tmp_path)
    assert {reference: list(of) for reference, of in results["differences"].items()} == {"a": ["b"], "b": ["a"]}
    assert results["differences"]["b"]["a"]["over_seeds"]["1"]["mean"] == pytest.approx(-0.2)
    difference = results["differences"]["a"]["b"]["over_seeds"]["1"]
    assert difference["seeds"] == pytest.approx({"0": 0.1, "1": 0.3})
    assert difference["mean"] == pytest.approx(0.2)
    # s = 0.1414, 12.706 x 0.1414 / sqrt(2) = 1.2706.
    assert difference["ci95"] == pytest.approx((0.2 - 1.2706, 0.2 + 1.2706))
    assert results["differences"]["a"]["b"]["over_questions"]["1"]["mean"] == pytest.approx(0.5)
    # Over questions q +0.2 and r +0.8: of two draws both are q in a quarter, so that the limits are the extremes, 0.3
    # from the mean, times the widening of two values. With the seeds: 1.2706^2 + (0.3 w)^2.
    half = hypot(1.2706, 0.3 * widening(2))
    assert results["differences"]["a"]["b"]["over_both"]["1"] == pytest.approx((0.2 - half, 0.2 + half), abs=1e-4)
    console = Console(record=True, width=100)
    print_results(results, console)
    text = console.export_text()
    assert "50.0 ±254.1" in text
    assert "+20.0 ±127.1" in text
    assert "-20.0 ±127.1" in text


def test_only_finite_numbers_of_the_log_are_shown(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "block", lambda _: {})
    run = plans_of(written(tmp_path, recipe=str(recipe), cells={"a": {}}))[0][0].run(0, tmp_path)
    run.folder.mkdir(parents=True)
    logged = (9.0, 9.0, 9.0, 9.0, 1.0, float("nan"), float("inf"), 3.0)
    values = [{"some": value, "none": float("nan")} for value in logged]
    lines = [json.dumps({"sampled_tokens_total": 1} | value) for value in values]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines))
    assert numbers(run, ["some", "none"]) == {"some": 2.0}


def test_numbers_that_the_file_asks_for(tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show = ["refinement.shares", "announced.1", "mean_tokens", "advantage/std", "no_such_key"]
    path = written(tmp_path, recipe=str(recipe), seeds=[0, 1], cells={"a": {}, "b": {}}, show=show)
    plans, seeds = plans_of(path)
    assert Experiment.read(path).show == tuple(show)
    chance = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.3, ("b", 1): 0.7}

    def block(run: Run) -> Any:
        shares = {"refined": 0.5, "chance": chance[run.folder.name, int(run.folder.parent.name[4:])]}
        refinement = {"n": 7, "shares": shares, "ci95": {"chance": [0.1, 0.2]}}
        return {
            "accuracy": {"1": 0.5},
            "refinement": refinement,
            "announced": {"1": 0.1, "10": 0.9},
            "mean_tokens": 12,
        }

    monkeypatch.setattr(Run, "block", block)
    monkeypatch.setattr("multiattempt_trl.cli.experiment_results._shares", lambda _: {"1": {"set": {"q": 0.5}}})
    runs = [(plan, {seed: plan.run(seed, tmp_path) for seed in seeds}) for plan in plans]
    for seed in seeds:  # of a alone; the second half of four rollouts are the last two
        runs[0][1][seed].folder.mkdir(parents=True)
        lines = [{"sampled_tokens_total": n, "advantage/std": 9.0 if n < 2 else n + seed} for n in range(4)]
        (runs[0][1][seed].folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = write_results(Experiment.read(path), runs, tmp_path)
    a, b = (results["cells"][name]["shown"] for name in "ab")
    assert list(b) == ["refinement.shares.refined", "refinement.shares.chance", "announced.1", "mean_tokens"]
    assert list(a) == [*b, "advantage/std"]
    assert a["advantage/std"]["seeds"] == {"0": 2.5, "1": 3.5}
    assert b["refinement.shares.chance"]["mean"] == pytest.approx(0.5)
    difference = results["differences"]["a"]["b"]["shown"]["refinement.shares.chance"]
    assert difference["seeds"] == pytest.approx({"0": 0.1, "1": 0.3})
    assert difference["ci95"] == pytest.approx((0.2 - 1.2706, 0.2 + 1.2706))
    assert json.loads((tmp_path / "results.json").read_text())["cells"]["a"]["shown"] == json.loads(json.dumps(a))
    console = Console(record=True, width=100)
    print_results(results, console)
    text = console.export_text()
    assert "3.000 ±6.353" in text
    assert "+0.200 ±1.271" in text
    assert "12.0 ±0.0" in text
    assert "No cell has a number 'no_such_key' for every seed." in text


def test_the_table_has_room_for_names_in_a_terminal_of_80_characters() -> None:
    number = {"mean": 0.5, "ci95": [0.376, 0.624]}
    curve = {str(k): number for k in range(1, 8)}
    cell = {"accuracy": curve, "sampled_tokens": {"0": 370_136, "1": 369_900}, "shown": {}}
    results = {
        "experiment": "wide",
        "seeds": [0, 1],
        "show": [],
        "cells": {"own, half single": cell, "terminal": cell},
        "differences": {"terminal": {"own, half single": {"over_seeds": curve, "shown": {}}}},
    }
    console = Console(record=True, width=80)
    print_results(results, console)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["within", "k", "=", "1", "2", "3", "7", "tokens"] in lines
    assert ["own,", "half", "single", *["50.0", "±12.4"] * 4, "370k"] in lines
    assert ["-", "terminal", *["+50.0", "±12.4"] * 4] in lines

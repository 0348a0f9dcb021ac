"""The documents against what is so: every logged key and written file has its line, every name exists."""

import json
import re
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from training_arguments import arguments, grade_by_length, train_set
from trl.trainer import grpo_trainer

from multiattempt_trl.cli import main
from multiattempt_trl.cli.reproduce import ARMS
from multiattempt_trl.dialogue.episode import Question, Verdict
from multiattempt_trl.domains import get_domain
from multiattempt_trl.domains.arithmetic import PRESET
from multiattempt_trl.graders.math_verify import MathVerifyGrader
from multiattempt_trl.training.configs import MultiAttemptGRPOConfig, MultiAttemptPPOConfig
from multiattempt_trl.training.grpo_trainer import MultiAttemptGRPOTrainer
from multiattempt_trl.training.ppo_trainer import MultiAttemptPPOTrainer

ROOT = Path(__file__).resolve().parent.parent
METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
OPTIONAL, EVALUATION, FILES = "Only with an option", "Evaluation while training", "Files of a run"


def sections(text: str, level: int) -> dict[str, str]:
    """Headings of this level and what stands below each."""
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[str]:
    """The first cell of every table row that begins with a name in backticks."""
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


class Counted(MathVerifyGrader):
    """The maths grader at work, with verdicts that an untrained model can earn."""

    def submit(self, question: Question, response: str) -> Future[Verdict]:
        super().submit(question, response).result()
        verdict: Future[Verdict] = Future()
        verdict.set_result(grade_by_length(question, response))
        return verdict


WATCHED = [key for key in rows(METRICS) if "<set>" in key]
"""What only `watch` logs, which tests/test_eval_callback.py holds against what it does."""
KEYS = {
    heading: [key for key in rows(text) if key not in WATCHED]
    for heading, text in sections(METRICS, 2).items()
    if heading != FILES
}
FIELDS = sections(sections(METRICS, 2)[FILES], 3)


def general(key: str) -> str:
    return re.sub(r"_\d+$", "_k", key)


# --- keys ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every key that a PPO and a GRPO training log in one rollout and one evaluation, the latter without barriers."""
    options: dict[str, Any] = {"max_attempts": 3, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    options |= {"per_device_eval_batch_size": 4}
    found: set[str] = set()
    for config, trainer_class, samples in (
        (MultiAttemptPPOConfig, MultiAttemptPPOTrainer, 1),
        (MultiAttemptGRPOConfig, MultiAttemptGRPOTrainer, 4),
    ):
        given = options | {"num_generations": samples, "use_transformers_continuous_batching": samples > 1}
        args = config(**arguments(tmp_path_factory.mktemp("documents"), **given))
        with Counted() as grade:
            trainer = trainer_class(
                str(tiny_model), args, train_set(), grade, preset=PRESET, eval_dataset=train_set(8)
            )
            trainer.train()
        found |= {general(key) for entry in trainer.state.log_history for key in entry}
    return found


def test_every_logged_key_has_a_line(logged: set[str]) -> None:
    known = {key for keys in KEYS.values() for key in keys}
    assert len(logged) >= 80
    assert {key for key in logged if key not in known and key.removeprefix("eval_") not in known} == set()


def test_every_line_is_of_a_logged_key(logged: set[str]) -> None:
    always = {key for heading, keys in KEYS.items() if heading != OPTIONAL for key in keys}
    assert len(always) >= 50
    assert always - logged == set()


def test_keys_that_need_an_option_are_trls() -> None:
    source = Path(grpo_trainer.__file__).read_text(encoding="utf-8")
    assert [key for key in KEYS[OPTIONAL] if f'["{key}"].append' not in source] == []


def test_evaluation_repeats_the_keys_that_the_page_says(logged: set[str]) -> None:
    again = {key.removeprefix("eval_") for key in logged if key.startswith("eval_")} - {
        key.removeprefix("eval_") for key in KEYS[EVALUATION]
    }
    not_again = {key for heading in KEYS if heading not in (OPTIONAL, EVALUATION) for key in KEYS[heading]} - again
    update = {"value/loss", "value/clip_fraction", "value/learning_rate", "value/grad_norm"}
    policy_update = {"grad_norm", "learning_rate"}
    totals = {"sampled_tokens_total", "episodes_total"}
    drift = {"sampling/drift_mean", "sampling/drift_max"}
    of_training_alone = {*KEYS["Alarms"], *KEYS["Of the Trainer"]}
    assert not_again == update | policy_update | totals | drift | of_training_alone


def test_no_key_has_two_lines() -> None:
    keys = [key for each in KEYS.values() for key in each]
    assert len(keys) == len(set(keys))


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `multiattempt ppo` leaves, from the recipe of `make train` made small."""
    output = tmp_path_factory.mktemp("run") / "ppo"
    small = {"max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 4, "max_attempts": 3}
    small |= {"budget": 2, "eval_limit": 4, "probes": "all", "use_cpu": "true", "disable_tqdm": "true"}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    recipe = str(ROOT / "recipes/arithmetic/ppo/multi_attempt.yaml")
    main(["ppo", "--config", recipe, "--model_name_or_path", str(tiny_model), "--output_dir", str(output), *options])
    return output


def test_every_file_of_a_run_has_a_line_and_every_line_a_file(folder: Path) -> None:
    table = set(rows(sections(METRICS, 2)[FILES].split("\n### ")[0]))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = {re.sub(r"^checkpoint-\d+/", "checkpoint-N/", name) for name in names}
    # A checkpoint holds the model's files again: the table says so once, in the line of its folder.
    listed = {f"checkpoint-N/{name}" for name in table} | table
    assert {name for name in names if name not in listed} == set()
    assert "checkpoint-N/model.safetensors" in names
    assert {name for name in table if name != "checkpoint-N/"} - names == set()


def fields(value: Any) -> Iterable[str]:
    """The field names in a JSON value."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)


def test_fields_of_the_summary(folder: Path) -> None:
    summary = json.loads((folder / "eval" / "summary.json").read_text(encoding="utf-8"))
    data = {*summary["versions"], *summary["benchmarks"], *summary["average"]["accuracy"]}  # names, not fields
    assert data >= {"trl", "arithmetic", "1", "2"}
    block = rows(sections((ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8"), 2)["What the numbers mean"])
    assert len(block) >= 20
    probed = {"abandoned", "share"}  # only where a first answer was right, which an untrained model may not give
    assert set(fields(summary)) - data - probed == {*rows(FIELDS["eval/summary.json"]), *block} - probed


def test_fields_of_an_episode(folder: Path) -> None:
    lines = (folder / "eval" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["run"] for line in lines} >= {"main", "independent", "base", "announced_1"}
    styles = set(get_domain("arithmetic").feedback_styles)  # names, not fields
    assert styles == {"hint"}
    for line in lines:
        assert set(fields(json.loads(line))) - styles == set(rows(FIELDS["eval/episodes.jsonl"]))


def test_fields_of_the_settings(folder: Path) -> None:
    settings = json.loads((folder / "multi_attempt.json").read_text(encoding="utf-8"))
    assert list(settings) == rows(FIELDS["multi_attempt.json"])


def test_metrics_file_has_the_documented_keys(folder: Path) -> None:
    known = {key for keys in KEYS.values() for key in keys}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [4, 4]  # one rollout, and the end of training
    assert {general(key) for line in lines for key in line} - known == set()


def test_arms_of_reproduce() -> None:
    assert rows(FIELDS["outputs/reproduce"]) == [*ARMS, "sampled_tokens", "algorithm"]


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_name_in_a_document_exists(document: Path) -> None:
    """`training/advantages.py::gae` and `test_losses.py::test_masked_mean`, the file in the package or in tests/."""
    text = document.read_text(encoding="utf-8")
    missing = []
    for file, name in re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text):
        places = [folder / file for folder in (ROOT, ROOT / "multiattempt_trl", ROOT / "tests")]
        path = next((place for place in places if place.is_file()), None)
        defined = rf"^\s*(?:def|class) {name}\b|^\s*{name}\b *(?::|=)"
        if path is None or (name and not re.search(defined, path.read_text(encoding="utf-8"), re.MULTILINE)):
            missing.append(f"{file}::{name}" if name else file)
    assert missing == []


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.stem)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def test_every_documented_name_was_looked_at() -> None:
    names = [name for path in DOCUMENTS for name in re.findall(r"`[\w/]+\.py::\w+`", path.read_text(encoding="utf-8"))]
    assert {path.stem for path in DOCUMENTS} == {
        *("algorithm", "code", "design", "evaluation", "experiments", "gpu", "grading", "metrics", "plan", "rollout"),
        "your_own_task",
    }
    assert len(names) >= 60


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*##", makefile, flags=re.MULTILINE)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(targets) >= 8
    assert [target for target in targets if not re.search(rf"make {target}\b", text)] == []

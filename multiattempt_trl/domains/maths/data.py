"""Where questions with answers come from, a local file or the Hub, and which of them are trained on."""

from dataclasses import replace
from pathlib import Path

from multiattempt_trl.dialogue.episode import Question
from multiattempt_trl.domains import ALL_BUT_BENCHMARK_ROWS, TrainRows
from multiattempt_trl.domains.maths.fresh import NAME as FRESH
from multiattempt_trl.domains.maths.fresh import fresh_arithmetic
from multiattempt_trl.domains.maths.rows import to_questions
from multiattempt_trl.domains.sources import (
    SUFFIXES,
    HubSource,
    Place,
    no_place,
    read_rows,
    training_questions,
)

BENCHMARKS: dict[str, HubSource] = {
    "aime24": HubSource(path="HuggingFaceH4/aime_2024", split="train"),
    "amc23": HubSource(path="math-ai/amc23", split="test"),
    "math500": HubSource(path="HuggingFaceH4/MATH-500", split="test"),
    "minerva": HubSource(path="math-ai/minervamath", split="test"),
    "olympiadbench": HubSource(path="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train"),
}
TRAIN = HubSource(
    path="hkust-nlp/SimpleRL-Zoo-Data", data_files="simplelr_qwen_level3to5/train.parquet", split="train"
)
ALSO_IN_BENCHMARK = {
    "15199380": "simplerl-1473",
    "dbba905d": "simplerl-2847",
    "2769fc50": "simplerl-5922",
}
"""Training problems that stand in OlympiadBench in other words, by `problem_digest`; dropped from training."""


def load_train(spec: str | None = None, rows: TrainRows = ALL_BUT_BENCHMARK_ROWS) -> list[Question]:
    """Training questions: the paper's set for None, else a local file, a Hub id (split `train`), or generated ones.

    Problems that also stand in a benchmark are dropped unless `rows` says otherwise. Errors as in `load_benchmark`,
    and `ValueError` where no row is left.
    """
    return training_questions(
        lambda: _from_hub("simplerl", TRAIN) if spec is None else _load(spec, split="train", what="training set"),
        rows,
        what="a usable gold answer",
        # Of the paper's set it is known that two rows have no gold answer.
        drop_unusable=spec is None or rows.drop_unusable_gold,
        known=dict.fromkeys(ALSO_IN_BENCHMARK, "olympiadbench"),
    )


def load_benchmark(spec: str) -> list[Question]:
    """Test questions: one of `BENCHMARKS`, `fresh-arithmetic` with or without a seed and a size (`maths/fresh.py`), a
    local path, or a Hub id (split `test`); all but the first as they are or as `name=...`.

    A local file is JSON lines, JSON, parquet, or a folder saved by `datasets`. Of several splits one is named as
    `path:split`. Without a name the path's stem is the name.

    Raises `ValueError` for an unknown name and for rows that are no questions, `UnusableGoldError` for those whose
    gold answer is empty or too long to be graded, and `ConnectionError` where the Hub does not give the set.
    """
    if not Path(spec).exists() and spec in BENCHMARKS:
        return _from_hub(spec, BENCHMARKS[spec])
    return _load(spec, split="test", what="benchmark")


def _load(spec: str, *, split: str, what: str) -> list[Question]:
    """Questions of a local path or a Hub id, or generated ones, as they are or as `name=...`."""
    name, _, recipe = spec.partition("=") if "=" in spec else (spec, "", spec)
    place = Place.of(spec, split)
    if place is None and recipe.startswith(FRESH) and not recipe.endswith(SUFFIXES):
        return [replace(question, benchmark=name) for question in fresh_arithmetic(recipe)]
    if place is None and spec.startswith(FRESH) and not spec.endswith(SUFFIXES):
        fresh_arithmetic(spec)  # says how it is spelt
    if place is None:
        raise no_place(spec, what, (*BENCHMARKS, FRESH) if what == "benchmark" else (), TRAIN.path)
    if place.hub is not None:
        return _from_hub(place.name, place.hub)
    assert place.path is not None
    return to_questions(read_rows(place.path, place.split), place.name, where=str(place.path))


def _from_hub(name: str, source: HubSource) -> list[Question]:
    rows = source.rows(name, "problem and answer")
    return to_questions(rows, name, where=source.path, name_in_id=True)

"""`multiattempt eval --compare`: evaluations that were made before, drawn together and told apart."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from multiattempt_trl.evaluation.files import write_json
from multiattempt_trl.evaluation.numbers.compare import Compared, compare
from multiattempt_trl.evaluation.pages.report import print_table, write_comparison
from multiattempt_trl.evaluation.results import Saved
from multiattempt_trl.evaluation.store import flat

OF_THE_MODEL = ("weights", "base_weights", "benchmarks")
"""What of `plan.json` may differ, or is looked at question by question."""


def compare_folders(places: Sequence[str], output: Path) -> None:
    """Writes the comparison of evaluation folders, the first being the reference, and prints it.

    Raises `ValueError` where a folder holds no ended evaluation, and where questions differ.
    """
    saved = [Saved.read(Path(place)) for place in places]
    labels = short_labels([one.folder for one in saved])
    contrasts = compare(
        [
            Compared(label=label, runs=one.episodes, budget=one.summary["budget"])
            for label, one in zip(labels, saved, strict=True)
        ]
    )
    sentences = [*(contrast.sentence for contrast in contrasts), *settings_that_differ(labels, saved)]
    summaries = [one.summary for one in saved]
    write_comparison(output, list(zip(labels, summaries, strict=True)), sentences)
    facts = [{**asdict(contrast), "sentence": contrast.sentence} for contrast in contrasts]
    write_json(output / "comparison.json", {"labels": labels, "contrasts": facts})
    averages = {label: one["average"] for label, one in zip(labels, summaries, strict=True)}
    print_table(averages, title=f"{len(saved)} evaluations, average over benchmarks")
    sys.stdout.write("\n".join(sentences) + "\n")
    Console(stderr=True).print(f"Comparison: {output / 'comparison.html'}", markup=False)


def short_labels(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart; `eval` at the end says nothing.

    >>> short_labels([Path("a/ppo/single/eval"), Path("a/grpo/single/eval")])
    ['ppo/single', 'grpo/single']
    """
    parts = [folder.resolve().parts for folder in folders]
    parts = [each[:-1] if each[-1] == "eval" else each for each in parts]
    for count in range(1, max(map(len, parts))):
        labels = ["/".join(each[-count:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return ["/".join(each) for each in parts]


def settings_that_differ(labels: Sequence[str], saved: Sequence[Saved]) -> list[str]:
    """A sentence for each setting, beside the model, in which the evaluations were not alike."""
    asked = [flat({name: value for name, value in one.asked.items() if name not in OF_THE_MODEL}) for one in saved]
    sentences = []
    for name in dict.fromkeys(name for one in asked for name in one):
        values = [one.get(name) for one in asked]
        if any(value != values[0] for value in values):
            said = ", ".join(f"{label}: {_short(value)}" for label, value in zip(labels, values, strict=True))
            sentences.append(f"The evaluations differ in {name} ({said}).")
    return sentences


def _short(value: object) -> str:
    return str(value) if len(str(value)) <= 60 else f"{str(value)[:57]}..."

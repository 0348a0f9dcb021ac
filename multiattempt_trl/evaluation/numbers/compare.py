"""Evaluations against each other and against their controls: what differs over the same questions, and how surely."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from multiattempt_trl.evaluation.numbers.bootstrap import Difference, paired_difference
from multiattempt_trl.evaluation.numbers.shares import (
    Runs,
    Shares,
    base_by_attempts,
    main_by_attempts,
    majority_shares,
    pass_shares,
    played,
    solved_shares,
)
from multiattempt_trl.evaluation.numbers.verdicts import Against, Contrast, Gain

ByBenchmark = dict[str, Shares]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One evaluation among those that are compared."""

    label: str
    """Its name in every sentence."""
    runs: Mapping[str, Runs]
    """Benchmark -> run -> dialogues."""
    budget: int
    """K."""


def compare(evaluations: Sequence[Compared]) -> list[Contrast]:
    """Every other evaluation against the first, at each k up to the smaller of the two budgets.

    Raises `ValueError` for fewer than two evaluations, a label that comes twice, other benchmarks, a question that
    has another problem or gold answer, or a benchmark of which no question is shared.
    """
    labels = [evaluation.label for evaluation in evaluations]
    if len(evaluations) < 2:
        raise ValueError(f"a comparison needs at least two evaluations, got {len(evaluations)}")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"each evaluation needs a label of its own, got {', '.join(twice)} more than once")
    a = evaluations[0]
    for b in evaluations[1:]:
        _check_same_questions(a, b)
    return [contrast for b in evaluations[1:] for contrast in _contrasts(a, b)]


def gain_verdicts(evaluation: Compared, at: Collection[int] | None = None) -> list[Gain]:
    """What more attempts bring, against the first attempt and each control, for k = 2 ... K, or for those in `at`.

    A control that was not played appears once, at K, without a difference. With a budget of 1 only the base model
    is left to compare with.
    """
    budget = evaluation.budget
    accuracy = _accuracy(evaluation)
    references: dict[Against, dict[int, ByBenchmark]] = {
        "first": dict.fromkeys(accuracy, accuracy[1]),
        "pass": _passes(evaluation),
        "maj": _majorities(evaluation),
        "base": _base(evaluation),
    }
    gains = []
    for against, reference in references.items():
        first = 1 if against == "base" else 2
        for k in range(first, budget + 1):
            if at is not None and k not in at:
                continue
            difference = _against(reference[k], accuracy[k])
            if difference is not None or k == budget:
                gains.append(Gain(label=evaluation.label, k=k, against=against, difference=difference))
    return gains


def _contrasts(a: Compared, b: Compared) -> list[Contrast]:
    accuracy_a, accuracy_b, passes_a, passes_b = _accuracy(a), _accuracy(b), _passes(a), _passes(b)
    return [
        Contrast(
            a=a.label,
            b=b.label,
            k=k,
            difference=paired_difference(accuracy_a[k], accuracy_b[k]),
            above_pass=_against(passes_a[k], accuracy_b[k]),
            above_own_pass=_against(passes_b[k], accuracy_b[k]),
        )
        for k in range(1, min(a.budget, b.budget) + 1)
    ]


def _against(control: ByBenchmark, accuracy: ByBenchmark) -> Difference | None:
    """Accuracy minus the control; None where a benchmark was not played with it."""
    return paired_difference(control, accuracy) if all(control.values()) else None


def _by_k(by_benchmark: Mapping[str, Mapping[int, Shares]], budget: int) -> dict[int, ByBenchmark]:
    return {k: {name: shares[k] for name, shares in by_benchmark.items()} for k in range(1, budget + 1)}


def _accuracy(evaluation: Compared) -> dict[int, ByBenchmark]:
    shares = {}
    for name, runs in evaluation.runs.items():
        by_attempts = main_by_attempts(runs, evaluation.budget)
        shares[name] = {k: solved_shares(episodes, k) for k, episodes in by_attempts.items()}
    return _by_k(shares, evaluation.budget)


def _passes(evaluation: Compared) -> dict[int, ByBenchmark]:
    k = evaluation.budget
    return _by_k({name: pass_shares(played(runs, "independent"), k) for name, runs in evaluation.runs.items()}, k)


def _majorities(evaluation: Compared) -> dict[int, ByBenchmark]:
    k = evaluation.budget
    return _by_k({name: majority_shares(played(runs, "independent"), k) for name, runs in evaluation.runs.items()}, k)


def _base(evaluation: Compared) -> dict[int, ByBenchmark]:
    shares = {}
    for name, runs in evaluation.runs.items():
        by_attempts = base_by_attempts(runs, evaluation.budget)
        shares[name] = {k: solved_shares(episodes, k) for k, episodes in by_attempts.items()}
    return _by_k(shares, evaluation.budget)


def _check_same_questions(a: Compared, b: Compared) -> None:
    if a.runs.keys() != b.runs.keys():
        raise ValueError(
            f"{a.label} was evaluated on {', '.join(sorted(a.runs))}, {b.label} on {', '.join(sorted(b.runs))}; "
            "compare evaluations of the same benchmarks"
        )
    for name in a.runs:
        asked_a, asked_b = _asked(a.runs[name]), _asked(b.runs[name])
        shared = asked_a.keys() & asked_b.keys()
        changed = sorted(question for question in shared if asked_a[question] != asked_b[question])
        if changed or not shared:
            reason = (
                f"{len(changed)} of {len(shared)} shared questions have another problem or gold answer, "
                f"{changed[0]!r} for one"
                if changed
                else "no question is shared"
            )
            raise ValueError(
                f"{name}: {reason}; {len(asked_a) - len(shared)} are of {a.label} alone and "
                f"{len(asked_b) - len(shared)} of {b.label} alone; compare evaluations of the same data"
            )


def _asked(runs: Runs) -> dict[str, tuple[str, str]]:
    """Question id -> its problem and gold answer."""
    return {
        episode.question.id: (episode.question.problem, episode.question.answer) for episode in runs.get("main", ())
    }

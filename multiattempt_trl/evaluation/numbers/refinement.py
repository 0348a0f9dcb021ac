"""Is a second answer better than excluding the first? Second attempts against what independent samples tell."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from multiattempt_trl.dialogue.episode import Attempt, Episode
from multiattempt_trl.evaluation.numbers.blocks import Refinement
from multiattempt_trl.evaluation.numbers.controls import CORRECT, answer_class
from multiattempt_trl.evaluation.numbers.explain import solves
from multiattempt_trl.evaluation.numbers.intervals import difference_interval, share_interval

CONTROLS = ("best_other", "chance", "independent", "excluding")


def refinement(main: Iterable[Episode], independent: Iterable[Episode]) -> Refinement | None:
    """How often second answers are right where the first was wrong, beside `controls` on the same questions.

    Of the dialogues that failed at their first attempt; one that ended there has not refined it. Several samples of a
    question are averaged before questions. A question without independent samples is left out. None where nothing
    is left.

    Args:
        main: dialogues of budget K.
        independent: one-attempt dialogues, several for each question.
    """
    samples: dict[str, list[Attempt]] = defaultdict(list)
    for episode in independent:
        samples[episode.question.id].append(episode.attempts[0])
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for episode in main:
        name = episode.question.id
        if episode.budget > 1 and not solves(episode, 1) and samples[name]:
            refined = episode.attempts_used > 1 and solves(episode, 2)
            found[name].append({"refined": float(refined), **controls(episode.attempts[0], samples[name])})
    if not found:
        return None
    means = [{key: fmean(each[key] for each in of) for key in of[0]} for of in found.values()]  # one a question
    shares = {key: [of[key] for of in means] for key in ("refined", *CONTROLS)}
    differences = {key: [of["refined"] - of[key] for of in means] for key in CONTROLS}
    return {
        "n": len(means),
        "without_other": fmean(of["without_other"] for of in means),
        "shares": {key: fmean(values) for key, values in shares.items()},
        "ci95": {key: share_interval(values) for key, values in shares.items()},
        "differences": {key: fmean(values) for key, values in differences.items()},
        "differences_ci95": {key: difference_interval(values) for key, values in differences.items()},
    }


def controls(refuted: Attempt, samples: Sequence[Attempt]) -> dict[str, float]:
    """What samples of one question come to, once it is known that the answer of `refuted` is wrong.

    "best_other": the most frequent other answer is correct; where several are, one drawn of them. "chance": one drawn
    of the different other answers is. "independent": a sample is, which may repeat the refuted answer. "excluding": a
    sample is that was drawn again until it does not. Where there is no other answer, "best_other" and "chance" have
    none to give, and where all samples repeat the refuted one "excluding" has none: not solved. "without_other" is 1
    where the former is so.

    Answers are the same as for a majority vote (`controls.answer_class`). A sample without an answer is no answer to
    choose, but it is a sample, as an attempt without one is an attempt. Where `refuted` has none, nothing is excluded.
    """
    votes = Counter(map(answer_class, samples))
    refuted_class = answer_class(refuted)
    repeated = 0 if refuted_class is None else votes[refuted_class]
    others = {answer: count for answer, count in votes.items() if answer not in (refuted_class, None)}
    right, most = others.get(CORRECT, 0), max(others.values(), default=0)
    tied = sum(count == most for count in others.values())
    return {
        "best_other": 1 / tied if right and right == most else 0.0,
        "chance": 1 / len(others) if right else 0.0,
        "independent": right / len(samples),
        "excluding": right / (len(samples) - repeated) if right else 0.0,
        "without_other": float(not others),
    }

"""The numbers of an evaluation from its `episodes.jsonl` (the argument) alone: a second way to compute them."""

import json
import sys
from collections import defaultdict
from math import prod
from pathlib import Path
from statistics import fmean


def right(attempt):
    return attempt["verdict"] == "correct"


def over_questions(lines, value):
    by_question = defaultdict(list)
    for line in lines:
        by_question[line["id"]].append(value(line))
    return by_question


def pass_at(results, k):
    """1 - (n-c)/n * (n-c-1)/(n-1) * ...: no right one among k that are drawn one after the other."""
    n, wrong = len(results), len(results) - sum(results)
    return 1 - prod(max(wrong - drawn, 0) / (n - drawn) for drawn in range(k))


def refined(main, alone):
    """Of questions with a wrong first answer: how often the second is right, and what else a sample may offer."""
    found = defaultdict(lambda: defaultdict(list))
    for line in main:
        first, second = (*line["attempts"], None)[:2]
        pool = alone[line["id"]]
        if right(first) or not pool:
            continue
        # one name for all that is right
        said = ["right" if right(attempt) else attempt["answer"] for attempt in pool]
        other = [answer for answer in said if answer not in (None, first["answer"])]
        redrawn = [answer for answer in said if answer is None or answer != first["answer"]]
        modes = [each for each in set(other) if other.count(each) == max(map(other.count, other))]
        of = found[line["id"]]
        of["refined"].append(second is not None and right(second))
        of["best_other"].append(modes.count("right") / max(len(modes), 1))
        of["chance"].append(("right" in other) / max(len(set(other)), 1))
        of["independent"].append(said.count("right") / len(said))
        of["excluding"].append(redrawn.count("right") / max(len(redrawn), 1))
        of["without_other"].append(not other)
    names = next(iter(found.values()))
    return {name: fmean(fmean(of[name]) for of in found.values()) for name in names}


def numbers(lines):
    main = [line for line in lines if line["run"] == "main"]
    budget = max(line["budget"] for line in main)
    every = len({line["budget"] for line in main}) > 1
    longest = [line for line in main if line["budget"] == budget]
    out = defaultdict(dict)
    independent = [line for line in lines if line["run"] == "independent"]
    alone = over_questions(independent, lambda line: right(line["attempts"][0]))
    for k in range(1, budget + 1):
        of = [line for line in main if line["budget"] == k] if every else longest
        solved = over_questions(of, lambda line, k=k: any(map(right, line["attempts"][:k])))
        out["accuracy"][k] = fmean(fmean(each) for each in solved.values())
        if alone:
            out["pass_at_k"][k] = fmean(pass_at(each, k) for each in alone.values() if len(each) >= k)
        reached = [line["attempts"][:k] for line in longest if len(line["attempts"]) >= k]
        if not reached:
            continue
        answers = [[attempt["answer"] for attempt in attempts] for attempts in reached]
        out["solved_after_failures"][k] = fmean(right(attempts[-1]) for attempts in reached)
        out["truncated"][k] = fmean(attempts[-1]["finish_reason"] == "length" for attempts in reached)
        out["distinct_answers"][k] = fmean(len({a for a in each if a is not None}) for each in answers)
        if k > 1:
            out["repeat_rate"][k] = fmean(each[-1] is not None and each[-1] in each[:-1] for each in answers)
    tokens = sum(attempt["tokens"] for line in longest for attempt in line["attempts"])
    out["refinement"] = refined(longest, over_questions(independent, lambda x: x["attempts"][0]))
    solved = sum(any(map(right, line["attempts"])) for line in longest)
    return {**out, "tokens_per_solved": tokens / solved if solved else None}


if __name__ == "__main__":
    lines = map(json.loads, Path(sys.argv[1]).read_text(encoding="utf-8").strip().split("\n"))
    kept = [line for line in lines if line["ending"] != "failed"]
    names = dict.fromkeys(line["benchmark"] for line in kept)
    found = {name: numbers([line for line in kept if line["benchmark"] == name]) for name in names}
    sys.stdout.write(json.dumps(found))

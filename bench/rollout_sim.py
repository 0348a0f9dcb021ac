"""How many decode steps does a rollout take? The scheduler without barriers beside other ways, on the same lengths.

    python bench/rollout_sim.py
    python bench/rollout_sim.py --episodes outputs/RUN/eval/episodes.jsonl --sizes 128/32

A decode step is one forward pass that gives each occupied slot, a row of the batch, one token. Nothing is generated:
attempts are so many tokens long. Reading prompts is not counted, grading takes `--grading` steps. For each size,
dialogues/slots, a table of medians over the seeds:

    steps        decode steps, and their range over the seeds
    x ours       over the steps of `no barrier`
    x bound      over the lower bound: the longest dialogue, or all tokens over all slots, whichever is more
    slots used   share of slots x steps that gives a token to an attempt
    computed     rows computed for each token sampled; in lock step a row that is done is computed until its batch is
    under way    the most dialogues that had begun and were not over; their caches, or reading them again, is the price

The policies (`rollout_policies.py`):

    barrier, all at once          lock step over all dialogues (no `rollout_batch_size`), on a slot for each of them
    barrier, batches of slots     lock step with `rollout_batch_size`: the attempts of each round in batches
    barrier, slots refilled       one call for each round to an engine that refills its slots, as TRL's tool loop does
    chunks of 64, batches of 256  the paper's published code: 256 dialogues are played to their end, all waiting for
                                  each other every 64 tokens, then the next 256; an engine that refills its slots
    chunks of 64, all at once     the same without batches
    no barrier                    an eager backend of that capacity under the scheduler's own `Admission`
      in order of arrival         ... that begins dialogues as they come, not the largest budget first
      new ones first              ... that begins dialogues before it goes on with those that have begun
      verdicts 20 steps late      ... with a slower grader

The last line is all of it as JSON.
"""

import argparse
import json
from operator import truediv
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rollout_lengths import Dialogues, Recorded, Task, deal, named
from rollout_policies import BOUND, OURS, POLICIES, Outcome

SIZES = [(64, 64), (256, 256), (128, 32), (1024, 256), (4096, 256), (4096, 1024)]
"""128 over 32 is the paper's recipe on eight processes."""
SUCCESS = [0.45, 0.15]
"""About what the paper reports of its model: 45.6 % within one attempt, 52.5 % within two."""


def row(rollouts: list[Dialogues], played: dict[str, list[Outcome]], name: str) -> dict[str, float]:
    """What a policy took, as medians over the seeds."""
    steps = [one.steps for one in played[name]]
    ours, bound = ([one.steps for one in played[other]] for other in (OURS, BOUND))
    each = list(zip(played[name], [one.tokens for one in rollouts], strict=True))
    return {
        "steps": median(steps),
        "least_steps": min(steps),
        "most_steps": max(steps),
        "over_ours": round(median(map(truediv, steps, ours)), 3),
        "over_bound": round(median(map(truediv, steps, bound)), 3),
        "slots_used": round(median(tokens / (one.steps * one.slots) for one, tokens in each), 3),
        "slot_steps": median(one.slot_steps for one, _ in each),
        "slot_steps_per_token": round(median(one.slot_steps / tokens for one, tokens in each), 3),
        "under_way": median(one.under_way for one, _ in each),
    }


def compare(rollouts: list[Dialogues], slots: int, grading: int) -> dict[str, Any]:
    """All policies on the same rollouts, one a seed."""
    played = {name: [policy(one, slots, grading) for one in rollouts] for name, policy in POLICIES.items()}
    return {
        "dialogues": len(rollouts[0].budgets),
        "slots": slots,
        "tokens": median(one.tokens for one in rollouts),
        "attempts_per_dialogue": round(fmean(len(each) for one in rollouts for each in one.attempts), 3),
        "longest_dialogue": max(sum(each) for one in rollouts for each in one.attempts),
        "policies": {name.strip(): row(rollouts, played, name) for name in POLICIES},
    }


def show(lengths: str, found: dict[str, Any]) -> None:
    """A table."""
    print(
        f"\n{lengths}: {found['dialogues']:,} dialogues over {found['slots']:,} slots, {found['tokens']:,.0f} tokens"
    )
    heads = ("steps", "range", "x ours", "x bound", "slots used", "computed", "under way")
    print(f"{'':30}{heads[0]:>8}{heads[1]:>20}{heads[2]:>8}{heads[3]:>9}{heads[4]:>12}{heads[5]:>10}{heads[6]:>11}")
    for name, one in zip(POLICIES, found["policies"].values(), strict=True):
        spread = f"{one['least_steps']:,} to {one['most_steps']:,}"
        ratios = f"{one['over_ours']:8.2f}{one['over_bound']:9.2f}{one['slots_used']:12.0%}"
        costs = f"{one['slot_steps_per_token']:10.2f}{one['under_way']:11,.0f}"
        print(f"{name:30}{one['steps']:8,.0f}{spread:>20}{ratios}{costs}")


def size(text: str) -> tuple[int, int]:
    """`1024/256` as (dialogues, slots)."""
    dialogues, slots = map(int, text.split("/"))
    if min(dialogues, slots) < 1:
        raise argparse.ArgumentTypeError(f"needs at least one dialogue and one slot, got {text}")
    return dialogues, slots


def share(text: str) -> float:
    """A probability."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"a probability is between 0 and 1, got {text}")
    return float(text)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="dialogues/slots of a process")
    parser.add_argument("--episodes", type=Path, help="draw the dialogues of this file, not the distributions")
    parser.add_argument(
        "--success", type=share, nargs="+", default=SUCCESS, help="of the first attempt, the second, ..."
    )
    parser.add_argument("--max-attempts", type=int, default=5)
    parser.add_argument("--budget-draw", choices=["uniform", "fixed"], default="uniform")
    parser.add_argument("--max-episode-tokens", type=int, default=3000)
    parser.add_argument("--grading", type=int, default=0, help="decode steps that pass until an attempt is judged")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if min(options.max_attempts, options.max_episode_tokens, options.seeds, options.grading + 1) < 1:
        parser.error("attempts, tokens and seeds must be at least 1, grading at least 0")
    return options


def main() -> None:
    """Plays every size under every policy."""
    options = arguments()
    task = Task(
        max_attempts=options.max_attempts,
        budget_draw=options.budget_draw,
        max_episode_tokens=options.max_episode_tokens,
    )
    sources = named(options.success)
    if options.episodes is not None:
        sources = {str(options.episodes): Recorded(options.episodes, options.max_attempts)}
    results = []
    for lengths, source in sources.items():
        for dialogues, slots in options.sizes:
            rollouts = [deal(source, dialogues, task, seed) for seed in range(options.seeds)]
            found = compare(rollouts, slots, options.grading)
            show(lengths, found)
            results.append({"lengths": lengths, **found})
    print(json.dumps({"settings": vars(options), "results": results}, default=str))


if __name__ == "__main__":
    main()

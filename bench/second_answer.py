"""Is a second answer better than excluding the first? For remainders, against the chance of any other residue.

    python bench/second_answer.py outputs/reproduce/seed0/multi_attempt/eval/episodes.jsonl ...

For each file: after a wrong first answer to "the remainder when a is divided by m", the share of second answers that
are right, and the mean of 1 / (m - 1), which is what guessing among the other residues would give.
"""

import json
import re
import sys
from pathlib import Path
from statistics import fmean

DIVISOR = re.compile(r"is divided by (\d+)")


def main(paths: list[str]) -> None:
    """Prints one line a file."""
    for path in paths:
        right, chance = [], []
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            episode = json.loads(line)
            divisor = DIVISOR.search(episode["problem"])
            if divisor and len(episode["attempts"]) > 1:
                right.append(episode["attempts"][1]["verdict"] == "correct")
                chance.append(1 / (int(divisor[1]) - 1))
        print(f"{path}: second answer right {fmean(right):.3f}, chance {fmean(chance):.3f}, n = {len(right)}")


if __name__ == "__main__":
    main(sys.argv[1:])

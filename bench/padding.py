"""What leaving out padding saves: the same recipe with and without `forward_batch_size`, one process each, in turn.

    python bench/padding.py [--steps 40] [--rows 32] [--pairs 3]

Prints the seconds of training of each run (start-up left out) and, as its last line, a JSON object with `ratio`: the
median over the pairs of padded over unpadded time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

RECIPE = "recipes/arithmetic/ppo/multi_attempt.yaml"


def seconds(steps: int, rows: int | None) -> float:
    """Training time of the recipe's first steps, as the Trainer reports it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "multiattempt_trl", "ppo", "--config", RECIPE, "--use_cpu", "true"]
        command += ["--max_steps", str(steps), "--output_dir", folder, "--skip_eval", "true", "--save_strategy", "no"]
        # As many rows as a minibatch has: one chunk, padded to the longest, as TRL does it.
        command += ["--forward_batch_size", str(rows or 64)]
        subprocess.run(command, check=True, capture_output=True)
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return float(json.loads(lines[-1])["train_runtime"])


def main() -> None:
    """Runs the pairs and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    ratios = []
    for _ in range(arguments.pairs):
        padded, unpadded = seconds(arguments.steps, None), seconds(arguments.steps, arguments.rows)
        print(f"padded {padded:.1f} s, {arguments.rows} rows at a time {unpadded:.1f} s")
        ratios.append(padded / unpadded)
    print(json.dumps({"ratio": round(median(ratios), 3), "pairs": ratios}))


if __name__ == "__main__":
    main()

"""MovieLens-100k through the public commands, judged from outside.

    uv run python bench/ml100k_chain.py JUDGE_FOLDER OUT [--split loo] [--config standard_768]

JUDGE_FOLDER holds `ml100k.py` (writes the load format) and `judge.py` (scores recs.csv against peers). Every split runs
in an empty MATCHING_HOME under OUT; no line of this project knows the data.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judge_folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", choices=["loo", "temporal", "random"], default="loo")
    parser.add_argument("--config", default="standard_768")
    parser.add_argument("--seed", default="0")
    arguments = parser.parse_args()
    data, home = arguments.out / arguments.split, arguments.out / f"home-{arguments.split}"
    recs = data / "recs.csv"
    shutil.rmtree(home, ignore_errors=True)
    environment = {**os.environ, "MATCHING_HOME": str(home)}
    matching = str(Path(sys.executable).with_name("matching"))
    files = [f"--{kind}={data / name}" for kind, name in (("items", "items.jsonl"), ("users", "users.csv"))]
    steps = [
        [sys.executable, str(arguments.judge_folder / "ml100k.py"), str(data), "--split", arguments.split],
        [matching, "up"],
        [matching, "load", *files, f"--decisions={data / 'decisions.csv'}"],
        [matching, "run", "full", "--promote", "always", "--config", arguments.config, "--seed", arguments.seed],
        [matching, "runs"],
        [matching, "recommend", "--all", "--limit", "100", "--out", str(recs)],
        [sys.executable, str(arguments.judge_folder / "judge.py"), str(data), str(recs)],
    ]
    try:
        for step in steps:
            started = time.monotonic()
            subprocess.run(step, env=environment, check=True)
            print(f"[{time.monotonic() - started:.0f} s] {' '.join(step[:3])}", flush=True)
    finally:
        subprocess.run([matching, "down"], env=environment, check=False)


if __name__ == "__main__":
    main()

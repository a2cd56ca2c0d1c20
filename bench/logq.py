"""What the sampling correction is worth: in-batch negatives only, trained from random vectors, with and without it.

    uv run python bench/logq.py FOLDER [--seed 0] [--epochs 20] [--rate 0.001] [--batch 64]

FOLDER is in the load format with a held-out part, as the judge's `ml100k.py FOLDER --split random` writes it. Nothing
but the correction differs between the rows: same seed, same draws, same most epochs; each keeps its best epoch on a
tenth of the likes, and is scored on the held-out part over all items. The popularity prior is off: it would make up
for part of what is missing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from load_format import dataset_of, held_out

from ml.config import load_config
from ml.evaluation.bootstrap import compare, interval
from ml.evaluation.metrics import HEADLINE
from ml.evaluation.scorers import ModelScorer, evaluate, validator
from ml.evaluation.windows import holdouts
from ml.settled import Settled
from ml.training import train

ROWS = {
    "without": {"logq_correction": False},
    "with, standard": {"softmax": "standard"},
    "with, refined": {"softmax": "refined"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--batch", type=int, default=64, help="users per step, each asked for eight likes at most")
    options = parser.parse_args()
    dataset = dataset_of(options.folder)
    test = held_out(options.folder, dataset)
    known, _, others = holdouts(dataset, options.seed)
    config = replace(
        load_config("standard_768"),
        start="random",
        full_softmax_limit=0,
        uniform_negatives=0,
        nope_weight=0.0,
        prefix_weights=(0.0, 0.0, 0.0),
        shuffled_history_share=1.0,
        learning_rate=options.rate,
        batch_contexts=options.batch,
        max_epochs=options.epochs,
    )
    settled = Settled(prior_weight=0.0, returning_prior_weight=0.0)
    found = {}
    for name, change in ROWS.items():
        started = time.monotonic()
        row = replace(config, **change)
        model = train(
            known, row, options.seed, settled=settled, validate=validator(known, others, config.validation_users)
        )
        lists, values = evaluate(ModelScorer(model, dataset), test)
        found[name] = values[HEADLINE]
        mean = interval(found[name])
        gain = f"{mean.mean / found['without'].mean() - 1:+.0%}"
        popular = np.bincount(dataset.decisions.item_index[dataset.decisions.is_first_like], minlength=lists.max() + 1)
        print(
            f"{name:15s} NDCG@10 {mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}] {gain}, n {mean.n}, "
            f"mean likes of what is listed {popular[lists[:, :10]].mean():.0f}, "
            f"epoch {model.epochs} of {len(model.curve)}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    for name in list(ROWS)[1:]:
        difference = compare(found[name], found["without"]).difference
        print(f"{name} minus without: {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]")


if __name__ == "__main__":
    main()

"""Items nobody has decided on: how well each way finds them without a single decision.

    uv run python bench/cold_items.py [--size medium] [--config standard_768] [--share 0.1] [--seed 0]

A random share of the items loses every decision, so that what is cold was not chosen by age: the model, the makers'
popularity and the tastes are fitted on the rest. Users are then asked for their likes of the test window of protocol
t-fix among these items, ranked among all cold items. What the judge shows as the slice "cold items" are those that
nobody happened to have decided on; most likes there are on this week's releases.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from sample_world import dataset_of

from ml.baselines.content import ContentNeighbours, Newest, PopularInMaker, TagCentroid
from ml.config import load_config
from ml.evaluation.bootstrap import compare, interval
from ml.evaluation.fitting import fit_on_validation
from ml.evaluation.metrics import recall
from ml.evaluation.protocol import plan
from ml.evaluation.ranking import DEPTH, rank
from ml.evaluation.scorers import ModelScorer, RandomOrder
from ml.evaluation.windows import among, undecided, window_of
from ml.splits import time_split
from orchestration.landing.emulator.world import build_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="medium")
    parser.add_argument("--config", default="standard_768")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset, _ = dataset_of(build_world(options.size))
    table, cut = dataset.decisions, time_split(dataset.decisions).test_cut
    held_out = np.random.default_rng(options.seed).random(len(dataset.items)) < options.share
    is_known = (table.decided_at <= cut) & ~held_out[table.item_index]
    known = replace(dataset, decisions=table.without(~is_known))
    offered = np.flatnonzero(dataset.items.is_eligible & (dataset.items.released_at <= cut))
    window = window_of(dataset, is_known, table.decided_at > cut, offered)
    window = among(window, undecided(known, offered))
    part = plan(known).rounds[0]
    fit = fit_on_validation(part.train, part.validation, load_config(options.config), options.seed)
    model = ModelScorer(fit.refit(known), known)
    scorers = [
        model,
        ContentNeighbours(known, {"neighbours": 100}),
        TagCentroid(known),
        PopularInMaker(known),
        Newest(known.items),
        RandomOrder(options.seed),
    ]
    likes = sum(map(len, window.relevant))
    print(f"{len(window.candidates)} cold items, {len(window.users)} users, {likes} likes")
    print(f"{options.config}: {fit.model.epochs} epochs, {fit.model.settled}")
    values = {}
    for scorer in scorers:
        lists = rank(scorer, window.users, window.candidates, window.histories)
        values[scorer.name] = recall(lists, window.relevant, DEPTH)
        found = interval(values[scorer.name])
        print(f"{scorer.name:20} recall@100 {found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]")
    simple = max(("newest", "popular in maker"), key=lambda name: values[name].mean())
    ours = values["two-tower"]
    print(f"two-tower / {simple}: {ours.mean() / values[simple].mean():.2f}; "
          f"minus content-kNN: {compare(ours, values['content-kNN']).difference}")  # fmt: skip


if __name__ == "__main__":
    main()

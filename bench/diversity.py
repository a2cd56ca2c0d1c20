"""What the diversity rule costs and brings in a world where three makers hold over a third of the served lists.

    uv run python bench/diversity.py [--favour 10] [--seeds 1 2 3 4] [--config standard_768]

The policies of the sample world show three makers far more often than taste explains; a model fitted on what was liked
repeats that. Lists are those of the two-tower on the test window of protocol t-fix. "Planted" is NDCG@10 with the
planted like probabilities as gains: it rewards what users would like, not what happened to be shown to them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from sample_world import dataset_of, like_probability

from ml.config import load_config
from ml.diversity import DiversityRule, charge, diversify, maker_prices
from ml.evaluation.bootstrap import compare
from ml.evaluation.exposure import lists_together
from ml.evaluation.fitting import fit_on_validation
from ml.evaluation.metrics import HEADLINE, per_user, top_maker_share
from ml.evaluation.protocol import plan
from ml.evaluation.ranking import list_scores
from ml.evaluation.scorers import ModelScorer, evaluate
from orchestration.landing.emulator.world import build_world

RULES = {
    "no rule": DiversityRule(),
    "4 per maker": DiversityRule(max_per_maker=4),
    "3 per maker": DiversityRule(max_per_maker=3),
    "2 per maker": DiversityRule(max_per_maker=2),
    "2 per maker, 2 per performer": DiversityRule(max_per_maker=2, max_per_performer=2),
    "1 per maker": DiversityRule(max_per_maker=1),
}
PRICED = {"no rule": (0.30, 0.25, 0.20), "3 per maker": (0.30,)}
"""Shares kept by prices on makers, alone and before a rule."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--favour", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--size", default="medium")
    parser.add_argument("--config", default="standard_768")
    options = parser.parse_args()
    found = defaultdict(list)
    for seed in options.seeds:
        world = build_world(options.size, seed, options.favour)
        dataset, rows = dataset_of(world)
        part = plan(dataset).rounds[0]
        test = part.tests[0]
        window, makers = test.window, dataset.items.maker_ids
        fit = fit_on_validation(part.train, part.validation, load_config(options.config), seed=0)
        scorer = ModelScorer(fit.refit(test.known), test.known)
        lists, _ = evaluate(scorer, window)
        planted = like_probability(world, rows, window.users, test.cut)
        discounts = 1 / np.log2(np.arange(2, 12))
        ideal = -np.sort(-planted[:, window.candidates], axis=1)[:, :10] @ discounts
        likes = test.known.decisions.item_index[test.known.decisions.is_first_like]
        print(f"world {seed}: {len(window.users)} users; top-3 makers hold {top_maker_share(makers):.3f} of the "
              f"catalogue, {top_maker_share(makers[likes]):.3f} of the likes", flush=True)  # fmt: skip
        scores = list_scores(scorer, window.users, lists)
        ways = {name: (lists, rule) for name, rule in RULES.items()}
        for name, limits in PRICED.items():
            for limit in limits:
                prices = maker_prices(lists, scores, makers, limit)
                ways[f"prices for {limit:.0%}, {name}"] = charge(lists, scores, makers, prices), RULES[name]
        for name, (ordered, rule) in ways.items():
            ruled = diversify(ordered, dataset.items, rule)
            true = np.take_along_axis(planted, ruled[:, :10], 1) @ discounts / ideal
            together = lists_together(ruled, test.known, window.candidates)
            values = per_user(ruled, window.relevant)[HEADLINE]
            found[name].append((values, true, together["top3_maker_share"], together["coverage@10"]))
    print(f"{'rule':30} {'NDCG@10':>8} {'change':>7} {'95 % of the difference':>24} {'planted':>8} {'change':>7} "
          f"{'top-3':>6} {'coverage':>8}")  # fmt: skip
    plain, plain_true = (np.concatenate([one[part] for one in found["no rule"]]) for part in (0, 1))
    for name, worlds in found.items():
        values, true = (np.concatenate([one[part] for one in worlds]) for part in (0, 1))
        difference = compare(values, plain).difference
        share, coverage = (np.mean([one[part] for one in worlds]) for part in (2, 3))
        print(f"{name:30} {values.mean():8.4f} {values.mean() / plain.mean() - 1:+7.1%} "
              f"[{difference.low:+.4f}, {difference.high:+.4f}]{'':7} {true.mean():8.4f} "
              f"{true.mean() / plain_true.mean() - 1:+7.1%} {share:6.3f} {coverage:8.3f}")  # fmt: skip


if __name__ == "__main__":
    main()

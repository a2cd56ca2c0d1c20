"""How much of what can be known the model finds: NDCG@10 beside scorers that know the planted tastes of the world.

    uv run python bench/oracle.py [--size medium] [--config standard_768] [--seed 0]

"Oracle" ranks by the planted probability that a user likes an item, times the odds that the policies show it: a
held-out like is a like of something that was shown. "Taste alone" leaves out the odds. Both at the cut of protocol
t-fix.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from sample_world import dataset_of, like_probability

from ml.config import load_config
from ml.evaluation.bootstrap import interval
from ml.evaluation.fitting import fit_on_validation
from ml.evaluation.metrics import HEADLINE
from ml.evaluation.protocol import plan
from ml.evaluation.scorers import ModelScorer, evaluate
from orchestration.landing.emulator.world import build_world


class Planted:
    """A scorer that knows."""

    def __init__(self, name: str, values: npt.NDArray[np.float64], users: npt.NDArray[np.int64]) -> None:
        self.name, self.settings = name, {}
        self._values, self._row = values, {int(user): row for row, user in enumerate(users)}

    def scores(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self._values[[self._row[int(user)] for user in users]][:, items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="medium")
    parser.add_argument("--config", default="standard_768")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = build_world(options.size)
    dataset, rows = dataset_of(world)
    part = plan(dataset).rounds[0]
    test = part.tests[0]
    users = test.window.users
    taste = like_probability(world, rows, users, test.cut)
    odds = world.exposure_odds(users, datetime.fromtimestamp(test.cut / 1e6, UTC))[:, rows]
    fit = fit_on_validation(part.train, part.validation, load_config(options.config), options.seed)
    model = fit.refit(test.known)
    print(f"chosen on validation: {fit.model.epochs} epochs, {fit.model.settled}")
    scorers = [
        ModelScorer(model, test.known),
        Planted("oracle", taste * odds, users),
        Planted("taste alone", taste, users),
    ]
    found = {scorer.name: evaluate(scorer, test.window)[1][HEADLINE] for scorer in scorers}
    for name, values in found.items():
        one = interval(values)
        print(f"{name:12} NDCG@10 {one.mean:.4f} [{one.low:.4f}, {one.high:.4f}], {one.n} users")
    print(f"two-tower / oracle: {found['two-tower'].mean() / found['oracle'].mean():.3f}")


if __name__ == "__main__":
    main()

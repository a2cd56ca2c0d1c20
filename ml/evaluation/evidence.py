"""What a report shows beside the verdict: slices, calibration, shares, trade-off, ablations and a map of one test.

Belongs here: who is put into which of them. Does not belong here: how any of them is measured.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.baselines.content import ContentNeighbours, Newest, PopularInMaker, TagCentroid
from ml.baselines.interface import Scorer
from ml.datasets import Dataset, IntArray
from ml.evaluation.ablations import ablations
from ml.evaluation.asking import WINDOWED, Asked
from ml.evaluation.calibration import calibration
from ml.evaluation.exposure import item_map, shares, tradeoff
from ml.evaluation.labels import Labels, item_groups
from ml.evaluation.metrics import HEADLINE
from ml.evaluation.protocol import Round
from ml.evaluation.scorers import MODEL, ModelScorer
from ml.evaluation.slices import by_floor, by_group, by_popularity, by_tier, cold_items, cold_users, new_items


def evidence_of(dataset: Dataset, part: Round, last: Asked, labels: Labels) -> dict[str, Any]:
    """Return what the report shows beside the verdict, all of it of one test."""
    test, ours, answers = last.test, last.ours, last.answers
    settings = last.chosen.baselines.settings
    rivals = sorted(answers[1:], key=lambda one: -one.values[HEADLINE].mean())
    few = [one for one in answers if one.name in (MODEL, WINDOWED, rivals[0].name)]
    popular = [scorer for scorer in last.baselines if scorer.name in ("popularity", WINDOWED)]
    by_content: list[Scorer] = [
        ours,
        Newest(test.known.items),
        PopularInMaker(test.known),
        TagCentroid(test.known),
        ContentNeighbours(test.known, settings["content-kNN"]),
    ]
    groups = item_groups(dataset.items, test.window.candidates, labels)
    slices = [
        *cold_items(test, answers, by_content),
        *new_items(test, [*by_content, *popular]),
        *cold_users(dataset, test, ours, popular),
        *by_tier(test, answers),
        *by_popularity(test, answers),
        *by_group(test, groups, few),
        *by_floor(test, few),
    ]
    seen = np.flatnonzero(ours.seen())
    return {
        "slices": [asdict(one) for one in slices],
        "calibration": calibration(
            ModelScorer(last.chosen.fit.model, last.chosen.fit.seen), part.train, part.validation, ours, test
        ),
        "shares": shares(answers[0].lists, test, labels),
        "tradeoff": tradeoff(ours, answers[0].lists, test),
        "ablations": ablations(ours, test.window, answers[0]),
        "embedding_map": item_map(ours.items.directions, first_group(dataset.items.maker_ids, groups, labels), seen),
    }


def first_group(maker_ids: IntArray, groups: dict[str, npt.NDArray[np.bool_]], labels: Labels) -> list[str]:
    """Return the most frequent tag group of each item, or its maker where it is in none."""
    return [
        next((name for name, mask in groups.items() if mask[row]), labels.maker(int(maker)))
        for row, maker in enumerate(maker_ids)
    ]

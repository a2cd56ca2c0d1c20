"""The sample world as the arrays a model reads, without a warehouse; beside them, what is true in it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from ml.datasets import Dataset, dataset_from_columns, items_from_columns
from orchestration.landing.emulator.vocabulary import (
    ANCHOR,
    FIRST_DIRECTOR,
    FIRST_GENRE,
    FIRST_LABEL,
    FIRST_MAKER,
    FIRST_PERFORMER,
    FIRST_SERIES,
)
from orchestration.landing.emulator.world import World


def dataset_of(world: World) -> tuple[Dataset, npt.NDArray[np.int64]]:
    """Return the dataset of a world, and the world's row number of each of its items."""
    floors = np.where(world.floor == 0, "videoa", "videoc")
    ids = [f"dmm/digital/{floor}/{cid.lower()}" for floor, cid in zip(floors, world.content_ids, strict=True)]
    items = items_from_columns(
        {
            "item_id": ids,
            "content_id": [str(cid).lower() for cid in world.content_ids],
            "title": [world.title(row) for row in range(world.item_count)],
            "maker_id": (world.maker + FIRST_MAKER).tolist(),
            "series_id": _optional(world.series, FIRST_SERIES),
            "label_id": _optional(world.label, FIRST_LABEL),
            "tag_ids": _lists(world.genres, FIRST_GENRE),
            "performer_ids": _lists(world.performers, FIRST_PERFORMER),
            "director_ids": _lists(world.director[:, None], FIRST_DIRECTOR),
            "price_jpy": world.price.tolist(),
            "runtime_minutes": (world.runtime_seconds // 60).tolist(),
            "released_at": (world.released * 1_000_000).tolist(),
            "is_eligible": (world.has_sample & (world.released <= ANCHOR.timestamp())).tolist(),
        }
    )
    decided = world.exposure_decision > -2
    user, item = world.exposure_user[decided], world.exposure_item[decided]
    time, decision = world.exposure_time[decided], world.exposure_decision[decided]
    order = np.lexsort((item, time, user))
    user, item, time, decision = user[order], item[order], time[order], decision[order]
    first_of_user = np.searchsorted(user, user)
    changes = np.flatnonzero((np.diff(user, prepend=-1) != 0) | (np.diff(time, prepend=-1) != 0))
    first_of_moment = np.repeat(changes, np.diff([*changes, len(user)]))
    examples = {
        "user_id": world.user_ids[user].tolist(),
        "sequence": (np.arange(len(user)) - first_of_user + 1).tolist(),
        "item_id": [ids[row] for row in item],
        "decision": decision.tolist(),
        "decided_at": (time * 1_000_000).tolist(),
        "history_size": (first_of_moment - first_of_user).tolist(),
        "is_first_like": (decision == 1).tolist(),
    }
    rows = np.array(sorted(range(len(ids)), key=lambda row: ids[row]), dtype=np.int64)
    return dataset_from_columns(items, examples, world.user_ids.tolist()), rows


def like_probability(
    world: World, rows: npt.NDArray[np.int64], users: npt.NDArray[np.int64], cut: int
) -> npt.NDArray[np.float32]:
    """Return the planted probability that each user likes each item of the dataset, at a moment in microseconds."""
    return world.oracle(users, datetime.fromtimestamp(cut / 1e6, UTC))[:, rows].astype(np.float32)


def _optional(values: npt.NDArray[np.int64], first: int) -> list[int | None]:
    return [None if value < 0 else int(value) + first for value in values]


def _lists(values: npt.NDArray[np.int64], first: int) -> list[list[int]]:
    return [[int(value) + first for value in row if value >= 0] for row in values]

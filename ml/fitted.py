"""A fitted model: the towers with everything that encoding needs beside them.

Belongs here: what training returns and what is read of it everywhere. Does not belong here: how it was fitted, files.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.config import ModelConfig
from ml.contracts import LEARNED
from ml.datasets import StringArray
from ml.settled import Settled
from ml.towers import ItemTower, ScoreScale, UserTower, sparse_bags
from ml.vocabulary import ItemFeatures, Vocabulary

ENCODE_ROWS = 4_096


@dataclass(frozen=True)
class FittedModel:
    """Everything needed to encode items and users."""

    config: ModelConfig
    vocabulary: Vocabulary
    item_tower: ItemTower
    user_tower: UserTower
    scale: ScoreScale
    id_items: StringArray
    """Items with an id embedding: those with any decision in training, sorted; row k of the table is item k - 1."""
    log_popularity: npt.NDArray[np.float32]
    """Half-lives x items of `id_items`, as of `trained_until`."""
    unseen_log_popularity: npt.NDArray[np.float32]
    """The same for an item without any decision."""
    trained_until: int
    seed: int
    epochs: int
    settled: Settled
    """What validation chose."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: loss, validation score where there is one, examples per second."""


def encode_rows(
    model: FittedModel, features: ItemFeatures, id_numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return learned item vectors; id number 0 means that content alone must do."""
    vectors = np.empty((len(features), LEARNED), dtype=np.float32)
    sizes, table = model.vocabulary.sizes(), model.item_tower.id_table.value
    for start in range(0, len(features), ENCODE_ROWS):
        rows = np.arange(start, min(start + ENCODE_ROWS, len(features)))
        part, numbers = features.take(rows), id_numbers[rows]
        vectors[rows] = model.item_tower.call(
            sparse_bags(part, sizes), tf.constant(part.scalars), tf.gather(table, numbers),
            tf.constant((numbers > 0).astype(np.float32)),
        )  # fmt: skip
    return vectors

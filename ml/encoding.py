"""Stored vectors of items and users: batch encoding in the agreed layout, asserted finite and of unit norm.

Belongs here: from a fitted model to float32 matrices. Does not belong here: weights, files, ranking.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.contracts import DIMENSIONS, FIRST_LEARNED
from ml.datasets import MICROSECONDS_PER_DAY, Histories, ItemTable, StringArray
from ml.errors import ContractError
from ml.popularity import trending
from ml.towers import item_layout
from ml.training import FittedModel, encode_rows
from ml.vocabulary import ItemFeatures

ENCODE_USERS = 256


@dataclass(frozen=True)
class ItemVectors:
    """Stored vectors of items, in the order of the item table they came from."""

    item_ids: StringArray
    embedding: npt.NDArray[np.float32]
    """Items x 768, unit norm: prior, filler, learned."""
    learned: npt.NDArray[np.float32]
    """Items x 766, norm below 1: what the user tower reads a prefix of."""
    popularity_prior: npt.NDArray[np.float32]
    """Centred log popularity; it is already inside `embedding`."""
    prior_centre: float
    """What was taken off log popularity: later items of the same publication need the same."""

    @property
    def directions(self) -> npt.NDArray[np.float32]:
        """Items x 766, unit norm: the learned vectors without their length."""
        norms = np.linalg.norm(self.learned, axis=1, keepdims=True)
        return self.learned / np.maximum(norms, np.float32(1e-12))


@dataclass(frozen=True)
class TowerInputs:
    """Padded numeric input of the user tower, newest event first; exactly what the browser bundle reads."""

    history_vectors: npt.NDArray[np.float32]
    decisions: npt.NDArray[np.float32]
    age_days: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]


def encode_items(
    model: FittedModel,
    items: ItemTable,
    log_popularity: npt.NDArray[np.float32] | None = None,
    features: ItemFeatures | None = None,
    prior_centre: float | None = None,
) -> ItemVectors:
    """Encode items; those without a decision in training by content alone.

    Args:
        model: Encodes.
        items: What to encode.
        log_popularity: Half-lives x items, instead of the popularity as of the end of training.
        features: Those of the items under the vocabulary of the model, where somebody has them already.
        prior_centre: That of the vectors these are to stand beside; None: the mean over these items.
    """
    numbers = id_numbers(model, items)
    learned = encode_rows(model, model.vocabulary.features(items) if features is None else features, numbers)
    if log_popularity is None:
        log_popularity = item_log_popularity(model, items)
    prior = trending(log_popularity, model.settled.half_life_days, model.settled.trend)
    centre = (float(prior.mean()) if len(prior) else 0.0) if prior_centre is None else prior_centre
    prior = (prior - np.float32(centre)).astype(np.float32)
    embedding = item_layout(learned, prior)
    require_unit(embedding, "item")
    return ItemVectors(items.item_ids, embedding, learned, prior, centre)


def id_numbers(model: FittedModel, items: ItemTable) -> npt.NDArray[np.int64]:
    """Return the row of each item in the id table; 0 for an item without a decision in training."""
    known = {item_id: row + 1 for row, item_id in enumerate(model.id_items)}
    return np.array([known.get(item_id, 0) for item_id in items.item_ids], dtype=np.int64)


def item_log_popularity(model: FittedModel, items: ItemTable) -> npt.NDArray[np.float32]:
    """Return log popularity (half-lives x items) as of the end of training."""
    padded = np.concatenate([model.unseen_log_popularity[:, None], model.log_popularity], axis=1)
    return padded[:, id_numbers(model, items)]


def encode_users(
    model: FittedModel, item_vectors: ItemVectors, histories: Histories, now: int | None = None
) -> npt.NDArray[np.float32]:
    """Encode users from their histories, whose item numbers count within `item_vectors`.

    Events after `now` are refused. Ages count from the newest event of each user, so a vector changes only when
    the user decides something.
    """
    if now is not None and len(histories.decided_at) and histories.decided_at.max() > now:
        raise ContractError("histories hold events later than the moment of encoding")
    vectors = np.empty((len(histories), DIMENSIONS), dtype=np.float32)
    for start in range(0, len(histories), ENCODE_USERS):
        rows = np.arange(start, min(start + ENCODE_USERS, len(histories)))
        inputs = tower_inputs(model, item_vectors, histories, rows)
        vectors[rows] = model.user_tower.compiled_call(*(tf.constant(value) for value in vars(inputs).values()))
    require_unit(vectors, "user")
    return vectors


def tower_inputs(
    model: FittedModel, item_vectors: ItemVectors, histories: Histories, users: npt.NDArray[np.int64]
) -> TowerInputs:
    """Pad the newest events of the given users to the history length of the model."""
    length, width = model.config.history_length, model.config.history_dimensions
    rows = histories.offsets[users + 1][:, None] - 1 - np.arange(length)[None, :]
    present = rows >= histories.offsets[users][:, None]
    if not len(histories.item_index):
        empty = np.zeros((len(users), length), np.float32)
        return TowerInputs(np.zeros((len(users), length, width), np.float32), empty, empty, empty)
    rows = np.where(present, rows, 0)
    times = histories.decided_at[rows]
    mask = present.astype(np.float32)
    return TowerInputs(
        history_vectors=item_vectors.learned[histories.item_index[rows], :width] * mask[:, :, None],
        decisions=histories.decision[rows].astype(np.float32) * mask,
        age_days=((times[:, :1] - times) / MICROSECONDS_PER_DAY).astype(np.float32) * mask,
        mask=mask,
    )


def learned_query(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the query that finds items like the one with this stored vector, without regard to popularity."""
    query = np.array(vector, dtype=np.float32)
    query[:FIRST_LEARNED] = 0.0
    norm = float(np.linalg.norm(query))
    if not norm:
        raise ContractError("the vector has no learned direction")
    return query / np.float32(norm)


def require_unit(vectors: npt.NDArray[np.float32], kind: str) -> None:
    """Refuse vectors that are not finite or not of unit norm."""
    if vectors.ndim != 2 or vectors.shape[1] != DIMENSIONS:
        raise ContractError(f"{kind} vectors must have {DIMENSIONS} coordinates")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.isfinite(norms).all() or np.abs(norms - 1).max(initial=0) > 1e-4:
        raise ContractError(f"{kind} vectors must be finite and of unit norm")

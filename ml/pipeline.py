"""Batches as a stream of tensors, drawn on a thread of their own while the step before is being computed.

Belongs here: handing over from NumPy to TensorFlow. Does not belong here: what is drawn (`ml.sampling`), or the step.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from ml.sampling import Batch, BatchSource
from ml.vocabulary import BAG_FIELDS, N_SCALARS, ItemFeatures

AHEAD = 2
"""Batches kept ready."""


def stream(source: BatchSource, features: ItemFeatures | None) -> tf.data.Dataset:
    """Return the batches of an epoch as a data set; every pass over it draws the next epoch.

    Make one per fit: TensorFlow keeps the function behind a data set for as long as the process lives. An epoch is
    drawn to its end before the pass ends, so the state of the source's generator is then that of the epoch's end.

    Args:
        source: Draws the batches.
        features: Of the items that candidates number; their content goes with each batch under `bags` and `scalars`.
            None where the step has the whole catalogue at hand.
    """

    def epoch() -> Iterator[dict[str, Any]]:
        for batch in source.epoch():
            yield vars(batch) | (_content(features, batch) if features is not None else {})

    return tf.data.Dataset.from_generator(epoch, output_signature=_signature(features is not None)).prefetch(AHEAD)


def _content(features: ItemFeatures, batch: Batch) -> dict[str, Any]:
    picked = features.take(batch.candidates)
    bags = {name: (picked.bags[name].coordinates(), picked.bags[name].weights) for name in BAG_FIELDS}
    return {"bags": bags, "scalars": picked.scalars}


def _signature(with_content: bool) -> dict[str, Any]:
    matrix, numbers = tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, None], tf.int32)
    signature: dict[str, Any] = {
        "candidates": tf.TensorSpec([None], tf.int64),
        "history": numbers,
        "decisions": matrix,
        "age_days": matrix,
        "mask": matrix,
        "blocks": tf.TensorSpec([None], tf.int32),
        "adjustment": matrix,
        "slots": numbers,
        "valid": matrix,
        "own": matrix,
        "nope_slots": numbers,
        "nope_valid": matrix,
    }
    if with_content:
        bag = (tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None], tf.float32))
        signature["bags"] = dict.fromkeys(BAG_FIELDS, bag)
        signature["scalars"] = tf.TensorSpec([None, N_SCALARS], tf.float32)
    return signature

"""Softmax over candidates: sampling correction, positives handled one by one, prefixes of the vector, nopes.

Belongs here: numbers in, loss out. Does not belong here: drawing samples or holding weights.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.contracts import FIRST_LEARNED, LEARNED, PREFIXES
from ml.devices import product

EXCLUDED = -1e9
"""Added to a logit that must not take part."""
LEARNED_PREFIXES = tuple(prefix - FIRST_LEARNED for prefix in PREFIXES[:-1])
"""Ends of the prefixes within the learned coordinates: the stored prefixes also hold the two special ones."""


def sampling_probabilities(
    frequency: npt.NDArray[np.float64], n_in_batch: int, n_uniform: int
) -> npt.NDArray[np.float64]:
    """Return q(i) = (B f(i) + M / N) / (B + M): the chance that one drawn candidate is item i.

    `frequency` is the share of each item among the training positives and sums to 1 over the catalogue of N items.
    """
    return (n_in_batch * frequency + n_uniform / len(frequency)) / (n_in_batch + n_uniform)


def log_correction(
    counts: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], n_drawn: int
) -> npt.NDArray[np.float32]:
    """Return log(c / (n q)): what to add to the logit of a candidate drawn c times in n draws.

    The sum of exp(logit + correction) over the distinct candidates is then an unbiased estimate of the sum of
    exp(logit) over the catalogue. A candidate listed c times with -log(n q) each is the same sum with more columns.
    """
    return np.log(counts / (n_drawn * probabilities)).astype(np.float32)


def prefix_scores(users: tf.Tensor, items: tf.Tensor) -> list[tf.Tensor]:
    """Return inner products over each learned prefix and over all coordinates, for the price of the last."""
    # Split, not sliced: the gradient of a slice is a zero-filled matrix of full width for each part.
    widths = [end - start for start, end in pairwise((0, *LEARNED_PREFIXES, LEARNED))]
    scores: list[tf.Tensor] = []
    for of_users, of_items in zip(tf.split(users, widths, axis=1), tf.split(items, widths, axis=1), strict=True):
        part = product(of_users, of_items, transpose_b=True)
        scores.append(part if not scores else scores[-1] + part)
    return scores


def softmax_loss(
    logits: tf.Tensor, adjustment: tf.Tensor, slots: tf.Tensor, valid: tf.Tensor, own: tf.Tensor | float = 0.0
) -> tf.Tensor:
    """Return the mean of -log softmax over all valid targets.

    Each target competes with the candidates but not with the other targets of its row: `adjustment` excludes
    targets and decided items and carries the sampling correction of the rest, so the target itself, which was not
    sampled, enters with its exact weight. The gradient is then that of the negatives alone, times one minus the
    estimated chance of the target: the refined correction of Khrylchenko et al. 2025 (arXiv 2507.09331).

    Args:
        logits: Contexts x candidates.
        adjustment: Contexts x candidates, added to the logits of what a target competes with.
        slots: Contexts x targets: columns of the targets.
        valid: Contexts x targets: 0 for padding.
        own: Contexts x targets: added to the logits of the targets themselves. With the correction of a candidate drawn
            once this is the customary form (Bengio and Senecal 2008), which counts rare targets as near-certain.
    """
    others = tf.reduce_logsumexp(logits + adjustment, axis=1, keepdims=True)
    losses = tf.nn.softplus(others - tf.gather(logits, slots, batch_dims=1) - own)
    return tf.reduce_sum(losses * valid) / tf.maximum(tf.reduce_sum(valid), 1.0)


def nope_loss(
    logits: tf.Tensor, slots: tf.Tensor, valid: tf.Tensor, nope_slots: tf.Tensor, nope_valid: tf.Tensor
) -> tf.Tensor:
    """Return the mean of -log sigmoid(mean logit of the likes - logit of a nope) over all valid nopes."""
    likes = tf.reduce_sum(tf.gather(logits, slots, batch_dims=1) * valid, axis=1, keepdims=True)
    likes /= tf.maximum(tf.reduce_sum(valid, axis=1, keepdims=True), 1.0)
    losses = tf.nn.softplus(tf.gather(logits, nope_slots, batch_dims=1) - likes)
    return tf.reduce_sum(losses * nope_valid) / tf.maximum(tf.reduce_sum(nope_valid), 1.0)

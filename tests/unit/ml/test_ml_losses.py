"""The sampling correction estimates the full softmax, and each prefix is scored as if it were the whole vector."""

import numpy as np
import tensorflow as tf  # noqa: TID253 - the losses are TensorFlow

from ml.losses import (
    EXCLUDED,
    LEARNED_PREFIXES,
    log_correction,
    nope_loss,
    prefix_scores,
    sampling_probabilities,
    softmax_loss,
)


def test_sampling_probabilities_by_hand():
    # Batch of 4, 4 uniform draws, 4 items: (4 f + 4/4) / 8.
    q = sampling_probabilities(np.array([0.5, 0.25, 0.25, 0.0]), 4, 4)
    assert np.allclose(q, [0.375, 0.25, 0.25, 0.125])
    assert np.isclose(q.sum(), 1)


def test_log_correction_by_hand():
    assert np.allclose(log_correction(np.array([2, 1]), np.array([0.25, 0.5]), 8), np.log([1.0, 0.25]))


def test_an_item_seen_once_in_five_million_has_a_finite_correction():
    frequency = np.array([1 / 5_000_000, 1 - 1 / 5_000_000])
    assert np.isfinite(log_correction(np.array([1, 1]), sampling_probabilities(frequency, 512, 0), 512)).all()


def sampled_gradient(scores, frequency, target, sign, rng, batch=512, uniform=256):
    drawn = np.concatenate([rng.choice(len(scores), batch, p=frequency), rng.integers(0, len(scores), uniform)])
    items, counts = np.unique(np.append(drawn, target), return_counts=True)
    counts[items == target] -= 1
    q = sampling_probabilities(frequency, batch, uniform)[items]
    counts = np.maximum(counts, 1)
    adjustment = log_correction(counts, q, batch + uniform)
    if sign < 0:
        adjustment = 2 * np.log(counts).astype(np.float32) - adjustment
    adjustment[items == target] = EXCLUDED
    logits = tf.Variable(scores[items][None, :].astype(np.float32))
    with tf.GradientTape() as tape:
        slots = tf.constant([[int(np.flatnonzero(items == target)[0])]])
        loss = softmax_loss(logits, tf.constant(adjustment[None, :]), slots, tf.ones((1, 1)))
    full = np.zeros(len(scores))
    full[items] = tape.gradient(loss, logits).numpy()[0]
    return full


def test_sampled_gradient_is_that_of_the_full_softmax_and_a_flipped_sign_is_not():
    rng = np.random.default_rng(0)
    n, target = 200, 3
    frequency = 1 / np.arange(1, n + 1)
    frequency /= frequency.sum()
    scores = np.log(frequency) + rng.normal(0, 0.5, n)
    softmax = np.exp(scores - scores.max())
    exact = softmax / softmax.sum() - np.eye(n)[target]

    def bias(sign):
        draws = [sampled_gradient(scores, frequency, target, sign, rng) for _ in range(120)]
        return np.linalg.norm(np.mean(draws, axis=0) - exact) / np.linalg.norm(exact)

    assert bias(+1) < 0.01
    assert bias(-1) > 0.05


def test_a_target_competes_with_others_but_not_with_its_own_row():
    logits = tf.constant([[5.0, 5.0, 0.0]])
    adjustment = tf.constant([[EXCLUDED, EXCLUDED, 0.0]])
    loss = softmax_loss(logits, adjustment, tf.constant([[0, 1]]), tf.constant([[1.0, 1.0]]))
    assert np.isclose(float(loss), np.log1p(np.exp(-5.0)), atol=1e-5)


def test_padding_targets_do_not_count():
    logits = tf.constant([[2.0, 0.0]])
    adjustment = tf.constant([[EXCLUDED, 0.0]])
    one = softmax_loss(logits, adjustment, tf.constant([[0]]), tf.constant([[1.0]]))
    padded = softmax_loss(logits, adjustment, tf.constant([[0, 0]]), tf.constant([[1.0, 0.0]]))
    assert np.isclose(float(one), float(padded))


def test_nope_loss_falls_when_nopes_fall_below_likes():
    arguments = (tf.constant([[0]]), tf.ones((1, 1)), tf.constant([[1]]), tf.ones((1, 1)))
    assert float(nope_loss(tf.constant([[1.0, 0.0]]), *arguments)) < float(
        nope_loss(tf.constant([[0.0, 1.0]]), *arguments)
    )


def test_prefix_scores_equal_inner_products_of_the_prefixes():
    rng = np.random.default_rng(1)
    users, items = (rng.normal(size=(rows, 766)).astype(np.float32) for rows in (3, 5))
    scores = prefix_scores(tf.constant(users), tf.constant(items))
    assert LEARNED_PREFIXES == (62, 126, 254)
    for end, found in zip((62, 126, 254, 766), scores, strict=True):
        assert np.allclose(found, users[:, :end] @ items[:, :end].T, atol=1e-3)

"""The sampling correction estimates the full softmax, and each prefix is scored as if it were the whole vector."""

import numpy as np
import pytest
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


N_ITEMS, BATCH, UNIFORM, DRAWS = 200, 512, 256, 4_000


def skewed_world():
    """Popularities that fall like 1 / rank, and scores that know them up to a little noise."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, N_ITEMS + 1)
    frequency /= frequency.sum()
    return rng, frequency, np.log(frequency) + rng.normal(0, 0.5, N_ITEMS)


def exact_gradient(scores, target):
    softmax = np.exp(scores - scores.max())
    return softmax / softmax.sum() - np.eye(len(scores))[target]


def sampled_gradients(scores, frequency, target, rng, *, draws=DRAWS, sign=1, standard=False):
    """The gradients of many draws of 512 positives of others and 256 uniform candidates, one row each."""
    q = sampling_probabilities(frequency, BATCH, UNIFORM)
    counts = rng.multinomial(BATCH, frequency, draws) + rng.multinomial(UNIFORM, np.full(N_ITEMS, 1 / N_ITEMS), draws)
    present = np.maximum(counts, 1)
    adjustment = log_correction(present, q, BATCH + UNIFORM)
    if sign < 0:
        adjustment = 2 * np.log(present).astype(np.float32) - adjustment
    adjustment[counts == 0] = EXCLUDED
    adjustment[:, target] = EXCLUDED
    own = log_correction(np.ones(1), q[[target]], BATCH + UNIFORM) if standard else np.zeros(1, np.float32)
    logits = tf.Variable(np.tile(scores.astype(np.float32), (draws, 1)))
    with tf.GradientTape() as tape:
        slots, ones = tf.fill((draws, 1), target), tf.ones((draws, 1))
        loss = softmax_loss(logits, tf.constant(adjustment), slots, ones, tf.constant(own) * ones)
    return tape.gradient(loss, logits).numpy() * draws


def bias(target, **how):
    """How far the mean gradient of many draws is from that of the full softmax, as a share of the latter."""
    rng, frequency, scores = skewed_world()
    mean = sampled_gradients(scores, frequency, target, rng, **how).mean(axis=0)
    exact = exact_gradient(scores, target)
    return np.linalg.norm(mean - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("target", [0, 3, 150], ids=["the most popular", "a popular one", "a rare one"])
def test_the_refined_gradient_is_that_of_the_full_softmax(target):
    assert bias(target) < 0.01


def test_a_flipped_sign_is_not_the_full_softmax():
    assert bias(3, sign=-1) > 0.05


def test_the_standard_form_is_right_only_for_a_target_that_one_draw_in_all_is_expected_of():
    # Any other target weighs 1 / (n q) times: popular ones never seem learned, rare ones at once.
    _, frequency, scores = skewed_world()
    expected = (BATCH + UNIFORM) * sampling_probabilities(frequency, BATCH, UNIFORM)
    usual = int(np.abs(expected - 1).argmin()) if expected.min() < 1 else N_ITEMS - 1
    assert bias(0, standard=True) > 0.1 > 10 * bias(0)
    assert bias(usual, standard=True) < 0.01
    exact = exact_gradient(scores, 0)[0]
    rng = np.random.default_rng(1)
    assert sampled_gradients(scores, frequency, 0, rng, standard=True)[:, 0].mean() < 1.1 * exact


def test_the_refined_gradient_is_that_of_the_negatives_times_one_minus_the_chance_of_the_target():
    rng, frequency, scores = skewed_world()
    gradient = sampled_gradients(scores, frequency, 7, rng, draws=1)[0]
    others = np.delete(gradient, 7)
    chance = 1 + gradient[7]
    assert 0 < chance < 1
    assert np.isclose(others.sum(), 1 - chance, atol=1e-5)
    # -log of the sampled softmax over the negatives alone has the same direction, and no such factor.
    assert np.isclose((others / (1 - chance)).sum(), 1, atol=1e-5)


def test_with_the_whole_catalogue_both_forms_are_the_full_softmax():
    _, _, scores = skewed_world()
    logits = tf.Variable(scores[None, :].astype(np.float32))
    adjustment = np.zeros((1, N_ITEMS), np.float32)
    adjustment[0, 5] = EXCLUDED
    with tf.GradientTape() as tape:
        loss = softmax_loss(logits, tf.constant(adjustment), tf.constant([[5]]), tf.ones((1, 1)), tf.zeros((1, 1)))
    assert np.allclose(tape.gradient(loss, logits).numpy()[0], exact_gradient(scores, 5), atol=1e-5)


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

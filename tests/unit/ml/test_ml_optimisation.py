"""Adam as published, by hand; the step size over a fit; clipping."""

import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253 - the optimiser is TensorFlow

from ml.optimisation import SCALE_RATE, DenseAdam, RowAdam, clipped, step_size, warmed_up


def adam(value, gradients, rate, decay=0.0):
    """Kingma and Ba 2015, section 2.1's faster form, with decoupled decay."""
    first = second = 0.0
    for step, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        moved = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * first / (np.sqrt(second) + 1e-7)
        value = value - rate * decay * value - moved
    return value


GRADIENTS = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)


def test_dense_adam_is_that_of_the_paper():
    start = np.arange(6, dtype=np.float32).reshape(3, 2)
    variable = tf.Variable(start)
    optimiser = DenseAdam([variable])
    for step, gradient in enumerate(GRADIENTS, start=1):
        optimiser.apply([tf.constant(gradient)], tf.constant(0.01), tf.constant(float(step)), 0.1)
    assert np.allclose(variable.numpy(), adam(start, GRADIENTS, 0.01, 0.1), atol=1e-6)


def test_a_scalar_moves_further_and_does_not_decay():
    scale = tf.Variable(2.0)
    DenseAdam([scale]).apply([tf.constant(0.5)], tf.constant(0.01), tf.constant(1.0), 0.1)
    assert np.isclose(scale.numpy(), 2.0 - SCALE_RATE * 0.01, atol=1e-5)


def test_rows_that_were_not_used_stay_and_used_ones_move_like_dense_ones():
    start = np.ones((5, 2), np.float32)
    table, rows = tf.Variable(start), tf.constant([3, 0, 4], tf.int64)
    optimiser = RowAdam(table)
    for step, gradient in enumerate(GRADIENTS, start=1):
        optimiser.apply(rows, tf.constant(gradient), tf.constant(0.01), tf.constant(float(step)), 0.1)
    assert np.array_equal(table.numpy()[[1, 2]], start[[1, 2]])
    assert not any(moment.numpy()[[1, 2]].any() for moment in optimiser.state)
    assert np.allclose(table.numpy()[[3, 0, 4]], adam(start[:3], GRADIENTS, 0.01, 0.1), atol=1e-6)


def test_long_gradients_are_scaled_down_together_and_short_ones_stay():
    gradients = [tf.constant([3.0, 0.0]), tf.constant([[4.0]])]
    assert [g.numpy().tolist() for g in clipped(gradients, 10.0)] == [[3.0, 0.0], [[4.0]]]
    assert np.allclose(clipped(gradients, 1.0)[0], [0.6, 0.0])
    assert np.allclose(clipped(gradients, 1.0)[1], [[0.8]])


def test_a_sparse_gradient_is_clipped_as_the_dense_one_it_stands_for():
    sparse = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([1, 0]), tf.constant([3, 1]))
    assert np.allclose(clipped([sparse], 1.0)[0], [[0.8], [0.6], [0.0]])


@pytest.mark.parametrize(("step", "share"), [(1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)])
def test_the_step_size_rises_over_the_first_steps(step, share):
    assert np.isclose(warmed_up(tf.constant(0.2), tf.constant(float(step)), 4), 0.2 * share)


def test_the_step_size_falls_by_a_factor_per_epoch():
    assert np.allclose([step_size(0.1, 0.5, epoch) for epoch in (1, 2, 4)], [0.1, 0.05, 0.0125])

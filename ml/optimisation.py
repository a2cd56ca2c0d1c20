"""Adam on whole variables and on the rows of a table, the step size over a fit, and clipping.

Belongs here: from gradients to weights. Does not belong here: losses, or what the weights mean.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

FIRST_DECAY = 0.9
SECOND_DECAY = 0.999
EPSILON = 1e-7
SCALE_RATE = 10.0
"""Step size of the score scale, as a multiple of the rest: one far-reaching number, it settles within an epoch."""


def step_size(start: float, decay: float, epoch: int) -> float:
    """Return the step size of an epoch, from 1; it does not depend on how many follow, so a refit repeats it."""
    return start * decay ** (epoch - 1)


def warmed_up(rate: tf.Tensor, step: tf.Tensor, warmup_steps: int) -> tf.Tensor:
    """Return the step size of one step, counted from 1: rising in a line over the first ones."""
    return rate * tf.minimum(1.0, step / warmup_steps)


def clipped(gradients: Sequence[Any], norm: float) -> list[tf.Tensor]:
    """Return dense gradients, scaled down together where their global norm exceeds `norm`."""
    scaled, _ = tf.clip_by_global_norm([tf.convert_to_tensor(gradient) for gradient in gradients], norm)
    return list(scaled)


class RowAdam:
    """Adam on the rows of one table that a step touched; rows that were not used keep their moments."""

    def __init__(self, table: Any) -> None:
        """Allocate the moments."""
        self.table = table
        self.first = tf.Variable(tf.zeros(table.shape), trainable=False)
        self.second = tf.Variable(tf.zeros(table.shape), trainable=False)

    @property
    def state(self) -> list[Any]:
        """The moments."""
        return [self.first, self.second]

    def apply(self, rows: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, decay: float) -> None:
        """Move the given distinct rows."""
        indices = rows[:, None]
        first = FIRST_DECAY * tf.gather(self.first, rows) + (1 - FIRST_DECAY) * gradient
        second = SECOND_DECAY * tf.gather(self.second, rows) + (1 - SECOND_DECAY) * tf.square(gradient)
        self.first.scatter_nd_update(indices, first)
        self.second.scatter_nd_update(indices, second)
        shrink = rate * decay * tf.gather(self.table, rows)
        self.table.scatter_nd_sub(indices, _unbiased(rate, step) * first / (tf.sqrt(second) + EPSILON) + shrink)


class DenseAdam:
    """Adam on whole variables; a scalar moves by larger steps and does not decay."""

    def __init__(self, variables: Sequence[Any]) -> None:
        """Allocate the moments."""
        self.variables = list(variables)
        self.moments = [(tf.Variable(tf.zeros(v.shape)), tf.Variable(tf.zeros(v.shape))) for v in self.variables]

    @property
    def state(self) -> list[Any]:
        """The moments."""
        return [moment for pair in self.moments for moment in pair]

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, step: tf.Tensor, decay: float) -> None:
        """Move all variables."""
        corrected = _unbiased(rate, step)
        for variable, gradient, (first, second) in zip(self.variables, gradients, self.moments, strict=True):
            is_scale = variable.shape.rank == 0
            factor, shrink = (SCALE_RATE, 0.0) if is_scale else (1.0, decay)
            first.assign(FIRST_DECAY * first + (1 - FIRST_DECAY) * gradient)
            second.assign(SECOND_DECAY * second + (1 - SECOND_DECAY) * tf.square(gradient))
            variable.assign(variable * (1 - rate * shrink) - factor * corrected * first / (tf.sqrt(second) + EPSILON))


def _unbiased(rate: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    return rate * tf.sqrt(1 - tf.pow(SECOND_DECAY, step)) / (1 - tf.pow(FIRST_DECAY, step))

"""The two towers and the score that joins them, as small Keras models with explicit weights.

Belongs here: forward passes and the layout of stored vectors. Does not belong here: sampling, losses, optimisation.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.config import ModelConfig
from ml.contracts import BETA, DECISIONS, LEARNED
from ml.popularity import HALF_LIVES_DAYS
from ml.vocabulary import BAG_FIELDS, N_SCALARS, ItemFeatures, Vocabulary

_NARROWER = {"tags": 1, "performers": 1, "label_ids": 4}


@keras.saving.register_keras_serializable(package="matching")
class ItemTower(keras.Model):
    """Item vector = content features through one hidden layer + an embedding of the item id, if it has one."""

    def __init__(
        self, n_ids: int, vocabulary_sizes: Mapping[str, int], bag_dimensions: int, hidden: int, **kwargs: Any
    ) -> None:
        """Create all weights; row 0 of every table stands for unknown and is never read."""
        super().__init__(**kwargs)
        self.settings = {
            "n_ids": n_ids,
            "vocabulary_sizes": dict(vocabulary_sizes),
            "bag_dimensions": bag_dimensions,
            "hidden": hidden,
        }
        self.tables = {}
        width = N_SCALARS
        for field in BAG_FIELDS:
            dimensions = max(bag_dimensions // _NARROWER.get(field, 2), 1)
            self.tables[field] = self.add_weight(
                name=f"{field}_table", shape=(vocabulary_sizes[field], dimensions), initializer=_normal(dimensions)
            )
            width += dimensions
        self.hidden_kernel = self.add_weight(name="hidden_kernel", shape=(width, hidden), initializer="glorot_uniform")
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(hidden,), initializer="zeros")
        self.output_kernel = self.add_weight(
            name="output_kernel", shape=(hidden, LEARNED), initializer="glorot_uniform"
        )
        self.id_table = self.add_weight(name="id_table", shape=(n_ids + 1, LEARNED), initializer=_normal(LEARNED))
        self.built = True

    def content(self, bags: Mapping[str, tf.SparseTensor], scalars: tf.Tensor) -> tf.Tensor:
        """Return the part of the vector that needs no item id, not normalised."""
        parts = [tf.sparse.sparse_dense_matmul(bags[field], self.tables[field]) for field in BAG_FIELDS]
        inputs = tf.concat([*parts, scalars], axis=1)
        hidden = tf.nn.gelu(tf.matmul(inputs, self.hidden_kernel) + self.hidden_bias, approximate=True)
        return tf.matmul(hidden, self.output_kernel)

    def call(
        self, bags: Mapping[str, tf.SparseTensor], scalars: tf.Tensor, id_rows: tf.Tensor, id_mask: tf.Tensor
    ) -> tf.Tensor:
        """Return unit vectors; `id_mask` 0 hides the id of an item."""
        return tf.math.l2_normalize(self.content(bags, scalars) + id_rows * id_mask[:, None], axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds this tower."""
        return {**super().get_config(), **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ItemTower":
        """Rebuild a tower."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})


@keras.saving.register_keras_serializable(package="matching")
class UserTower(keras.Model):
    """User vector = linear map of fading sums over the history, plus a small correction; it knows no user id.

    With one head and the correction at zero this is a linear item-to-item model over a fading history.
    """

    def __init__(self, history_dimensions: int, heads: int, hidden: int, **kwargs: Any) -> None:
        """Create all weights; at the start a user is the mean of what the user liked."""
        super().__init__(**kwargs)
        self.settings = {"history_dimensions": history_dimensions, "heads": heads, "hidden": hidden}
        self.heads = heads
        self.channels = heads * len(DECISIONS)
        width = self.channels * history_dimensions
        start = np.zeros((self.channels, history_dimensions, LEARNED), dtype=np.float32)
        start[:heads] = np.eye(history_dimensions, LEARNED, dtype=np.float32) / heads
        self.event_kernel = self.add_weight(name="event_kernel", shape=(5, 16), initializer="glorot_uniform")
        self.event_bias = self.add_weight(name="event_bias", shape=(16,), initializer="zeros")
        self.event_output = self.add_weight(name="event_output", shape=(16, heads), initializer="glorot_uniform")
        self.event_level = self.add_weight(name="event_level", shape=(heads,), initializer="ones")
        self.linear_kernel = self.add_weight(
            name="linear_kernel", shape=(width, LEARNED), initializer=_constant(start.reshape(width, LEARNED))
        )
        self.default_vector = self.add_weight(
            name="default_vector", shape=(LEARNED,), initializer=_normal(LEARNED * 100)
        )
        self.hidden_kernel = self.add_weight(
            name="hidden_kernel", shape=(width + self.channels, hidden), initializer="glorot_uniform"
        )
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(hidden,), initializer="zeros")
        self.hidden_output = self.add_weight(name="hidden_output", shape=(hidden, LEARNED), initializer="zeros")
        self.built = True
        matrix = tf.TensorSpec([None, None], tf.float32)
        history = tf.TensorSpec([None, None, history_dimensions], tf.float32)
        self.compiled_call = tf.function(self.call, input_signature=[history, matrix, matrix, matrix])

    def event_weights(self, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return users x events x channels: how much each event counts, by kind of decision, place and age.

        Events come newest first; `age_days` counts from the newest event of the user, so that a vector does not
        depend on the moment of encoding and training sees the same range as serving.
        """
        rank = tf.math.log1p(tf.cast(tf.range(tf.shape(decisions)[1]), tf.float32))[None, :] * tf.ones_like(decisions)
        kinds = [tf.nn.relu(decisions), tf.nn.relu(-decisions), 1.0 - tf.abs(decisions)]
        features = tf.stack([*kinds, rank, tf.math.log1p(tf.nn.relu(age_days))], axis=2)
        flat = tf.reshape(features, [-1, 5])
        linear = tf.matmul(flat, self.event_kernel) + self.event_bias
        # Softsign, not tanh: a tanh right behind a product is fused, and TensorFlow.js has no such kernel on the CPU.
        hidden = linear / (1.0 + tf.abs(linear))
        weights = tf.sigmoid(tf.matmul(hidden, self.event_output) + self.event_level)
        weights = tf.reshape(weights, [-1, tf.shape(decisions)[1], self.heads]) * mask[:, :, None]
        return tf.concat([weights * kind[:, :, None] for kind in kinds], axis=2)

    def combine(self, sums: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
        """Return unit directions from weighted sums of history vectors (users x channels x coordinates)."""
        scaled = sums * tf.math.rsqrt(totals + 1.0)[:, :, None]
        flat = tf.reshape(scaled, [-1, self.channels * self.settings["history_dimensions"]])
        extra = tf.concat([flat, tf.math.log1p(totals)], axis=1)
        hidden = tf.nn.gelu(tf.matmul(extra, self.hidden_kernel) + self.hidden_bias, approximate=True)
        direction = tf.matmul(flat, self.linear_kernel) + tf.matmul(hidden, self.hidden_output) + self.default_vector
        return tf.math.l2_normalize(direction, axis=1)

    def directions(
        self, history_vectors: tf.Tensor, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor
    ) -> tf.Tensor:
        """Return the learned direction of each user (unit, 766 coordinates)."""
        weights = self.event_weights(decisions, age_days, mask)
        return self.combine(tf.matmul(weights, history_vectors, transpose_a=True), tf.reduce_sum(weights, axis=1))

    def call(self, history_vectors: tf.Tensor, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return stored user vectors: [beta, 0, direction] / sqrt(1 + beta^2)."""
        directions = self.directions(history_vectors, decisions, age_days, mask)
        special = tf.ones_like(directions[:, :1])
        return tf.concat([special * BETA, special * 0.0, directions], axis=1) / np.float32(np.sqrt(1 + BETA**2))

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds this tower."""
        return {**super().get_config(), **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "UserTower":
        """Rebuild a tower."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})


@keras.saving.register_keras_serializable(package="matching")
class ScoreScale(keras.Model):
    """Temperature and popularity weights: logit = cosine / tau + sum of w x log popularity."""

    def __init__(self, temperature: float, low: float, high: float, **kwargs: Any) -> None:
        """Create the weights."""
        super().__init__(**kwargs)
        self.settings = {"temperature": temperature, "low": low, "high": high}
        self.raw_temperature = self.add_weight(
            name="raw_temperature", shape=(), initializer=_constant(np.float32(np.log(temperature)))
        )
        self.raw_weights = self.add_weight(
            name="raw_weights", shape=(len(HALF_LIVES_DAYS),), initializer=_constant(np.float32(-1.0))
        )
        self.built = True

    def temperature(self) -> tf.Tensor:
        """Return tau within its bounds."""
        return tf.exp(
            tf.clip_by_value(self.raw_temperature, np.log(self.settings["low"]), np.log(self.settings["high"]))
        )

    def prior_weights(self) -> tf.Tensor:
        """Return the non-negative weight of each half-life."""
        return tf.nn.softplus(self.raw_weights)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds this scale."""
        return {**super().get_config(), **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ScoreScale":
        """Rebuild a scale."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})


def build_towers(config: ModelConfig, vocabulary: Vocabulary, n_ids: int) -> tuple[ItemTower, UserTower, ScoreScale]:
    """Create fresh towers for a configuration."""
    return (
        ItemTower(n_ids, vocabulary.sizes(), config.bag_dimensions, config.item_hidden, name="item_tower"),
        UserTower(config.history_dimensions, config.fading_heads, config.user_hidden, name="user_tower"),
        ScoreScale(config.temperature, config.min_temperature, config.max_temperature, name="score_scale"),
    )


def sparse_bags(features: ItemFeatures, sizes: Mapping[str, int]) -> dict[str, tf.SparseTensor]:
    """Return content bags in the form the item tower reads."""
    return {
        field: tf.SparseTensor(bags.coordinates(), bags.weights, (len(features), sizes[field]))
        for field, bags in features.bags.items()
    }


def item_layout(learned: npt.NDArray[np.float32], prior: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return stored item vectors [b / beta, f, v] / M, all of unit norm (MIPS to cosine, Bachrach et al. 2014)."""
    first = prior.astype(np.float64) / BETA
    squared = 1 + first**2
    largest = squared.max() if len(squared) else 1.0
    filler = np.sqrt(np.maximum(largest - squared, 0))
    stored = np.concatenate([first[:, None], filler[:, None], learned.astype(np.float64)], axis=1) / np.sqrt(largest)
    return stored.astype(np.float32)


def _normal(dimensions: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=1 / np.sqrt(dimensions))


def _constant(value: Any) -> Any:
    return lambda shape, dtype=None: tf.cast(
        tf.reshape(tf.constant(value), shape) if np.ndim(value) else tf.fill(shape, value), tf.float32
    )

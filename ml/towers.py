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
from ml.contracts import DECISIONS, LEARNED, LIKE, NOPE, PRIOR_LIMIT, PRIOR_UNIT, SKIP, STORED_NORM
from ml.devices import product
from ml.settled import Settled
from ml.vocabulary import BAG_FIELDS, N_SCALARS, ItemFeatures, Vocabulary

RETURNING_DAYS = 30.0
"""Span of a history at which a user counts half as one who returns on other days."""
_NARROWER = {"tags": 1, "performers": 1, "label_ids": 4}


@keras.saving.register_keras_serializable(package="matching")
class ItemTower(keras.Model):
    """Item vector = content features through one hidden layer + an embedding of the item id, if it has one.

    Its norm lies below 1 and is learned: an item that little is known of stays short, so that neither as a candidate
    nor within a history does it speak louder than its evidence.
    """

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

    def hidden(self, bags: Mapping[str, tf.SparseTensor], scalars: tf.Tensor) -> tf.Tensor:
        """Return the hidden layer of the content part."""
        parts = [tf.sparse.sparse_dense_matmul(bags[field], self.tables[field]) for field in BAG_FIELDS]
        inputs = tf.concat([*parts, scalars], axis=1)
        return tf.nn.gelu(product(inputs, self.hidden_kernel) + self.hidden_bias, approximate=True)

    def call(
        self, bags: Mapping[str, tf.SparseTensor], scalars: tf.Tensor, id_rows: tf.Tensor, id_mask: tf.Tensor
    ) -> tf.Tensor:
        """Return vectors of norm below 1; `id_mask` 0 hides the id of an item."""
        raw = product(self.hidden(bags, scalars), self.output_kernel) + id_rows * id_mask[:, None]
        return raw * tf.math.rsqrt(1.0 + tf.reduce_sum(tf.square(raw), axis=1, keepdims=True))

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

    An event weighs floor + (1 - floor) exp(-place / memory), place 0 being the newest, times an attention factor that
    starts at 1 and learns from the kind of decision, place and age. With the correction at zero the tower is a linear
    item-to-item model over a fading history.
    """

    def __init__(self, history_dimensions: int, heads: int, hidden: int, **kwargs: Any) -> None:
        """Create all weights; at the start a user is the sum of what the user liked."""
        super().__init__(**kwargs)
        self.settings = {"history_dimensions": history_dimensions, "heads": heads, "hidden": hidden}
        self.heads = heads
        self.channels = heads * len(DECISIONS)
        width = self.channels * history_dimensions
        self.log_memory = self.add_weight(name="log_memory", shape=(heads,), initializer="zeros")
        self.floor_logit = self.add_weight(name="floor_logit", shape=(heads,), initializer="zeros")
        self.event_kernel = self.add_weight(name="event_kernel", shape=(5, 16), initializer="glorot_uniform")
        self.event_bias = self.add_weight(name="event_bias", shape=(16,), initializer="zeros")
        self.event_output = self.add_weight(name="event_output", shape=(16, heads), initializer="zeros")
        self.linear_kernel = self.add_weight(name="linear_kernel", shape=(width, LEARNED), initializer="zeros")
        self.default_vector = self.add_weight(
            name="default_vector", shape=(LEARNED,), initializer=_normal(LEARNED * 1_000_000)
        )
        self.hidden_kernel = self.add_weight(
            name="hidden_kernel", shape=(width + self.channels, hidden), initializer="glorot_uniform"
        )
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(hidden,), initializer="zeros")
        self.hidden_output = self.add_weight(name="hidden_output", shape=(hidden, LEARNED), initializer="zeros")
        self.prior_levels = self.add_weight(name="prior_levels", shape=(2,), initializer="zeros", trainable=False)
        identity = np.eye(history_dimensions, LEARNED, dtype=np.float32)
        self.start_from(identity, np.zeros_like(identity), Settled())
        self.built = True
        matrix = tf.TensorSpec([None, None], tf.float32)
        history = tf.TensorSpec([None, None, history_dimensions], tf.float32)
        self.compiled_call = tf.function(self.call, input_signature=[history, matrix, matrix, matrix])

    def start_from(
        self, of_likes: npt.NDArray[np.float32], of_decisions: npt.NDArray[np.float32], settled: Settled
    ) -> None:
        """Set the maps of likes and of other decisions (history coordinates x 766), the fading and the prior's weights.

        Further heads fade four times as slowly as the one before.
        """
        kinds = {LIKE: of_likes, NOPE: of_decisions, SKIP: of_decisions}
        self.linear_kernel.assign(np.concatenate([kinds[k] / self.heads for k in DECISIONS for _ in range(self.heads)]))
        self.log_memory.assign(np.log(settled.memory * 4.0 ** np.arange(self.heads)))
        self.floor_logit.assign(np.full(self.heads, np.log(settled.floor / (1 - settled.floor))))
        self.prior_levels.assign([settled.prior_weight, settled.returning_prior_weight])

    def event_weights(self, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return users x events x channels: how much each event counts, by kind of decision, place and age.

        Events come newest first; `age_days` counts from the newest event of the user, so that a vector does not
        depend on the moment of encoding and training sees the same range as serving.
        """
        place = tf.cast(tf.range(tf.shape(decisions)[1]), tf.float32)[None, :] * tf.ones_like(decisions)
        kinds = [tf.nn.relu(decisions), tf.nn.relu(-decisions), 1.0 - tf.abs(decisions)]
        features = tf.stack([*kinds, tf.math.log1p(place), tf.math.log1p(tf.nn.relu(age_days))], axis=2)
        linear = tf.matmul(tf.reshape(features, [-1, 5]), self.event_kernel) + self.event_bias
        # Softsign, not tanh: a tanh right behind a product is fused, and TensorFlow.js has no such kernel on the CPU.
        hidden = linear / (1.0 + tf.abs(linear))
        shape = [-1, tf.shape(decisions)[1], self.heads]
        attention = 2.0 * tf.sigmoid(tf.reshape(tf.matmul(hidden, self.event_output), shape))
        floor = tf.sigmoid(self.floor_logit)
        fading = floor + (1.0 - floor) * tf.exp(-place[:, :, None] * tf.exp(-self.log_memory))
        weights = attention * fading * mask[:, :, None]
        return tf.concat([weights * kind[:, :, None] for kind in kinds], axis=2)

    def combine(self, sums: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
        """Return unit directions from weighted sums of history vectors (users x channels x coordinates)."""
        # One scale for all channels, so that likes and other decisions keep their proportion.
        scaled = sums * tf.math.rsqrt(tf.reduce_sum(totals, axis=1, keepdims=True) + 1.0)[:, :, None]
        flat = tf.reshape(scaled, [-1, self.channels * self.settings["history_dimensions"]])
        extra = tf.concat([flat, tf.math.log1p(totals)], axis=1)
        hidden = tf.nn.gelu(product(extra, self.hidden_kernel) + self.hidden_bias, approximate=True)
        direction = product(flat, self.linear_kernel) + product(hidden, self.hidden_output) + self.default_vector
        return tf.math.l2_normalize(direction, axis=1)

    def directions(
        self, history_vectors: tf.Tensor, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor
    ) -> tf.Tensor:
        """Return the learned direction of each user (unit, 766 coordinates)."""
        weights = self.event_weights(decisions, age_days, mask)
        return self.combine(tf.matmul(weights, history_vectors, transpose_a=True), tf.reduce_sum(weights, axis=1))

    def prior_weight(self, age_days: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return how much popularity counts for each user (users x 1): by how many days the history spans."""
        span = tf.reduce_max(age_days * mask, axis=1, keepdims=True)
        squared = span * span
        returning = squared / (squared + RETURNING_DAYS**2)
        return self.prior_levels[0] * (1.0 - returning) + self.prior_levels[1] * returning

    def call(self, history_vectors: tf.Tensor, decisions: tf.Tensor, age_days: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Return stored user vectors: [weight of the prior, 0, direction], scaled to unit norm."""
        directions = self.directions(history_vectors, decisions, age_days, mask)
        prior = self.prior_weight(age_days, mask) * PRIOR_UNIT
        return tf.concat([prior, prior * 0.0, directions], axis=1) * tf.math.rsqrt(1.0 + prior * prior)

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds this tower."""
        return {**super().get_config(), **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "UserTower":
        """Rebuild a tower."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})


@keras.saving.register_keras_serializable(package="matching")
class ScoreScale(keras.Model):
    """Temperature: logit = (cosine + weight of the prior x prior) / tau."""

    def __init__(self, temperature: float, low: float, high: float, **kwargs: Any) -> None:
        """Create the weight."""
        super().__init__(**kwargs)
        self.settings = {"temperature": temperature, "low": low, "high": high}
        self.raw_temperature = self.add_weight(
            name="raw_temperature", shape=(), initializer=_constant(np.float32(np.log(temperature)))
        )
        self.built = True

    def temperature(self) -> tf.Tensor:
        """Return tau within its bounds."""
        return tf.exp(
            tf.clip_by_value(self.raw_temperature, np.log(self.settings["low"]), np.log(self.settings["high"]))
        )

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
    """Return stored item vectors [p / unit, f, v] / M, all of unit norm (MIPS to cosine, Bachrach et al. 2014)."""
    first = np.clip(prior.astype(np.float64), -PRIOR_LIMIT, PRIOR_LIMIT) / PRIOR_UNIT
    squared = (learned.astype(np.float64) ** 2).sum(axis=1) + first**2
    filler = np.sqrt(STORED_NORM**2 - squared)
    stored = np.concatenate([first[:, None], filler[:, None], learned.astype(np.float64)], axis=1) / STORED_NORM
    return stored.astype(np.float32)


def _normal(dimensions: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=1 / np.sqrt(dimensions))


def _constant(value: Any) -> Any:
    return lambda shape, dtype=None: tf.cast(
        tf.reshape(tf.constant(value), shape) if np.ndim(value) else tf.fill(shape, value), tf.float32
    )

"""One fit in progress: towers, moments, and the compiled step that moves them.

Belongs here: the step and its state. Does not belong here: epochs and when to stop (`ml.training`), drawing batches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.devices import Plan, computing_in, product
from ml.fitted import FittedModel, encode_rows
from ml.losses import nope_loss, prefix_scores, softmax_loss
from ml.optimisation import DenseAdam, RowAdam, clipped, warmed_up
from ml.pipeline import stream
from ml.popularity import trending
from ml.sampling import BatchSource
from ml.towers import sparse_bags
from ml.vocabulary import BAG_FIELDS, ItemFeatures


class Trainer:
    """State of one fit: towers, optimiser moments, and the compiled step."""

    def __init__(self, model: FittedModel, features: ItemFeatures, source: BatchSource, how: Plan) -> None:
        """Prepare a fit; `features` are those of `model.id_items`, whose rows the source numbers."""
        self.model, self.features, self.is_full, self.how = model, features, source.is_full, how
        self.sizes = model.vocabulary.sizes()
        settled = model.settled
        self.prior = tf.constant(trending(source.popularity.log_popularity, settled.half_life_days, settled.trend))
        self.id_variable = model.item_tower.id_table.value
        self.id_adam = RowAdam(self.id_variable)
        towers = (model.item_tower, model.user_tower, model.scale)
        self.dense = [w.value for t in towers for w in t.trainable_weights if w is not model.item_tower.id_table]
        self.adam = DenseAdam(self.dense)
        self.steps = tf.Variable(0.0)
        self.rate = tf.Variable(0.0)
        self.random = tf.random.Generator.from_seed(model.seed)
        self.table = tf.Variable(tf.zeros((0 if self.is_full else len(features), model.config.history_dimensions)))
        self.everything = sparse_bags(features, self.sizes) if self.is_full else None
        self.batches = stream(source, None if self.is_full else features)
        self.step = tf.function(self._step, input_signature=[self.batches.element_spec])

    def epoch(self, rate: float) -> tuple[float, float]:
        """Take the steps of one epoch at a step size; return the mean loss and the number of likes trained on."""
        self.rate.assign(rate)
        losses, examples = [], []
        for batch in self.batches:
            self._refresh()
            loss, count = self.step(batch)
            losses.append(loss.numpy())
            examples.append(count.numpy())
        return float(np.mean(losses)), float(np.sum(examples))

    def weights(self) -> list[npt.NDArray[np.float32]]:
        """Return a copy of all weights."""
        return [v.numpy() for v in (self.id_variable, *self.dense)]

    def restore(self, weights: Sequence[npt.NDArray[np.float32]]) -> None:
        """Put back what `weights` returned."""
        _assign((self.id_variable, *self.dense), weights)

    def state(self) -> list[npt.NDArray[Any]]:
        """Return a copy of everything that the next step depends on, besides the batch."""
        return [v.numpy() for v in self._variables()]

    def put_state(self, state: Sequence[npt.NDArray[Any]]) -> None:
        """Put back what `state` returned."""
        _assign(self._variables(), state)

    def _variables(self) -> list[Any]:
        return [
            self.id_variable, *self.dense, *self.id_adam.state, *self.adam.state, self.steps, self.random.state,
            self.table,
        ]  # fmt: skip

    def _refresh(self) -> None:
        """Encode anew the item vectors inside histories, where a step does not encode the whole catalogue anyway."""
        config = self.model.config
        if self.is_full or int(self.steps.numpy()) % config.refresh_steps:
            return
        vectors = encode_rows(self.model, self.features, np.arange(1, len(self.features) + 1))
        self.table.assign(vectors[:, : config.history_dimensions])

    def _content(self, batch: dict[str, Any]) -> tuple[dict[str, tf.SparseTensor], tf.Tensor]:
        if self.everything is not None:
            return self.everything, tf.constant(self.features.scalars)
        rows = tf.shape(batch["candidates"], tf.int64)[0]
        bags = {name: tf.SparseTensor(*batch["bags"][name], (rows, self.sizes[name])) for name in BAG_FIELDS}
        return bags, batch["scalars"]

    def _step(self, batch: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        model, config = self.model, self.model.config
        bags, scalars = self._content(batch)
        id_numbers = batch["candidates"] + 1
        id_rows = tf.gather(self.id_variable, id_numbers)
        shown = tf.cast(self.random.uniform(tf.shape(id_numbers)) >= config.id_dropout, tf.float32)
        asked = (batch["adjustment"], batch["slots"], batch["valid"], batch["own"])
        with tf.GradientTape() as tape, computing_in(self.how.precision):
            tape.watch(id_rows)
            items = model.item_tower.call(bags, scalars, id_rows, shown)
            users = self._users(batch, items)
            inverse = 1.0 / model.scale.temperature()
            popularity = tf.gather(self.prior, batch["candidates"], axis=1)
            prior = tf.gather(popularity, batch["blocks"])
            prior *= model.user_tower.prior_weight(batch["age_days"], batch["mask"])
            logits = [(scores + prior) * inverse for scores in prefix_scores(users, items)]
            loss = softmax_loss(logits[-1], *asked)
            total = loss
            for weight, prefix_logits in zip(config.prefix_weights, logits, strict=False):
                if weight:
                    total += weight * softmax_loss(prefix_logits, *asked)
            if config.nope_weight:
                total += config.nope_weight * nope_loss(
                    logits[-1], batch["slots"], batch["valid"], batch["nope_slots"], batch["nope_valid"]
                )
        gradients = clipped(tape.gradient(total, [id_rows, *self.dense]), config.clip_norm)
        step = self.steps.assign_add(1.0)
        rate = warmed_up(self.rate, step, config.warmup_steps)
        self.id_adam.apply(id_numbers, gradients[0], rate, step, config.weight_decay)
        self.adam.apply(gradients[1:], rate, step, config.weight_decay)
        return loss, tf.reduce_sum(batch["valid"])

    def _users(self, batch: dict[str, tf.Tensor], items: tf.Tensor) -> tf.Tensor:
        """Encode the histories: through all item vectors of this step, or through the table of earlier ones."""
        tower, width = self.model.user_tower, self.model.config.history_dimensions
        if not self.is_full:
            vectors = tf.gather(self.table, batch["history"])
            return tower.directions(vectors, batch["decisions"], batch["age_days"], batch["mask"])
        weights = tower.event_weights(batch["decisions"], batch["age_days"], batch["mask"])
        # One matrix product with all items costs less than gathering, and above all scattering, every history vector.
        n_rows, n_items = tf.shape(weights)[0], tf.shape(items)[0]
        cells = tf.range(n_rows)[:, None] * n_items + batch["history"]
        flat = tf.math.unsorted_segment_sum(
            tf.reshape(weights, [-1, tower.channels]), tf.reshape(cells, [-1]), n_rows * n_items
        )
        spread = tf.transpose(tf.reshape(flat, [n_rows, n_items, tower.channels]), [0, 2, 1])
        sums = product(tf.reshape(spread, [-1, n_items]), items[:, :width])
        return tower.combine(tf.reshape(sums, [-1, tower.channels, width]), tf.reduce_sum(weights, axis=1))


def _assign(variables: Sequence[Any], values: Sequence[npt.NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

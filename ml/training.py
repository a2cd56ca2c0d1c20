"""Fit the two towers: one seeded train step for small and large catalogues, early stopping, and the fitted model.

Belongs here: optimisation and what it returns. Does not belong here: drawing batches, metrics, files.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.config import ModelConfig
from ml.contracts import LEARNED
from ml.datasets import Dataset, DecisionTable, IntArray, StringArray
from ml.errors import NotEnoughDataError
from ml.losses import nope_loss, prefix_scores, softmax_loss
from ml.popularity import HALF_LIVES_DAYS, log_popularity_at, popularity_blocks
from ml.progress import ProgressCallback, ignore_progress, throttled
from ml.sampling import Batch, BatchSource
from ml.settled import Settled
from ml.towers import ItemTower, ScoreScale, UserTower, build_towers, sparse_bags
from ml.vocabulary import BAG_FIELDS, ItemFeatures, Vocabulary, fit_vocabulary
from ml.warm_start import before_squashing, imitate, linear_towers, spectrum

ENCODE_ROWS = 4_096
SCALE_RATE = 10.0
"""Step size of the score scale, as a multiple of the rest."""


@dataclass(frozen=True)
class FittedModel:
    """Everything needed to encode items and users."""

    config: ModelConfig
    vocabulary: Vocabulary
    item_tower: ItemTower
    user_tower: UserTower
    scale: ScoreScale
    id_items: StringArray
    """Items with an id embedding: those with any decision in training, sorted; row k of the table is item k - 1."""
    log_popularity: npt.NDArray[np.float32]
    """Half-lives x items of `id_items`, as of `trained_until`."""
    unseen_log_popularity: npt.NDArray[np.float32]
    """The same for an item without any decision."""
    trained_until: int
    seed: int
    epochs: int
    settled: Settled
    """What validation chose."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: loss, validation score where there is one, examples per second."""


class RowAdam:
    """Adam on the rows of one table that a step touched; rows that were not used keep their moments."""

    def __init__(self, table: Any) -> None:
        """Allocate the moments."""
        self.table = table
        self.first = tf.Variable(tf.zeros(table.shape), trainable=False)
        self.second = tf.Variable(tf.zeros(table.shape), trainable=False)

    def apply(self, rows: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, decay: float) -> None:
        """Move the given distinct rows."""
        indices = rows[:, None]
        first = 0.9 * tf.gather(self.first, rows) + 0.1 * gradient
        second = 0.999 * tf.gather(self.second, rows) + 0.001 * tf.square(gradient)
        self.first.scatter_nd_update(indices, first)
        self.second.scatter_nd_update(indices, second)
        corrected = rate * tf.sqrt(1 - tf.pow(0.999, step)) / (1 - tf.pow(0.9, step))
        shrink = rate * decay * tf.gather(self.table, rows)
        self.table.scatter_nd_sub(indices, corrected * first / (tf.sqrt(second) + 1e-7) + shrink)


class Trainer:
    """State of one fit: towers, optimiser moments, and the compiled step."""

    def __init__(self, model: FittedModel, features: ItemFeatures, log_popularity: npt.NDArray[np.float32], full: bool):
        """Prepare a fit; `features` are those of `model.id_items`, `log_popularity` is blocks x half-lives x items."""
        self.model, self.features, self.is_full = model, features, full
        self.sizes = model.vocabulary.sizes()
        self.log_popularity = tf.constant(log_popularity)
        self.prior_row = HALF_LIVES_DAYS.index(model.settled.half_life_days)
        self.id_variable = model.item_tower.id_table.value
        self.id_adam = RowAdam(self.id_variable)
        towers = (model.item_tower, model.user_tower, model.scale)
        self.dense = [w.value for t in towers for w in t.trainable_weights if w is not model.item_tower.id_table]
        self.moments = [(tf.Variable(tf.zeros(v.shape)), tf.Variable(tf.zeros(v.shape))) for v in self.dense]
        self.steps = tf.Variable(0.0)
        self.rate = tf.Variable(0.0)
        self.random = tf.random.Generator.from_seed(model.seed)
        self.table = tf.Variable(tf.zeros((0 if full else len(features), model.config.history_dimensions)))
        self.everything = sparse_bags(features, self.sizes) if full else None
        self.step = tf.function(self._step, reduce_retracing=True, input_signature=self._signature())

    def run(self, batch: Batch) -> tf.Tensor:
        """Take one step and return its loss."""
        config = self.model.config
        if not self.is_full and int(self.steps.numpy()) % config.refresh_steps == 0:
            self.table.assign(
                encode_rows(self.model, self.features, np.arange(1, len(self.features) + 1))[
                    :, : config.history_dimensions
                ]
            )
        if self.everything is not None:
            bags, scalars = self.everything, self.features.scalars
        else:
            picked = self.features.take(batch.candidates)
            bags, scalars = sparse_bags(picked, self.sizes), picked.scalars
        rest = {name: tf.constant(value) for name, value in vars(batch).items()}
        return self.step([bags[name] for name in BAG_FIELDS], tf.constant(scalars), rest)

    def weights(self) -> list[npt.NDArray[np.float32]]:
        """Return a copy of all weights."""
        return [v.numpy() for v in (self.id_variable, *self.dense)]

    def restore(self, weights: list[npt.NDArray[np.float32]]) -> None:
        """Put back what `weights` returned."""
        for variable, value in zip((self.id_variable, *self.dense), weights, strict=True):
            variable.assign(value)

    def _signature(self) -> list[Any]:
        f, i, j = tf.float32, tf.int32, tf.int64
        matrix = tf.TensorSpec([None, None], f)
        return [
            [tf.SparseTensorSpec([None, self.sizes[name]], f) for name in BAG_FIELDS],
            matrix,
            {
                "candidates": tf.TensorSpec([None], j),
                "history": tf.TensorSpec([None, None], i),
                "decisions": matrix,
                "age_days": matrix,
                "mask": matrix,
                "blocks": tf.TensorSpec([None], i),
                "adjustment": matrix,
                "slots": tf.TensorSpec([None, None], i),
                "valid": matrix,
                "nope_slots": tf.TensorSpec([None, None], i),
                "nope_valid": matrix,
            },
        ]

    def _step(self, bags: list[Any], scalars: tf.Tensor, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        model, config = self.model, self.model.config
        id_numbers = batch["candidates"] + 1
        id_rows = tf.gather(self.id_variable, id_numbers)
        shown = tf.cast(self.random.uniform(tf.shape(id_numbers)) >= config.id_dropout, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(id_rows)
            items = model.item_tower.call(dict(zip(BAG_FIELDS, bags, strict=True)), scalars, id_rows, shown)
            users = self._users(batch, items)
            inverse = 1.0 / model.scale.temperature()
            popularity = tf.gather(self.log_popularity, batch["candidates"], axis=2)
            prior = tf.gather(popularity[:, self.prior_row, :], batch["blocks"])
            prior *= model.user_tower.prior_weight(batch["age_days"], batch["mask"])
            logits = [(scores + prior) * inverse for scores in prefix_scores(users, items)]
            loss = softmax_loss(logits[-1], batch["adjustment"], batch["slots"], batch["valid"])
            total = loss
            for weight, prefix_logits in zip(config.prefix_weights, logits, strict=False):
                if weight:
                    total += weight * softmax_loss(prefix_logits, batch["adjustment"], batch["slots"], batch["valid"])
            if config.nope_weight:
                total += config.nope_weight * nope_loss(
                    logits[-1], batch["slots"], batch["valid"], batch["nope_slots"], batch["nope_valid"]
                )
        gradients = tape.gradient(total, [id_rows, *self.dense])
        gradients, _ = tf.clip_by_global_norm([tf.convert_to_tensor(g) for g in gradients], config.clip_norm)
        step = self.steps.assign_add(1.0)
        rate = self.rate * tf.minimum(1.0, step / config.warmup_steps)
        self.id_adam.apply(id_numbers, gradients[0], rate, step, config.weight_decay)
        corrected = rate * tf.sqrt(1 - tf.pow(0.999, step)) / (1 - tf.pow(0.9, step))
        for variable, gradient, (first, second) in zip(self.dense, gradients[1:], self.moments, strict=True):
            # The temperature is one far-reaching number: it settles within an epoch at a larger step.
            is_scale = variable.shape.rank == 0
            factor = SCALE_RATE if is_scale else 1.0
            decay = 0.0 if is_scale else config.weight_decay
            first.assign(0.9 * first + 0.1 * gradient)
            second.assign(0.999 * second + 0.001 * tf.square(gradient))
            variable.assign(variable * (1 - rate * decay) - factor * corrected * first / (tf.sqrt(second) + 1e-7))
        return loss

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
        sums = tf.matmul(tf.reshape(spread, [-1, n_items]), items[:, :width])
        return tower.combine(tf.reshape(sums, [-1, tower.channels, width]), tf.reduce_sum(weights, axis=1))


class LinearStart:
    """The linear autoencoder of some decisions, from which towers can start again with other settled values."""

    def __init__(self, model: FittedModel, decisions: DecisionTable, features: ItemFeatures) -> None:
        """Decompose; `features` are those of `model.id_items`."""
        config, tower = model.config, model.item_tower
        self._spectrum = spectrum(
            decisions, len(features), LEARNED, config.decided_weight, config.user_power, model.seed
        )
        bags = sparse_bags(features, model.vocabulary.sizes())
        self._hidden = tower.hidden(bags, tf.constant(features.scalars)).numpy()

    def put(self, model: FittedModel) -> None:
        """Let the towers of a model start from what `model.settled` says."""
        config, settled = model.config, model.settled
        linear = linear_towers(
            self._spectrum,
            settled.penalty,
            config.decided_weight,
            settled.decided_share,
            config.history_dimensions,
            LEARNED,
        )
        model.user_tower.start_from(linear.of_likes, linear.of_decisions, settled)
        wanted = before_squashing(linear.items)
        kernel = imitate(self._hidden, wanted)
        model.item_tower.output_kernel.assign(kernel)
        ids = np.concatenate([np.zeros((1, LEARNED), np.float32), wanted - self._hidden @ kernel])
        model.item_tower.id_table.assign(ids)


@dataclass(frozen=True)
class Fresh:
    """A model before its first step, and what it will be fitted on."""

    model: FittedModel
    decisions: DecisionTable
    """Items are numbered within the training catalogue."""
    features: ItemFeatures
    released_at: IntArray
    start: LinearStart | None
    """None where towers start from random vectors."""


def prepare(
    dataset: Dataset, config: ModelConfig, seed: int, train_until: int | None, settled: Settled, epochs: int
) -> Fresh:
    """Build towers, vocabulary and popularity for decisions up to and including `train_until` (default: all)."""
    until = int(train_until if train_until is not None else dataset.decisions.decided_at.max(initial=0))
    decisions = dataset.until(until).decisions
    require_enough(decisions.user_index, decisions.is_first_like)
    keras.utils.set_random_seed(seed)
    seen = np.unique(decisions.item_index)
    number = np.full(len(dataset.items), -1, dtype=np.int64)
    number[seen] = np.arange(len(seen))
    numbered = replace(decisions, item_index=number[decisions.item_index])
    vocabulary = fit_vocabulary(dataset.items, until, config.vocabulary_min_count, config.title_buckets)
    features = vocabulary.features(dataset.items.take(seen))
    # The first moment after the last event: everything in the training window counts.
    final = log_popularity_at(decisions, len(dataset.items), until + 1)
    item_tower, user_tower, scale = build_towers(config, vocabulary, len(seen))
    user_tower.prior_levels.assign([settled.prior_weight, settled.returning_prior_weight])
    model = FittedModel(
        config=config,
        vocabulary=vocabulary,
        item_tower=item_tower,
        user_tower=user_tower,
        scale=scale,
        id_items=dataset.items.item_ids[seen],
        log_popularity=final[:, seen],
        unseen_log_popularity=final.min(axis=1),
        trained_until=until,
        seed=seed,
        epochs=epochs,
        settled=settled,
    )
    start = LinearStart(model, numbered, features) if config.start == "linear" else None
    return Fresh(model, numbered, features, dataset.items.released_at[seen], start)


def train(
    dataset: Dataset,
    config: ModelConfig,
    seed: int,
    train_until: int | None = None,
    *,
    validate: Callable[[FittedModel], float] | None = None,
    epochs: int | None = None,
    settled: Settled | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> FittedModel:
    """Fit on decisions up to and including `train_until` (default: all of them).

    With `validate`, the epoch with the best score is kept, the start counting as epoch 0, and training stops after
    `config.patience` worse ones. Without it, exactly `epochs` epochs run (default `config.max_epochs`). `settled` holds
    what validation chose before.
    """
    limit = epochs if epochs is not None else config.max_epochs
    fresh = prepare(dataset, config, seed, train_until, settled or Settled(), limit)
    model, numbered, features, released_at = fresh.model, fresh.decisions, fresh.features, fresh.released_at
    if fresh.start is not None:
        fresh.start.put(model)
    blocks = popularity_blocks(numbered, len(features), config.popularity_blocks)
    rng = np.random.default_rng(seed)
    source = BatchSource(numbered, released_at, blocks, config, rng)
    trainer = Trainer(model, features, blocks.log_popularity, source.is_full)
    chosen = _run_epochs(trainer, source, model, limit, validate, throttled(on_progress))
    return FittedModel(**{**vars(model), "epochs": chosen})


def encode_rows(
    model: FittedModel, features: ItemFeatures, id_numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return learned item vectors; id number 0 means that content alone must do."""
    vectors = np.empty((len(features), LEARNED), dtype=np.float32)
    sizes, table = model.vocabulary.sizes(), model.item_tower.id_table.value
    for start in range(0, len(features), ENCODE_ROWS):
        rows = np.arange(start, min(start + ENCODE_ROWS, len(features)))
        part, numbers = features.take(rows), id_numbers[rows]
        vectors[rows] = model.item_tower.call(
            sparse_bags(part, sizes), tf.constant(part.scalars), tf.gather(table, numbers),
            tf.constant((numbers > 0).astype(np.float32)),
        )  # fmt: skip
    return vectors


def require_enough(user_index: npt.NDArray[np.int64], is_first_like: npt.NDArray[np.bool_]) -> None:
    """Refuse data that no model can be fitted on."""
    if not len(user_index):
        raise NotEnoughDataError("there are no decisions to train on")
    if not is_first_like.any():
        raise NotEnoughDataError("there are decisions but no likes to train on")
    if len(np.unique(user_index[is_first_like])) < 2:
        raise NotEnoughDataError("likes of at least two users are needed to train")


def _run_epochs(
    trainer: Trainer,
    source: BatchSource,
    model: FittedModel,
    limit: int,
    validate: Callable[[FittedModel], float] | None,
    on_progress: ProgressCallback,
) -> int:
    best_score, best_epoch, best_weights = -np.inf, limit, None
    config = model.config
    if validate is not None and config.start == "linear":
        best_score, best_epoch, best_weights = validate(model), 0, trainer.weights()
        model.curve.append({"epoch": 0.0, "validation": best_score})
    for epoch in range(1, limit + 1):
        trainer.rate.assign(config.learning_rate * config.learning_rate_decay ** (epoch - 1))
        started, losses, examples = time.perf_counter(), [], 0.0
        for batch in source.epoch():
            losses.append(trainer.run(batch))
            examples += float(batch.valid.sum())
        loss = float(np.mean([value.numpy() for value in losses]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}")
        entry = {"epoch": float(epoch), "loss": loss, "examples_per_second": examples / (time.perf_counter() - started)}
        if validate is not None:
            entry["validation"] = validate(model)
            if entry["validation"] > best_score:
                best_score, best_epoch, best_weights = entry["validation"], epoch, trainer.weights()
        model.curve.append(entry)
        on_progress(epoch, limit)
        if validate is not None and epoch - best_epoch >= config.patience:
            break
    if best_weights is not None:
        trainer.restore(best_weights)
        on_progress(limit, limit)
    return best_epoch

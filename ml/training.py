"""Fit the two towers: what a fit starts from, its epochs, early stopping, and going on after a crash.

Belongs here: the order of things and when to stop. Does not belong here: one step (`ml.trainer`), drawing batches,
metrics, files.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ml.checkpoints import Checkpoints, Standing
from ml.config import ModelConfig
from ml.contracts import LEARNED
from ml.datasets import Dataset, DecisionTable, IntArray
from ml.devices import Plan, plan
from ml.errors import NotEnoughDataError
from ml.fitted import FittedModel, encode_rows
from ml.optimisation import step_size
from ml.popularity import log_popularity_at, popularity_blocks
from ml.progress import ProgressCallback, ignore_progress, throttled
from ml.sampling import BatchSource
from ml.settled import Settled
from ml.towers import build_towers, sparse_bags
from ml.trainer import Trainer
from ml.vocabulary import ItemFeatures, fit_vocabulary
from ml.warm_start import before_squashing, imitate, linear_towers, spectrum

__all__ = ["FittedModel", "Fresh", "LinearStart", "encode_rows", "prepare", "require_enough", "train"]


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
    how: Plan

    def identity(self, limit: int, is_validated: bool) -> dict[str, Any]:
        """Return plain values that differ for any two fits that may end with different weights."""
        digest = hashlib.sha256()
        for column in (*vars(self.decisions).values(), self.released_at, self.features.scalars):
            digest.update(np.ascontiguousarray(column).data)
        for bags in self.features.bags.values():
            for values in (bags.columns.values, bags.columns.offsets, bags.weights):
                digest.update(np.ascontiguousarray(values).data)
        digest.update("\n".join(self.model.id_items).encode())
        return {
            "data": digest.hexdigest(),
            "configuration": self.model.config.as_dict(),
            "seed": self.model.seed,
            "values chosen on validation": self.model.settled.as_dict(),
            "epochs": limit,
            "use of validation": is_validated,
            "precision": self.how.precision,
        }


def prepare(
    dataset: Dataset, config: ModelConfig, seed: int, train_until: int | None, settled: Settled, epochs: int
) -> Fresh:
    """Build towers, vocabulary and popularity for decisions up to and including `train_until` (default: all)."""
    how = plan(config)
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
    with tf.device(how.device):
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
    return Fresh(model, numbered, features, dataset.items.released_at[seen], start, how)


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
    checkpoints: Checkpoints | None = None,
) -> FittedModel:
    """Fit on decisions up to and including `train_until` (default: all of them).

    With `validate`, the epoch with the best score is kept, the start counting as epoch 0, and training stops after
    `config.patience` worse ones. Without it, exactly `epochs` epochs run (default `config.max_epochs`). `settled` holds
    what validation chose before. With `checkpoints`, a fit that was killed goes on after its last complete epoch and
    ends with the weights of an undisturbed one; who needs them no more removes them.

    Raises:
        NotEnoughDataError: There is nothing to fit on.
        ContractError: The checkpoint is of another fit.
        FloatingPointError: The loss is not finite.
    """
    limit = epochs if epochs is not None else config.max_epochs
    fresh = prepare(dataset, config, seed, train_until, settled or Settled(), limit)
    model, numbered, features = fresh.model, fresh.decisions, fresh.features
    if fresh.start is not None:
        fresh.start.put(model)
    blocks = popularity_blocks(numbered, len(features), config.popularity_blocks)
    source = BatchSource(numbered, fresh.released_at, blocks, config, np.random.default_rng(seed))
    with tf.device(fresh.how.device):
        fit = _Fit(model, Trainer(model, features, source, fresh.how), source, validate, limit, checkpoints)
        if checkpoints is not None:
            fit.go_on_as(fresh.identity(limit, is_validated=validate is not None))
        fit.run(throttled(on_progress))
    return FittedModel(**{**vars(model), "epochs": fit.best_epoch})


def require_enough(user_index: npt.NDArray[np.int64], is_first_like: npt.NDArray[np.bool_]) -> None:
    """Refuse data that no model can be fitted on."""
    if not len(user_index):
        raise NotEnoughDataError("there are no decisions to train on")
    if not is_first_like.any():
        raise NotEnoughDataError("there are decisions but no likes to train on")
    if len(np.unique(user_index[is_first_like])) < 2:
        raise NotEnoughDataError("likes of at least two users are needed to train")


class _Fit:
    """The epochs of one fit, and which was best so far."""

    def __init__(
        self,
        model: FittedModel,
        trainer: Trainer,
        source: BatchSource,
        validate: Callable[[FittedModel], float] | None,
        limit: int,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.model, self.trainer, self.source = model, trainer, source
        self.validate, self.limit, self.checkpoints = validate, limit, checkpoints
        self.identity: dict[str, Any] = {}
        self.epoch = -1
        self.best_score, self.best_epoch = -np.inf, limit
        self.best_weights: list[npt.NDArray[np.float32]] = []

    def go_on_as(self, identity: dict[str, Any]) -> None:
        """Take up the state of the checkpoint, where there is one."""
        self.identity = identity
        standing = self.checkpoints.read(identity) if self.checkpoints is not None else None
        if standing is None:
            return
        self.trainer.put_state(standing.variables)
        self.source.rng.bit_generator.state = standing.draws
        self.model.curve[:] = standing.curve
        self.epoch, self.best_score, self.best_epoch = standing.epoch, standing.best_score, standing.best_epoch
        self.best_weights = list(standing.best_weights)

    def run(self, on_progress: ProgressCallback) -> None:
        """Run the epochs that are missing and leave the best weights in the model."""
        config = self.model.config
        if self.epoch < 0:
            self._finish(0, {}, is_scored=config.start == "linear")
        while self.epoch < self.limit and not self._is_over():
            epoch, started = self.epoch + 1, time.perf_counter()
            rate = step_size(config.learning_rate, config.learning_rate_decay, epoch)
            loss, examples = self.trainer.epoch(rate)
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is not finite in epoch {epoch}")
            self._finish(epoch, {"loss": loss, "examples_per_second": examples / (time.perf_counter() - started)})
            on_progress(epoch, self.limit)
        if self.best_weights:
            self.trainer.restore(self.best_weights)
            on_progress(self.limit, self.limit)

    def _is_over(self) -> bool:
        return bool(self.best_weights) and self.epoch - self.best_epoch >= self.model.config.patience

    def _finish(self, epoch: int, measured: dict[str, float], is_scored: bool = True) -> None:
        """Score an epoch where somebody does, and keep where the fit stands."""
        self.epoch, entry = epoch, {"epoch": float(epoch), **measured}
        if self.validate is not None and is_scored:
            entry["validation"] = self.validate(self.model)
            if entry["validation"] > self.best_score:
                self.best_score, self.best_epoch = entry["validation"], epoch
                self.best_weights = self.trainer.weights()
        if len(entry) > 1:
            self.model.curve.append(entry)
        if self.checkpoints is not None:
            draws = self.source.rng.bit_generator.state
            self.checkpoints.write(
                self.identity,
                Standing(
                    epoch, self.trainer.state(), draws, self.model.curve, self.best_score, self.best_epoch,
                    self.best_weights,
                ),
            )  # fmt: skip

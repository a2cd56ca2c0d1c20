"""Training batches as plain arrays: which moments of which users, their histories, targets, nopes and candidates.

Belongs here: seeded drawing, without any weight. Does not belong here: TensorFlow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.config import ModelConfig
from ml.datasets import MICROSECONDS_PER_DAY, DecisionTable, IntArray
from ml.losses import EXCLUDED, log_correction, sampling_probabilities
from ml.popularity import PopularityTable


@dataclass(frozen=True)
class Contexts:
    """Moments of users; each asks one history for several likes."""

    user: IntArray
    targets: IntArray
    """Contexts x targets: decision rows, -1 = none."""
    is_shuffled: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """One step. Item numbers count within the training catalogue; slots are columns of `candidates`."""

    candidates: IntArray
    history: npt.NDArray[np.int32]
    decisions: npt.NDArray[np.float32]
    age_days: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]
    blocks: npt.NDArray[np.int32]
    adjustment: npt.NDArray[np.float32]
    slots: npt.NDArray[np.int32]
    valid: npt.NDArray[np.float32]
    own: npt.NDArray[np.float32]
    """Added to the logit of a target itself: 0 unless the softmax is the standard one."""
    nope_slots: npt.NDArray[np.int32]
    nope_valid: npt.NDArray[np.float32]


class BatchSource:
    """Draws the batches of an epoch from decisions whose items are numbered within the training catalogue."""

    def __init__(
        self,
        decisions: DecisionTable,
        released_at: IntArray,
        popularity: PopularityTable,
        config: ModelConfig,
        rng: np.random.Generator,
    ) -> None:
        """Index the decisions; `released_at` holds one moment per item of the catalogue."""
        self.decisions, self.released_at, self.popularity = decisions, released_at, popularity
        self.config, self.rng = config, rng
        self.n_items = len(released_at)
        self.is_full = self.n_items <= config.full_softmax_limit
        n_users = int(decisions.user_index.max()) + 1 if len(decisions) else 0
        self.starts = np.searchsorted(decisions.user_index, np.arange(n_users + 1))
        self.like_rows = np.flatnonzero(decisions.is_first_like)
        self.nope_rows = np.flatnonzero(decisions.decision < 0)
        self.nope_starts = np.searchsorted(decisions.user_index[self.nope_rows], np.arange(n_users + 1))
        likes = np.bincount(decisions.item_index[self.like_rows], minlength=self.n_items)
        self.frequency = likes / max(likes.sum(), 1)
        self.slot_of = np.full(self.n_items, -1, dtype=np.int64)

    def contexts(self) -> Contexts:
        """Group every first like of every user into moments, anew for each epoch, in random order."""
        rng, width = self.rng, self.config.targets_per_context
        users = self.decisions.user_index[self.like_rows]
        n_users = len(self.starts) - 1
        shuffled = rng.random(n_users) < self.config.shuffled_history_share
        key = np.where(shuffled[users], rng.random(len(users)), np.arange(len(users)) / max(len(users), 1))
        rows = self.like_rows[np.lexsort((key, users))]
        first = np.searchsorted(users, np.arange(n_users + 1))
        place = np.arange(len(users)) - first[users] + rng.integers(0, width, n_users)[users]
        group = np.concatenate([[0], np.cumsum((np.diff(users) != 0) | (np.diff(place // width) != 0))])
        targets = np.full((int(group[-1]) + 1, width), -1, dtype=np.int64)
        column = np.arange(len(rows)) - np.searchsorted(group, group)
        targets[group, column] = rows
        user = self.decisions.user_index[targets[:, 0]]
        order = rng.permutation(len(targets))
        return Contexts(user[order], targets[order], shuffled[user][order])

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of one epoch; the last one may be smaller."""
        contexts, size = self.contexts(), self.config.batch_contexts
        for start in range(0, len(contexts.user), size):
            rows = slice(start, start + size)
            yield self.batch(Contexts(contexts.user[rows], contexts.targets[rows], contexts.is_shuffled[rows]))

    def batch(self, contexts: Contexts) -> Batch:
        """Fill in what the given contexts see and what they are scored against."""
        table, config, rng = self.decisions, self.config, self.rng
        valid = contexts.targets >= 0
        target_rows = np.where(valid, contexts.targets, contexts.targets[:, :1])
        targets = table.item_index[target_rows]
        starts = self.starts[contexts.user]
        first = target_rows.min(axis=1)
        before = starts + table.history_size[first]
        ends = np.where(contexts.is_shuffled, self.starts[contexts.user + 1], before)

        length = max(int((ends - starts).max()), 1)
        rows = ends[:, None] - 1 - np.arange(length)[None, :]
        present = rows >= starts[:, None]
        rows = np.maximum(rows, 0)
        items = table.item_index[rows]
        if contexts.is_shuffled.any():
            present &= ~(items[:, :, None] == targets[:, None, :]).any(axis=2)
        decided = np.where(present, items, -1)

        nope_items, nope_valid = self._nopes(contexts, before)
        kept = present.copy()
        if contexts.is_shuffled.any():
            dropped = rng.random(present.shape) < config.history_dropout * rng.random((len(rows), 1))
            dropped |= ((items[:, :, None] == nope_items[:, None, :]) & (nope_valid[:, None, :] > 0)).any(axis=2)
            kept &= ~(dropped & contexts.is_shuffled[:, None])
        newest = np.argsort(~kept, axis=1, kind="stable")[:, : config.history_length]
        mask = np.take_along_axis(kept, newest, axis=1)
        history_rows = np.take_along_axis(rows, newest, axis=1)
        times = table.decided_at[history_rows]
        age = np.where(mask, (times[:, :1] - times) / MICROSECONDS_PER_DAY, 0.0)

        candidates, correction, of_one = self._candidates(targets[valid], nope_items[nope_valid > 0])
        moment = table.decided_at[first]
        adjustment = np.repeat(correction[None, :], len(rows), axis=0)
        unreleased = self.released_at[candidates][None, :] > np.where(
            contexts.is_shuffled, np.iinfo(np.int64).max, moment
        ).reshape(-1, 1)
        adjustment[unreleased] = EXCLUDED
        context_of = np.repeat(np.arange(len(rows)), decided.shape[1])
        slots = np.where(decided >= 0, self.slot_of[decided], -1).ravel()
        adjustment[context_of[slots >= 0], slots[slots >= 0]] = EXCLUDED
        target_slots = self.slot_of[targets]
        adjustment[np.arange(len(rows))[:, None], target_slots] = EXCLUDED
        nope_slots = np.where(nope_valid > 0, self.slot_of[nope_items], 0)
        self.slot_of[candidates] = -1
        return Batch(
            candidates=candidates,
            history=np.where(mask, table.item_index[history_rows], 0).astype(np.int32),
            decisions=np.where(mask, table.decision[history_rows], 0).astype(np.float32),
            age_days=age.astype(np.float32),
            mask=mask.astype(np.float32),
            blocks=self.popularity.block_of(moment).astype(np.int32),
            adjustment=adjustment,
            slots=target_slots.astype(np.int32),
            valid=valid.astype(np.float32),
            own=of_one[target_slots],
            nope_slots=nope_slots.astype(np.int32),
            nope_valid=nope_valid.astype(np.float32),
        )

    def _nopes(self, contexts: Contexts, before: IntArray) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Draw nopes of the same user: from the moment on where time counts, any where the history is shuffled."""
        width = self.config.nope_negatives
        last = self.nope_starts[contexts.user + 1]
        low = np.where(
            contexts.is_shuffled,
            self.nope_starts[contexts.user],
            np.maximum(np.searchsorted(self.nope_rows, before), self.nope_starts[contexts.user]),
        )
        available = np.maximum(last - low, 0)
        drawn = (self.rng.random((len(low), width)) * available[:, None]).astype(np.int64)
        step = np.where(contexts.is_shuffled[:, None], drawn, np.arange(width)[None, :])
        valid = (step < available[:, None]) & (self.config.nope_weight > 0)
        if not len(self.nope_rows):
            return np.zeros(step.shape, np.int64), np.zeros(step.shape, np.float32)
        rows = self.nope_rows[np.where(valid, low[:, None] + step, 0)]
        return self.decisions.item_index[rows], valid.astype(np.float32)

    def _candidates(
        self, targets: IntArray, nopes: IntArray
    ) -> tuple[IntArray, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the distinct candidates, their log correction and that of a target, and number their slots."""
        config = self.config
        if self.is_full:
            candidates = np.arange(self.n_items)
            correction = of_one = np.zeros(self.n_items, dtype=np.float32)
        else:
            uniform = self.rng.integers(0, self.n_items, config.uniform_negatives)
            drawn, counts = np.unique(np.concatenate([targets, uniform]), return_counts=True)
            only_nopes = np.setdiff1d(nopes, drawn)
            candidates = np.concatenate([drawn, only_nopes])
            weight, of_one = np.log(counts).astype(np.float32), np.zeros(len(candidates), np.float32)
            if config.logq_correction:
                n_drawn = len(targets) + len(uniform)
                chance = sampling_probabilities(self.frequency, len(targets), len(uniform))[drawn]
                weight = log_correction(counts, chance, n_drawn)
                if config.softmax == "standard":
                    of_one[: len(drawn)] = log_correction(np.ones_like(counts), chance, n_drawn)
            correction = np.concatenate([weight, np.full(len(only_nopes), EXCLUDED, np.float32)])
        self.slot_of[candidates] = np.arange(len(candidates))
        return candidates, correction, of_one

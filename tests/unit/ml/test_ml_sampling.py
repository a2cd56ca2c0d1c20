"""Training examples see only what they may see: earlier events, or other events where the history is shuffled."""

import dataclasses

import numpy as np
import pytest

from ml.losses import EXCLUDED, log_correction, sampling_probabilities
from ml.popularity import popularity_blocks
from ml.sampling import BatchSource


def source_of(world, config, **changes):
    config = dataclasses.replace(config, **changes)
    blocks = popularity_blocks(world.decisions, len(world.items), config.popularity_blocks)
    return BatchSource(world.decisions, world.items.released_at, blocks, config, np.random.default_rng(5))


def test_every_first_like_is_asked_for_once_per_epoch(world, tiny):
    contexts = source_of(world, tiny).contexts()
    rows = contexts.targets[contexts.targets >= 0]
    assert sorted(rows.tolist()) == np.flatnonzero(world.decisions.is_first_like).tolist()
    users = world.decisions.user_index[np.maximum(contexts.targets, 0)]
    assert ((users == contexts.user[:, None]) | (contexts.targets < 0)).all()


def test_a_timed_history_holds_only_strictly_earlier_events(world, tiny):
    source = source_of(world, tiny, shuffled_history_share=0.0)
    contexts = source.contexts()
    batch = source.batch(contexts)
    table = world.decisions
    for row, targets in enumerate(contexts.targets):
        targets = targets[targets >= 0]
        earliest = table.decided_at[targets].min()
        mine = (table.user_index == contexts.user[row]) & (table.decided_at < earliest)
        assert int(batch.mask[row].sum()) == min(int(mine.sum()), tiny.history_length)
        seen = batch.history[row][batch.mask[row] > 0]
        newest_first = table.item_index[mine][::-1][: len(seen)]
        assert seen.tolist() == newest_first.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_target_is_in_its_own_history_and_no_decided_item_is_a_negative(world, tiny, share):
    source = source_of(world, tiny, shuffled_history_share=share)
    contexts = source.contexts()
    batch = source.batch(contexts)
    for row in range(len(contexts.user)):
        targets = set(batch.candidates[batch.slots[row][batch.valid[row] > 0]].tolist())
        history = batch.history[row][batch.mask[row] > 0]
        assert not targets & set(history.tolist())
        negatives = set(batch.candidates[batch.adjustment[row] > EXCLUDED / 2].tolist())
        assert not negatives & targets
        assert not negatives & set(history.tolist())


def test_items_released_later_are_no_negatives_of_an_earlier_moment(world, tiny):
    later = dataclasses.replace(
        world.items, released_at=np.full(len(world.items), world.decisions.decided_at.max() + 1)
    )
    moved = dataclasses.replace(world, items=later)
    source = source_of(moved, tiny, shuffled_history_share=0.0)
    assert (source.batch(source.contexts()).adjustment < EXCLUDED / 2).all()


def test_large_catalogues_are_sampled_without_repeating_a_column(world, tiny):
    source = source_of(world, tiny, full_softmax_limit=0, uniform_negatives=16)
    for batch in source.epoch():
        assert len(np.unique(batch.candidates)) == len(batch.candidates)
        picked = batch.candidates[batch.slots]
        assert (picked >= 0).all()
        # A noped item that was not drawn as a candidate is only there to be pushed down.
        assert np.isfinite(batch.adjustment).all()


def test_the_same_seed_draws_the_same_batches(world, tiny):
    first, second = (list(source_of(world, tiny).epoch()) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(vars(left).values(), vars(right).values(), strict=True))


def test_timed_nopes_come_from_the_moment_on(world, tiny):
    source = source_of(world, tiny, shuffled_history_share=0.0, nope_weight=0.1)
    contexts = source.contexts()
    batch = source.batch(contexts)
    table = world.decisions
    for row, targets in enumerate(contexts.targets):
        earliest = table.decided_at[targets[targets >= 0]].min()
        mine = table.user_index == contexts.user[row]
        allowed = set(table.item_index[mine & (table.decision < 0) & (table.decided_at >= earliest)].tolist())
        assert set(batch.candidates[batch.nope_slots[row][batch.nope_valid[row] > 0]].tolist()) <= allowed


def sampled(world, config, **changes):
    source = source_of(world, config, full_softmax_limit=0, nope_weight=0.0, **changes)
    batch = next(iter(source.epoch()))
    likes = batch.candidates[batch.slots[batch.valid > 0]]
    return source, batch, likes


def test_without_uniform_negatives_only_the_likes_of_the_batch_compete(world, tiny):
    _, batch, likes = sampled(world, tiny, uniform_negatives=0)
    assert sorted(batch.candidates.tolist()) == sorted(set(likes.tolist()))


@pytest.mark.parametrize("uniform", [0, 16])
def test_candidates_weigh_by_how_often_they_were_drawn_over_how_often_that_was_to_be_expected(world, tiny, uniform):
    source, batch, likes = sampled(world, tiny, uniform_negatives=uniform)
    plain = sampled(world, tiny, uniform_negatives=uniform, logq_correction=False)[1]
    assert np.array_equal(batch.candidates, plain.candidates)
    counted = plain.adjustment > EXCLUDED / 2
    assert np.array_equal(counted, batch.adjustment > EXCLUDED / 2)
    chance = sampling_probabilities(source.frequency, len(likes), uniform)[batch.candidates]
    expected = np.log((len(likes) + uniform) * chance)
    difference = plain.adjustment - batch.adjustment
    assert np.allclose(difference[counted], np.broadcast_to(expected, counted.shape)[counted], atol=1e-5)
    # Without the correction a candidate counts as often as it was drawn, which is what repeated columns amount to.
    if not uniform:
        counts = np.array([(likes == item).sum() for item in batch.candidates])
        rows = np.broadcast_to(np.log(counts), counted.shape)
        assert np.allclose(plain.adjustment[counted], rows[counted], atol=1e-6)


def test_only_the_standard_softmax_corrects_the_like_itself(world, tiny):
    assert not sampled(world, tiny)[1].own.any()
    assert not sampled(world, tiny, softmax="standard", logq_correction=False)[1].own.any()
    whole = source_of(world, tiny, softmax="standard")
    assert whole.is_full
    assert not next(iter(whole.epoch())).own.any()
    source, batch, likes = sampled(world, tiny, softmax="standard")
    uniform = source.config.uniform_negatives
    chance = sampling_probabilities(source.frequency, len(likes), uniform)[likes]
    expected = log_correction(np.ones(len(likes)), chance, len(likes) + uniform)
    assert np.allclose(batch.own[batch.valid > 0], expected, atol=1e-6)

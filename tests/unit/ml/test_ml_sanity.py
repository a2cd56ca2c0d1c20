"""Each collapse trips its own detector, and healthy vectors trip none."""

import dataclasses

import numpy as np
import pytest

from ml.evaluation.findings import distinct_records
from ml.evaluation.sanity import check_lists, check_unknown_rates, check_vectors

RNG = np.random.default_rng(0)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def names(findings, level=None):
    return {finding.detector for finding in findings if level in (None, finding.level)}


HEALTHY = unit(RNG.normal(size=(300, 64)))


def test_healthy_vectors_trip_nothing():
    assert check_vectors(HEALTHY, "user") == []


def test_an_offset_shared_by_all_blocks():
    # The first singular share is never below the mean cosine, so this collapse always trips both.
    shifted = unit(RNG.normal(size=(300, 766)) * 0.48 + 1)
    assert names(check_vectors(shifted, "user"), "block") == {"user mean cosine", "user first singular share"}


def test_two_opposite_camps_block_though_their_mean_cosine_is_low():
    sides = np.where(np.arange(300) % 2, 1.0, -1.0)[:, None]
    camps = unit(RNG.normal(size=(300, 766)) * 0.48 + sides)
    assert names(check_vectors(camps, "user"), "block") == {"user first singular share"}


def test_three_directions_for_everybody_block():
    flat = unit(RNG.normal(size=(300, 3)) @ RNG.normal(size=(3, 64)))
    assert names(check_vectors(flat, "item"), "block") == {"item effective rank"}


def test_duplicates_block_unless_their_inputs_are_the_same():
    doubled = HEALTHY.copy()
    doubled[:30] = doubled[30:60]
    assert names(check_vectors(doubled, "user"), "block") == {"user duplicates"}
    inputs = np.arange(300)
    inputs[:30] = inputs[30:60]
    assert check_vectors(doubled, "user", inputs) == []


def test_a_moderate_offset_only_warns():
    shifted = unit(RNG.normal(size=(300, 64)) / 8 + np.eye(1, 64) * 1.3)
    assert names(check_vectors(shifted, "user")) >= {"user mean cosine"}
    assert names(check_vectors(shifted, "user"), "block") == set()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2.0])
def test_a_vector_that_is_not_unit_blocks(value):
    broken = HEALTHY.copy()
    broken[7] = value
    assert names(check_vectors(broken, "item"), "block") == {"item norm"}


def test_the_same_list_for_everybody_blocks():
    same = np.tile(np.arange(10), (50, 1))
    assert names(check_lists(same, 0.5, 0.01)) == {"top-10 overlap"}
    different = np.array([RNG.permutation(500)[:10] for _ in range(50)])
    assert check_lists(different, 0.5, 0.01) == []


def test_accuracy_near_chance_blocks():
    different = np.array([RNG.permutation(500)[:10] for _ in range(50)])
    assert names(check_lists(different, 0.02, 0.01), "block") == {"ndcg against chance"}


def test_a_vocabulary_that_knows_nothing_blocks():
    assert names(check_unknown_rates({"tags": 1.0, "maker_ids": 0.1}), "block") == {"unknown tags"}


def test_items_share_a_number_only_where_nothing_in_the_decisions_tells_them_apart(world):
    # Items 0 and 1: one user, who liked and did not. 2 and 3: the same two, of whom another one liked. 4: others.
    users = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    items = np.array([0, 1, 2, 3, 2, 3, 4, 4])
    liked = np.array([1, 0, 1, 0, 0, 1, 1, 1], bool)
    table = dataclasses.replace(
        world.decisions.take(np.arange(len(users))),
        user_index=users,
        item_index=items,
        decision=liked.astype(np.int8),
        decided_at=np.arange(len(users)),
        is_first_like=liked,
    )
    numbers = distinct_records(table, 5)
    assert numbers[0] == numbers[1]
    assert len(set(numbers.tolist())) == 4

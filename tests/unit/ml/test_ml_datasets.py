"""Feature columns become the same arrays whatever container and order they arrive in."""

import numpy as np
import pytest

from ml.datasets import Histories, Ragged, dataset_from_columns, histories_from_lists, histories_of, ragged
from ml.errors import ContractError


def test_list_tuple_and_array_give_the_same_ids():
    rows = [ragged([values]).values for values in ([3, 1, 2], (3, 1, 2), np.array([3, 1, 2]), np.array([3, 1, 2], "O"))]
    assert all(row.tolist() == [1, 2, 3] for row in rows)


def test_missing_and_empty_lists_are_empty_rows():
    assert np.diff(ragged([None, [], [5]]).offsets).tolist() == [0, 0, 1]


def test_ragged_take_follows_the_given_order():
    table = ragged([[1], [2, 3], [], [4, 5, 6]])
    assert [table.take(np.array([3, 0, 2])).row(k).tolist() for k in range(3)] == [[4, 5, 6], [1], []]


def test_offsets_that_do_not_cover_the_values_are_refused():
    with pytest.raises(ContractError, match="offsets"):
        Ragged(np.arange(3), np.array([0, 2]))


def test_hash_does_not_depend_on_row_order(world):
    table = world.decisions
    order = np.random.default_rng(1).permutation(len(table))
    sequence = np.arange(len(table)) - np.searchsorted(table.user_index, table.user_index) + 1
    columns = {
        "user_id": [world.user_ids[u] for u in table.user_index[order]],
        "sequence": sequence[order],
        "item_id": [world.items.item_ids[i] for i in table.item_index[order]],
        **{n: getattr(table, n)[order] for n in ("decision", "decided_at", "history_size", "is_first_like")},
    }
    assert dataset_from_columns(world.items, columns).hash() == world.hash()


def test_hash_changes_when_one_decision_changes(world):
    changed = world.decisions.take(np.arange(len(world.decisions) - 1))
    assert type(world)(world.items, changed, world.user_ids).hash() != world.hash()


def test_a_decision_on_an_unknown_item_is_refused(world):
    columns = {
        "user_id": ["a"], "sequence": [1], "item_id": ["nowhere"], "decision": [1], "decided_at": [0],
        "history_size": [0], "is_first_like": [True],
    }  # fmt: skip
    with pytest.raises(ContractError, match="nowhere"):
        dataset_from_columns(world.items, columns)


def test_an_unknown_decision_code_is_refused(world):
    columns = {
        "user_id": ["a"], "sequence": [1], "item_id": [world.items.item_ids[0]], "decision": [2], "decided_at": [0],
        "history_size": [0], "is_first_like": [False],
    }  # fmt: skip
    with pytest.raises(ContractError, match="codes"):
        dataset_from_columns(world.items, columns)


def test_histories_leave_out_items_that_are_not_known():
    histories = histories_from_lists([["a", "x", "b"], []], [[1, 1, -1], []], [[1, 2, 3], []], {"a": 0, "b": 1})
    assert histories.item_index.tolist() == [0, 1]
    assert histories.offsets.tolist() == [0, 2, 2]


def test_histories_of_users_without_decisions_are_empty(world):
    histories = histories_of(world.decisions, np.array([len(world.user_ids)]))
    assert isinstance(histories, Histories)
    assert len(histories) == 1
    assert len(histories.item_index) == 0

"""Item features come from training items only and are the same in every process."""

import dataclasses
import subprocess
import sys

import numpy as np

from ml.vocabulary import ID_FIELDS, Vocabulary, fit_vocabulary, title_columns


def test_unknown_and_missing_ids_map_to_zero(world):
    vocabulary = fit_vocabulary(world.items, 10**18, 1, 64)
    assert vocabulary.encode("tags", [100, 999_999, 0]).tolist()[1:] == [0, 0]
    assert vocabulary.encode("tags", [100])[0] > 0


def test_list_tuple_and_array_are_encoded_alike(world):
    vocabulary = fit_vocabulary(world.items, 10**18, 1, 64)
    results = [vocabulary.encode("tags", ids).tolist() for ids in ([100, 7], (100, 7), np.array([100, 7]))]
    assert results[0] == results[1] == results[2]


def test_ids_of_items_released_after_the_cut_are_unknown(world):
    cut = int(world.items.released_at[10])
    late = dataclasses.replace(world.items, maker_ids=np.where(world.items.released_at > cut, 77, 1))
    vocabulary = fit_vocabulary(late, cut, 1, 64)
    assert vocabulary.ids["maker_ids"] == (1,)
    assert vocabulary.unknown_rates(late)["maker_ids"] > 0.5


def test_a_changed_future_item_changes_no_feature_of_the_past(world):
    cut = int(world.items.released_at[20])
    future = world.items.released_at > cut
    changed = dataclasses.replace(world.items, price_jpy=np.where(future, 1e6, world.items.price_jpy))
    assert fit_vocabulary(world.items, cut, 1, 64) == fit_vocabulary(changed, cut, 1, 64)


def test_rare_ids_are_unknown(world):
    rare = dataclasses.replace(world.items, maker_ids=np.arange(1, len(world.items) + 1))
    assert fit_vocabulary(rare, 10**18, 2, 64).ids["maker_ids"] == ()


def test_plain_values_survive_a_round_trip(world):
    vocabulary = fit_vocabulary(world.items, 10**18, 1, 64)
    assert Vocabulary.from_dict(vocabulary.as_dict()) == vocabulary


def test_bags_have_unit_length_and_skip_unknown_ids(world):
    features = fit_vocabulary(world.items, 10**18, 1, 64).features(world.items)
    for field in ID_FIELDS:
        bags = features.bags[field]
        lengths = np.bincount(bags.coordinates()[:, 0], weights=bags.weights**2, minlength=len(features))
        assert np.allclose(lengths[lengths > 0], 1, atol=1e-6)
        assert bags.columns.values.min(initial=1) > 0
    assert len(features.bags["performers"].weights) == 0


def test_taking_rows_takes_their_features(world):
    features = fit_vocabulary(world.items, 10**18, 1, 64).features(world.items)
    part = features.take(np.array([5, 2]))
    assert part.bags["tags"].columns.row(1).tolist() == features.bags["tags"].columns.row(2).tolist()
    assert np.array_equal(part.scalars, features.scalars[[5, 2]])


def test_titles_are_compared_after_width_and_case_are_folded():
    assert title_columns("ＡＢＣ　旅行", 512).tolist() == title_columns("abc 旅行", 512).tolist()


def test_missing_scalars_are_flagged_not_zero_priced(world):
    features = fit_vocabulary(world.items, 10**18, 1, 64).features(world.items)
    missing = np.isnan(world.items.price_jpy)
    assert missing.any()
    assert np.array_equal(features.scalars[:, 3] == 1, missing)
    assert (features.scalars[missing, 0] == 0).all()


def test_title_hash_is_the_same_in_another_process():
    code = (
        "import sys; from ml.vocabulary import title_columns; "
        "sys.stdout.write(str(title_columns('秋の山歩き', 4096).tolist()))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert other.stdout == str(title_columns("秋の山歩き", 4096).tolist())

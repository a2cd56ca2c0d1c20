"""Training learns what is there, nothing that is not, and the same every time."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from ml.baselines.popularity import Popularity
from ml.contracts import PREFIXES, PRIOR_UNIT, STORED_NORM
from ml.datasets import histories_of
from ml.encoding import encode_items, encode_users, learned_query, require_unit, tower_inputs
from ml.errors import ContractError, NotEnoughDataError
from ml.evaluation.scorers import ModelScorer, evaluate, random_ndcg
from ml.evaluation.windows import window_after
from ml.popularity import trending
from ml.training import train


def vectors(model, world):
    items = encode_items(model, world.items)
    return items, encode_users(model, items, histories_of(world.decisions, np.arange(len(world.user_ids))))


@pytest.mark.parametrize("limit", [5000, 0], ids=["full softmax", "sampled softmax"])
def test_a_separable_world_is_learned_completely(build, tiny, limit):
    make_dataset, _ = build
    world = make_dataset(n_users=32, n_items=8, n_events=8, n_tastes=4)
    table = world.decisions
    # Two items per taste: who liked one likes the other next, and nothing else.
    keep = table.item_index % 4 == table.user_index % 4
    first = np.concatenate([[True], np.diff(table.user_index[keep]) != 0])
    clean = dataclasses.replace(
        table.take(keep),
        decision=np.ones(keep.sum(), np.int8),
        is_first_like=np.ones(keep.sum(), bool),
        decided_at=table.decided_at[keep] + ~first * 1,
        history_size=np.where(first, 0, 1).astype(np.int32),
    )
    world = dataclasses.replace(world, decisions=clean)
    config = dataclasses.replace(
        tiny, full_softmax_limit=limit, shuffled_history_share=1.0, history_dropout=0.0, id_dropout=0.0,
        targets_per_context=1, temperature=0.05, learning_rate=0.01, learning_rate_decay=1.0,
        prefix_weights=(0.0, 0.0, 0.0),
    )  # fmt: skip
    model = train(world, config, seed=0, epochs=40)
    assert model.curve[-1]["loss"] < 0.05
    items = encode_items(model, world.items)
    mine = np.flatnonzero(first)
    rows = np.stack([mine, mine + 1], axis=1)
    histories = histories_of(clean.take(first), clean.user_index[mine])
    users = encode_users(model, items, histories)
    scores = users @ items.embedding.T
    scores[np.arange(len(mine)), clean.item_index[rows[:, 0]]] = -9
    assert (scores.argmax(axis=1) == clean.item_index[rows[:, 1]]).all()


def test_the_same_seed_gives_the_same_vectors_in_another_process(world, tiny, tmp_path):
    code = (
        "import sys, importlib.util, dataclasses, hashlib\n"
        "spec = importlib.util.spec_from_file_location('worlds', sys.argv[1])\n"
        "worlds = importlib.util.module_from_spec(spec); spec.loader.exec_module(worlds)\n"
        "from ml.config import config_from_dict\n"
        "from ml.encoding import encode_items\n"
        "from ml.training import train\n"
        "import json\n"
        "world = worlds.make_dataset()\n"
        "model = train(world, config_from_dict(json.loads(sys.argv[2])), seed=11, epochs=2)\n"
        "sys.stdout.write(hashlib.sha256(encode_items(model, world.items).embedding.tobytes()).hexdigest())\n"
    )
    import json
    from pathlib import Path

    arguments = [str(Path(__file__).with_name("conftest.py")), json.dumps(tiny.as_dict())]
    other = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, env={"CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "3"},
    )  # fmt: skip
    model = train(world, tiny, seed=11, epochs=2)
    assert other.stdout == hashlib.sha256(encode_items(model, world.items).embedding.tobytes()).hexdigest()


def test_events_after_the_end_of_training_change_nothing(world, tiny):
    cut = int(np.quantile(world.decisions.decided_at, 0.6))
    with_future = train(world, tiny, seed=1, train_until=cut, epochs=1)
    without = train(world.until(cut), tiny, seed=1, epochs=1)
    left, right = (encode_items(model, world.items).embedding for model in (with_future, without))
    assert left.tobytes() == right.tobytes()


def test_shuffled_labels_bring_the_model_to_popularity_level(build, tiny):
    make_dataset, _ = build
    world = make_dataset(n_users=120, n_items=60)
    table = world.decisions
    shuffled_items = np.random.default_rng(0).permutation(table.item_index)
    chance = dataclasses.replace(world, decisions=dataclasses.replace(table, item_index=shuffled_items))
    cut = int(np.quantile(table.decided_at, 0.7))

    def score(data):
        window, known = window_after(data, cut), data.until(cut)
        model = train(known, dataclasses.replace(tiny, max_epochs=4), seed=0)
        ours = evaluate(ModelScorer(model, known), window)[1]["ndcg@10"].mean()
        return ours, max(evaluate(Popularity(known, cut), window)[1]["ndcg@10"].mean(), random_ndcg(window, 0))

    real, real_reference = score(world)
    blind, blind_reference = score(chance)
    assert real > 1.3 * real_reference
    assert blind < blind_reference + 0.05
    assert blind < 0.7 * real


def test_an_item_nobody_has_seen_is_placed_by_its_content(build, tiny):
    make_dataset, make_items = build
    items = make_items(64)
    world = make_dataset(n_items=60, items=items)
    config = dataclasses.replace(tiny, id_dropout=0.5, max_epochs=8)
    model = train(world, config, seed=0)
    encoded = encode_items(model, items)
    assert not set(items.item_ids[60:]) & set(model.id_items)
    cosines = encoded.learned[60:] @ encoded.learned[:60].T
    own = np.array([np.arange(60) % 4 == row % 4 for row in range(4)])
    assert (cosines[own].mean() - cosines[~own].mean()) > 0.1


def test_ranking_by_stored_vectors_is_ranking_by_the_score_of_the_model(fitted, world):
    items, users = vectors(fitted, world)
    # What the train step computes before the temperature: cosine with the direction, plus weight times prior.
    inputs = tower_inputs(fitted, items, histories_of(world.decisions, np.arange(len(users))), np.arange(len(users)))
    tower, fields = fitted.user_tower, vars(inputs).values()
    weight = tower.prior_weight(inputs.age_days, inputs.mask).numpy()
    logits = tower.directions(*fields).numpy() @ items.learned.T + weight * items.popularity_prior
    stored = users @ items.embedding.T
    assert np.allclose(stored * STORED_NORM * np.sqrt(1 + (weight * PRIOR_UNIT) ** 2), logits, atol=1e-5)
    rows = np.searchsorted(fitted.id_items, items.item_ids)
    prior = trending(fitted.log_popularity, fitted.settled.half_life_days, fitted.settled.trend)[rows]
    assert np.allclose(items.popularity_prior - items.popularity_prior.mean(), prior - prior.mean(), atol=1e-5)


def test_vectors_are_unit_and_follow_the_layout(fitted, world):
    items, users = vectors(fitted, world)
    require_unit(items.embedding, "item")
    require_unit(users, "user")
    low, high = sorted((fitted.settled.prior_weight * PRIOR_UNIT, fitted.settled.returning_prior_weight * PRIOR_UNIT))
    weights = users[:, 0] / np.linalg.norm(users[:, 2:], axis=1)
    assert (weights >= low - 1e-6).all()
    assert (weights <= high + 1e-6).all()
    assert np.allclose(items.embedding[:, 2:] * STORED_NORM, items.learned, atol=1e-6)
    assert (users[:, 1] == 0).all()
    assert PREFIXES[-1] == items.embedding.shape[1]
    query = learned_query(items.embedding[4])
    assert np.argmax(items.embedding @ query) == 4


def test_users_do_not_depend_on_who_is_encoded_beside_them(fitted, world):
    items, users = vectors(fitted, world)
    order = np.random.default_rng(0).permutation(len(users))
    again = encode_users(fitted, items, histories_of(world.decisions, order))
    assert np.allclose(again, users[order], atol=1e-6)


def test_a_user_without_history_gets_the_default_vector(fitted, world):
    items = encode_items(fitted, world.items)
    nobody = encode_users(fitted, items, histories_of(world.decisions, np.array([10_000, 10_001])))
    assert np.allclose(nobody[0], nobody[1])
    require_unit(nobody, "user")


def test_only_the_newest_events_up_to_the_history_length_are_read(fitted, world):
    items = encode_items(fitted, world.items)
    everything = histories_of(world.decisions, np.array([0]))
    length = fitted.config.history_length
    assert everything.offsets[1] > length
    newest = dataclasses.replace(
        everything,
        item_index=everything.item_index[-length:],
        decision=everything.decision[-length:],
        decided_at=everything.decided_at[-length:],
        offsets=np.array([0, length]),
    )
    assert np.allclose(encode_users(fitted, items, newest), encode_users(fitted, items, everything), atol=1e-6)
    assert tower_inputs(fitted, items, everything, np.array([0])).mask.sum() == length


def test_an_event_later_than_the_moment_of_encoding_is_refused(fitted, world):
    items = encode_items(fitted, world.items)
    with pytest.raises(ContractError, match="later"):
        encode_users(fitted, items, histories_of(world.decisions, np.array([0])), now=0)


def test_too_little_data_is_refused_by_name(world, tiny):
    table = world.decisions
    with pytest.raises(NotEnoughDataError, match="no decisions"):
        train(dataclasses.replace(world, decisions=table.take(table.user_index < 0)), tiny, 0)
    with pytest.raises(NotEnoughDataError, match="no likes"):
        train(dataclasses.replace(world, decisions=table.take(table.decision < 0)), tiny, 0)
    with pytest.raises(NotEnoughDataError, match="two users"):
        train(dataclasses.replace(world, decisions=table.take(table.user_index == 3)), tiny, 0)


def test_training_reports_progress_and_keeps_the_best_epoch(world, tiny):
    reports, scores = [], iter([0.1, 0.3, 0.2, 0.1, 0.0, 0.0])
    config = dataclasses.replace(tiny, patience=2)
    model = train(world, config, 0, validate=lambda _: next(scores), on_progress=lambda *r: reports.append(r))
    assert model.epochs == 1
    assert [entry["epoch"] for entry in model.curve] == [0, 1, 2, 3]
    assert reports[-1] == (6, 6)
    again = train(world, config, 0, epochs=1)
    left, right = (encode_items(m, world.items).embedding for m in (model, again))
    assert np.array_equal(left, right)

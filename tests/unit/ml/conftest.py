"""A small world with planted tastes, built once per test session and never changed."""

import dataclasses

import numpy as np
import pytest

from ml.config import ModelConfig, load_config
from ml.datasets import MICROSECONDS_PER_DAY, Dataset, dataset_from_columns, items_from_columns
from ml.training import FittedModel, train

DAY = MICROSECONDS_PER_DAY
START = 19_000 * DAY


def make_items(n_items, n_tastes=4):
    """Items whose maker and tags give away the taste they belong to."""
    tastes = np.arange(n_items) % n_tastes
    return items_from_columns(
        {
            "item_id": [f"dmm/digital/videoa/item{row:04d}" for row in range(n_items)],
            "content_id": [f"item{row:04d}" for row in range(n_items)],
            "title": [f"{'春夏秋冬'[taste % 4]}の旅 {row}" for row, taste in enumerate(tastes)],
            "maker_id": [int(taste) + 1 for taste in tastes],
            "series_id": [None] * n_items,
            "label_id": [None] * n_items,
            "tag_ids": [[100 + int(taste), 200 + row % 7] for row, taste in enumerate(tastes)],
            "performer_ids": [[] for _ in tastes],
            "director_ids": [[300 + row % 5] for row in range(n_items)],
            "price_jpy": [300 + 10 * (row % 3) if row % 4 else None for row in range(n_items)],
            "runtime_minutes": [60 + row % 30 for row in range(n_items)],
            "released_at": [START - 400 * DAY + row * DAY for row in range(n_items)],
            "is_eligible": [True] * n_items,
        }
    )


def make_dataset(n_users=40, n_items=60, n_events=30, n_tastes=4, seed=0, items=None):
    """Users like most items of their own taste and nope most others; events spread over 100 days."""
    rng = np.random.default_rng(seed)
    names = ("user_id", "sequence", "item_id", "decision", "decided_at", "history_size", "is_first_like")
    rows = {name: [] for name in names}
    for user in range(n_users):
        picked = rng.choice(n_items, size=min(n_events, n_items), replace=False)
        times = np.sort(START + rng.integers(0, 100, len(picked)) * DAY)
        for place, (item, time) in enumerate(zip(picked, times, strict=True)):
            likes = rng.random() < (0.9 if item % n_tastes == user % n_tastes else 0.1)
            rows["user_id"].append(f"user{user:04d}")
            rows["sequence"].append(place + 1)
            rows["item_id"].append(f"dmm/digital/videoa/item{item:04d}")
            rows["decision"].append(1 if likes else (-1 if rng.random() < 0.5 else 0))
            rows["decided_at"].append(int(time))
            rows["history_size"].append(int(np.searchsorted(times, time, side="left")))
            rows["is_first_like"].append(bool(likes))
    return dataset_from_columns(items if items is not None else make_items(n_items, n_tastes), rows)


@pytest.fixture(scope="session")
def world() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    return dataclasses.replace(
        load_config("simple"),
        title_buckets=256,
        history_length=20,
        history_dimensions=16,
        batch_contexts=64,
        targets_per_context=4,
        uniform_negatives=32,
        refresh_steps=5,
        warmup_steps=5,
        learning_rate=0.005,
        max_epochs=6,
        popularity_blocks=8,
    )


@pytest.fixture(scope="session")
def fitted(world, tiny) -> FittedModel:
    return train(world, tiny, seed=3)


@pytest.fixture(scope="session")
def build():
    """The builders themselves, for tests that need a world of their own."""
    return make_dataset, make_items

"""The browser bundle beside the model it came from: agreement, time of one user, download.

    uv run python bench/browser.py [--config standard_768] [--histories 10000] [--epochs 1]

A model is trained on the sample world, saved and exported with each kind of weights. Histories of the users, cut at
random lengths, are encoded in Node through `matching.js` with TensorFlow.js on one CPU thread, one user at a time as an
app does, and by the SavedModel in batches, which says what is right. The peer for time is the SavedModel in TensorFlow
for Python, one user at a time, in the same run. Times are medians; overlap is of the twenty best items.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from sample_world import dataset_of

from ml.artifacts import load_served_user_tower, save
from ml.browser import install_node_modules
from ml.config import load_config
from ml.datasets import DecisionTable, Histories, histories_of
from ml.encoding import TowerInputs, encode_items, tower_inputs
from ml.tfjs import INPUTS, OUTPUT, WEIGHTS, compare_vectors, encode_in_node, export_user_tower, gzipped_bytes
from ml.training import train
from orchestration.landing.emulator.world import build_world

AT_ONCE = 256
TIMED_IN_PYTHON = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="standard_768")
    parser.add_argument("--size", default="small")
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    dataset, _ = dataset_of(build_world(options.size))
    model = train(dataset, load_config(options.config), seed=0, epochs=options.epochs)
    items = encode_items(model, dataset.items)
    histories = cut_histories(dataset.decisions, options.histories)
    lengths = np.minimum(np.diff(histories.offsets), model.config.history_length)
    print(f"{options.config}: {options.histories:,} histories, median {np.median(lengths):.0f} events read")
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        save(run, model, {"run_id": "bench"})
        node_modules = install_node_modules(Path(name) / "node", os.environ)
        function = load_served_user_tower(run)
        expected = reference(function, model, items, histories)
        python_ms = one_by_one(function, model, items, histories)
        print(f"TensorFlow in Python, one user at a time: {python_ms:.2f} ms")
        best = top(expected, items.embedding)
        for weights in WEIGHTS:
            bundle = export_user_tower(run, weights)
            found = encode_in_node(bundle, items.embedding, events_of(histories), node_modules)
            report = compare_vectors(bundle, found.vectors, expected)
            lists = zip(best, top(found.vectors, items.embedding), strict=True)
            shared = np.mean([len(set(a) & set(b)) / 20 for a, b in lists])
            print(
                f"{weights}: max |difference| {report.max_abs_difference:.1e}, overlap@20 {shared:.4f},"
                f" {found.milliseconds:.2f} ms a user ({found.milliseconds / python_ms:.2f} of Python's),"
                f" {gzipped_bytes(bundle) / 1e6:.2f} MB gzipped"
            )


def cut_histories(decisions: DecisionTable, n: int) -> Histories:
    """Return n histories: a user drawn at random, known up to a random one of the user's decisions."""
    rng = np.random.default_rng(0)
    whole = histories_of(decisions, np.unique(decisions.user_index))
    users = rng.integers(0, len(whole), n)
    starts = whole.offsets[users]
    lengths = rng.integers(1, whole.offsets[users + 1] - starts + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    return Histories(whole.item_index[rows], whole.decision[rows], whole.decided_at[rows], offsets)


def events_of(histories: Histories) -> list[list[tuple[int, int, float]]]:
    """Return what an app holds of each user: item, decision, milliseconds."""
    columns = (histories.item_index.tolist(), histories.decision.tolist(), (histories.decided_at / 1000).tolist())
    events = list(zip(*columns, strict=True))
    return [events[a:b] for a, b in zip(histories.offsets[:-1], histories.offsets[1:], strict=True)]


def reference(function, model, items, histories) -> np.ndarray:
    parts = []
    for start in range(0, len(histories), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(histories)))
        parts.append(encoded(function, tower_inputs(model, items, histories, rows)))
    return np.concatenate(parts)


def one_by_one(function, model, items, histories) -> float:
    rows = range(min(TIMED_IN_PYTHON, len(histories)))
    inputs = [tower_inputs(model, items, histories, np.array([row])) for row in rows]
    encoded(function, inputs[0])
    times = []
    for one in inputs:
        started = time.perf_counter()
        encoded(function, one)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def encoded(function, inputs: TowerInputs) -> np.ndarray:
    import tensorflow as tf

    return function(**{name: tf.constant(getattr(inputs, name)) for name in INPUTS})[OUTPUT].numpy()


def top(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return np.argsort(-(users @ items.T), axis=1)[:, :20]


if __name__ == "__main__":
    main()

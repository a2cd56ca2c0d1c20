"""Speed and memory of training, beside a plain two-tower in Keras, in one process each.

    uv run python bench/training.py speed FOLDER [--config standard_768] [--batch 2048] [--steps 20]
    uv run python bench/training.py ease FOLDER [--config production]
    uv run python bench/training.py epochs FOLDER [--config standard_768] [--epochs 6]
    uv run python bench/training.py stream [--rows 10000000] [--steps 100]

FOLDER is in the load format with a held-out part, as the judge's `ml100k.py FOLDER --split random` writes it.

speed: examples per second, an example being one like with the history before it. The peers are written as tutorials do:
two embeddings of 768, two dense layers of 768 on each, in-batch softmax, Adam, `model.fit`; one peer looks a user up by
id (it needs no history, and knows no new user), the other one averages the last 50 items of the history. Same data,
same batch size, same dimension; rounds of all take turns, and the medians are compared.
ease: seconds until the validation part of FOLDER's own data, and its held-out part, are answered as well as by EASE.
epochs: memory after each epoch. stream: peak memory of reading synthetic examples from Postgres, the linear start, and
the first steps of some epochs (all examples are drawn and shuffled at the beginning of each).
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from load_format import dataset_of, held_out

from ml.baselines.ease import Ease
from ml.config import ModelConfig, load_config
from ml.datasets import Dataset
from ml.evaluation.scorers import ModelScorer, mean_ndcg
from ml.evaluation.settling import settle
from ml.evaluation.windows import holdouts, window_after
from ml.popularity import popularity_blocks
from ml.sampling import BatchSource
from ml.settled import Settled
from ml.trainer import Trainer
from ml.training import prepare, train

DIMENSIONS = 768
PEER_HISTORY = 50
PENALTIES = (50.0, 100.0, 250.0, 500.0, 1000.0)


def peer(dataset: Dataset, batch: int, steps: int, reads_history: bool) -> Callable[[], float]:
    """Return a function that trains some steps of a two-tower as tutorials write it, and returns its examples."""
    import keras
    import tensorflow as tf

    table = dataset.decisions
    rows = np.flatnonzero(table.is_first_like)
    if reads_history:
        starts = np.searchsorted(table.user_index, table.user_index[rows])
        places = (starts + table.history_size[rows])[:, None] - 1 - np.arange(PEER_HISTORY)
        asked = np.where(places >= starts[:, None], table.item_index[np.maximum(places, 0)] + 1, 0).astype(np.int32)
    else:
        asked = table.user_index[rows] + 1

    def dense() -> list[Any]:
        return [keras.layers.Dense(DIMENSIONS, activation="relu"), keras.layers.Dense(DIMENSIONS)]

    class TwoTower(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            items, users = len(dataset.items) + 1, len(dataset.user_ids) + 1
            self.items = keras.Sequential([keras.layers.Embedding(items, DIMENSIONS), *dense()])
            looked_up = keras.layers.Embedding(items if reads_history else users, DIMENSIONS, mask_zero=reads_history)
            pooled = [keras.layers.GlobalAveragePooling1D()] if reads_history else []
            self.users = keras.Sequential([looked_up, *pooled, *dense()])

        def call(self, inputs: Any) -> Any:
            return tf.matmul(self.users(inputs[0]), self.items(inputs[1]), transpose_b=True)

    def in_batch(_: Any, logits: Any) -> Any:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(tf.shape(logits)[0]), logits)

    model = TwoTower()
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=in_batch)
    inputs = (asked, table.item_index[rows] + 1)
    data = tf.data.Dataset.from_tensor_slices((inputs, np.zeros(len(rows), np.int32)))
    data = data.shuffle(len(rows), seed=0).repeat().batch(batch, drop_remainder=True).take(steps).prefetch(2)

    def run() -> float:
        model.fit(data, epochs=1, verbose=0, shuffle=False)
        return float(batch * steps)

    return run


def ours(dataset: Dataset, config: ModelConfig, batch: int) -> Callable[[], float]:
    """Return a function that trains one epoch of a configuration and returns its examples."""
    trainer = prepared(dataset, replace(config, batch_contexts=batch // config.targets_per_context))
    return lambda: trainer.epoch(config.learning_rate)[1]


def prepared(dataset: Dataset, config: ModelConfig) -> Trainer:
    """Return a fit before its first step, as `train` makes it."""
    fresh = prepare(dataset, config, 0, None, Settled(), 1)
    if fresh.start is not None:
        fresh.start.put(fresh.model)
    blocks = popularity_blocks(fresh.decisions, len(fresh.features), config.popularity_blocks)
    source = BatchSource(fresh.decisions, fresh.released_at, blocks, config, np.random.default_rng(0))
    return Trainer(fresh.model, fresh.features, source, fresh.how)


def speed(options: argparse.Namespace) -> None:
    dataset = dataset_of(options.folder)
    config = load_config(options.config)
    runs = {
        "peer by user id": peer(dataset, options.batch, options.steps, reads_history=False),
        "peer by history": peer(dataset, options.batch, options.steps, reads_history=True),
        f"ours, {options.config}": ours(dataset, config, options.batch),
        f"ours, {options.config}, sampled": ours(dataset, replace(config, full_softmax_limit=0), options.batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    costs: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # traces, compiles, fills caches
    for _ in range(options.rounds):
        for name, run in runs.items():
            started, worked = time.perf_counter(), time.process_time()
            examples = run()
            rates[name].append(examples / (time.perf_counter() - started))
            costs[name].append((time.process_time() - worked) / examples * 1e6)
    slowest_allowed = {name: float(np.median(rates[name])) for name in runs if name.startswith("peer")}
    for name in runs:
        rate, cost = float(np.median(rates[name])), float(np.median(costs[name]))
        ratios = ", ".join(f"{rate / other:.2f} x {peer_name}" for peer_name, other in slowest_allowed.items())
        print(f"{name:30s} {rate:9,.0f} examples/s, {cost:5.0f} us of processor each; {ratios}")


def ease(options: argparse.Namespace) -> None:
    """Settle, start and train; say when EASE, tuned on the same validation part, has been reached."""
    dataset = dataset_of(options.folder)
    test = held_out(options.folder, dataset)
    known, last, others = holdouts(dataset, 0)
    config = load_config(options.config)
    tuned = {penalty: mean_ndcg(Ease(known, {"l2": penalty}), others) for penalty in PENALTIES}
    best = max(tuned, key=lambda penalty: tuned[penalty])
    goal, on_test = tuned[best], mean_ndcg(Ease(dataset, {"l2": best}), test)
    print(f"EASE, penalty {best:.0f}: validation {goal:.4f}, held out {on_test:.4f}")
    started = time.monotonic()
    later = window_after(known, int(known.decisions.decided_at.max()))
    settled, _ = settle(known, later, last, others, config, 0)
    print(f"settled after {time.monotonic() - started:.0f} s: {settled}")

    def validate(model: Any) -> float:
        score = mean_ndcg(ModelScorer(model, known), others)
        word = "reached" if score >= goal else "below"
        print(f"{time.monotonic() - started:6.1f} s: validation {score:.4f} ({score / goal:.3f} of EASE: {word})")
        return score

    model = train(known, config, 0, settled=settled, validate=validate)
    started = time.monotonic()
    whole = train(dataset, config, 0, settled=settled, epochs=model.epochs)
    took = time.monotonic() - started
    score = mean_ndcg(ModelScorer(whole, dataset), test)
    print(f"refit of {model.epochs} epochs, {took:.1f} s: held out {score:.4f} ({score / on_test:.3f} of EASE)")


def epochs(options: argparse.Namespace) -> None:
    dataset = dataset_of(options.folder)
    config = replace(load_config(options.config), full_softmax_limit=options.full_limit)
    first = []

    def report(done: int, total: int | None) -> None:
        now = resident()
        first.append(now)
        print(f"epoch {done} of {total}: {now:,.0f} MiB ({now - first[0]:+,.0f} since the first)", flush=True)

    train(dataset, config, 0, epochs=options.epochs, on_progress=report)


def stream(options: argparse.Namespace) -> None:
    from orchestration.warehouse import embedded
    from orchestration.warehouse.connection import connect
    from orchestration.warehouse.features import read_dataset
    from orchestration.warehouse.migrate import create_databases, migrate

    root = Path(tempfile.mkdtemp(prefix="matching-bench-"))
    peak = Peak()
    try:
        with embedded.throwaway(root) as server:
            database = server.database("bench")
            create_databases(database, names=())
            migrate(database)
            with connect(database) as connection:
                started = time.monotonic()
                make_tables(connection, options.rows, options.items, options.users)
                connection.commit()
                print(f"{options.rows:,} examples written in {time.monotonic() - started:.0f} s (not measured)")
                peak.start()
                started = time.monotonic()
                dataset = read_dataset(connection)
                took = time.monotonic() - started
        rate = len(dataset.decisions) / took
        print(f"read in {took:.0f} s ({rate:,.0f} examples/s), peak {peak.mib:,.0f} MiB", flush=True)
        trainer = prepared(dataset, load_config(options.config))
        print(f"prepared, peak {peak.mib:,.0f} MiB", flush=True)
        trainer.batches = trainer.batches.take(options.steps)
        for part in range(options.parts):
            started = time.monotonic()
            loss, likes = trainer.epoch(1e-4)
            rate, now = likes / (time.monotonic() - started), resident()
            print(f"{options.steps} steps of epoch {part + 1}: {rate:,.0f} likes/s, loss {loss:.3f}, {now:,.0f} MiB")
        whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak while reading and training: {peak.mib:,.0f} MiB (of the whole process {whole:,.0f} MiB)")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def make_tables(connection: Any, rows: int, items: int, users: int) -> None:
    """Fill feature tables as the contract has them: popularity falls like 1 / rank, half the decisions are likes."""
    from ml.contracts import TABLES

    for table, columns in TABLES.items():
        listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        connection.execute(f"create unlogged table features.{table} ({listed})")
    each = rows // users
    connection.execute(
        "insert into features.feat_items (item_id, content_id, title, maker_id, tag_ids, performer_ids, director_ids,"
        " price_jpy, runtime_minutes, released_at, is_eligible)"
        " select 'dmm/digital/videoa/c' || n, 'c' || n, '題名 ' || n, n %% 300, array[n %% 50, 50 + n %% 37]::bigint[],"
        " array[n %% 4000]::bigint[], array[n %% 900]::bigint[], 300 + n %% 900, 60 + n %% 120,"
        " timestamptz '2015-01-01+00', true from generate_series(1, %s) as s (n)",
        [items],
    )
    connection.execute(
        "insert into features.feat_users (user_id) select 'user' || n from generate_series(1, %s) as s (n)", [users]
    )
    connection.execute(
        "insert into features.feat_training_examples"
        " (user_id, sequence, item_id, decision, decided_at, history_size, is_first_like)"
        " select 'user' || u, s,"
        " 'dmm/digital/videoa/c' || least(%(items)s, floor(exp(random() * ln(%(items)s + 1))))::int,"
        " case when (u + s) %% 2 = 0 then 1 when s %% 3 = 0 then 0 else -1 end,"
        " timestamptz '2024-01-01+00' + s * interval '1 hour' + u * interval '1 second', s - 1, (u + s) %% 2 = 0"
        " from generate_series(1, %(users)s) as a (u), generate_series(1, %(each)s) as b (s)",
        {"items": items, "users": users, "each": each},
    )


class Peak:
    """The most memory that this process held at once, asked ten times a second from `start` on."""

    def __init__(self) -> None:
        self.mib = 0.0

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, resident())
            time.sleep(0.1)


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for part, config in ((speed, "standard_768"), (ease, "production"), (epochs, "standard_768")):
        one = parts.add_parser(part.__name__)
        one.add_argument("folder", type=Path)
        one.add_argument("--config", default=config)
        one.set_defaults(run=part)
        if part is speed:
            one.add_argument("--batch", type=int, default=2048)
            one.add_argument("--steps", type=int, default=20)
            one.add_argument("--rounds", type=int, default=3)
        if part is epochs:
            one.add_argument("--epochs", type=int, default=6)
            one.add_argument("--full-limit", type=int, default=5_000)
    one = parts.add_parser("stream")
    one.add_argument("--config", default="standard_768")
    one.add_argument("--rows", type=int, default=10_000_000)
    one.add_argument("--items", type=int, default=20_000)
    one.add_argument("--users", type=int, default=100_000)
    one.add_argument("--steps", type=int, default=100)
    one.add_argument("--parts", type=int, default=3, help="epochs that are begun")
    one.set_defaults(run=stream)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

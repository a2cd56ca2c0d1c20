"""Where and how exactly a fit computes follows from what is there and what is asked for, and from nothing else."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf  # noqa: TID253 - devices are TensorFlow's

from ml.config import ConfigError
from ml.devices import Gpu, Plan, choose, computing_in, plan, product
from ml.popularity import popularity_blocks
from ml.sampling import BatchSource
from ml.settled import Settled
from ml.trainer import Trainer
from ml.training import prepare

OLD, TURING, AMPERE = Gpu("/GPU:0", (6, 1)), Gpu("/GPU:0", (7, 5)), Gpu("/GPU:0", (8, 6))


@pytest.mark.parametrize(
    ("gpus", "device", "precision", "expected"),
    [
        ([], "auto", "auto", Plan("/CPU:0", "float32")),
        ([], "cpu", "float32", Plan("/CPU:0", "float32")),
        ([AMPERE], "cpu", "auto", Plan("/CPU:0", "float32")),
        ([AMPERE], "auto", "auto", Plan("/GPU:0", "bfloat16")),
        ([AMPERE, OLD], "gpu", "mixed", Plan("/GPU:0", "bfloat16")),
        ([TURING], "auto", "auto", Plan("/GPU:0", "float32")),
        ([TURING], "auto", "float32", Plan("/GPU:0", "float32")),
        ([OLD], "auto", "auto", Plan("/GPU:0", "float32")),
        ([Gpu("/GPU:0", (0, 0))], "gpu", "auto", Plan("/GPU:0", "float32")),
    ],
)
def test_a_card_is_used_where_there_is_one_and_lower_precision_where_it_gains(gpus, device, precision, expected):
    assert choose(gpus, device, precision) == expected


@pytest.mark.parametrize(
    ("gpus", "device", "precision", "message"),
    [
        ([], "gpu", "auto", "TensorFlow sees none"),
        ([], "auto", "mixed", "runs on a processor"),
        ([AMPERE], "cpu", "mixed", "runs on a processor"),
        ([TURING], "auto", "mixed", "/GPU:0 gains nothing"),
    ],
)
def test_what_cannot_be_had_is_refused(gpus, device, precision, message):
    with pytest.raises(ConfigError, match=message):
        choose(gpus, device, precision)


def test_cards_give_out_memory_as_it_is_needed(monkeypatch, tiny):
    growing = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda card: growing.get(card, False))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", growing.__setitem__)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda card: {"compute_capability": (8, 9)} if card else {}
    )
    assert plan(tiny) == Plan("/GPU:0", "bfloat16")
    assert growing == {"first": True, "second": True}
    # Growth can be set only before the first use of a card: it is not set again.
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", None)
    assert plan(dataclasses.replace(tiny, device="cpu")) == Plan("/CPU:0", "float32")


def test_products_are_rounded_within_the_block_only():
    left, right = (tf.constant(np.random.default_rng(n).normal(size=(8, 8)), tf.float32) for n in (0, 1))
    exact = tf.matmul(left, right, transpose_b=True).numpy()
    assert np.array_equal(product(left, right, transpose_b=True), exact)
    with computing_in("bfloat16"):
        rounded = product(left, right, transpose_b=True)
    assert rounded.dtype == tf.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1
    assert np.array_equal(product(left, right, transpose_b=True), exact)


@pytest.fixture(scope="module")
def losses(world, tiny):
    """Losses of three epochs in each precision, from the same start with the same draws."""
    config, found = dataclasses.replace(tiny, start="random"), {}
    for precision in ("float32", "bfloat16"):
        fresh = prepare(world, config, 3, None, Settled(), 1)
        blocks = popularity_blocks(fresh.decisions, len(fresh.features), config.popularity_blocks)
        source = BatchSource(fresh.decisions, fresh.released_at, blocks, config, np.random.default_rng(3))
        trainer = Trainer(fresh.model, fresh.features, source, Plan("/CPU:0", precision))
        found[precision] = [trainer.epoch(config.learning_rate)[0] for _ in range(3)]
        assert all(weight.dtype == np.float32 for weight in trainer.weights())
    return found


def test_mixed_precision_learns_what_full_precision_does(losses):
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]
    assert np.allclose(losses["bfloat16"], losses["float32"], rtol=0.02)

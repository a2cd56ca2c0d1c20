"""Where a fit computes and how exactly: processor or graphics card, float32 or mixed precision.

Belongs here: choosing among the devices that TensorFlow sees, memory growth, and products in lower precision. Does not
belong here: what is computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import tensorflow as tf

from ml.config import ConfigError, ModelConfig

BFLOAT_CAPABILITY = (8, 0)
"""Compute capability from which a card multiplies bfloat16, which has the range of float32. Older cards have float16
only: gradients of users without a history leave its range, whatever fixed factor is put on the loss."""


@dataclass(frozen=True)
class Gpu:
    """A graphics card as TensorFlow sees it."""

    name: str
    capability: tuple[int, int]
    """Compute capability; (0, 0) where it is not known."""


@dataclass(frozen=True)
class Plan:
    """Where and how a fit computes.

    Attributes:
        device: TensorFlow's name of the device.
        precision: float32, or bfloat16: the type that the factors of large products are rounded to.
    """

    device: str
    precision: str


def choose(gpus: Sequence[Gpu], device: str, precision: str) -> Plan:
    """Choose among what is there.

    Args:
        gpus: What TensorFlow sees; the first one is used.
        device: auto (a card where there is one), cpu or gpu.
        precision: auto (mixed on a card that gains by it), float32, or mixed.

    Raises:
        ConfigError: A card is asked for and there is none, or mixed precision where nothing gains by it.
    """
    if device == "gpu" and not gpus:
        raise ConfigError("device is gpu, and TensorFlow sees none: set it to auto or cpu")
    gpu = gpus[0] if gpus and device != "cpu" else None
    if gpu is None:
        if precision == "mixed":
            raise ConfigError("precision is mixed, and the fit runs on a processor: set it to auto or float32")
        return Plan("/CPU:0", "float32")
    gains = gpu.capability >= BFLOAT_CAPABILITY
    if precision == "mixed" and not gains:
        raise ConfigError(f"precision is mixed, and {gpu.name} gains nothing by it: set it to auto or float32")
    return Plan(gpu.name, "bfloat16" if gains and precision != "float32" else "float32")


def plan(config: ModelConfig) -> Plan:
    """Choose for a configuration among what TensorFlow sees here, letting cards give out memory as it is needed.

    Raises:
        ConfigError: As `choose`.
    """
    found = tf.config.list_physical_devices("GPU")
    for physical in found:
        if not tf.config.experimental.get_memory_growth(physical):
            tf.config.experimental.set_memory_growth(physical, True)
    details = [tf.config.experimental.get_device_details(physical) for physical in found]
    gpus = [Gpu(f"/GPU:{n}", tuple(one.get("compute_capability") or (0, 0))) for n, one in enumerate(details)]
    return choose(gpus, config.device, config.precision)


_precision: ContextVar[str] = ContextVar("precision", default="float32")


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Let `product` compute in another type within the block; what is traced within keeps it."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def product(left: tf.Tensor, right: tf.Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> tf.Tensor:
    """Return the float32 matrix product, its factors rounded to the type that `computing_in` says."""
    kind = _precision.get()
    if kind == "float32":
        return tf.matmul(left, right, transpose_a=transpose_a, transpose_b=transpose_b)
    rounded = tf.matmul(tf.cast(left, kind), tf.cast(right, kind), transpose_a=transpose_a, transpose_b=transpose_b)
    return tf.cast(rounded, tf.float32)

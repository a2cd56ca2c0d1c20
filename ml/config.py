"""Model configurations: typed, validated, read from `ml/configs/*.toml`; unknown keys are refused.

Belongs here: every number one may turn. Does not belong here: constants of the vector layout (see `contracts`).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

from ml.contracts import LEARNED, PREFIXES


class ConfigError(ValueError):
    """A configuration does not exist, has an unknown key or a value out of range."""


@dataclass(frozen=True)
class ModelConfig:
    """How one two-tower is built and trained."""

    name: str
    """Name of the configuration, as stored with the run."""
    description: str = ""
    """What it is for, in one sentence."""

    bag_dimensions: int = 64
    """Width of tag and performer embeddings; maker, series, director and title use half of it, label a quarter."""
    title_buckets: int = 16_384
    """Hash buckets for character n-grams of titles."""
    vocabulary_min_count: int = 2
    """Ids that occur on fewer items are unknown: one item's private id would only repeat the item id."""
    item_hidden: int = 256
    """Hidden units between the content features and the item vector."""
    id_dropout: float = 0.2
    """Share of item ids hidden per step, so that content alone learns to place an item."""
    history_length: int = 200
    """Newest events of a user that the user tower reads."""
    history_dimensions: int = 256
    """Leading learned coordinates of each history item that the user tower reads."""
    fading_heads: int = 1
    """Differently fading sums kept per kind of decision."""
    user_hidden: int = 32
    """Hidden units of the correction that is added to the linear map of the history."""

    decided_weight: float = 0.8
    """What a decision of any kind says of taste beside a like, where training starts; 0 looks at likes alone."""
    user_power: float = 0.3
    """Users count by their likes to the power of one minus this in the start."""
    start: str = "linear"
    """linear: towers start from a linear autoencoder in closed form; random: from random vectors."""

    batch_contexts: int = 256
    """User moments per step; each is asked for several likes at once."""
    targets_per_context: int = 8
    """Likes that one encoded history has to predict at most."""
    shuffled_history_share: float = 0.5
    """Share of users per epoch whose history is a random part of their other events rather than the earlier ones."""
    history_dropout: float = 1.0
    """Most of a shuffled history that may be left out; the share is drawn evenly between 0 and this."""
    full_softmax_limit: int = 5_000
    """Catalogues up to this size (items with any decision) are scored whole in every step."""
    uniform_negatives: int = 1_024
    """Uniformly drawn negatives per step where the catalogue is larger; with 0 only the batch's own likes compete."""
    logq_correction: bool = True
    """Whether sampled candidates weigh by one over the chance of being drawn; off only to show what that is worth."""
    softmax: str = "refined"
    """refined: the like itself, which was not drawn, enters the sampled softmax with its exact weight; standard: with
    that of a drawn candidate, as most libraries have it."""
    refresh_steps: int = 40
    """Steps after which the item vectors inside histories are encoded anew in large catalogues."""
    nope_negatives: int = 4
    """Noped items per context that are pushed below its likes."""
    nope_weight: float = 0.1
    """Weight of that push."""
    prefix_weights: tuple[float, float, float] = (0.1, 0.1, 0.2)
    """Weights of the losses on the stored prefixes 64, 128 and 256; the full vector has weight 1."""
    popularity_blocks: int = 64
    """Blocks of time within which the popularity prior of training examples is constant."""
    temperature: float = 0.08
    """Start of the learned softmax temperature."""
    min_temperature: float = 0.02
    """Lower bound of the learned temperature."""
    max_temperature: float = 0.5
    """Upper bound of the learned temperature."""

    learning_rate: float = 0.0001
    """Adam step size at the start."""
    learning_rate_decay: float = 0.95
    """Factor on the step size per epoch; does not depend on the number of epochs, so a refit repeats it."""
    weight_decay: float = 0.0
    """Decoupled decay of all weights but temperature and prior weights, as a multiple of the step size."""
    warmup_steps: int = 50
    """Steps over which the step size rises."""
    clip_norm: float = 5.0
    """Largest global norm of a gradient."""
    max_epochs: int = 15
    """Epochs at most."""
    patience: int = 3
    """Epochs without a better validation score after which training stops."""
    validation_users: int = 2_000
    """Users that the score of an epoch is measured on at most."""

    device: str = "auto"
    """auto: a graphics card where TensorFlow sees one; cpu; gpu: refused where there is none."""
    precision: str = "auto"
    """auto: mixed on a card that gains by it; float32; mixed: refused elsewhere. Vectors are encoded in float32."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        positive = (
            "bag_dimensions", "title_buckets", "vocabulary_min_count", "item_hidden", "history_length", "fading_heads",
            "user_hidden", "batch_contexts", "targets_per_context", "refresh_steps",
            "popularity_blocks", "temperature", "min_temperature", "learning_rate", "learning_rate_decay", "clip_norm",
            "max_epochs", "patience", "validation_users", "warmup_steps", "nope_negatives",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0")
        for name in ("id_dropout", "shuffled_history_share", "history_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1")
        if not 1 <= self.history_dimensions <= LEARNED:
            raise ConfigError(f"history_dimensions must lie between 1 and {LEARNED}")
        if not self.min_temperature <= self.temperature <= self.max_temperature:
            raise ConfigError("temperature must lie between min_temperature and max_temperature")
        if len(self.prefix_weights) != len(PREFIXES) - 1 or min(self.prefix_weights) < 0:
            raise ConfigError(f"prefix_weights needs {len(PREFIXES) - 1} values, none below 0")
        if self.start not in ("linear", "random"):
            raise ConfigError("start must be linear or random")
        for name, known in (
            ("softmax", ("refined", "standard")),
            ("device", ("auto", "cpu", "gpu")),
            ("precision", ("auto", "float32", "mixed")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}")
        if self.decided_weight < 0 or not 0 <= self.user_power <= 1:
            raise ConfigError("decided_weight must not be negative, user_power lies between 0 and 1")
        for name in ("nope_weight", "weight_decay", "full_softmax_limit", "uniform_negatives"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return {**asdict(self), "prefix_weights": list(self.prefix_weights)}


def config_names() -> list[str]:
    """Return the names that `load_config` knows."""
    return sorted(
        f.name.removesuffix(".toml") for f in resources.files("ml.configs").iterdir() if f.name.endswith(".toml")
    )


def load_config(name: str) -> ModelConfig:
    """Return the named configuration."""
    if name not in config_names():
        raise ConfigError(f"no configuration named {name!r}; there are {', '.join(config_names())}")
    text = resources.files("ml.configs").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return config_from_dict({"name": name, **tomllib.loads(text)})


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Build a configuration from plain values; a key or type that is not known is an error."""
    known = {field.name: field for field in fields(ModelConfig)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown keys: {', '.join(unknown)}")
    checked: dict[str, Any] = {}
    for key, value in values.items():
        default = known[key].default
        wanted = type(default) if isinstance(default, int | float | str | tuple) else str
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if wanted is tuple and isinstance(value, list | tuple):
            value = tuple(float(part) for part in value)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ConfigError(f"{key} must be {wanted.__name__}, got {type(value).__name__}")
        checked[key] = value
    return ModelConfig(**checked)

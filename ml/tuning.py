"""The search for a configuration: which keys may be turned and how far, the order of trials, and when to give one up.

Belongs here: the search space and the seeded search. Does not belong here: what a trial fits and is scored on
(`ml.evaluation.fitting`), or where trials are kept (`orchestration.tuning`).

The optimiser is optuna's, its study is built anew for every proposal from the trials that have finished: a proposal
depends on the seed, the number of the trial and those trials only, so a search that was killed goes on as if it had
not been.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal

import optuna

from ml.config import ConfigError, ModelConfig, config_from_dict
from ml.progress import OnEpoch

Value = int | float
State = Literal["complete", "pruned", "failed"]

RANDOM_TRIALS = 8
"""Trials, the first included, before the optimiser begins to prefer what did well."""
PRUNE_AFTER_TRIALS, PRUNE_AFTER_EPOCHS = 4, 2
"""A trial is given up when its best epoch so far is below the median of earlier trials at the same epoch; not before so
many trials have finished, and not in its first epochs."""
REDRAWS = 20
"""Proposals equal to an earlier trial are drawn again so often before the space counts as exhausted."""


@dataclass(frozen=True)
class Range:
    """A key whose value lies anywhere from `low` to `high`; `is_log` treats factors alike instead of differences."""

    key: str
    low: Value
    high: Value
    is_log: bool = False

    def holding(self, value: Value) -> "Range":
        """Return the range, widened where it does not hold a value."""
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return the form in which the optimiser knows it."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return optuna.distributions.IntDistribution(self.low, self.high, log=self.is_log)
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.is_log)


@dataclass(frozen=True)
class Choice:
    """A key with a few values worth trying."""

    key: str
    options: tuple[Value, ...]

    def holding(self, value: Value) -> "Choice":
        """Return the choice with one more value where it does not hold it."""
        return replace(self, options=tuple(sorted({*self.options, value})))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return the form in which the optimiser knows it."""
        return optuna.distributions.CategoricalDistribution(self.options)


@dataclass(frozen=True)
class SearchSpace:
    """The keys of a configuration that are searched; a key or value that no configuration takes is refused."""

    dimensions: tuple[Range | Choice, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        keys = [one.key for one in self.dimensions]
        types = {f.name: type(f.default) for f in fields(ModelConfig) if f.default is not MISSING}
        unknown = sorted({key for key in keys if types.get(key) not in (int, float)})
        if unknown:
            raise ConfigError(f"no number of a configuration is called {', '.join(unknown)}")
        if len(set(keys)) < len(keys):
            raise ConfigError("a key is searched twice")
        for one in self.dimensions:
            values = one.options if isinstance(one, Choice) else (one.low, one.high)
            if not values or any(type(value) is not types[one.key] for value in values):
                raise ConfigError(f"{one.key} is searched among {types[one.key].__name__} values only")
            if isinstance(one, Range) and not one.low < one.high:
                raise ConfigError(f"{one.key} is searched from a lower to a higher value")
            if isinstance(one, Range) and one.is_log and one.low <= 0:
                raise ConfigError(f"{one.key} has no logarithm at {one.low}")

    def only(self, keys: Iterable[str]) -> "SearchSpace":
        """Return the space of some of its keys.

        Raises:
            ConfigError: The space has no such key.
        """
        wanted = set(keys)
        unknown = sorted(wanted - {one.key for one in self.dimensions})
        if unknown:
            known = ", ".join(one.key for one in self.dimensions)
            raise ConfigError(f"{', '.join(unknown)} is not searched; there are {known}")
        return SearchSpace(tuple(one for one in self.dimensions if one.key in wanted))

    def around(self, config: ModelConfig) -> "SearchSpace":
        """Return the space, widened so that it holds a configuration: that one is always the first trial."""
        return SearchSpace(tuple(one.holding(getattr(config, one.key)) for one in self.dimensions))

    def values(self, config: ModelConfig) -> dict[str, Value]:
        """Return where a configuration lies."""
        return {one.key: getattr(config, one.key) for one in self.dimensions}

    def apply(self, config: ModelConfig, params: Mapping[str, Value]) -> ModelConfig:
        """Return a configuration with the values of a trial.

        Raises:
            ConfigError: They do not go together.
        """
        return config_from_dict({**config.as_dict(), **params})

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return the space as the optimiser knows it."""
        return {one.key: one.distribution() for one in self.dimensions}

    def hash(self) -> str:
        """Return a hash of keys and bounds: trials of different spaces are never compared."""
        plain = [[type(one).__name__, *map(str, vars(one).values())] for one in self.dimensions]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


SPACE = SearchSpace(
    (
        Choice("decided_weight", (0.0, 0.3, 0.6, 0.8, 1.0)),
        Choice("user_power", (0.0, 0.2, 0.3, 0.5)),
        Range("learning_rate", 1e-6, 1e-2, is_log=True),
        Range("learning_rate_decay", 0.8, 1.0),
        Choice("weight_decay", (0.0, 0.0001, 0.001, 0.01)),
        Range("temperature", 0.03, 0.3, is_log=True),
        Choice("batch_contexts", (128, 256, 512)),
        Range("id_dropout", 0.0, 0.6),
        Range("shuffled_history_share", 0.0, 1.0),
        Range("history_dropout", 0.0, 1.0),
        Range("nope_weight", 0.0, 0.5),
        Choice("bag_dimensions", (16, 32, 64, 96, 128)),
        Choice("item_hidden", (64, 128, 256, 512)),
        Range("vocabulary_min_count", 1, 5),
        Choice("history_dimensions", (62, 126, 256, 510, 766)),
        Choice("fading_heads", (1, 2, 3, 4)),
        Choice("user_hidden", (16, 32, 64, 128)),
    )
)
"""What is searched: what is learnt from which part, how fast and how wide; nothing that only costs time."""


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        number: From 0, the configuration the search started from.
        state: Whether it ran to its end, was given up, or could not be trained.
        params: Values of the searched keys.
        epoch_scores: Score on validation after each epoch, that of the start first where a model has one.
        epochs: The best of them; None unless complete.
        reason: Why it failed.
    """

    number: int
    state: State
    params: Mapping[str, Value]
    epoch_scores: tuple[float, ...] = ()
    epochs: int | None = None
    reason: str = ""

    @property
    def score(self) -> float | None:
        """The score of the epoch that was kept; None unless complete."""
        return max(self.epoch_scores) if self.state == "complete" else None


Evaluate = Callable[[ModelConfig, OnEpoch], int]
"""Fits a configuration, tells each epoch's score on validation, and returns the number of the best epoch."""


class OutOfTimeError(Exception):
    """The time is over; the trial in progress is begun anew another time."""


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Return the complete trial with the highest score, the earlier of equal ones."""
    complete = [trial for trial in trials if trial.score is not None]
    return max(complete, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)


def search(
    space: SearchSpace,
    config: ModelConfig,
    seed: int,
    evaluate: Evaluate,
    finished: Sequence[Trial],
    n_trials: int,
    on_trial: Callable[[Trial], None],
    is_over: Callable[[], bool] = lambda: False,
) -> list[Trial]:
    """Go on with a search until it has `n_trials` trials, the time is over, or nothing new is left to try.

    Args:
        space: What to search; it is widened where it does not hold `config`.
        config: The first trial, and the values of all keys that are not searched.
        seed: Of the proposals.
        evaluate: Fits and scores; a loss that is not finite fails the trial, not the search.
        finished: Trials of this search so far, numbered without a gap.
        n_trials: How many there shall be, `finished` included.
        on_trial: Told every trial when it has finished; keep it, it is what goes on later.
        is_over: Asked after every epoch and before every trial.

    Returns:
        All trials, the finished ones first.
    """
    space = space.around(config)
    trials = sorted(finished, key=lambda trial: trial.number)
    while len(trials) < n_trials and not is_over():
        proposed = _propose(space, config, seed, trials)
        if proposed is None:
            break
        try:
            trial = _run(space, config, evaluate, proposed, is_over)
        except OutOfTimeError:
            break
        trials.append(trial)
        on_trial(trial)
    return trials


def _run(
    space: SearchSpace,
    config: ModelConfig,
    evaluate: Evaluate,
    proposed: optuna.trial.Trial,
    is_over: Callable[[], bool],
) -> Trial:
    scores: list[float] = []

    def on_epoch(epoch: int, score: float) -> None:
        scores.append(score)
        # The best so far, because the best epoch is what is kept: a late dip gives nothing up.
        proposed.report(max(scores), len(scores) - 1)
        if proposed.should_prune():
            raise optuna.TrialPruned
        if is_over():
            raise OutOfTimeError

    params = dict(proposed.params)
    try:
        epochs = evaluate(space.apply(config, params), on_epoch)
    except optuna.TrialPruned:
        return Trial(proposed.number, "pruned", params, tuple(scores))
    except (FloatingPointError, ConfigError) as error:
        return Trial(proposed.number, "failed", params, tuple(scores), reason=str(error))
    return Trial(proposed.number, "complete", params, tuple(scores), epochs)


def _propose(space: SearchSpace, config: ModelConfig, seed: int, trials: Sequence[Trial]) -> optuna.trial.Trial | None:
    """Return the next trial, unlike all before; None when the optimiser knows no other."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = space.distributions()
    tried = [dict(trial.params) for trial in trials]
    for draw in range(REDRAWS):
        digest = hashlib.sha256(f"{seed} {len(trials)} {draw}".encode()).digest()
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=int.from_bytes(digest[:4], "big")),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER_TRIALS, n_warmup_steps=PRUNE_AFTER_EPOCHS),
        )
        study.add_trials([_frozen(trial, distributions) for trial in trials])
        if not trials:
            study.enqueue_trial(space.values(config))
        proposed = study.ask(distributions)
        if proposed.params not in tried:
            return proposed
    return None


def _frozen(
    trial: Trial, distributions: Mapping[str, optuna.distributions.BaseDistribution]
) -> optuna.trial.FrozenTrial:
    states = {
        "complete": optuna.trial.TrialState.COMPLETE,
        "pruned": optuna.trial.TrialState.PRUNED,
        "failed": optuna.trial.TrialState.FAIL,
    }
    best_so_far = [max(trial.epoch_scores[: place + 1]) for place in range(len(trial.epoch_scores))]
    return optuna.trial.create_trial(
        state=states[trial.state],
        value=trial.score,
        params=dict(trial.params),
        distributions=dict(distributions),
        intermediate_values=dict(enumerate(best_so_far)),
    )


def tuned_values(config: ModelConfig, trial: Trial, n_trials: int) -> dict[str, Any]:
    """Return the best configuration as what its file says: a description, and all keys unlike the default."""
    tuned = config_from_dict({**config.as_dict(), **trial.params})
    defaults = {f.name: f.default for f in fields(ModelConfig)}
    values = {
        name: value
        for name, value in tuned.as_dict().items()
        if name not in ("name", "description") and getattr(tuned, name) != defaults[name]
    }
    told = f"The best of {n_trials} trials from {config.name}: {trial.score:.4f} on validation."
    return {"description": told, **values}

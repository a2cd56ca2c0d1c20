"""`matching tune`: searching a better configuration on the data that stands in the feature tables.

Belongs here: what makes trials comparable, keeping them in `ml.trials`, the budget, and the file of the best. Does not
belong here: what is searched and how (`ml.tuning`), or what a trial is scored on (`ml.evaluation.fitting`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.types.json import Jsonb

from orchestration.model_runs import code_hash
from orchestration.reporting import current_reporter
from orchestration.settings import Settings
from orchestration.warehouse import gates
from orchestration.warehouse.connection import connect
from orchestration.warehouse.locks import exclusive

if TYPE_CHECKING:
    from ml.config import ModelConfig
    from ml.datasets import Dataset
    from ml.progress import OnEpoch
    from ml.tuning import Evaluate, SearchSpace, Trial


class TuningError(RuntimeError):
    """The search cannot begin, or has nothing to show; one clear line."""


@dataclass(frozen=True)
class Study:
    """What makes trials comparable; two studies never share one."""

    config_name: str
    seed: int
    data_hash: str
    code_hash: str
    space_hash: str
    config_hash: str

    @property
    def study_id(self) -> str:
        """Return a hash of all of it."""
        return hashlib.sha256("\n".join(f"{name}={value}" for name, value in vars(self).items()).encode()).hexdigest()


@dataclass(frozen=True)
class Tuned:
    """How a search stands.

    Attributes:
        study: Whose trials these are.
        base: The configuration it started from.
        trials: All of them, those of earlier calls first.
        n_new: How many were added now.
        best: The best complete one, if there is any.
    """

    study: Study
    base: ModelConfig
    trials: Sequence[Trial]
    n_new: int
    best: Trial | None


def tune(
    settings: Settings,
    config_name: str,
    n_trials: int,
    minutes: float,
    seed: int = 0,
    keys: Iterable[str] | None = None,
) -> Tuned:
    """Search until the study has `n_trials` trials or the time is over; a study that is there goes on.

    Args:
        settings: The installation; the data are what its feature tables hold now.
        config_name: Where to start.
        n_trials: Trials of the study in all, those of earlier calls included.
        minutes: Time for this call; a trial it interrupts is begun anew by the next call.
        seed: Of proposals and of training.
        keys: What to search; None for everything that is declared.

    Raises:
        ConfigError: There is no such configuration, or a key is not searched.
        GateClosedError: A gate has not let pass what the tables hold now.
        NotEnoughDataError: There is nothing to choose on.
        WarehouseError: A model is being trained or tuned already.
    """
    from ml.config import load_config
    from ml.tuning import SPACE
    from orchestration.warehouse.features import read_dataset

    config = load_config(config_name)
    space = (SPACE if keys is None else SPACE.only(keys)).around(config)
    with connect(settings.database(), "trainer") as connection, current_reporter().task("read features"):
        gates.require_accepted_tables(connection)
        dataset = read_dataset(connection)
    study = Study(
        config_name=config_name,
        seed=seed,
        data_hash=dataset.hash(),
        code_hash=code_hash(),
        space_hash=space.hash(),
        config_hash=hashlib.sha256(repr(config).encode()).hexdigest(),
    )
    deadline = time.monotonic() + 60 * minutes
    with (
        exclusive(settings.database(), "training", "trainer"),
        closing(connect(settings.database(), "trainer", autocommit=True)) as connection,
    ):
        return go_on(
            connection, study, space, config, evaluator(dataset, seed), n_trials, lambda: time.monotonic() >= deadline
        )


def evaluator(dataset: Dataset, seed: int) -> Evaluate:
    """Return what fits a configuration as the judge does before it looks at the test part, and never looks at it."""
    from ml.evaluation.fitting import fit_on_validation
    from ml.evaluation.windows import window_after
    from ml.splits import time_split

    split = time_split(dataset.decisions)
    seen = dataset.until(split.test_cut)  # what is not here cannot leak into a choice
    train_part, window = seen.until(split.validation_cut), window_after(seen, split.validation_cut)

    def evaluate(config: ModelConfig, on_epoch: OnEpoch) -> int:
        return fit_on_validation(train_part, window, config, seed, on_epoch=on_epoch).model.epochs

    return evaluate


def go_on(
    connection: psycopg.Connection,
    study: Study,
    space: SearchSpace,
    config: ModelConfig,
    evaluate: Evaluate,
    n_trials: int,
    is_over: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Go on with a study, keeping each trial the moment it has finished.

    Args:
        connection: As trainer, in autocommit.
        study: Whose trials these are.
        space: What to search.
        config: Where to start.
        evaluate: What a trial does.
        n_trials: Trials of the study in all.
        is_over: Whether the time is.
    """
    from ml.tuning import best_trial, search

    before = read_trials(connection, study)
    reporter = current_reporter()
    started, best = time.monotonic(), best_trial(before)
    if before:
        reporter.note(f"{len(before)} trials of this study are there already{_best_so_far(best)}")

    with reporter.task("tune", n_trials) as on_progress:
        on_progress(len(before), n_trials)

        def keep(trial: Trial) -> None:
            nonlocal started, best
            now = time.monotonic()
            keep_trial(connection, study, trial, now - started)
            started = now
            better = best_trial([one for one in (best, trial) if one is not None])
            if better is not best:
                best = better
                reporter.note(f"trial {trial.number}: {trial.score:.4f} on validation, the best so far")
            on_progress(trial.number + 1, n_trials)

        trials = search(space, config, study.seed, evaluate, before, n_trials, keep, is_over)
    return Tuned(study, config, trials, len(trials) - len(before), best_trial(trials))


def leading_trials(tuned: Tuned, n: int = 5) -> list[tuple[Trial, str]]:
    """Return the best complete trials, best first, and in words what each changes about the first."""
    complete = [trial for trial in tuned.trials if trial.score is not None]
    complete.sort(key=lambda trial: (-(trial.score or 0.0), trial.number))
    first = tuned.trials[0].params if tuned.trials else {}
    return [
        (trial, ", ".join(f"{k} {v:.4g}" for k, v in sorted(trial.params.items()) if v != first[k]) or "as it stands")
        for trial in complete[:n]
    ]


def _best_so_far(best: Trial | None) -> str:
    return f", the best scores {best.score:.4f}" if best is not None else ""


def read_trials(connection: psycopg.Connection, study: Study) -> list[Trial]:
    """Return the trials of a study, in order."""
    from ml.tuning import Trial

    rows = connection.execute(
        "select trial_number, state, params, epoch_scores, epochs, reason from ml.trials"
        " where study_id = %s order by trial_number",
        [study.study_id],
    ).fetchall()
    return [
        Trial(number, state, params, tuple(scores), epochs, reason)
        for number, state, params, scores, epochs, reason in rows
    ]


def keep_trial(connection: psycopg.Connection, study: Study, trial: Trial, seconds: float) -> None:
    """Add a finished trial; in autocommit it is there for good."""
    connection.execute(
        "insert into ml.trials (study_id, trial_number, config_name, seed, data_hash, code_hash, space_hash, state,"
        " params, epoch_scores, score, epochs, reason, seconds)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            study.study_id,
            trial.number,
            study.config_name,
            study.seed,
            study.data_hash,
            study.code_hash,
            study.space_hash,
            trial.state,
            Jsonb(dict(trial.params)),
            list(trial.epoch_scores),
            trial.score,
            trial.epochs,
            trial.reason,
            seconds,
        ],
    )


def write_config(tuned: Tuned, file: Path) -> Mapping[str, object]:
    """Write the best configuration as a file like those in `ml/configs`, and return what it says.

    Raises:
        TuningError: No trial has run to its end.
    """
    import tomlkit

    from ml.tuning import tuned_values

    if tuned.best is None:
        raise TuningError("no trial has run to its end yet, so there is no best configuration to write")
    values = tuned_values(tuned.base, tuned.best, len(tuned.trials))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(tomlkit.dumps(values), encoding="utf-8")
    partial.replace(file)
    return values

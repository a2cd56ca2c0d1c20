"""Trials are kept the moment they have finished: a search that is killed goes on, and studies never mix."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import psycopg
import pytest
import served_world

from ml.config import ConfigError, ModelConfig, load_config
from ml.datasets import Dataset
from ml.progress import OnEpoch
from ml.tuning import SPACE, Evaluate, Trial
from orchestration.settings import DatabaseSettings
from orchestration.tuning import Study, Tuned, TuningError, go_on, leading_trials, read_trials, write_config
from orchestration.warehouse.connection import connect
from orchestration.warehouse.features import read_dataset
from orchestration.warehouse.gates import TABLE_GATES, GateClosedError

pytestmark = pytest.mark.warehouse

BASE = load_config("simple")
STUDY = Study("simple", 0, "data", "code", SPACE.around(BASE).hash(), "config")
N_TRIALS = 6


def made_up(config: ModelConfig, on_epoch: OnEpoch) -> int:
    """A score with one best place, instead of a fit of minutes."""
    for epoch in (1, 2, 3):
        on_epoch(epoch, 1 - abs(config.id_dropout - 0.4) - 0.01 * (3 - epoch))
    return 3


def search(database: DatabaseSettings, study: Study = STUDY, n_trials: int = N_TRIALS) -> Tuned:
    with closing(connect(database, "trainer", autocommit=True)) as connection:
        return go_on(connection, study, SPACE, BASE, made_up, n_trials)


KILLED = """
import json, os, signal, sys
from orchestration.settings import DatabaseSettings
from orchestration.tuning import Study, go_on
from orchestration.warehouse.connection import connect
from ml.config import load_config
from ml.tuning import SPACE

login, study, calls = json.loads(sys.argv[1]), json.loads(sys.argv[2]), []

def dying(config, on_epoch):
    calls.append(config)
    for epoch in (1, 2, 3):
        if len(calls) == 4 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        on_epoch(epoch, 1 - abs(config.id_dropout - 0.4) - 0.01 * (3 - epoch))
    return 3

connection = connect(DatabaseSettings(**login), "trainer", autocommit=True)
go_on(connection, Study(**study), SPACE, load_config("simple"), dying, 6)
"""


def test_a_search_that_is_killed_goes_on_without_repeating_a_trial(warehouse: DatabaseSettings) -> None:
    words = [json.dumps(asdict(warehouse)), json.dumps(asdict(STUDY))]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with connect(warehouse, "trainer") as connection:
        assert [trial.number for trial in read_trials(connection, STUDY)] == [0, 1, 2]
    resumed = search(warehouse)
    assert resumed.n_new == N_TRIALS - 3
    undisturbed = search(warehouse, replace(STUDY, data_hash="the same data under another name"))
    assert resumed.trials == undisturbed.trials
    assert len({json.dumps(dict(trial.params)) for trial in resumed.trials}) == N_TRIALS
    with connect(warehouse, "trainer") as connection:
        assert read_trials(connection, STUDY) == resumed.trials, "what is kept is what was found"
    assert search(warehouse).n_new == 0


@pytest.mark.parametrize("other", [field for field in asdict(STUDY) if field != "seed"])
def test_trials_of_another_study_are_not_seen(warehouse: DatabaseSettings, other: str) -> None:
    search(warehouse, n_trials=1)
    assert search(warehouse, replace(STUDY, **{other: "other"}), n_trials=1).n_new == 1
    assert search(warehouse, replace(STUDY, seed=1), n_trials=1).n_new == 1
    assert search(warehouse, n_trials=1).n_new == 0


def test_a_trial_without_a_score_is_not_complete(warehouse: DatabaseSettings) -> None:
    with connect(warehouse, "trainer") as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            "insert into ml.trials (study_id, trial_number, config_name, seed, data_hash, code_hash, space_hash, state,"
            " params, epoch_scores, seconds) values (%s, 0, 'c', 0, 'd', 'c', 's', 'complete', '{}', '{}', 1)",
            [STUDY.study_id],
        )


def test_the_best_is_shown_and_written_as_a_configuration(warehouse: DatabaseSettings, tmp_path: Path) -> None:
    tuned = search(warehouse)
    assert tuned.best is not None
    leading = leading_trials(tuned, 3)
    assert [trial.score for trial, _ in leading] == sorted((t.score for t in tuned.trials if t.score), reverse=True)[:3]
    told = {trial.number: change for trial, change in leading_trials(tuned, N_TRIALS)}
    assert told[0] == "as it stands"
    assert f"id_dropout {tuned.best.params['id_dropout']:.4g}" in leading[0][1]
    values = write_config(tuned, tmp_path / "folder" / "tuned.toml")
    assert values["id_dropout"] == tuned.best.params["id_dropout"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["tuned.toml"]
    nothing = replace(tuned, best=None, trials=[Trial(0, "failed", {})])
    with pytest.raises(TuningError, match="no trial has run to its end"):
        write_config(nothing, tmp_path / "none.toml")
    assert not (tmp_path / "none.toml").exists()


def test_what_cannot_be_searched_is_refused_before_anything_is_read() -> None:
    from orchestration.settings import load_settings
    from orchestration.tuning import tune

    nowhere = load_settings({"MATCHING_HOME": "/nonexistent"})
    with pytest.raises(ConfigError, match="no configuration named 'best'"):
        tune(nowhere, "best", 1, 1.0)
    with pytest.raises(ConfigError, match=r"max_epochs is not searched; there are .*learning_rate"):
        tune(nowhere, "simple", 1, 1.0, keys=["max_epochs"])


def test_the_command_searches_on_what_the_gates_let_pass_and_goes_on(
    served: DatabaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestration import cli, tuning

    login = {"PGHOST": served.host, "PGPORT": str(served.port), "PGUSER": served.user, "PGPASSWORD": served.password}
    for name, value in {"MATCHING_HOME": str(tmp_path), "PGDATABASE": served.dbname, **login}.items():
        monkeypatch.setenv(name, value)
    sizes: list[int] = []
    passed: list[int] = []

    def fits_nothing(dataset: Dataset, seed: int) -> Evaluate:
        sizes.append(len(dataset.decisions))
        return made_up

    monkeypatch.setattr(tuning, "evaluator", fits_nothing)
    with connect(served, "trainer", autocommit=True) as connection:  # another test may have built the tables anew
        judged = [served_world.judge(connection, gate.name) for gate in TABLE_GATES]
    try:
        cli.tune("simple", trials=2, minutes=5.0, seed=7, key=["id_dropout"])
        assert "2 of 2 trials, 2 now: 2 complete, 0 pruned, 0 failed" in capsys.readouterr().out
        cli.tune("simple", trials=4, minutes=5.0, seed=7, key=["id_dropout"], out=tmp_path / "best.toml")
        told = capsys.readouterr().out
        assert "4 of 4 trials, 2 now" in told
        assert "best configuration" in told
        assert "as it stands" in told
        with connect(served, "trainer") as connection:
            rows = connection.execute("select config_name, seed, data_hash, params from ml.trials").fetchall()
            [data_hash] = {row[2] for row in rows}
            assert data_hash == read_dataset(connection).hash()
        assert {(name, seed, tuple(params)) for name, seed, _, params in rows} == {("simple", 7, ("id_dropout",))}
        assert sizes[0] > 0
        assert "id_dropout" in (tmp_path / "best.toml").read_text()
        with connect(served, "trainer") as connection:
            closed = "update ml.gate_runs set passed = false where gate = 'feat_users' and passed returning gate_run_id"
            passed = [number for (number,) in connection.execute(closed).fetchall()]
            connection.commit()
        with pytest.raises(GateClosedError):
            cli.tune("simple", trials=5, minutes=5.0, seed=7, key=["id_dropout"])
    finally:
        with connect(served, "trainer") as connection:
            connection.execute("update ml.gate_runs set passed = true where gate_run_id = any(%s)", [passed])
            connection.execute("delete from ml.trials")
            connection.execute("delete from ml.gate_verdicts where gate_run_id = any(%s)", [judged])
            connection.execute("delete from ml.gate_runs where gate_run_id = any(%s)", [judged])
            connection.commit()

"""The page of a run is written when its last gate has spoken, and compares with what the gates compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from expectations.checkpoints import GATES
from expectations.drift import Profile, sample_of
from expectations.runner import GateOutcome, Verdict
from orchestration.data_report import newest_data_report, read_data_report, write_when_all_judged
from orchestration.settings import DatabaseSettings, Settings
from orchestration.warehouse import gates
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse


def judge(connection: psycopg.Connection, name: str, run: str, observed: float, *, passed: bool = True) -> None:
    verdict = Verdict("drift_price", "critical", passed, observed, "at most 0.25", "drift_price: prices have moved")
    outcome = GateOutcome(name, (verdict,), Path("docs"), Profile({"price": sample_of({"low": 3, "high": 1})}))
    state = gates.state_of(connection, GATES[name].relation)
    gates.store(connection, GATES[name], outcome, state, dagster_run_id=run)


@pytest.fixture
def trainer(served: DatabaseSettings) -> Iterator[psycopg.Connection]:
    """As trainer; gate runs of Dagster runs are taken back."""
    with connect(served, "trainer", autocommit=True) as connection:
        yield connection
        mine = "(select gate_run_id from ml.gate_runs where dagster_run_id is not null)"
        connection.execute(f"delete from ml.gate_verdicts where gate_run_id in {mine}")
        connection.execute("delete from ml.gate_runs where dagster_run_id is not null")


@pytest.fixture
def settings(served: DatabaseSettings, tmp_path: Path) -> Settings:
    return Settings(tmp_path, False, served, None, {})


def test_the_last_gate_of_a_run_writes_the_page(trainer: psycopg.Connection, settings: Settings) -> None:
    """Whatever it says: what depends on a refused table does not start, and the page is wanted most then."""
    *first, last = gates.TABLE_GATES
    for gate in first:
        judge(trainer, gate.name, "one", 0.0)
        assert write_when_all_judged(settings, "one") is None
    judge(trainer, last.name, "another", 0.0)
    assert write_when_all_judged(settings, "one") is None
    judge(trainer, last.name, "one", 3.5, passed=False)
    page = write_when_all_judged(settings, "one")
    assert page is not None
    assert page.parent == settings.reports_dir
    assert newest_data_report(settings) == page
    text = page.read_text()
    assert f"Blocked</strong> by {last.name}" in text
    assert "price" in text
    [(users,)] = trainer.execute("select array_agg(user_id) from features.feat_users").fetchall()
    assert users
    assert not {f"u{number}" for number in range(1, 201)} ^ set(users), "the world has other users"
    assert not re.search(r"\bu[0-9]+\b", text)


def test_a_state_is_compared_with_the_one_accepted_before_it(
    trainer: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    with connect(settings.database(), "trainer") as connection:
        first = {gate.gate: gate for gate in read_data_report(connection, tmp_path / "none").gates}
    judge(trainer, "feat_items", "one", 9.0, passed=False)
    with connect(settings.database(), "trainer") as connection:
        report = read_data_report(connection, tmp_path / "none", "one")
    [now] = report.gates
    state = gates.state_of(trainer, "features.feat_items")
    assert (now.gate, now.passed, now.state) == ("feat_items", False, state)
    assert now.accepted_at is not None
    assert first["feat_items"].accepted_at is not None
    assert first["feat_items"].accepted_at <= first["feat_items"].judged_at < now.judged_at
    assert now.history["drift_price"] == (9.0,)
    assert now.accepted_observed == {"rows": 5.0, "nulls": 0.5}
    assert report.dbt_manifest_hash == "none"
    counts = {table.model: table.rows for table in report.tables if table.rows is not None}
    [(items,)] = trainer.execute("select count(*) from features.feat_items").fetchall()
    assert counts["feat_items"] == items
    assert set(counts) == {gate.relation.split(".")[1] for gate in gates.TABLE_GATES}
    days = {kind for kinds in report.volume.values() for kind in kinds}
    assert {"like", "nope", "skip", "exposures"} <= days

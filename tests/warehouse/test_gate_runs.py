"""What gates say is kept, the next state is compared with the right one, and no step passes a gate that is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from expectations.checkpoints import GATES
from expectations.drift import Profile, sample_of
from expectations.runner import GateOutcome, GateRunner, Verdict
from orchestration import model_runs
from orchestration.settings import DatabaseSettings
from orchestration.warehouse import gates, registry
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

PROVENANCE = registry.Provenance("simple", {}, 0, "data", "contract", "manifest", "commit", "code")
RELATIONS = tuple(dict.fromkeys(gate.relation for gate in gates.TABLE_GATES))
TABLES = [gate.name for gate in gates.TABLE_GATES]
VECTORS = [gate.name for gate in gates.VECTOR_GATES]
NEVER = datetime(2026, 1, 1, tzinfo=UTC)


def outcome(name: str, passed: bool = True, **counts: int) -> GateOutcome:
    rule = Verdict("rows_present", "critical", passed, 5.0, "at least 1", "rows_present: there are rows")
    return GateOutcome(name, (rule,), Path("docs"), Profile({"bins": sample_of(counts or {"a": 1})}))


def build(connection: psycopg.Connection[Any], relation: str) -> None:
    """Leave what an incremental build leaves behind that changed a table."""
    connection.execute(
        "insert into monitoring.model_builds as m (model, relation_oid, code_hash, build_number, changed_build_number,"
        " was_full) values (split_part(%(r)s, '.', 2), to_regclass(%(r)s), 'code', 1, 1, false) on conflict (model)"
        " do update set relation_oid = excluded.relation_oid, changed_build_number = m.changed_build_number + 1",
        {"r": relation},
    )


def store(connection: psycopg.Connection[Any], name: str, passed: bool = True, **options: Any) -> int:
    gate = GATES[name]
    state = None if gate.by_run else gates.state_of(connection, gate.relation)
    return gates.store(connection, gate, outcome(name, passed), state, **options)


@pytest.fixture
def trainer(warehouse: DatabaseSettings) -> Iterator[psycopg.Connection[Any]]:
    """A warehouse with built tables that every gate let pass, and a run whose vectors passed; as trainer."""
    with connect(warehouse) as owner:
        for relation in RELATIONS:
            owner.execute(f"create table {relation} (id text)")
            build(owner, relation)
    with connect(warehouse, "trainer", autocommit=True) as connection:
        for name in TABLES:
            store(connection, name)
        publish(connection, "run-a")
        yield connection


def publish(connection: psycopg.Connection[Any], run_id: str) -> registry.Run:
    registry.register_candidate(connection, run_id, PROVENANCE, NEVER)
    registry.record_judgement(connection, run_id, {"epochs": 1}, True, "better")
    registry.mark_published(connection, run_id)
    for name in VECTORS:
        store(connection, name, run_id=run_id)
    return registry.get_run(connection, run_id)


def accepted(connection: psycopg.Connection[Any]) -> tuple[gates.AcceptedTable, ...]:
    with connection.transaction():
        return gates.require_accepted_tables(connection)


def test_a_gate_run_is_kept_with_every_verdict_as_a_number(trainer: psycopg.Connection[Any]) -> None:
    verdicts = tuple(
        Verdict(f"rule_{n}", severity, n < 3, observed, "at most 1", f"rule_{n}: said in words")
        for n, (severity, observed) in enumerate(
            [("critical", 0.25), ("warning", 3), ("info", None), ("critical", "nan"), ("critical", "inf")]
        )
    )
    profile = Profile({"price": sample_of({"cheap": 3, "dear": 1}, 4, 99.5)})
    said = GateOutcome("feat_users", verdicts, Path("docs"), profile)
    number = gates.store(trainer, GATES["feat_users"], said, 7, dagster_run_id="d-1", accepts_drift=True)
    row = trainer.execute(
        "select gate, relation, run_id, changed_build_number, as_of, dagster_run_id, passed, summary, profile,"
        " accepts_drift from ml.gate_runs where gate_run_id = %s",
        [number],
    ).fetchone()
    assert row is not None
    assert row[:7] == ("feat_users", "features.feat_users", None, 7, None, "d-1", False)
    assert row[7].startswith("feat_users: FAILED, 5 expectations; critical: rule_3 (nan")
    assert row[8]["distributions"] == {"price": {"cheap": 0.75, "dear": 0.25}}
    assert row[8]["counts"] == {"price": {"rows": 4, "units": 4}}
    assert Profile.from_json(row[8]) == profile
    assert row[9] is True
    kept = trainer.execute(
        "select expectation, severity, passed, observed::text, bounds, meaning from ml.gate_verdicts"
        " where gate_run_id = %s order by expectation",
        [number],
    ).fetchall()
    assert [(*line[:3], line[3]) for line in kept] == [
        ("rule_0", "critical", True, "0.25"),
        ("rule_1", "warning", True, "3"),
        ("rule_2", "info", True, None),
        ("rule_3", "critical", False, "NaN"),
        ("rule_4", "critical", False, "Infinity"),
    ]
    assert {line[4:] for line in kept} == {("at most 1", "said in words")}


def test_the_moment_of_the_features_is_kept_with_the_gate_run(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    with connect(warehouse) as owner:
        owner.execute("create table features.feat_as_of as select '2026-01-01 00:00:00+00'::timestamptz as as_of")
        owner.execute("grant select on features.feat_as_of to trainer")
    number = store(trainer, "feat_items")
    assert trainer.execute("select as_of from ml.gate_runs where gate_run_id = %s", [number]).fetchone() == (NEVER,)


def measure(connection: psycopg.Connection[Any], name: str = "feat_items") -> int | None:
    row = connection.execute("select gate_run_id from ml.accepted_states where gate = %s", [name]).fetchone()
    return row[0] if row else None


def test_without_a_served_run_the_newest_state_that_passed_is_the_measure(trainer: psycopg.Connection[Any]) -> None:
    assert measure(trainer, "no_such_gate") is None
    passed = store(trainer, "feat_items")
    assert measure(trainer) == passed
    store(trainer, "feat_items", passed=False)
    assert measure(trainer) == passed
    assert gates.accepted_profile(trainer, GATES["feat_items"]) == outcome("feat_items").profile
    trainer.execute("delete from ml.gate_verdicts")
    trainer.execute("delete from ml.gate_runs")
    assert gates.accepted_profile(trainer, GATES["feat_items"]) is None


def test_the_states_that_the_served_run_was_made_from_are_the_measure_until_another_is_served(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    measures = {}
    for run_id in ("run-b", "run-c"):
        with connect(warehouse) as owner:
            for relation in RELATIONS:
                build(owner, relation)
        measures[run_id] = {name: store(trainer, name) for name in TABLES}
        registry.register_candidate(trainer, run_id, PROVENANCE, NEVER)
        gates.record_inputs(trainer, run_id, accepted(trainer))
        registry.mark_published(trainer, run_id)
    registry.activate(trainer, "run-b", "test", by_hand=True)
    for name in TABLES:  # the same rows judged again later, or other rows: neither is what is served
        store(trainer, name)
    assert {name: measure(trainer, name) for name in TABLES} == measures["run-b"]
    registry.activate(trainer, "run-c", "test", by_hand=True)
    assert {name: measure(trainer, name) for name in TABLES} == measures["run-c"]


def test_a_change_that_a_person_accepted_is_the_measure_until_a_run_made_from_it_is_served(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    gates.record_inputs(trainer, "run-a", accepted(trainer))
    registry.activate(trainer, "run-a", "test", by_hand=True)
    store(trainer, "feat_items", accepts_drift=True, passed=False)
    by_hand = store(trainer, "feat_items", accepts_drift=True)
    store(trainer, "feat_items")
    assert measure(trainer) == by_hand
    with connect(warehouse) as owner:
        build(owner, "features.feat_items")
    newer = store(trainer, "feat_items")
    registry.register_candidate(trainer, "run-b", PROVENANCE, NEVER)
    gates.record_inputs(trainer, "run-b", accepted(trainer))
    registry.mark_published(trainer, "run-b")
    assert measure(trainer) == by_hand
    registry.activate(trainer, "run-b", "test", by_hand=True)
    assert measure(trainer) == newer


def test_what_a_run_was_made_from_is_one_row_per_table(trainer: psycopg.Connection[Any]) -> None:
    tables = accepted(trainer)
    gates.record_inputs(trainer, "run-a", tables)
    rows = trainer.execute(
        "select i.relation, i.changed_build_number, g.relation, g.passed from ml.run_inputs as i"
        " join ml.gate_runs as g using (gate_run_id) where i.run_id = 'run-a'"
    ).fetchall()
    assert sorted(rows) == sorted((relation, 1, relation, True) for relation in RELATIONS)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_not_accepted_unless_each_of_its_gates_let_pass_what_is_there(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any], name: str
) -> None:
    relation = GATES[name].relation

    def refusal() -> str:
        with pytest.raises(gates.GateClosedError) as caught:
            accepted(trainer)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert {table.relation for table in accepted(trainer)} == set(RELATIONS)
    store(trainer, name, passed=False)
    assert refusal().startswith(f"gate closed on {relation}: {name}: FAILED")
    store(trainer, name)
    accepted(trainer)
    with connect(warehouse) as owner:
        build(owner, relation)
    assert f"has not judged {relation} since it changed: `matching run build_features`" in refusal()
    for other in TABLES:
        if GATES[other].relation == relation:
            store(trainer, other)
    accepted(trainer)
    with connect(warehouse) as owner:  # made anew by something that is not an incremental build
        owner.execute(f"drop table {relation}; create table {relation} (id text)")
    assert f"cannot tell which state of {relation} is there" in refusal()
    assert "`matching run build_features`" in refusal()


def test_a_gate_that_never_judged_is_closed(trainer: psycopg.Connection[Any]) -> None:
    trainer.execute("delete from ml.gate_verdicts")
    trainer.execute("delete from ml.gate_runs where gate = 'landed_volume'")
    with pytest.raises(gates.GateClosedError, match=r"landed_volume has never judged marts\.fct_decisions"):
        accepted(trainer)


def settings_of(database: DatabaseSettings, folder: Path) -> Any:
    return SimpleNamespace(database=lambda: database, artifacts_dir=folder, dbt_manifest_dir=folder)


STEPS: dict[str, Callable[[Any, registry.Run], object]] = {
    "judging": lambda settings, run: model_runs.judge_candidate(settings, "simple", 0, False, "d-1"),
    "training": lambda settings, run: model_runs.train_run(settings, replace(run, artifact_path="elsewhere")),
    "exporting": model_runs.export_bundle,
    "publishing": model_runs.publish_run,
}


@pytest.mark.parametrize("step", STEPS)
def test_no_step_reads_tables_that_a_gate_has_refused(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any], tmp_path: Path, step: str
) -> None:
    run = registry.get_run(trainer, "run-a")
    (tmp_path / run.artifact_path).mkdir()
    store(trainer, "fct_exposures", passed=False)
    with pytest.raises(gates.GateClosedError, match=r"gate closed on marts\.fct_exposures"):
        STEPS[step](settings_of(warehouse, tmp_path), run)
    rows = trainer.execute("select count(*) from ml.runs").fetchone()
    assert rows == (1,)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("promote", ["gate", "always"])
def test_no_run_is_served_by_any_path_unless_each_gate_on_vectors_let_its_own_pass(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any], tmp_path: Path, name: str, promote: str
) -> None:
    settings = settings_of(warehouse, tmp_path)

    def refusal(run_id: str) -> str:
        with pytest.raises(gates.GateClosedError) as caught:
            model_runs.promote_run(settings, registry.get_run(trainer, run_id), promote)
        assert registry.active_run(trainer) is None
        return str(caught.value)

    registry.register_candidate(trainer, "run-b", PROVENANCE, NEVER)
    registry.record_judgement(trainer, "run-b", {}, True, "better")
    registry.mark_published(trainer, "run-b")
    for other in VECTORS:
        if other != name:
            store(trainer, other, run_id="run-b")
    assert refusal("run-b") == f"gate {name} has never judged the vectors of run run-b: `matching publish run-b`"
    store(trainer, name, passed=False, run_id="run-b")
    assert refusal("run-b").startswith(f"gate closed for run run-b: {name}: FAILED")
    registry.mark_published(trainer, "run-a")
    assert "has not judged what run run-a published last" in refusal("run-a")
    for other in VECTORS:
        store(trainer, other, run_id="run-a")
    assert model_runs.promote_run(settings, registry.get_run(trainer, "run-a"), promote).startswith(
        "run-a is the first"
    )


def test_a_build_that_ends_while_a_gate_judges_leaves_a_state_that_is_not_accepted(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any]
) -> None:
    class Slow:
        def run(self, name: str, **options: Any) -> GateOutcome:
            with connect(warehouse) as owner:
                build(owner, GATES[name].relation)
            return outcome(name)

    gates.judge(warehouse, Slow(), GATES["feat_users"])  # type: ignore[arg-type]
    with pytest.raises(gates.GateClosedError, match="feat_users since it changed"):
        accepted(trainer)


def test_a_shift_blocks_until_a_person_accepts_it_and_then_is_the_measure(
    warehouse: DatabaseSettings, tmp_path: Path
) -> None:
    with connect(warehouse) as owner:
        owner.execute(
            """
            create table features.feat_as_of as select now() as as_of;
            create table features.feat_users as
            select 'u' || n as user_id, now() - n * interval '1 hour' as created_at, n % 9 > 0 as is_age_verified,
                   9 + n % 50 as decision_count, n % 7 as like_count, n % 5 as nope_count, n % 3 as skip_count,
                   (n % 7 / 9.0)::float8 as like_rate, (n % 7 / 9.0)::float8 as recent_like_rate,
                   n % 4 as distinct_maker_count, (300 + n % 400)::float8 as mean_liked_price_jpy,
                   n % 6 as active_day_count, n % 60 as exposure_count, now() as first_decided_at,
                   now() as last_decided_at
            from generate_series(1, 400) as n;
            grant select on features.feat_as_of, features.feat_users to trainer;
            """
        )
        build(owner, "features.feat_users")
    runner = GateRunner(warehouse.url("postgresql+psycopg2", role="trainer"), tmp_path)

    def judged(**options: bool) -> list[str]:
        said = gates.judge(warehouse, runner, GATES["feat_users"], **options)  # type: ignore[arg-type]
        return [failure.name for failure in said.critical_failures]

    assert judged() == []
    with connect(warehouse) as owner:
        owner.execute("update features.feat_users set like_rate = 1 - like_rate")
    assert judged() == ["drift_like_rate"]
    assert judged() == ["drift_like_rate"]
    assert judged(accept_drift=True) == []
    assert judged() == []
    with connect(warehouse) as owner:
        owner.execute("update features.feat_users set is_age_verified = false")
    assert judged(accept_drift=True) == ["some_users_age_verified"]  # broken is broken, whoever says what

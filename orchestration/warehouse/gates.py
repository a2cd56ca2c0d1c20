"""What the gates said, kept in the warehouse, and the guards that read it before anything is trained or served.

Belongs here: rows of `ml.gate_runs`, `ml.gate_verdicts` and `ml.run_inputs`, and the questions asked of them. Does not
belong here: rules and how they are judged (`expectations`), or what is trained (`model_runs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.types.json import Jsonb

from expectations.checkpoints import GATES, Gate
from expectations.drift import Profile
from expectations.runner import GateOutcome, GateRunner
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

TABLE_GATES = tuple(gate for gate in GATES.values() if not gate.by_run)
VECTOR_GATES = tuple(gate for gate in GATES.values() if gate.by_run)
_REBUILD = "`matching run build_features`"


class GateClosedError(RuntimeError):
    """Something may not go on, because a gate has not let its data pass; one clear line that names the gate."""


@dataclass(frozen=True)
class AcceptedTable:
    """A state of a table that every gate on it has let pass."""

    relation: str
    changed_build_number: int
    gate_run_id: int


def judge(
    database: DatabaseSettings,
    runner: GateRunner,
    gate: Gate,
    *,
    run_id: str | None = None,
    max_age_days: float | None = None,
    accept_drift: bool = False,
    dagster_run_id: str | None = None,
) -> GateOutcome:
    """Run one gate against the last accepted state and keep what it said.

    Args:
        database: The warehouse.
        runner: Judges; must look at the same warehouse.
        gate: Which gate.
        run_id: Model run, for the vector gates.
        max_age_days: Oldest acceptable newest event.
        accept_drift: Let a change pass, and compare later states with this one.
        dagster_run_id: Kept as evidence.

    Raises:
        GateError: The gate could not be judged; nothing is kept.
    """
    with connect(database, "trainer") as connection:
        # Read before judging: a build that finishes meanwhile leaves a state that nobody has judged.
        state, accepted = state_of(connection, gate.relation), accepted_profile(connection, gate)
    outcome = runner.run(
        gate.name, run_id=run_id, max_age_days=max_age_days, accepted=accepted, accept_drift=accept_drift
    )
    with connect(database, "trainer") as connection:
        store(
            connection,
            gate,
            outcome,
            state,
            run_id=run_id,
            dagster_run_id=dagster_run_id,
            accepts_drift=accept_drift and not gate.by_run,
        )
    return outcome


def state_of(connection: psycopg.Connection, relation: str) -> int | None:
    """Return the number of the build that last changed a table; None when no build of its own made what is there."""
    row = connection.execute(
        "select changed_build_number from monitoring.model_builds"
        " where model = split_part(%(relation)s, '.', 2) and relation_oid = to_regclass(%(relation)s)",
        {"relation": relation},
    ).fetchone()
    return row[0] if row else None


def accepted_profile(connection: psycopg.Connection, gate: Gate) -> Profile | None:
    """Return the profile of the state that a gate compares with, if there is one."""
    row = connection.execute("select profile from ml.accepted_states where gate = %s", [gate.name]).fetchone()
    return Profile.from_json(row[0]) if row else None


def store(
    connection: psycopg.Connection,
    gate: Gate,
    outcome: GateOutcome,
    state: int | None,
    *,
    run_id: str | None = None,
    dagster_run_id: str | None = None,
    accepts_drift: bool = False,
) -> int:
    """Keep what a gate said: numbers and the words of the suites, never a row of the table. The caller commits.

    Returns:
        The number of the gate run.
    """
    row = connection.execute(
        "insert into ml.gate_runs (gate, relation, run_id, changed_build_number, as_of, dagster_run_id, passed,"
        " summary, profile, accepts_drift) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning gate_run_id",
        [
            gate.name,
            gate.relation,
            run_id,
            state,
            _as_of(connection),
            dagster_run_id,
            outcome.passed,
            outcome.summary(),
            Jsonb(outcome.profile.as_json()),
            accepts_drift,
        ],
    ).fetchone()
    if row is None:
        raise AssertionError("insert … returning gave no row")
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into ml.gate_verdicts (gate_run_id, expectation, severity, passed, observed, bounds, meaning)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    row[0],
                    verdict.name,
                    verdict.severity,
                    verdict.passed,
                    None if verdict.observed is None else float(verdict.observed),
                    verdict.bounds,
                    verdict.description.removeprefix(f"{verdict.name}: "),
                )
                for verdict in outcome.verdicts
            ],
        )
    return int(row[0])


def require_accepted_tables(connection: psycopg.Connection) -> tuple[AcceptedTable, ...]:
    """Return the state of every table that a model is made from, each accepted by every gate on it.

    Args:
        connection: As trainer, at the start of a transaction: what it reads next is what was accepted.

    Raises:
        GateClosedError: A gate refused a table, or has not judged what is there now.
    """
    connection.execute("set transaction isolation level repeatable read")
    accepted = {}
    for gate in TABLE_GATES:
        gate_run_id, state = _accepted(connection, gate)
        accepted[gate.relation] = AcceptedTable(gate.relation, state, gate_run_id)
    return tuple(accepted.values())


def require_accepted_vectors(connection: psycopg.Connection, run_id: str) -> None:
    """Return when every gate on vectors let those pass that are published under a run.

    Raises:
        GateClosedError: A gate refused them, or has not judged them since they were published.
    """
    for gate in VECTOR_GATES:
        row = connection.execute(
            "select g.passed, g.summary, g.judged_at >= r.published_at from ml.gate_runs as g"
            " join ml.runs as r on r.run_id = g.run_id where g.gate = %s and g.run_id = %s"
            " order by g.gate_run_id desc limit 1",
            [gate.name, run_id],
        ).fetchone()
        again = f"`matching publish {run_id}`"
        if row is None:
            raise GateClosedError(f"gate {gate.name} has never judged the vectors of run {run_id}: {again}")
        if not row[0]:
            raise GateClosedError(f"gate closed for run {run_id}: {row[1]}")
        if not row[2]:
            raise GateClosedError(f"gate {gate.name} has not judged what run {run_id} published last: {again}")


def record_inputs(connection: psycopg.Connection, run_id: str, tables: Iterable[AcceptedTable]) -> None:
    """Keep which state of which table a model run was made from. The caller commits."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into ml.run_inputs (run_id, relation, changed_build_number, gate_run_id) values (%s, %s, %s, %s)",
            [(run_id, table.relation, table.changed_build_number, table.gate_run_id) for table in tables],
        )


def _accepted(connection: psycopg.Connection, gate: Gate) -> tuple[int, int]:
    """Return the gate run that let the present state of a gate's table pass, and that state."""
    state = state_of(connection, gate.relation)
    if state is None:
        raise GateClosedError(
            f"gate {gate.name} cannot tell which state of {gate.relation} is there: no build of it is known; {_REBUILD}"
        )
    row = connection.execute(
        "select gate_run_id, passed, summary, changed_build_number from ml.gate_runs"
        " where gate = %s and run_id is null order by gate_run_id desc limit 1",
        [gate.name],
    ).fetchone()
    if row is None:
        raise GateClosedError(f"gate {gate.name} has never judged {gate.relation}: {_REBUILD}")
    if not row[1]:
        raise GateClosedError(f"gate closed on {gate.relation}: {row[2]}")
    if row[3] != state:
        raise GateClosedError(f"gate {gate.name} has not judged {gate.relation} since it changed: {_REBUILD}")
    return row[0], state


def _as_of(connection: psycopg.Connection) -> datetime | None:
    if connection.execute("select to_regclass('features.feat_as_of')").fetchone() == (None,):
        return None
    row = connection.execute("select as_of from features.feat_as_of").fetchone()
    return row[0] if row else None

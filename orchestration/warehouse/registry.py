"""The model registry: rows of `ml.runs`, their states and the one active pointer.

Belongs here: the state machine candidate → active → retired | rejected, with evidence. Does not belong here:
training, judging or vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

RUN_COLUMNS = (
    "run_id, state, config_name, config, seed, data_hash, contract_hash, dbt_manifest_hash, git_sha, code_hash, "
    "artifact_path, trained_until, metrics, gate_passed, gate_reason, dagster_run_id, "
    "created_at, published_at, activated_at"
)


class RegistryError(RuntimeError):
    """A run is missing or not in a state that allows what was asked; one clear line."""


@dataclass(frozen=True)
class Provenance:
    """What a run was made from. Equal configuration, seed, data, contract and code give equal vectors."""

    config_name: str
    config: dict[str, Any]
    seed: int
    data_hash: str
    contract_hash: str
    dbt_manifest_hash: str
    git_sha: str
    code_hash: str


@dataclass(frozen=True)
class Run:
    """One row of `ml.runs`."""

    run_id: str
    state: str
    config_name: str
    config: dict[str, Any]
    seed: int
    data_hash: str
    contract_hash: str
    dbt_manifest_hash: str
    git_sha: str
    code_hash: str
    artifact_path: str
    trained_until: datetime
    metrics: dict[str, Any] | None
    gate_passed: bool | None
    gate_reason: str | None
    dagster_run_id: str | None
    created_at: datetime
    published_at: datetime | None
    activated_at: datetime | None


def register_candidate(
    connection: psycopg.Connection,
    run_id: str,
    provenance: Provenance,
    trained_until: datetime,
    dagster_run_id: str | None = None,
) -> None:
    """Add a run in state candidate. The caller commits."""
    connection.execute(
        "insert into ml.runs (run_id, state, config_name, config, seed, dimensions, data_hash, contract_hash,"
        " dbt_manifest_hash, git_sha, code_hash, artifact_path, trained_until, dagster_run_id)"
        " values (%s, 'candidate', %s, %s, %s, 768, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            run_id,
            provenance.config_name,
            Jsonb(provenance.config),
            provenance.seed,
            provenance.data_hash,
            provenance.contract_hash,
            provenance.dbt_manifest_hash,
            provenance.git_sha,
            provenance.code_hash,
            run_id,
            trained_until,
            dagster_run_id,
        ],
    )
    _note(connection, run_id, None, "candidate", "trained")


def record_judgement(
    connection: psycopg.Connection, run_id: str, metrics: dict[str, Any], gate_passed: bool, gate_reason: str
) -> None:
    """Store what the judge said about a run. The caller commits."""
    connection.execute(
        "update ml.runs set metrics = %s, gate_passed = %s, gate_reason = %s, judged_at = now() where run_id = %s",
        [Jsonb(metrics), gate_passed, gate_reason, run_id],
    )


def get_run(connection: psycopg.Connection, run_id: str) -> Run:
    """Return one run.

    Raises:
        RegistryError: There is no such run.
    """
    run = _one(connection, "where run_id = %s", [run_id])
    if run is None:
        raise RegistryError(f"there is no model run {run_id!r}: `matching runs` lists them")
    return run


def list_runs(connection: psycopg.Connection) -> list[Run]:
    """Return all runs, newest first."""
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(f"select {RUN_COLUMNS} from ml.runs order by created_at desc").fetchall()  # noqa: S608


def run_of_dagster_run(connection: psycopg.Connection, dagster_run_id: str) -> Run | None:
    """Return the run that a Dagster run made, if any."""
    return _one(connection, "where dagster_run_id = %s", [dagster_run_id])


def newest_candidate(connection: psycopg.Connection) -> Run:
    """Return the newest run in state candidate.

    Raises:
        RegistryError: There is none.
    """
    run = _one(connection, "where state = 'candidate' order by created_at desc limit 1", [])
    if run is None:
        raise RegistryError("there is no candidate run: `matching run train_768_two_tower` makes one")
    return run


def active_run(connection: psycopg.Connection) -> Run | None:
    """Return the run that is served now, if any."""
    return _one(connection, "where run_id = (select a.run_id from ml.active_run as a)", [])


def equal_run(connection: psycopg.Connection, provenance: Provenance) -> Run | None:
    """Return the newest judged run with the same configuration, seed, data, contract and code, if any."""
    return _one(
        connection,
        "where config = %s and seed = %s and data_hash = %s and contract_hash = %s and code_hash = %s"
        " and judged_at is not null order by created_at desc limit 1",
        [
            Jsonb(provenance.config),
            provenance.seed,
            provenance.data_hash,
            provenance.contract_hash,
            provenance.code_hash,
        ],
    )


def adopt(connection: psycopg.Connection, run_id: str, dagster_run_id: str) -> None:
    """Let a later Dagster run go on with a run that is there already. The caller commits."""
    connection.execute("update ml.runs set dagster_run_id = %s where run_id = %s", [dagster_run_id, run_id])


def mark_published(connection: psycopg.Connection, run_id: str) -> None:
    """Record that a run's vectors are complete and validated. The caller commits."""
    connection.execute("update ml.runs set published_at = now() where run_id = %s", [run_id])


def activate(connection: psycopg.Connection, run_id: str, reason: str, *, by_hand: bool = False) -> Run | None:
    """Flip the pointer to a published run in one short transaction.

    Args:
        connection: As trainer, outside a transaction.
        run_id: The run to serve from now on; its vectors must be published.
        reason: Evidence, kept in `ml.run_transitions`.
        by_hand: A person decided; then a rejected run may be served too.

    Returns:
        The run that was active before, if any.

    Raises:
        RegistryError: No such run, its vectors are not published, or it was rejected.
    """
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('ml.active_run'))")
        run, before = get_run(connection, run_id), active_run(connection)
        if run.published_at is None:
            raise RegistryError(f"run {run_id} has no published vectors: `matching publish {run_id}`")
        if run.state == "rejected" and not by_hand:
            raise RegistryError(f"run {run_id} was rejected: {run.gate_reason}")
        if before is not None and before.run_id == run_id:
            return before
        if before is not None:
            _move(connection, before, "retired", f"replaced by {run_id}")
        _move(connection, run, "active", reason)
        connection.execute(
            "insert into ml.active_run (run_id) values (%s)"
            " on conflict (is_singleton) do update set run_id = excluded.run_id, activated_at = now()",
            [run_id],
        )
    return before


def reject(connection: psycopg.Connection, run_id: str, reason: str) -> None:
    """Close a candidate that is not to be served. The caller commits."""
    run = get_run(connection, run_id)
    if run.state != "candidate":
        raise RegistryError(f"run {run_id} is {run.state}; only a candidate can be rejected")
    _move(connection, run, "rejected", reason)


def _move(connection: psycopg.Connection, run: Run, state: str, reason: str) -> None:
    connection.execute(
        "update ml.runs set state = %(state)s,"
        " activated_at = case when %(state)s = 'active' then now() else activated_at end,"
        " closed_at = case when %(state)s = 'active' then null else now() end"
        " where run_id = %(run_id)s",
        {"state": state, "run_id": run.run_id},
    )
    _note(connection, run.run_id, run.state, state, reason)


def _note(connection: psycopg.Connection, run_id: str, before: str | None, after: str, reason: str) -> None:
    connection.execute(
        "insert into ml.run_transitions (run_id, from_state, to_state, reason) values (%s, %s, %s, %s)",
        [run_id, before, after, reason],
    )


def _one(connection: psycopg.Connection, where: str, values: list[Any]) -> Run | None:
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(f"select {RUN_COLUMNS} from ml.runs {where}", values).fetchone()  # noqa: S608

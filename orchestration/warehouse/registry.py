"""The model registry: rows of `ml.runs`, their states and the one active pointer.

Belongs here: the state machine candidate → active → retired | rejected, what may move it, and the evidence for each
move. Does not belong here: training, judging, verifying or vectors.

| from | to | by | when |
| --- | --- | --- | --- |
| candidate, retired | active | `activate` | judged beside the active run, gate passed, not rolled back |
| candidate, retired, rejected | active | `activate` by hand | a person says so; vectors must be published |
| active | retired | `activate`, `roll_back` | another run became active in the same transaction |
| retired | active | `roll_back` | it was served before and its vectors are still there |
| candidate, retired | rejected | `reject` | the gate, or a person |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RUN_COLUMNS = (
    "run_id, state, config_name, config, seed, data_hash, contract_hash, dbt_manifest_hash, git_sha, code_hash, "
    "artifact_path, trained_until, metrics, gate_passed, gate_reason, judged_against, dagster_run_id, "
    "created_at, judged_at, published_at, published_from, activated_at, prior_centre"
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
    judged_against: str | None
    """The run that was active when this one was judged; None: there was none."""
    dagster_run_id: str | None
    created_at: datetime
    judged_at: datetime | None
    published_at: datetime | None
    published_from: dict[str, Any] | None
    activated_at: datetime | None
    prior_centre: float | None = None

    def registered(self) -> dict[str, Any]:
        """Return what its artifacts have to say of it too, by the names of `ml.provenance`."""
        names = ("run_id", "contract_hash", "data_hash", "config", "seed", "dbt_manifest_hash", "git_sha", "code_hash")
        chosen = {name: value for name, value in (self.metrics or {}).items() if name in ("epochs", "settled")}
        micros = (self.trained_until - EPOCH) // timedelta(microseconds=1)
        return {name: getattr(self, name) for name in names} | chosen | {"trained_until": micros}

    def evidence(self) -> dict[str, Any]:
        """Return what its judgement says in favour of it or against it, as plain values."""
        metrics = self.metrics or {}
        windowed = metrics.get("comparisons", {}).get("windowed popularity")
        found = {
            "protocol_id": metrics.get("protocol_id"),
            "split_hash": metrics.get("split_hash"),
            "ndcg@10": metrics.get("rows", {}).get("two-tower", {}).get("metrics", {}).get("ndcg@10"),
            "against windowed popularity": windowed,
            "against active": metrics.get("against_active"),
            "detectors": metrics.get("findings"),
            "test_evaluations": metrics.get("test_evaluations"),
            "judged_against": self.judged_against,
            "gate_passed": self.gate_passed,
            "gate_reason": self.gate_reason,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Transition:
    """One change of state of a run."""

    from_state: str | None
    to_state: str
    reason: str
    evidence: dict[str, Any]
    happened_at: datetime


@dataclass(frozen=True)
class Verification:
    """One verification of a run; each check is a plain mapping of name, status, found and wanted."""

    passed: bool
    is_quick: bool
    checks: list[dict[str, str]]
    code_hash: str
    verified_at: datetime


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
    _note(connection, run_id, None, "candidate", "registered")


def record_judgement(
    connection: psycopg.Connection,
    run_id: str,
    metrics: dict[str, Any],
    gate_passed: bool,
    gate_reason: str,
    judged_against: str | None = None,
) -> None:
    """Store what the judge said about a run, and beside which active run. The caller commits."""
    connection.execute(
        "update ml.runs set metrics = %s, gate_passed = %s, gate_reason = %s, judged_against = %s, judged_at = now()"
        " where run_id = %s",
        [Jsonb(metrics), gate_passed, gate_reason, judged_against, run_id],
    )


def count_test_evaluations(connection: psycopg.Connection, data_hash: str, split_hash: str) -> int:
    """Return how often the test part of a data snapshot has been scored."""
    row = connection.execute(
        "select count(*) from ml.test_evaluations where data_hash = %s and split_hash = %s", [data_hash, split_hash]
    ).fetchone()
    return int(row[0]) if row else 0


def record_test_evaluation(connection: psycopg.Connection, run_id: str, data_hash: str, split_hash: str) -> None:
    """Keep that the test part of a data snapshot was scored for a run. The caller commits."""
    connection.execute(
        "insert into ml.test_evaluations (run_id, data_hash, split_hash) values (%s, %s, %s)",
        [run_id, data_hash, split_hash],
    )


def record_verification(
    connection: psycopg.Connection,
    run_id: str,
    checks: list[dict[str, str]],
    *,
    passed: bool,
    is_quick: bool,
    code_hash: str,
) -> None:
    """Keep what a verification of a run found. The caller commits."""
    connection.execute(
        "insert into ml.run_verifications (run_id, passed, is_quick, checks, code_hash) values (%s, %s, %s, %s, %s)",
        [run_id, passed, is_quick, Jsonb(checks), code_hash],
    )


def newest_verification(connection: psycopg.Connection, run_id: str) -> Verification | None:
    """Return the newest verification of a run, if any."""
    with connection.cursor(row_factory=class_row(Verification)) as cursor:
        return cursor.execute(
            "select passed, is_quick, checks, code_hash, verified_at from ml.run_verifications where run_id = %s"
            " order by verification_id desc limit 1",
            [run_id],
        ).fetchone()


def transitions(connection: psycopg.Connection, run_id: str) -> list[Transition]:
    """Return every change of state of a run, oldest first."""
    with connection.cursor(row_factory=class_row(Transition)) as cursor:
        return cursor.execute(
            "select from_state, to_state, reason, evidence, happened_at from ml.run_transitions"
            " where run_id = %s order by transition_id",
            [run_id],
        ).fetchall()


def get_run(connection: psycopg.Connection, run_id: str, *, for_update: bool = False) -> Run:
    """Return one run; `for_update` keeps others from changing it until the caller's transaction ends.

    Raises:
        RegistryError: There is no such run.
    """
    run = _one(connection, f"where run_id = %s {'for update' if for_update else ''}", [run_id])
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


def mark_published(
    connection: psycopg.Connection,
    run_id: str,
    published_from: dict[str, Any] | None = None,
    prior_centre: float | None = None,
) -> None:
    """Record that vectors are complete and validated, from which state of the tables, and around which popularity.

    The caller commits.
    """
    connection.execute(
        "update ml.runs set published_at = now(), published_from = %s, prior_centre = %s where run_id = %s",
        [None if published_from is None else Jsonb(published_from), prior_centre, run_id],
    )


def lock_pointer(connection: psycopg.Connection) -> None:
    """Let nobody else move the pointer, or drop vectors it may move to, until the caller's transaction ends."""
    connection.execute("select pg_advisory_xact_lock(hashtext('ml.active_run'))")


def activate(connection: psycopg.Connection, run_id: str, reason: str, *, by_hand: bool = False) -> Run | None:
    """Flip the pointer to a published run that its judgement allows to be served, in one short transaction.

    Args:
        connection: As trainer, outside a transaction.
        run_id: The run to serve from now on; its vectors must be published.
        reason: Kept in `ml.run_transitions`, beside the evidence of the judgement.
        by_hand: A person decided; then neither the judgement nor a rejection stops it.

    Returns:
        The run that was active before, if any.

    Raises:
        RegistryError: No such run, its vectors are not published, it was rejected, it did not pass the gate, or the
            gate compared it with another run than the one that is active now.
    """
    with connection.transaction():
        lock_pointer(connection)
        run, before = get_run(connection, run_id, for_update=True), active_run(connection)
        if before is not None and before.run_id == run_id:
            return before
        _require_published(run)
        if not by_hand:
            require_promotable(connection, run, before)
        if before is not None:
            _move(connection, before, "retired", f"replaced by {run.run_id}")
        _point(connection, run, before, reason, _activation(connection, before), {"by_hand": by_hand})
    return before


def require_promotable(connection: psycopg.Connection, run: Run, active: Run | None) -> None:
    """Return when the judgement of a run allows it to replace the run that is active now.

    Raises:
        RegistryError: One line that says what stands against it.
    """
    if run.state == "rejected":
        raise RegistryError(f"run {run.run_id} was rejected: {transitions(connection, run.run_id)[-1].reason}")
    if run.state == "retired" and transitions(connection, run.run_id)[-1].evidence.get("rolled_back"):
        raise RegistryError(
            f"run {run.run_id} was rolled back: `matching promote {run.run_id} --always` serves it again"
        )
    if not run.gate_passed:
        raise RegistryError(f"run {run.run_id} did not pass the gate ({run.gate_reason or 'never judged'})")
    now = active.run_id if active else None
    if run.judged_against != now:
        beside = f"beside {run.judged_against}" if run.judged_against else "when no run was active"
        raise RegistryError(
            f"run {run.run_id} was judged {beside}, but {now or 'none'} is active now: train {run.config_name} again, "
            "which judges it anew"
        )


def rollback_target(connection: psycopg.Connection) -> str | None:
    """Return the run that was active before the present one; None: there was none."""
    found = _step_back(connection)
    return found[1] if found else None


def roll_back(connection: psycopg.Connection, run_id: str | None, reason: str) -> tuple[Run, Run]:
    """Flip the pointer back to a run that was served before, in one short transaction.

    Args:
        connection: As trainer; may be inside a transaction that holds the pointer.
        run_id: None: the one that was active before the present one. Rolling back twice goes back two steps.
        reason: Kept in `ml.run_transitions`.

    Returns:
        The run that is active now, and the one it replaces.

    Raises:
        RegistryError: There is nothing to go back to, it was never served, was rejected, or its vectors are gone.
    """
    with connection.transaction():
        lock_pointer(connection)
        before = active_run(connection)
        if before is None:
            raise RegistryError("no run is active: there is nothing to roll back")
        earlier, target = _step_back(connection) or (None, None)
        if run_id is None and target is None:
            raise RegistryError(f"no run was active before {before.run_id}")
        run = get_run(connection, run_id or target or "", for_update=True)
        if run.run_id == before.run_id:
            raise RegistryError(f"run {run.run_id} is active already")
        if run.state != "retired":
            kind = "was rejected" if run.state == "rejected" else "was never served"
            raise RegistryError(f"run {run.run_id} {kind}: a rollback goes to a retired run{_others(connection, run)}")
        if run.published_at is None:
            raise RegistryError(f"the vectors of run {run.run_id} were dropped{_others(connection, run)}")
        # Back to where that run stood then, so that the next rollback goes one step further.
        row = connection.execute(
            "select back_to from ml.run_transitions where transition_id = %s",
            [earlier if run_id is None else _activation(connection, run)],
        ).fetchone()
        _move(connection, before, "retired", f"rolled back to {run.run_id}", evidence={"rolled_back": True})
        _point(connection, run, before, reason, row[0] if row else None, {"by_hand": True})
    return run, before


def reject(connection: psycopg.Connection, run_id: str, reason: str, *, by_hand: bool = False) -> None:
    """Close a run that is not to be served, or served again.

    Raises:
        RegistryError: No such run, it is being served, or was rejected already.
    """
    with connection.transaction():
        run = get_run(connection, run_id, for_update=True)
        if run.state == "active":
            raise RegistryError(f"run {run_id} is being served: `matching rollback` first")
        if run.state == "rejected":
            raise RegistryError(f"run {run_id} was rejected already")
        _move(connection, run, "rejected", reason, evidence={"by_hand": by_hand, **run.evidence()})


def _point(
    connection: psycopg.Connection,
    run: Run,
    before: Run | None,
    reason: str,
    back_to: int | None,
    evidence: dict[str, Any],
) -> None:
    """Make a run the active one; the caller holds the pointer and has retired the one before."""
    if before is not None:
        evidence = evidence | {"replaced": before.run_id}
    _move(connection, run, "active", reason, back_to=back_to, evidence=evidence | run.evidence())
    connection.execute(
        "insert into ml.active_run (run_id) values (%s)"
        " on conflict (is_singleton) do update set run_id = excluded.run_id, activated_at = now()",
        [run.run_id],
    )


def _activation(connection: psycopg.Connection, run: Run | None) -> int | None:
    """Return the newest activation of a run."""
    row = connection.execute(
        "select max(transition_id) from ml.run_transitions where run_id = %s and to_state = 'active'",
        [run.run_id if run else None],
    ).fetchone()
    return row[0] if row else None


def _step_back(connection: psycopg.Connection) -> tuple[int, str] | None:
    """Return the activation that a rollback returns to, and its run."""
    return connection.execute(
        "select e.transition_id, e.run_id from ml.run_transitions as e where e.transition_id = (select t.back_to"
        " from ml.run_transitions as t join ml.active_run as a on a.run_id = t.run_id"
        " where t.to_state = 'active' order by t.transition_id desc limit 1)"
    ).fetchone()


def _require_published(run: Run) -> None:
    if run.published_at is None:
        raise RegistryError(f"run {run.run_id} has no published vectors: `matching publish {run.run_id}`")


def _others(connection: psycopg.Connection, run: Run) -> str:
    """Name the runs that a rollback could go to instead, newest first."""
    rows = connection.execute(
        "select run_id from ml.runs where state = 'retired' and published_at is not null and run_id <> %s"
        " order by activated_at desc limit 3",
        [run.run_id],
    ).fetchall()
    return f"; there are {', '.join(found for (found,) in rows)}" if rows else ""


def _move(
    connection: psycopg.Connection,
    run: Run,
    state: str,
    reason: str,
    *,
    back_to: int | None = None,
    evidence: dict[str, Any] | None = None,
) -> None:
    connection.execute(
        "update ml.runs set state = %(state)s,"
        " activated_at = case when %(state)s = 'active' then now() else activated_at end,"
        " closed_at = case when %(state)s = 'active' then null else now() end"
        " where run_id = %(run_id)s",
        {"state": state, "run_id": run.run_id},
    )
    _note(connection, run.run_id, run.state, state, reason, back_to, evidence)


def _note(
    connection: psycopg.Connection,
    run_id: str,
    before: str | None,
    after: str,
    reason: str,
    back_to: int | None = None,
    evidence: dict[str, Any] | None = None,
) -> None:
    connection.execute(
        "insert into ml.run_transitions (run_id, from_state, to_state, reason, back_to, evidence)"
        " values (%s, %s, %s, %s, %s, %s)",
        [run_id, before, after, reason, back_to, Jsonb(evidence or {})],
    )


def _one(connection: psycopg.Connection, where: str, values: list[Any]) -> Run | None:
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(f"select {RUN_COLUMNS} from ml.runs {where}", values).fetchone()  # noqa: S608

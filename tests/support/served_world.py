"""A small warehouse in which a model was trained, judged, published and used: what stands behind each row it served.

Belongs here: what landed, and what training and the gates recorded. Does not belong here: what dbt must make of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from expectations.checkpoints import GATES
from expectations.runner import GateOutcome, Verdict
from orchestration.settings import DatabaseSettings
from orchestration.warehouse import gates, registry
from orchestration.warehouse.connection import connect

N_ITEMS, N_USERS, N_EXPOSURES = 60, 200, 24_000
START = datetime(2025, 1, 1, tzinfo=UTC)
METRICS: dict[str, Any] = {
    "protocol_id": "T-fix",
    "split_hash": "split",
    "epochs": 3,
    "rows": {
        "two-tower": {
            "n_users": 150,
            "metrics": {
                "ndcg@10": {"mean": 0.3, "low": 0.25, "high": 0.35, "n": 150},
                "recall@20": {"mean": 0.5, "low": 0.45, "high": 0.55, "n": 150},
            },
            "lists": {"coverage@10": 0.75},
        },
        "windowed popularity": {"metrics": {"ndcg@10": {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 150}}},
    },
    "comparisons": {
        "windowed popularity": {"difference": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 150}, "verdict": "better"}
    },
}


def land(database: DatabaseSettings) -> None:
    """Write items, users, exposures and decisions; nine exposures in ten name a run, one of which nobody knows."""
    sizes = {"items": N_ITEMS, "users": N_USERS, "exposures": N_EXPOSURES, "start": START}
    with connect(database, "loader") as connection:
        connection.execute(
            """
            insert into raw_dmm.items (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id)
            select
                'dmm', 'digital', 'videoa', 'item' || n,
                jsonb_build_object(
                    'title', '季節の旅 ' || n,
                    'date', '2024-06-01 10:00:00',
                    'prices', jsonb_build_object('price', 300 + n || '~'),
                    'sampleMovieURL', jsonb_build_object('size_720_480', 'https://player.example/720')
                ),
                lpad(n::text, 64, '0'), %(start)s - interval '30 days', 'test'
            from generate_series(1, %(items)s) as n
            """,
            sizes,
        )
        connection.execute(
            "insert into raw_app.users (user_id, created_at, age_verified)"
            " select 'u' || n, %(start)s, true from generate_series(1, %(users)s) as n",
            sizes,
        )
        connection.execute(
            """
            insert into raw_app.exposures
                (user_id, content_id, exposed_at, surface, policy, position, propensity, model_run)
            select
                'u' || 1 + n %% %(users)s, 'item' || 1 + n * 7 / 3 %% (%(items)s + 1),
                %(start)s + n * interval '1 minute', 'feed', 'best', 1 + n %% 20, 0.5,
                (array['run-b', 'run-a', 'run-b', 'elsewhere', null])[1 + n / 7 %% 5]
            from generate_series(1, %(exposures)s) as n
            """,
            sizes,
        )
        # Two decisions after each third exposure, the first at once; some meet the next exposure of the same item.
        connection.execute(
            """
            insert into raw_app.decisions (user_id, content_id, decision, decided_at, surface)
            select
                user_id, content_id, (array['like', 'nope', 'skip'])[1 + mod(exposure_id / 3, 3)],
                exposed_at + delay, 'feed'
            from raw_app.exposures
            cross join (values (interval '0'), (interval '90 minutes')) as d (delay)
            where mod(exposure_id, 3) = 0
            on conflict do nothing
            """
        )


def train(database: DatabaseSettings) -> None:
    """Record a retired, an active and a rejected run, and the gates behind the active one; after a dbt build."""
    with connect(database, "trainer", autocommit=True) as connection:
        for _ in range(2):  # each gate has an older word on the same rows
            for gate in gates.TABLE_GATES:
                judge(connection, gate.name, warned=gate.name == "feat_items")
        accepted = gates.require_accepted_tables(connection)
        for number, run_id in enumerate(("run-a", "run-b", "run-c")):
            provenance = registry.Provenance(
                config_name="simple",
                config={"dimensions": 768},
                seed=number,
                data_hash=f"data of {run_id}",
                contract_hash="contract",
                dbt_manifest_hash="manifest",
                git_sha="0123abc",
                code_hash="code",
            )
            registry.register_candidate(connection, run_id, provenance, START)
            if run_id == "run-c":
                registry.reject(connection, run_id, "never judged")
                continue
            beside = registry.active_run(connection)
            registry.record_judgement(
                connection, run_id, METRICS, True, "better: NDCG@10", beside.run_id if beside else None
            )
            registry.mark_published(connection, run_id)
            registry.activate(connection, run_id, f"gate: better, said of {run_id}")
        gates.record_inputs(connection, "run-b", accepted)
        judge(connection, "item_embeddings", "run-b")
        judge(connection, "feat_users")  # what comes later did not let the run pass


def judge(connection: psycopg.Connection, name: str, run_id: str | None = None, *, warned: bool = False) -> int:
    """Record one gate run with two expectations and return its number."""
    verdicts = (
        Verdict("rows", "critical", True, 5, "at least 1", "rows: enough of it"),
        Verdict("nulls", "warning", not warned, 0.5, "at most 0.4", "nulls: not too many"),
    )
    state = None if run_id else gates.state_of(connection, GATES[name].relation)
    return gates.store(connection, GATES[name], GateOutcome(name, verdicts, Path("docs")), state, run_id=run_id)

"""From a row that was served back to all that made it, and what the registry says through views of `monitoring`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
import served_world
from dbt_runs import DbtProcess
from psycopg.rows import dict_row

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.gates import TABLE_GATES

pytestmark = pytest.mark.warehouse

ONE = "select * from monitoring.served_lineage where user_id = %s and item_id = %s and rank = %s order by exposed_at"


def ask(database: DatabaseSettings, query: str, *values: Any, role: str = "analyst") -> list[dict[str, Any]]:
    with connect(database, role) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values or None).fetchall()


def served_by(database: DatabaseSettings, run_id: str) -> dict[str, Any]:
    """Return the lineage of one row that a run ranked, that has an item, and that a decision followed."""
    [shown] = ask(
        database,
        "select e.user_id, e.item_id, e.position from marts.fct_exposures as e"
        " inner join marts.fct_decisions as d"
        " on e.user_id = d.user_id and e.item_id = d.item_id and d.decided_at = e.exposed_at"
        " where e.model_run = %s order by e.exposure_id limit 1",
        run_id,
    )
    return ask(database, ONE, *shown.values())[0]


def test_a_served_row_leads_to_run_data_gates_features_and_decision(served: DatabaseSettings) -> None:
    row = served_by(served, "run-b")
    [run] = ask(served, "select * from ml.runs where run_id = 'run-b'", role="trainer")
    same = ("seed", "git_sha", "code_hash", "contract_hash", "dbt_manifest_hash", "data_hash", "trained_until")
    assert {name: row[name] for name in same} == {name: run[name] for name in same}
    assert (row["run_state"], row["ndcg_at_10"], row["ndcg_at_10_low"]) == ("active", 0.3, 0.25)
    made_at = run["created_at"]

    relations = {gate.relation for gate in TABLE_GATES}
    builds = {
        f"{build['schema']}.{build['model']}": build["changed_build_number"]
        for build in ask(
            served,
            "select b.*, n.nspname::text as schema from monitoring.model_builds as b"
            " inner join pg_class as c on b.relation_oid = c.oid"
            " inner join pg_namespace as n on c.relnamespace = n.oid",
        )
    }
    assert {(of["relation"], of["changed_build_number"], of["is_unchanged"]) for of in row["data_snapshot"]} == {
        (relation, builds[relation], True) for relation in relations
    }
    gates = {of["gate"]: of for of in row["gate_results"]}
    assert len(gates) == len(row["gate_results"]), "a gate is told twice"
    assert set(gates) == {*(gate.name for gate in TABLE_GATES), "item_embeddings"}
    behind = ask(served, "select * from ml.gate_runs order by gate_run_id", role="trainer")
    for name, of in gates.items():  # the newest word from before the run was registered
        before = [run for run in behind if run["gate"] == name and (run["run_id"] or run["judged_at"] <= made_at)]
        assert of["gate_run_id"] == before[-1]["gate_run_id"]
        assert of["relation"] == before[-1]["relation"]
        assert (of["is_passed"], of["critical_failures"]) == (True, 0)
        assert of["warnings"] == (1 if name == "feat_items" else 0)
    assert {of["gate_run_id"] for of in row["data_snapshot"]} < {of["gate_run_id"] for of in gates.values()}
    assert gates["feat_users"]["gate_run_id"] < max(run["gate_run_id"] for run in behind if run["gate"] == "feat_users")

    for table, key in (("item", "item_id"), ("user", "user_id")):
        features = ask(served, f"select to_jsonb(f) as row from features.feat_{table}s as f where {key} = %s", row[key])
        assert [row[f"{table}_features"]] == [found["row"] for found in features]
    [example] = ask(
        served,
        "select * from features.feat_training_examples where user_id = %s and sequence = %s",
        row["user_id"],
        row["training_sequence"],
    )
    assert (example["item_id"], example["decided_at"]) == (row["item_id"], row["next_decided_at"])
    assert example["decision"] == {"like": 1, "nope": -1, "skip": 0}[row["next_decision"]]


def test_every_exposure_is_one_row_whatever_is_known_of_it(served: DatabaseSettings) -> None:
    [counted] = ask(
        served,
        "select count(*) as n, count(distinct exposure_id) as distinct_n, count(item_id) as joined,"
        " count(item_features) as with_item, count(user_features) as with_user,"
        " (select count(*) from marts.fct_exposures) as exposures from monitoring.served_lineage",
    )
    assert counted["n"] == counted["distinct_n"] == counted["exposures"] == served_world.N_EXPOSURES
    assert 0 < counted["joined"] == counted["with_item"] < counted["with_user"] == counted["n"]
    states = ask(served, "select distinct model_run, run_state, seed, data_snapshot from monitoring.served_lineage")
    assert {(row["model_run"], row["run_state"], row["seed"]) for row in states} == {
        ("run-a", "retired", 0),
        ("run-b", "active", 1),
        ("elsewhere", None, None),
        (None, None, None),
    }
    assert [row["data_snapshot"] for row in states if row["model_run"] in ("run-a", "elsewhere")] in (
        [[], None],
        [None, []],
    )


def test_what_follows_is_the_first_decision_from_the_moment_of_exposure_on(served: DatabaseSettings) -> None:
    decisions: dict[tuple[str, str], list[Any]] = {}
    for row in ask(
        served, "select * from marts.fct_decisions where item_id is not null order by decided_at, decision_id"
    ):
        decisions.setdefault((row["user_id"], row["item_id"]), []).append(row)
    found = ask(
        served,
        "select user_id, item_id, exposed_at, next_decision_id, training_sequence"
        " from monitoring.served_lineage where user_id < 'u2'",
    )
    followed = 0
    for row in found:
        later = [d for d in decisions.get((row["user_id"], row["item_id"]), []) if d["decided_at"] >= row["exposed_at"]]
        assert row["next_decision_id"] == (later[0]["decision_id"] if later else None)
        assert (row["training_sequence"] is None) == (row["next_decision_id"] is None)
        followed += bool(later)
    assert 100 < followed < len(found) - 100


def test_one_row_is_found_by_indexes_in_milliseconds(served: DatabaseSettings) -> None:
    row = served_by(served, "run-b")
    with connect(served, "analyst") as connection:
        query = "explain (analyze, format json) " + ONE
        times = []
        for _ in range(3):
            [(found,)] = connection.execute(query, [row["user_id"], row["item_id"], row["rank"]]).fetchall()
            times.append(found[0]["Execution Time"])
    scanned = {node["Relation Name"] for node in nodes(found[0]["Plan"]) if node["Node Type"] == "Seq Scan"}
    assert scanned.isdisjoint({"fct_exposures", "fct_decisions", "feat_training_examples"}), json.dumps(found)
    assert min(times) < 50, times


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def test_a_run_is_told_with_its_measurements_and_why_it_is_where_it_is(served: DatabaseSettings) -> None:
    runs = {row["run_id"]: row for row in ask(served, "select * from monitoring.model_runs", role="monitor")}
    assert {run_id: (run["state"], run["state_reason"]) for run_id, run in runs.items()} == {
        "run-a": ("retired", "replaced by run-b"),
        "run-b": ("active", "gate: better, said of run-b"),
        "run-c": ("rejected", "never judged"),
    }
    measured = ("ndcg_at_10", "ndcg_at_10_high", "recall_at_20", "coverage_at_10", "popularity_ndcg_at_10")
    assert [runs["run-b"][name] for name in measured] == [0.3, 0.35, 0.5, 0.75, 0.2]
    assert [runs["run-b"][f"lift_ndcg_at_10{end}"] for end in ("", "_low", "_high")] == [0.1, 0.05, 0.15]
    assert [runs["run-b"][name] for name in ("epochs", "test_user_count", "is_gate_passed")] == [3, 150, True]
    assert [runs["run-c"][name] for name in (*measured, "judged_at", "is_gate_passed")] == [None] * 7
    assert runs["run-c"]["closed_at"] is not None


def test_an_analyst_sees_what_every_column_of_a_view_means(served: DatabaseSettings) -> None:
    unexplained = ask(
        served,
        "select c.relname, a.attname from pg_class as c"
        " inner join pg_attribute as a on c.oid = a.attrelid and a.attnum > 0"
        " where c.relkind = 'v' and c.relnamespace = 'monitoring'::regnamespace and ("
        "     col_description(c.oid, a.attnum) is null or obj_description(c.oid, 'pg_class') is null"
        " )",
    )
    assert unexplained == []


def test_views_tell_of_what_happened_since_the_last_build(served: DatabaseSettings) -> None:
    """An analyst who looks between two builds sees the run that is served now and the newest word of a gate."""
    newest = (
        "select gate_run_id, expectation, is_passed from monitoring.gate_results"
        " where is_newest and gate = 'feat_items'"
    )
    before = ask(served, newest)
    with connect(served, "trainer", autocommit=True) as connection:
        registry.activate(connection, "run-a", "rolled back", by_hand=True)
        try:
            number = served_world.judge(connection, "feat_items", warned=True)
            states = ask(served, "select run_id, state_reason from monitoring.model_runs where state = 'active'")
            assert states == [{"run_id": "run-a", "state_reason": "rolled back"}]
            assert served_by(served, "run-b")["run_state"] == "retired"
            assert {(row["gate_run_id"], row["expectation"], row["is_passed"]) for row in ask(served, newest)} == {
                (number, "rows", True),
                (number, "nulls", False),
            }
        finally:
            connection.execute("delete from ml.gate_verdicts where gate_run_id = %s", [number])
            connection.execute("delete from ml.gate_runs where gate_run_id = %s", [number])
            registry.activate(connection, "run-b", "gate: better, said of run-b", by_hand=True)
    assert ask(served, newest) == before


def test_a_table_that_changed_after_training_is_told(served: DatabaseSettings) -> None:
    with connect(served, "transformer") as connection:
        connection.execute(
            "update monitoring.model_builds set changed_build_number = changed_build_number + 1"
            " where model = 'feat_users'"
        )
        [(snapshot,)] = connection.execute(
            "select data_snapshot from monitoring.model_runs where run_id = 'run-b'"
        ).fetchall()
        connection.rollback()
    assert {of["relation"] for of in snapshot if not of["is_unchanged"]} == {"features.feat_users"}


def test_the_views_stand_after_every_further_build(served: DatabaseSettings, tmp_path: Path) -> None:
    """They hang on tables that a full build replaces; the build that does so puts them back, with their grants."""
    asked = (
        "select count(*) as n, count(item_features) as items from monitoring.served_lineage where run_state = 'active'"
    )
    before = ask(served, asked)
    assert before[0]["items"] > 1_000
    oid = "select 'marts.fct_exposures'::regclass::oid as oid"
    tables = [ask(served, oid)]
    process = DbtProcess(served, tmp_path)
    try:
        for arguments in ((), ("--full-refresh",)):
            process.run("build", "--exclude-resource-type", "unit_test", "test", *arguments)
            tables.append(ask(served, oid))
            assert ask(served, asked) == before
            for role, view in (("monitor", "model_runs"), ("monitor", "gate_results"), ("analyst", "gate_results")):
                assert ask(served, f"select 1 from monitoring.{view} limit 1", role=role)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ask(served, "select 1 from monitoring.served_lineage", role="monitor")
    finally:
        process.close()
    assert tables[0] == tables[1] != tables[2], "the second build is no incremental one, or the third no full one"

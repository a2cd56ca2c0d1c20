"""From the emulated API to recommendations: what landed, what is served, and what must not be anywhere."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from e2e_chain import AFFILIATE_ID, API_ID, Chain
from pgvector import HalfVector
from psycopg import sql
from standalone_page import read_page

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.e2e


def scalar(database: DatabaseSettings, query: str) -> object:
    with connect(database) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_every_item_landed_once_although_the_api_failed_often(chain: Chain) -> None:
    database = chain.home.database()
    assert chain.api.server.struck.total() > 3
    assert scalar(database, "select count(*) from raw_dmm.items") == chain.world.item_count
    assert scalar(database, "select count(distinct content_id) from raw_dmm.items") == chain.world.item_count
    assert scalar(database, "select count(*) from raw_dmm.slices where state <> 'complete'") == 0


def test_a_second_sync_and_load_add_nothing(chain: Chain) -> None:
    database = chain.home.database()
    count = "select (select count(*) from raw_dmm.items) + (select count(*) from raw_app.decisions)"
    before = scalar(database, count)
    chain.home.run("run", "dmm_sync", **chain.credentials())
    chain.home.run("load", f"--decisions={chain.files.decisions}")
    assert scalar(database, count) == before


def test_the_lists_of_all_users_are_whole_ordered_and_hold_nothing_decided(chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "recs.csv"
    chain.home.run("recommend", "--all", "--limit", "30", "--out", str(out))
    with chain.files.decisions.open() as handle:
        decided = {(row["user_id"], row["content_id"]) for row in csv.DictReader(handle)}
    lists: dict[str, list[tuple[int, str, float]]] = defaultdict(list)
    with out.open() as handle:
        reader = csv.DictReader(handle)
        assert reader.fieldnames == ["user_id", "content_id", "rank", "score"]
        for row in reader:
            lists[row["user_id"]].append((int(row["rank"]), row["content_id"], float(row["score"])))
    verified = scalar(chain.home.database(), "select count(*) from raw_app.users where age_verified")
    assert len(lists) == verified
    for user, rows in lists.items():
        assert [rank for rank, _, _ in rows] == list(range(1, 31))
        scores = [score for _, _, score in rows]
        # Best first, thrice at most: what is within the limits, what was passed over for them, the rest.
        assert sum(after > before for before, after in pairwise(scores)) <= 2
        assert len({item for _, item, _ in rows}) == 30
        assert not decided & {(user, item) for _, item, _ in rows}


def test_a_person_sees_titles_scores_and_reasons(chain: Chain) -> None:
    user = scalar(chain.home.database(), "select user_id from features.feat_users order by like_count desc limit 1")
    shown = chain.home.run("recommend", str(user), "--limit", "5").stdout
    assert "because you liked «" in shown
    item = scalar(chain.home.database(), "select content_id from features.feat_items order by item_id limit 1")
    assert "model run" in chain.home.run("similar", str(item), "--limit", "5").stdout


def test_the_same_inputs_reuse_the_run_and_nothing_is_switched(chain: Chain) -> None:
    def active() -> registry.Run | None:
        with connect(chain.home.database(), "trainer") as connection:
            return registry.active_run(connection)

    before = active()
    chain.home.run("run", "full", "--config", "simple", "--promote", "always")
    after = active()
    assert before is not None
    assert after is not None
    assert after.run_id == before.run_id
    with connect(chain.home.database(), "trainer") as connection:
        assert len(registry.list_runs(connection)) == 1


def test_the_run_is_a_folder_without_pickles_and_its_bundle_agrees(chain: Chain) -> None:
    with connect(chain.home.database(), "trainer") as connection:
        run = registry.active_run(connection)
    assert run is not None
    folder = chain.home.path / "artifacts" / run.artifact_path
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"manifest.json", "report.html", "tfjs/model.json", "tfjs/manifest.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    manifest = json.loads((folder / "tfjs" / "manifest.json").read_text())
    assert manifest["run_id"] == run.run_id
    parity = dagster_metadata(chain, "tfjs_bundle", "parity")
    if shutil.which("node") and shutil.which("npm"):
        assert "largest difference" in parity
    else:
        assert "not checked" in parity


def test_a_row_that_was_changed_is_the_one_thing_a_verification_complains_of(chain: Chain) -> None:
    """All that must agree about a run does, down to the rows in pgvector; one coordinate of one row does not pass."""
    change = (
        "update ml.item_embeddings as i set embedding = %s::halfvec(768) from ml.active_run as a"
        " where i.run_id = a.run_id and i.item_id = %s"
    )
    with connect(chain.home.database(), "trainer", autocommit=True) as connection:
        [(run_id, item_id, stored)] = connection.execute(
            "select run_id, item_id, embedding from ml.item_embeddings"
            " where run_id = (select a.run_id from ml.active_run as a) order by item_id limit 1"
        ).fetchall()
        vector = stored.to_numpy().copy()
        vector[300] += 0.002
        connection.execute(change, [HalfVector(vector), item_id])
        try:
            done = chain.home.run("verify", run_id, "--quick", check=False)
        finally:
            connection.execute(change, [stored, item_id])
        kept = registry.newest_verification(connection, run_id)
    assert done.returncode == 1
    assert f"error: run {run_id} is not what it claims to be: pgvector items = encoded" in done.stderr
    assert kept is not None
    assert (kept.passed, kept.is_quick) == (False, True)
    found = {check["name"]: check["status"] for check in kept.checks}
    has_node = bool(shutil.which("node") and shutil.which("npm"))
    assert found.pop("TensorFlow.js = SavedModel") == ("passed" if has_node else "not checked")
    assert found.pop("training again") == "not checked"
    assert found.pop("pgvector items = encoded") == "failed"
    assert len(found) == 8
    assert set(found.values()) == {"passed"}
    told = chain.home.run("runs", run_id).stdout
    assert "without training again: failed" in told
    assert "candidate → active" in told


def test_the_report_of_the_run_shows_all_that_was_measured_and_names_no_user(chain: Chain) -> None:
    with connect(chain.home.database(), "trainer") as connection:
        run = registry.active_run(connection)
    assert run is not None
    with connect(chain.home.database()) as connection:
        users = {user for (user,) in connection.execute("select user_id from raw_app.users").fetchall()}
    page = (chain.home.path / "reports" / f"run-{run.run_id}.html").read_text()
    read_page(page)
    assert "Not part of this judgement" not in page
    for part in ("How good are its lists?", "What would be served", "Learning curves", "Detectors", "Provenance"):
        assert f"<h2>{part}</h2>" in page
    assert len(users) > 100
    assert not users & set(re.findall(r"[\w-]+", page))
    beside = (chain.home.path / "artifacts" / run.artifact_path / "report.html").read_text()
    assert beside.split("</h1>")[0] == page.split("</h1>")[0]


def dagster_metadata(chain: Chain, asset: str, name: str) -> str:
    """Return a metadata text of the newest materialization in Dagster's own event log."""
    database = chain.home.database()
    dagster = DatabaseSettings(database.host, database.port, database.user, database.password, "dagster")
    with connect(dagster) as connection:
        row = connection.execute(
            "select event from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION' and asset_key like %s"
            " order by id desc limit 1",
            [f'%"{asset}"%'],
        ).fetchone()
    assert row is not None
    found = re.search(rf'"text": "([^"]*)"\}}, "label": "{re.escape(name)}"', row[0])
    assert found, row[0]
    return found.group(1)


def test_data_docs_were_written(chain: Chain) -> None:
    assert list((chain.home.path / "gx").rglob("data_docs/**/index.html"))


def test_the_vector_index_serves_the_populated_tables(chain: Chain) -> None:
    with connect(chain.home.database()) as connection:
        row = connection.execute(
            "select u.run_id, u.embedding::text from ml.user_embeddings as u join ml.active_run using (run_id) limit 1"
        ).fetchone()
        assert row is not None
        for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin", "sort"):  # as serving.candidates_of_index does
            connection.execute(f"set local enable_{way} = off")
        plan = connection.execute(
            sql.SQL("explain select * from serving.nearest_items({}, {}::halfvec(768), null, 40)").format(*row)
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Scan using" in text
    assert "<#>" in text


def test_lists_and_rankings_of_the_source_have_landed(chain: Chain) -> None:
    database = chain.home.database()
    assert scalar(database, "select count(distinct kind) from raw_dmm.masters") == 5  # video floors have no authors
    assert scalar(database, "select count(*) from marts.fct_item_rankings where item_id is not null") > 500
    assert scalar(database, "select bool_and(is_complete) from monitoring.slice_completeness") is True
    assert scalar(database, "select count(*) from monitoring.landing_runs where state <> 'complete'") == 0


def test_an_item_that_only_a_decision_names_is_asked_for_by_its_id(chain: Chain) -> None:
    database = chain.home.database()
    orphan = scalar(database, "select content_id from monitoring.orphan_content_ids")
    assert scalar(database, f"select unjoined_reason from marts.fct_decisions where content_id = '{orphan}'") == (
        "content_id_unknown"
    )
    chain.home.run("run", "dmm_backfill", **chain.credentials())
    assert scalar(database, f"select count(*) from raw_dmm.items where content_id = '{orphan}'") == 1


def test_no_secret_is_in_any_table_file_or_output(chain: Chain) -> None:
    home = chain.home
    database = home.database()
    secrets = [API_ID, AFFILIATE_ID, database.password]
    assert not [secret for secret in secrets if secret in home.output]
    for path in home.path.rglob("*"):
        if not path.is_file() or path.is_relative_to(home.path / "postgres") or path == home.path / ".env":
            continue
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    assert not [secret for secret in secrets if secret.encode() in (home.path / "postgres" / "server.log").read_bytes()]
    for dbname in ("warehouse", "dagster"):
        there = DatabaseSettings(database.host, database.port, database.user, database.password, dbname)
        with connect(there) as connection:
            tables = connection.execute(
                "select n.nspname, c.relname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
                " where c.relkind in ('r', 'p', 'm') and n.nspname not in ('pg_catalog', 'information_schema')"
                " and c.relname not like '%embeddings%' and not c.relispartition"
            ).fetchall()
            assert len(tables) > 5
            for schema, table in tables:
                query = sql.SQL("select count(*) from {} as t where t::text like any(%s)").format(
                    sql.Identifier(schema, table)
                )
                found = connection.execute(query, [[f"%{secret}%" for secret in secrets]]).fetchone()
                assert found == (0,), f"{dbname}: {schema}.{table}"


def test_the_analyst_reads_features_and_may_not_read_raw_decisions(chain: Chain) -> None:
    with connect(chain.home.database(), "analyst") as connection:
        row = connection.execute("select count(*) from features.feat_users").fetchone()
        assert row is not None
        assert row[0] > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from raw_app.decisions limit 1")

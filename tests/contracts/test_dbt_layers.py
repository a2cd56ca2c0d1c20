"""The dbt project keeps its layers apart, and whatever outsiders may read is contracted and explained."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO_ROOT = Path(__file__).resolve().parents[2]
MAY_READ = {
    "staging": {"source"},
    "intermediate": {"staging", "intermediate", "seed"},
    "marts": {"intermediate", "marts", "seed"},
    "features": {"intermediate", "marts", "features"},
    "monitoring": {"intermediate", "marts", "features", "monitoring"},
}
OPEN_LAYERS = {"marts": "protected", "features": "public", "monitoring": "protected"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of a parse in which every warning is an error."""
    folder = tmp_path_factory.mktemp("dbt_parse")
    paths = {"DBT_PROJECT_DIR": REPO_ROOT / "dbt_project", "DBT_PROFILES_DIR": REPO_ROOT, "DBT_TARGET_PATH": folder}
    parsed = subprocess.run(
        [
            sys.executable,
            "-m",
            "dbt.cli.main",
            "--warn-error-options",
            '{"error": "all"}',
            "--quiet",
            "--no-use-colors",
            "parse",
        ],
        cwd=folder,
        env=os.environ | {name: str(path) for name, path in paths.items()} | {"DBT_LOG_PATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert parsed.returncode == 0, parsed.stdout + parsed.stderr
    return json.loads((folder / "manifest.json").read_text())


def layer(manifest: dict[str, Any], unique_id: str) -> str:
    kind = unique_id.split(".", 1)[0]
    return manifest["nodes"][unique_id]["fqn"][1] if kind == "model" else kind


def models(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    found = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert len(found) > 30
    return found


def open_models(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in models(manifest) if node["fqn"][1] in OPEN_LAYERS]


def test_each_layer_reads_only_the_layers_it_may(manifest: dict[str, Any]) -> None:
    crossings = [
        (node["name"], parent)
        for node in models(manifest)
        for parent in node["depends_on"]["nodes"]
        if layer(manifest, parent) not in MAY_READ[node["fqn"][1]]
    ]
    assert crossings == []


def test_staging_reads_sources_of_its_own_domain_only(manifest: dict[str, Any]) -> None:
    for node in models(manifest):
        if node["fqn"][1] == "staging":
            domains = {parent.split(".")[2] for parent in node["depends_on"]["nodes"]}
            assert domains == {node["fqn"][2]}, node["name"]


def test_every_model_stands_in_the_schema_of_its_layer(manifest: dict[str, Any]) -> None:
    assert {(node["fqn"][1], node["schema"]) for node in models(manifest)} == {(name, name) for name in MAY_READ}


def test_every_model_states_its_grain_in_sql_and_description(manifest: dict[str, Any]) -> None:
    for node in models(manifest):
        assert node["raw_code"].startswith("-- One row"), node["name"]
        assert node["description"].startswith("One row"), node["name"]


def test_private_layers_are_private_and_open_ones_are_not(manifest: dict[str, Any]) -> None:
    for node in models(manifest):
        assert node["config"]["access"] == OPEN_LAYERS.get(node["fqn"][1], "private"), node["name"]
        assert node["config"]["group"] in {group["name"] for group in manifest["groups"].values()}


def test_every_open_model_is_contracted_and_every_column_typed_and_explained(manifest: dict[str, Any]) -> None:
    for node in open_models(manifest):
        assert node["config"]["contract"]["enforced"], node["name"]
        assert node["columns"], node["name"]
        for column in node["columns"].values():
            assert column["data_type"], (node["name"], column["name"])
            assert len(column["description"]) > 4, (node["name"], column["name"])


def test_every_open_model_has_a_primary_key_that_postgres_enforces(manifest: dict[str, Any]) -> None:
    """Of a view Postgres enforces nothing: there a data test has to say what the key is."""
    keys = {"unique", "unique_combination_of_columns"}
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    tested = {node["attached_node"] for node in tests if (node.get("test_metadata") or {}).get("name") in keys}
    for node in open_models(manifest):
        constraints = node["constraints"] + [c for column in node["columns"].values() for c in column["constraints"]]
        is_view = node["config"]["materialized"] == "view"
        assert [c["type"] for c in constraints].count("primary_key") == (0 if is_view else 1), node["name"]
        assert not is_view or node["unique_id"] in tested, node["name"]


def test_every_open_model_is_granted_to_analysts_and_nothing_private_is_granted(manifest: dict[str, Any]) -> None:
    for node in models(manifest):
        readers = node["config"]["grants"].get("select", [])
        assert ("analyst" in readers) is (node["fqn"][1] in OPEN_LAYERS), node["name"]


def test_other_roles_are_granted_what_they_read_and_no_more(manifest: dict[str, Any]) -> None:
    features = {"feat_items", "feat_users", "feat_user_histories", "feat_training_examples"}
    expected = {
        "analyst": {node["name"] for node in open_models(manifest)},
        # What is trained on, what a gate reads beside it, and the names that a judgement tells.
        "trainer": {
            *features,
            *("feat_as_of", "fct_decisions", "fct_exposures", "landing_freshness"),
            *("dim_makers", "dim_tags"),
        },
        "serving_owner": {"feat_items", "dim_servable_contents", "fct_popular_contents"},
        "loader": {"orphan_content_ids"},  # a backfill asks the catalogue for exactly these
        # Monitoring looks at counts, shares and states; the lineage of a served row names the user.
        "monitor": {node["name"] for node in models(manifest) if node["fqn"][1] == "monitoring"} - {"served_lineage"},
    }
    granted: dict[str, set[str]] = {}
    for node in models(manifest):
        assert set(node["config"]["grants"]) <= {"select"}, node["name"]
        for role in node["config"]["grants"].get("select", []):
            granted.setdefault(role, set()).add(node["name"])
    assert granted == expected


def test_large_models_are_built_by_exchange_and_the_rest_anew(manifest: dict[str, Any]) -> None:
    incremental = [node for node in models(manifest) if node["config"]["materialized"] == "incremental"]
    assert len(incremental) > 15
    for node in incremental:
        meta = node["config"]["meta"]
        assert node["config"]["incremental_strategy"] == "replace_touched", node["name"]
        assert set(meta) <= {"touched_by", "since", "logs", "all_if_removed"}, node["name"]
        assert meta["touched_by"], node["name"]
        assert "{% call touch() %}" in node["raw_code"], node["name"]


def test_a_reader_asks_for_keys_that_the_model_it_reads_logs(manifest: dict[str, Any]) -> None:
    logged = {
        (node["name"], log["kind"]) for node in models(manifest) for log in node["config"]["meta"].get("logs", [])
    }
    asked = {
        (name, kind)
        for node in models(manifest)
        for name, kind in re.findall(r"changed\(ref\('(\w+)'\), '(\w+)'\)", node["raw_code"])
    }
    assert asked <= logged
    assert {name for name, _ in logged} >= {name for name, _ in asked}


def test_other_macros_mean_other_tables(manifest: dict[str, Any]) -> None:
    """No incremental model sees that a macro it uses has changed, so the hash of all of them is one of its inputs."""
    files = sorted((REPO_ROOT / "dbt_project" / "macros").glob("*.sql"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    project = yaml.safe_load((REPO_ROOT / "dbt_project" / "dbt_project.yml").read_text())
    assert project["vars"]["macros"] == digest, f"set the variable macros of dbt_project.yml to {digest}"


def test_every_model_that_counts_or_chooses_by_order_has_a_unit_test(manifest: dict[str, Any]) -> None:
    tested = {test["model"] for test in manifest["unit_tests"].values()}
    windowed = {
        node["name"] for node in models(manifest) if " over (" in node["raw_code"] or "distinct on" in node["raw_code"]
    }
    copies = {"decision_join_quality", "exposure_join_quality"}  # of one share
    assert windowed - tested <= copies


def test_nothing_that_is_only_true_now_reaches_a_training_example(manifest: dict[str, Any]) -> None:
    """Whether an item is offered or eligible today was not known when somebody decided on it."""

    def ancestors(unique_id: str) -> set[str]:
        # int_as_of counts everything that landed, but tells instants only.
        parents = set(manifest["parent_map"][unique_id]) - {"model.matching.int_as_of"}
        return parents.union(*(ancestors(parent) for parent in parents))

    for name in ("feat_training_examples", "feat_user_histories"):
        names = {unique_id.split(".")[-1] for unique_id in ancestors(f"model.matching.{name}")}
        assert "int_item_snapshots" in names
        assert names.isdisjoint({"availability", "item_sightings", "int_item_availability", "dim_items", "feat_items"})


def test_every_consumer_is_an_exposure_with_an_owner(manifest: dict[str, Any]) -> None:
    exposures = {exposure["name"]: exposure for exposure in manifest["exposures"].values()}
    assert set(exposures) == {
        "two_tower_training",
        "recommendation_api",
        "analyst_sql",
        "browser_bundle",
        "catalogue_backfill",
    }
    for exposure in exposures.values():
        assert exposure["owner"]["email"]
        assert exposure["maturity"]
        assert exposure["depends_on"]["nodes"]


def test_raw_tables_are_assets_named_by_schema_and_table(manifest: dict[str, Any]) -> None:
    for source in manifest["sources"].values():
        assert source["config"]["meta"]["dagster"]["asset_key"] == [source["schema"], source["name"]]

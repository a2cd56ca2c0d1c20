"""The gates read columns that the model's contract and dbt's contracts name, so that no list can drift alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from expectations.checkpoints import GATES
from expectations.parameters import GateParameters
from ml import contracts

MODELS = Path(__file__).resolve().parents[2] / "dbt_project" / "models"
BY_TABLE = [name for name, gate in GATES.items() if not gate.by_run]


def dbt_columns(relation: str) -> set[str]:
    schema, model = relation.split(".")
    for path in (MODELS / schema).glob("*.yml"):
        for entry in yaml.safe_load(path.read_text()).get("models", []):
            if entry["name"] == model:
                return {column["name"] for column in entry["columns"]}
    raise AssertionError(f"dbt documents no {relation}")


def test_every_feature_table_of_the_contract_has_a_gate() -> None:
    gated = {gate.relation for gate in GATES.values()}
    moments = {"features.feat_as_of"}  # one row that says when; the suites of the others read it
    assert {f"features.{table}" for table in contracts.TABLES} - moments <= gated


@pytest.mark.parametrize("name", [name for name in BY_TABLE if GATES[name].relation.startswith("features.")])
def test_a_gate_reads_only_columns_of_the_model_contract(name: str) -> None:
    assert set(GATES[name].columns) <= set(contracts.TABLES[name])


@pytest.mark.parametrize("name", [name for name in BY_TABLE if name in contracts.TABLES])
def test_a_gate_declares_every_contract_column_its_rules_mention(name: str) -> None:
    queries = " ".join(rule.unexpected_rows_query for rule in GATES[name].suite(GateParameters()).expectations)
    mentioned = set(re.findall(r"[a-z_0-9]+", queries)) & set(contracts.TABLES[name])
    assert mentioned <= set(GATES[name].columns)


@pytest.mark.parametrize("name", BY_TABLE)
def test_a_gate_reads_only_columns_that_dbt_contracts(name: str) -> None:
    assert set(GATES[name].columns) <= dbt_columns(GATES[name].relation)

"""One list of features: dbt promises the columns and types that the model's library expects, in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ml import contracts

FEATURES = Path(__file__).resolve().parents[2] / "dbt_project" / "models" / "features"


def promised() -> dict[str, dict[str, str]]:
    entries = yaml.safe_load((FEATURES / "_features__models.yml").read_text())["models"]
    return {entry["name"]: {column["name"]: column["data_type"] for column in entry["columns"]} for entry in entries}


def test_dbt_and_ml_name_the_same_tables() -> None:
    assert set(promised()) == set(contracts.TABLES) == {path.stem for path in FEATURES.glob("*.sql")}


@pytest.mark.parametrize("table", sorted(contracts.TABLES))
def test_dbt_and_ml_agree_on_columns_and_types(table: str) -> None:
    assert list(promised()[table].items()) == list(contracts.TABLES[table].items())

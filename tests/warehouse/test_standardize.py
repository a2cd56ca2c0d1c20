"""Older vectors are brought to the standard of a published run, by the ids that both know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector

from ml.contracts import contract_hash
from ml.errors import NotEnoughDataError
from ml.standardize import UntrainedConversionError
from orchestration.settings import DatabaseSettings
from orchestration.standardization import StandardizeError, standardize_file
from orchestration.vector_files import read_vectors
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.copying import copy_rows

pytestmark = pytest.mark.warehouse

N_ITEMS, N_OLD, TASTES = 400, 300, 16
PROVENANCE = registry.Provenance("simple", {}, 0, "data", contract_hash(), "manifest", "commit", "code")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def catalogue() -> np.ndarray:
    rng = np.random.default_rng(0)
    learned = unit(rng.normal(size=(N_ITEMS, TASTES)) @ rng.normal(size=(TASTES, 766)))
    return unit(np.hstack([np.zeros((N_ITEMS, 1)), np.full((N_ITEMS, 1), 0.2), learned])).astype(np.float32)


@pytest.fixture
def trainer(warehouse: DatabaseSettings, catalogue: np.ndarray) -> Iterator[psycopg.Connection[Any]]:
    """A run whose item vectors are there; each content id is on two floors."""
    with connect(warehouse, "trainer", autocommit=True) as connection:
        registry.register_candidate(connection, "run-a", PROVENANCE, datetime(2026, 1, 1, tzinfo=UTC))
        connection.execute("create table ml.items_of_a partition of ml.item_embeddings for values in ('run-a')")
        with connection.transaction():
            copy_rows(
                connection,
                "ml.items_of_a",
                ("run_id", "item_id", "content_id", "embedding", "popularity_prior", "is_eligible"),
                ("text", "text", "text", "halfvec", "float4", "bool"),
                [
                    ("run-a", f"dmm/digital/{floor}/i{row:03d}", f"i{row:03d}", HalfVector(vector), 0.0, True)
                    for floor in ("videoa", "videoc")
                    for row, vector in enumerate(catalogue.astype(np.float16))
                ],
            )
        registry.mark_published(connection, "run-a")
        yield connection


def older(folder: Path, vectors: np.ndarray, key: str = "content_id") -> Path:
    """A file of another system: its own ids besides the shared ones, and capitals where we have none."""
    ids = [f"I{row:03d}" if key == "content_id" else f"dmm/digital/videoc/i{row:03d}" for row in range(len(vectors))]
    np.savez(folder / "old.npz", **{key: np.array([*ids, "gone"]), "vector": np.vstack([vectors, vectors[:1]])})
    return folder / "old.npz"


@pytest.mark.parametrize("key", ["content_id", "item_id"])
def test_a_file_becomes_one_of_unit_vectors_at_768_with_its_evidence(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any], catalogue: np.ndarray, tmp_path: Path, key: str
) -> None:
    registry.activate(trainer, "run-a", "test", by_hand=True)
    rng = np.random.default_rng(1)
    file = older(tmp_path, catalogue[:N_OLD] @ rng.normal(size=(768, 32)), key)
    done = standardize_file(installation(warehouse), file, tmp_path / "new.parquet")
    found = read_vectors(done.out)
    assert found.key == key
    assert found.ids == read_vectors(file).ids
    assert found.vectors.shape == (N_OLD + 1, 768)
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert (found.vectors[:N_OLD] * catalogue[:N_OLD]).sum(axis=1).mean() > 0.97
    about = json.loads(done.manifest.read_text())
    assert about == done.about
    assert (about["run_id"], about["contract_hash"], about["dimensions"]) == ("run-a", contract_hash(), 768)
    assert (about["shared_items"], about["learned_from"], about["held_out"]) == (N_OLD, 240, 60)
    assert about["source"]["vectors"] == N_OLD + 1
    assert about["recall@20"]["mean"] > 0.8


def test_what_is_worth_nothing_is_refused_and_nothing_is_written(
    warehouse: DatabaseSettings, trainer: psycopg.Connection[Any], catalogue: np.ndarray, tmp_path: Path
) -> None:
    out, rng = tmp_path / "new.parquet", np.random.default_rng(2)

    def refused(error: type[Exception], message: str, vectors: np.ndarray, run_id: str | None = "run-a") -> None:
        with pytest.raises(error, match=message):
            standardize_file(installation(warehouse), older(tmp_path, vectors), out, run_id)
        assert not out.exists()
        assert not out.with_suffix(".json").exists()

    good = catalogue[:N_OLD] @ rng.normal(size=(768, 32))
    refused(UntrainedConversionError, "no conversion could be learned", rng.normal(size=(N_OLD, 32)))
    refused(NotEnoughDataError, "150 shared items are too few", good[:150])
    refused(StandardizeError, "no run is active: name one with --run", good, None)
    refused(registry.RegistryError, "there is no model run 'run-z'", good, "run-z")
    earlier = replace(PROVENANCE, contract_hash="old")
    registry.register_candidate(trainer, "run-b", earlier, datetime(2026, 1, 1, tzinfo=UTC))
    refused(StandardizeError, "run run-b has no published vectors: `matching publish run-b`", good, "run-b")
    registry.mark_published(trainer, "run-b")
    refused(StandardizeError, "run run-b was trained under another feature contract", good, "run-b")
    with pytest.raises(StandardizeError, match=r"--out must end in \.parquet"):
        standardize_file(installation(warehouse), older(tmp_path, good), tmp_path / "new.csv", "run-a")


def installation(database: DatabaseSettings) -> Any:
    return SimpleNamespace(database=lambda: database)

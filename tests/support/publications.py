"""Made-up runs to publish and a small warehouse that serves them, as dbt and the app would leave it.

Belongs here: vectors in the stored layout, the tables that serving reads, publishing and asking in one line each. Does
not belong here: what must come out.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import psycopg
from psycopg import sql
from serving_policies import load_policies

from ml.contracts import TABLES
from orchestration.settings import DatabaseSettings
from orchestration.warehouse import registry
from orchestration.warehouse.connection import connect
from orchestration.warehouse.vectors import ItemVectors, UserVectors, publish_vectors

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
PROVENANCE = registry.Provenance("simple", {"hidden": 8}, 0, "data", "contract", "manifest", "commit", "code")


def unit(rng: np.random.Generator, n: int, filler: bool) -> np.ndarray:
    """Vectors in the stored layout: coordinate 1 the prior, 2 the filler, energy falling along the rest."""
    learned = rng.normal(size=(n, 766)) * np.linspace(1, 0.02, 766) ** 2
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    prior = rng.uniform(-0.3, 0.3, (n, 1)) if filler else np.full((n, 1), 0.5)
    room = 1 + prior**2
    fill = np.sqrt(room.max() - room) if filler else np.zeros((n, 1))
    return (np.hstack([prior, fill, learned]) / np.sqrt(room.max())).astype(np.float32)


def vectors(seed: int, n_items: int, n_users: int) -> tuple[ItemVectors, UserVectors]:
    """A run's vectors for the items and users of `populate`."""
    rng = np.random.default_rng(seed)
    embedding = unit(rng, n_items, filler=True)
    items = ItemVectors(
        item_ids=[f"dmm/digital/videoa/i{k:05d}" for k in range(n_items)],
        content_ids=[f"i{k:05d}" for k in range(n_items)],
        embedding=embedding,
        popularity_prior=embedding[:, 0].copy(),
        is_eligible=np.ones(n_items, dtype=bool),
    )
    return items, UserVectors([f"u{k}" for k in range(n_users)], unit(rng, n_users, False), np.full(n_users, 3), WHEN)


def populate(database: DatabaseSettings, n_items: int, n_users: int) -> None:
    """Make eligible items and age-verified users; the first three items are liked by the first user."""
    columns = ", ".join(f"{name} {kind}" for name, kind in TABLES["feat_items"].items())
    with connect(database) as connection:
        connection.execute(sql.SQL("create table features.feat_items ({})").format(sql.SQL(columns)))
        connection.execute(
            "insert into features.feat_items (item_id, content_id, floor, title, maker_id, tag_ids, performer_ids,"
            " director_ids, price_jpy, released_at, first_seen_at, has_sample, is_eligible)"
            " select 'dmm/digital/videoa/i' || to_char(k, 'FM00000'), 'i' || to_char(k, 'FM00000'), 'videoa',"
            " 'Title ' || k, k, array[k %% 7], array[k], '{}', 300, '2025-01-01', '2025-01-01', true, true"
            " from generate_series(0, %s - 1) as k",
            [n_items],
        )
        connection.execute("grant select on features.feat_items to serving_owner, trainer")
        load_policies(connection)
        connection.execute(
            "insert into raw_app.users (user_id, created_at, age_verified)"
            " select 'u' || k, now(), true from generate_series(0, %s - 1) as k",
            [n_users],
        )
        connection.execute(
            "insert into raw_app.decisions (user_id, content_id, decision, decided_at)"
            " select 'u0', 'i' || to_char(k, 'FM00000'), 'like', now() from generate_series(0, 2) as k"
        )


def register(connection: psycopg.Connection, run_id: str) -> None:
    """Register a run that nobody has judged."""
    registry.register_candidate(connection, run_id, PROVENANCE, WHEN)


def publish(database: DatabaseSettings, run_id: str, given: tuple[ItemVectors, UserVectors]) -> None:
    """Register and publish a run."""
    with connect(database, "trainer", autocommit=True) as connection:
        register(connection, run_id)
        publish_vectors(connection, run_id, *given)


def activate(database: DatabaseSettings, run_id: str) -> None:
    """Serve a published run, whatever its judge would say."""
    with connect(database, "trainer", autocommit=True) as connection:
        registry.activate(connection, run_id, "test", by_hand=True)


def recommended(connection: psycopg.Connection, user_id: str, limit: int) -> list[tuple[str, float, str]]:
    """A user's list as the app gets it: content id, score, run."""
    return connection.execute(
        "select content_id, score, model_run from serving.recommend(p_user_id => %s, p_limit => %s) order by rank",
        [user_id, limit],
    ).fetchall()

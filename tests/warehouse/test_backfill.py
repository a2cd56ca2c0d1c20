"""A backfill asks for exactly the ids that nobody has landed, remembers the answer, and can be interrupted."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from orchestration.landing.emulator.server import EmulatedApi, Fault
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import LandingError, TransientSourceError
from orchestration.landing.pulls.backfill import BackfillResult, backfill_orphans
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials, DmmSource
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

Loader = Callable[[], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


def orphans(warehouse: DatabaseSettings, *content_ids: str) -> None:
    """Put a table in the place of the model, with the columns a backfill reads; the first id is the most wanted."""
    with connect(warehouse, "transformer") as connection:
        connection.execute("drop table if exists monitoring.orphan_content_ids")
        connection.execute(
            """
            create table monitoring.orphan_content_ids as
            select content_key, (100 - place)::bigint as decision_count, 0::bigint as exposure_count
            from unnest(%s::text[]) with ordinality as orphan (content_key, place)
            """,
            [list(content_ids)],
        )
        connection.execute("grant select on monitoring.orphan_content_ids to loader")


def backfill(api: EmulatedApi, loader: Loader, run_id: str = "backfill-1", **options: Any) -> BackfillResult:
    credentials = DmmCredentials("some-api-id", "someone-990")
    with DmmClient(credentials, api.base_url, requests_per_second=None, backoff=0.001, longest_backoff=0.002) as client:
        return backfill_orphans(loader, DmmSource(client, "FANZA"), run_id=run_id, **options)


def look(warehouse: DatabaseSettings, query: str) -> list[tuple[Any, ...]]:
    with connect(warehouse) as connection:
        return connection.execute(query).fetchall()


def test_exactly_the_orphans_are_asked_for_the_most_wanted_first(
    world: World, warehouse: DatabaseSettings, loader: Loader
) -> None:
    known = [str(content_id) for content_id in world.content_ids[[5, 900]]]
    orphans(warehouse, known[1], "nobody00001", known[0])
    with EmulatedApi(world) as api:
        result = backfill(api, loader)
        assert api.requests == {"ItemList": 3}
    assert (result.orphans, result.asked, result.found, result.unknown) == (3, 3, 2, 1)
    assert (result.offered, result.added) == (2, 2)
    asked = look(warehouse, "select content_id, items_found from raw_dmm.lookups order by lookup_id")
    assert asked == [(known[1], 1), ("nobody00001", 0), (known[0], 1)]
    assert {c for (c,) in look(warehouse, "select content_id from raw_dmm.items")} == set(known)
    assert {c for (c,) in look(warehouse, "select content_id from raw_dmm.item_sightings")} == set(known)
    assert look(warehouse, "select kind, state, counts ->> 'added' from raw_dmm.syncs") == [
        ("backfill", "complete", "2")
    ]


def test_an_id_that_nobody_knows_is_left_alone_for_a_while(
    world: World, warehouse: DatabaseSettings, loader: Loader
) -> None:
    orphans(warehouse, "nobody00001")
    with EmulatedApi(world) as api:
        assert backfill(api, loader).asked == 1
        again = backfill(api, loader, "backfill-2")
        assert (again.orphans, again.asked) == (1, 0)
        assert backfill(api, loader, "backfill-3", ask_again_after=timedelta(0)).asked == 1


def test_an_interrupted_backfill_keeps_what_it_has_and_asks_for_the_rest(
    world: World, warehouse: DatabaseSettings, loader: Loader
) -> None:
    wanted = [str(content_id) for content_id in world.content_ids[:6]]
    orphans(warehouse, *wanted)
    with EmulatedApi(world, faults=[Fault("http_500", requests=frozenset(range(4, 100)))]) as api:
        with pytest.raises(TransientSourceError):
            backfill(api, loader)
        assert look(warehouse, "select state from raw_dmm.syncs") == [("failed",)]
        api.server.faults = ()
        assert backfill(api, loader, "backfill-2").asked == 3
    assert {c for (c,) in look(warehouse, "select content_id from raw_dmm.items")} == set(wanted)


def test_an_answer_that_cannot_be_read_is_quarantined_and_counted(
    world: World, warehouse: DatabaseSettings, loader: Loader
) -> None:
    orphans(warehouse, str(world.content_ids[0]))
    with EmulatedApi(world, faults=[Fault("bad_date")]) as api:
        result = backfill(api, loader)
    assert result.quarantined_by_reason == {"bad_date": 1}
    assert (result.found, result.offered, result.added) == (0, 1, 0)


def test_without_a_dbt_build_it_says_what_to_do(world: World, loader: Loader) -> None:
    with EmulatedApi(world) as api, pytest.raises(LandingError, match="run build_features first"):
        backfill(api, loader)

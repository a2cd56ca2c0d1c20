"""The source's lists land whole or not at all, twice is once, a change is one row, and a person is a name."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from orchestration.landing.emulator.server import EmulatedApi, Fault
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import LandingError, SourceError
from orchestration.landing.pulls.masters import MastersResult, sync_masters
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect
from orchestration.warehouse.locks import holding

pytestmark = pytest.mark.warehouse

API_ID, AFFILIATE_ID = "SENTINELAPIID123", "sentinelaffiliate-990"
PLACES = (Place("FANZA", "digital", "videoa"), Place("FANZA", "digital", "videoc"))
LISTS = ("GenreSearch", "MakerSearch", "SeriesSearch", "AuthorSearch")
Loader = Callable[[], psycopg.Connection[Any]]
Spoil = Callable[[str, dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def api() -> Iterator[EmulatedApi]:
    world: World = build_world("small")
    with EmulatedApi(world) as running:
        yield running


class SpoiledClient(DmmClient):
    """A client whose answers may be changed before anybody sees them."""

    spoil: Spoil = staticmethod(lambda endpoint, result: result)

    def fetch(self, endpoint: str, parameters: Any = None) -> dict[str, Any]:
        return self.spoil(endpoint, super().fetch(endpoint, parameters))


def client_of(api: EmulatedApi) -> SpoiledClient:
    pace: dict[str, Any] = {"requests_per_second": None, "backoff": 0.001, "longest_backoff": 0.002, "max_attempts": 2}
    return SpoiledClient(DmmCredentials(API_ID, AFFILIATE_ID), api.base_url, **pace)


def pull(api: EmulatedApi, loader: Loader, run_id: str, spoil: Spoil | None = None, **options: Any) -> MastersResult:
    with client_of(api) as client:
        if spoil is not None:
            client.spoil = spoil
        return sync_masters(loader, client, run_id=run_id, **{"places": PLACES} | options)


def listed(api: EmulatedApi, endpoint: str, floor_id: str) -> int:
    with client_of(api) as client:
        return int(client.fetch(endpoint, {"floor_id": floor_id, "hits": "1"})["total_count"])


def ids_of(api: EmulatedApi) -> dict[str, str]:
    with client_of(api) as client:
        sites = client.fetch("FloorList")["site"]
    return {
        f"{site['code']} {service['code']}/{floor['code']}": floor["id"]
        for site in sites
        for service in site["service"]
        for floor in service["floor"]
    }


def test_every_list_of_the_wanted_floors_lands_once_and_the_pull_is_recorded(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    seen: list[tuple[int, int | None]] = []
    result = pull(api, loader, "m-1", on_progress=lambda done, total: seen.append((done, total)))
    floors = ids_of(api)
    wanted = {floors[f"{place.site} {place}"] for place in PLACES}
    assert dict(look("select floor_id, count(*) from raw_dmm.masters where kind = 'floor' group by 1")) == {
        "": len(floors)
    }
    kinds = dict(zip(LISTS, ("genre", "maker", "series", "author"), strict=True))
    for endpoint, kind in kinds.items():
        counts = dict(look(f"select floor_id, count(*) from raw_dmm.masters where kind = '{kind}' group by 1"))
        assert counts == {floor: n for floor in wanted if (n := listed(api, endpoint, floor))}
    people = look("select floor_id, payload from raw_dmm.masters where kind = 'actress'")
    assert len(people) == listed(api, "ActressSearch", "")
    assert {floor for floor, _ in people} == {""}
    assert result.lists == 2 + len(PLACES) * len(LISTS)
    assert result.offered == result.added == look("select count(*) from raw_dmm.masters")[0][0]
    assert (result.unchanged, result.quarantined, result.retries) == (0, 0, 0)
    assert seen[-1] == (result.lists, result.lists)
    [(kind, state, purpose, floors_read, counts)] = look(
        "select kind, state, purpose, floors, counts from raw_dmm.syncs where run_id = 'm-1'"
    )
    assert (kind, state, floors_read) == ("masters", "complete", ["videoa", "videoc"])
    assert purpose == "lists of FANZA digital/videoa, FANZA digital/videoc, and performers"
    assert (counts["offered"], counts["added"], counts["quarantined_by_reason"]) == (result.offered, result.added, {})


def test_floors_of_one_name_on_two_sites_have_lists_of_their_own(api: EmulatedApi, loader: Loader, look: Any) -> None:
    places = [Place(site, "ebook", "comic") for site in ("FANZA", "DMM.com")]
    pull(api, loader, "m-1", places=places)
    floors = ids_of(api)
    wanted = {floors[f"{place.site} {place}"] for place in places}
    counts = dict(look("select floor_id, count(*) from raw_dmm.masters where kind = 'author' group by 1"))
    assert counts == {floor_id: listed(api, "AuthorSearch", floor_id) for floor_id in wanted}
    assert all(counts.values())
    assert look("select site, service, floors from raw_dmm.syncs") == [(None, "ebook", ["comic"])]


def test_no_id_of_ours_is_landed_and_links_keep_a_placeholder(api: EmulatedApi, loader: Loader, look: Any) -> None:
    pull(api, loader, "m-1")
    text = str(look("select payload::text from raw_dmm.masters")) + str(look("select s::text from raw_dmm.syncs as s"))
    assert API_ID not in text
    assert AFFILIATE_ID not in text
    assert "af_id={af_id}" in text


def test_a_floor_row_says_in_codes_and_names_what_it_is(api: EmulatedApi, loader: Loader, look: Any) -> None:
    pull(api, loader, "m-1")
    floor_id = ids_of(api)["FANZA digital/videoa"]
    [(payload,)] = look(f"select payload from raw_dmm.masters where kind = 'floor' and entity_id = '{floor_id}'")
    assert (payload["site_code"], payload["service_code"], payload["floor_code"]) == ("FANZA", "digital", "videoa")
    assert all(payload[name] for name in ("site_name", "service_name", "floor_name"))


def test_again_adds_nothing_and_a_renamed_entity_adds_one_row(api: EmulatedApi, loader: Loader, look: Any) -> None:
    first = pull(api, loader, "m-1")
    again = pull(api, loader, "m-2")
    assert (again.added, again.unchanged) == (0, first.offered)

    def renamed(endpoint: str, result: dict[str, Any]) -> dict[str, Any]:
        if endpoint == "MakerSearch" and result["floor_code"] == "videoa":
            result["maker"][0]["name"] = "新しい工房"
        return result

    third = pull(api, loader, "m-3", renamed)
    assert (third.added, third.unchanged) == (1, first.offered - 1)
    assert look("select payload ->> 'name' from raw_dmm.masters where run_id = 'm-3'") == [("新しい工房",)]
    # The old name is history; getting it back is news again.
    assert pull(api, loader, "m-4").added == 1


def test_what_else_a_performers_row_holds_is_neither_landed_nor_hashed_nor_quarantined(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    def with_body(size: str) -> Spoil:
        def spoil(endpoint: str, result: dict[str, Any]) -> dict[str, Any]:
            for row in result.get("actress", []):
                row |= {
                    "bust": size,
                    "birthday": f"2000-01-{size}",
                    "imageURL": {"small": f"https://img.example/{size}"},
                }
            if endpoint == "ActressSearch" and result["first_position"] == 1:
                result["actress"][0]["name"] = ""
            return result

        return spoil

    first = pull(api, loader, "m-1", with_body("17"))
    assert first.quarantined_by_reason == {"missing_name": 1}
    keys = look("select distinct jsonb_object_keys(payload) from raw_dmm.masters where kind = 'actress' order by 1")
    assert keys == [("id",), ("listURL",), ("name",), ("ruby",)]
    [(kept,)] = look("select payload from raw_dmm.quarantine where kind = 'master'")
    assert set(json.loads(kept)) <= {"id", "name", "ruby", "listURL"}
    second = pull(api, loader, "m-2", with_body("18"))
    assert (second.added, second.quarantined) == (0, 1)
    assert look("select count(*) from raw_dmm.quarantine") == [(1,)]


def test_rows_that_cannot_be_read_are_quarantined_and_the_rest_lands(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    def spoil(endpoint: str, result: dict[str, Any]) -> dict[str, Any]:
        if endpoint == "GenreSearch" and result["floor_code"] == "videoa":
            result["genre"][0].pop("genre_id")
            result["genre"][1]["genre_id"] = "12_ruby"
            result["genre"][2]["name"] = "旅\x00"
        return result

    result = pull(api, loader, "m-1", spoil)
    assert result.quarantined_by_reason == {"missing_genre_id": 1, "bad_genre_id": 1, "nul_character": 1}
    assert result.offered == result.added + result.quarantined
    origin = f"dmm:genre:{ids_of(api)['FANZA digital/videoa']}"
    assert look("select distinct kind, origin, run_id from raw_dmm.quarantine") == [("master", origin, "m-1")]
    [(counts,)] = look("select counts from raw_dmm.syncs")
    assert counts["quarantined_by_reason"] == dict(result.quarantined_by_reason)


def test_a_list_of_which_nothing_can_be_read_is_kept_in_quarantine_and_fails(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    def renamed_key(endpoint: str, result: dict[str, Any]) -> dict[str, Any]:
        for row in result.get("genre", []):
            row["genreId"] = row.pop("genre_id")
        return result

    with pytest.raises(LandingError, match=r"GenreSearch of FANZA digital/videoa: none of its \d+ rows could be read"):
        pull(api, loader, "m-1", renamed_key)
    assert look("select count(*) from raw_dmm.quarantine")[0][0] > 0
    assert look("select state from raw_dmm.syncs") == [("failed",)]


def test_an_incomplete_list_fails_by_name_and_leaves_nothing_of_itself(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    def more_announced(endpoint: str, result: dict[str, Any]) -> dict[str, Any]:
        if endpoint == "ActressSearch" and int(result["total_count"]) < result["first_position"] + 100:
            result["actress"][-1] = result["actress"][0]
        return result

    with pytest.raises(LandingError, match=r"^ActressSearch: \d+ different ids seen, \d+ announced, after reading"):
        pull(api, loader, "m-1", more_announced)
    assert look("select count(*) from raw_dmm.masters where kind = 'actress'") == [(0,)]
    assert look("select count(*) > 0 from raw_dmm.masters where kind = 'series'") == [(True,)]
    [(state, error)] = look("select state, error from raw_dmm.syncs")
    assert state == "failed"
    assert error.startswith("ActressSearch: ")
    pull(api, loader, "m-1")
    assert look("select state, error from raw_dmm.syncs") == [("complete", None)]


@pytest.mark.parametrize("name", ["http_500", "http_403", "missing_result", "timeout"])
def test_an_outage_fails_the_run_and_says_where(api: EmulatedApi, loader: Loader, look: Any, name: str) -> None:
    start = sum(api.requests.values())
    api.server.faults = (Fault(name, requests=frozenset(range(start + 4, start + 100))),)
    api.server.timeout_seconds = 0.01
    try:
        with pytest.raises(SourceError, match=r"^FANZA digital/videoa: SeriesSearch: "):
            pull(api, loader, "m-1")
    finally:
        api.server.faults = ()
    assert look("select state from raw_dmm.syncs") == [("failed",)]
    # What came before the outage stands; what came after was not touched.
    assert set(look("select distinct kind from raw_dmm.masters")) == {("floor",), ("genre",), ("maker",)}


def emptied(endpoint: str, key: str) -> Spoil:
    def spoil(asked: str, result: dict[str, Any]) -> dict[str, Any]:
        if asked != endpoint:
            return result
        return {name: value for name, value in result.items() if name != key} | {"result_count": 0, "total_count": "0"}

    return spoil


def test_a_list_that_has_become_empty_is_an_error_and_never_the_end_of_the_data(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    pull(api, loader, "m-1", emptied("GenreSearch", "genre"))  # a floor that never had any may have none
    pull(api, loader, "m-2")
    before = look("select count(*) from raw_dmm.masters")
    with pytest.raises(LandingError, match=r"^GenreSearch of FANZA digital/videoa: it holds nothing, although it has"):
        pull(api, loader, "m-3", emptied("GenreSearch", "genre"))
    with pytest.raises(LandingError, match=r"^FloorList: it holds no floor$"):
        pull(api, loader, "m-4", lambda endpoint, result: {} if endpoint == "FloorList" else result)
    assert look("select count(*) from raw_dmm.masters") == before


def test_a_floor_nobody_offers_is_refused_before_any_list_is_asked_for(api: EmulatedApi, loader: Loader) -> None:
    before = sum(api.requests.values())
    with pytest.raises(LandingError, match=r"FANZA has no floor digital/videox; digital offers .*videoa, videoc"):
        pull(api, loader, "m-1", places=[Place("FANZA", "digital", "videox")])
    with pytest.raises(LandingError, match="FANZA has no floor nowhere/videoa; nowhere is not offered either"):
        pull(api, loader, "m-2", places=[Place("FANZA", "nowhere", "videoa")])
    assert sum(api.requests.values()) == before + 2


def test_two_pulls_of_the_lists_do_not_run_at_once(
    api: EmulatedApi, loader: Loader, warehouse: DatabaseSettings
) -> None:
    with (
        connect(warehouse, "loader", autocommit=True) as other,
        holding(other, "pull of masters from source 'dmm'"),
        pytest.raises(LandingError, match="another pull of masters from source 'dmm' is running"),
    ):
        pull(api, loader, "m-1", lock_timeout=0.1)

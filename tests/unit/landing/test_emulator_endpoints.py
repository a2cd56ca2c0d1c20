"""The floors and the master searches answer in the odd shapes of the real API, and agree with what the items say."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from orchestration.landing.emulator.departments import FLOORS
from orchestration.landing.emulator.server import EmulatedApi
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.items.models import Item, check_item

CLIENT = httpx.Client(timeout=10)
IDS = {"api_id": "EXAMPLEAPIID", "affiliate_id": "example-990"}
VIDEOA, VIDEOC, NIKKATSU, ANIME, COMIC, GENERAL_COMIC = "43", "44", "45", "46", "82", "19"
ENTITIES = {"genre": "GenreSearch", "maker": "MakerSearch", "series": "SeriesSearch", "author": "AuthorSearch"}


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


@pytest.fixture(scope="module")
def api(world: World) -> Iterator[EmulatedApi]:
    with EmulatedApi(world) as emulated:
        yield emulated


def ask(api: EmulatedApi, endpoint: str, **parameters: str) -> httpx.Response:
    return CLIENT.get(f"{api.base_url}/{endpoint}", params=IDS | parameters)


def result_of(api: EmulatedApi, endpoint: str, **parameters: str) -> dict[str, Any]:
    response = ask(api, endpoint, **parameters)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


def items_of(api: EmulatedApi, site: str, service: str, floor: str, **more: str) -> list[dict[str, Any]]:
    place = {"site": site, "service": service, "floor": floor, "hits": "100", "sort": "date"} | more
    items: list[dict[str, Any]] = []
    while True:
        page = result_of(api, "ItemList", offset=str(len(items) + 1), **place)
        items += page["items"]
        if len(items) >= page["total_count"]:
            return items


def searched(api: EmulatedApi, kind: str, floor_id: str) -> dict[int, str]:
    """Return all entities of a kind on a floor, by id."""
    found: dict[int, str] = {}
    while True:
        page = result_of(api, ENTITIES[kind], floor_id=floor_id, hits="40", offset=str(len(found) + 1))
        found |= {int(row[f"{kind}_id"]): row["name"] for row in page.get(kind, [])}
        if len(found) >= int(page["total_count"]):
            return found


def test_the_floor_list_has_two_sites_and_no_status(api: EmulatedApi) -> None:
    result = result_of(api, "FloorList")
    assert list(result) == ["site"]
    listed = {
        (site["code"], service["code"], floor["code"], floor["id"])
        for site in result["site"]
        for service in site["service"]
        for floor in service["floor"]
    }
    assert listed == {(floor.site, floor.service, floor.code, str(floor.number)) for floor in FLOORS}
    assert ("DMM.com", "ebook", "comic", "19") in listed
    assert len({number for *_, number in listed}) == len(listed)


def test_items_stand_on_the_floor_that_lists_them_and_no_id_is_used_twice(api: EmulatedApi) -> None:
    seen: list[str] = []
    for floor in FLOORS:
        items = items_of(api, floor.site, floor.service, floor.code)
        assert {(item["service_code"], item["floor_code"]) for item in items} <= {(floor.service, floor.code)}
        assert all(isinstance(check_item(item), Item) for item in items)
        seen += [item["content_id"] for item in items]
        assert bool(items) == (str(floor.number) not in (NIKKATSU, "74", "21", "25"))
    assert len(set(seen)) == len(seen)


def test_a_site_lists_all_its_floors_together(api: EmulatedApi) -> None:
    codes = ("videoa", "videoc", "anime")
    together = result_of(api, "ItemList", site="FANZA", service="digital", hits="1")["total_count"]
    assert together == sum(len(items_of(api, "FANZA", "digital", code)) for code in codes)
    everything = result_of(api, "ItemList", site="FANZA", hits="1")["total_count"]
    assert everything == together + len(items_of(api, "FANZA", "ebook", "comic"))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ({"site": "DMM.com", "service": "digital"}, "service"),
        ({"site": "DMM.com", "service": "ebook", "floor": "photo"}, "floor"),
        ({"site": "FANZA", "floor": "videoa"}, "floor"),
        ({"site": "DMM.R18"}, "site"),
    ],
)
def test_a_place_that_does_not_exist_is_refused_by_name(api: EmulatedApi, place: dict[str, str], name: str) -> None:
    response = ask(api, "ItemList", **place)
    assert response.status_code == response.json()["result"]["status"] == 400
    assert list(response.json()["result"]["errors"]) == [name]


@pytest.mark.parametrize("site", ["FANZA", "DMM.com"])
def test_comics_have_pages_publishers_and_authors(api: EmulatedApi, site: str) -> None:
    items = items_of(api, site, "ebook", "comic")
    assert len(items) > 100
    assert all(item["volume"].isdigit() for item in items if "volume" in item)
    assert all(item["number"].isdigit() for item in items)
    kinds = {kind for item in items for kind in item["iteminfo"]}
    assert {"manufacture", "author", "genre", "series", "label"} == kinds
    assert any("/" in item["date"] for item in items)
    with_preview = [item for item in items if "tachiyomi" in item]
    assert all("af_id=example-990" in item["tachiyomi"]["affiliateURL"] for item in with_preview)
    assert with_preview
    assert not any("sampleMovieURL" in item for item in items)


def test_anime_has_minutes_and_no_performers(api: EmulatedApi) -> None:
    items = items_of(api, "FANZA", "digital", "anime")
    assert all(item["volume"].isdigit() for item in items if "volume" in item)
    kinds = {kind for item in items for kind in item["iteminfo"]}
    assert "maker" in kinds
    assert "actress" not in kinds


@pytest.mark.parametrize(
    ("place", "floor_id"),
    [
        (("FANZA", "digital", "videoc"), VIDEOC),
        (("FANZA", "digital", "anime"), ANIME),
        (("FANZA", "ebook", "comic"), COMIC),
        (("DMM.com", "ebook", "comic"), GENERAL_COMIC),
    ],
)
def test_master_searches_name_what_the_items_name(api: EmulatedApi, place: tuple[str, str, str], floor_id: str) -> None:
    items = items_of(api, *place)
    for kind, key in (("genre", "genre"), ("series", "series"), ("author", "author"), ("maker", "maker")):
        if kind == "maker" and place[1] == "ebook":
            key = "manufacture"
        named = {row["id"]: row["name"] for item in items for row in item["iteminfo"].get(key, [])}
        known = searched(api, kind, floor_id)
        assert named.items() <= known.items()
        assert bool(known) == (kind != "author" or place[1] == "ebook")


def test_a_master_search_writes_status_and_total_as_text_and_tells_its_floor(api: EmulatedApi) -> None:
    result = result_of(api, "AuthorSearch", floor_id=COMIC, hits="3", offset="2")
    (first, *_), total = result.pop("author"), result.pop("total_count")
    assert isinstance(total, str)
    assert int(total) > 3
    assert result == {
        **{"status": "200", "result_count": 3, "first_position": 2, "site_name": "FANZA", "site_code": "FANZA"},
        **{"service_name": "電子書籍", "service_code": "ebook"},
        **{"floor_id": "82", "floor_name": "コミック", "floor_code": "comic"},
    }
    assert set(first) == {"author_id", "name", "ruby", "list_url"}
    assert isinstance(first["author_id"], str)
    assert first["list_url"].endswith("af_id=example-990")


@pytest.mark.parametrize("endpoint", ENTITIES.values())
def test_a_floor_without_entities_has_no_array_at_all(api: EmulatedApi, endpoint: str) -> None:
    result = result_of(api, endpoint, floor_id=NIKKATSU)
    assert (result["status"], result["total_count"], result["result_count"]) == ("200", "0", 0)
    assert result["floor_code"] == "nikkatsu"
    assert not any(isinstance(value, list) for value in result.values())
    assert ask(api, endpoint).status_code == ask(api, endpoint, floor_id="999").status_code == 400


def test_performers_come_with_more_than_is_kept_and_without_a_floor(api: EmulatedApi, world: World) -> None:
    seen: dict[str, dict[str, Any]] = {}
    total = 1
    while len(seen) < total:
        result = result_of(api, "ActressSearch", hits="100", offset=str(len(seen) + 1))
        assert "floor_id" not in result
        seen |= {row["id"]: row for row in result["actress"]}
        total = int(result["total_count"])
    named = {
        str(row["id"]): (row["name"], row["ruby"])
        for index in range(world.item_count)
        for row in world.item_json(index, day=100)["iteminfo"].get("actress", [])
    }
    assert {number: (row["name"], row["ruby"]) for number, row in seen.items()} == named
    assert {row["height"] is None for row in seen.values()} == {True, False}
    assert all(
        set(row)
        == {"id", "name", "ruby", "height", "birthday", "blood_type", "hobby", "prefectures", "imageURL", "listURL"}
        for row in seen.values()
    )
    assert all("af_id=example-990" in link for row in seen.values() for link in row["listURL"].values())


def test_performers_can_be_looked_up_sorted_and_narrowed(api: EmulatedApi) -> None:
    (first, second, *_) = result_of(api, "ActressSearch")["actress"]
    assert result_of(api, "ActressSearch", actress_id=second["id"])["actress"] == [second]
    assert first in result_of(api, "ActressSearch", keyword=first["name"])["actress"]
    last = result_of(api, "ActressSearch", sort="-id")["actress"]
    assert [int(row["id"]) for row in last] == sorted((int(row["id"]) for row in last), reverse=True)
    ruby = [row["ruby"] for row in result_of(api, "ActressSearch", sort="name", hits="100")["actress"]]
    assert ruby == sorted(ruby)
    narrowed = result_of(api, "ActressSearch", initial=first["ruby"][0])["actress"]
    assert {row["ruby"][0] for row in narrowed} == {first["ruby"][0]}
    assert "actress" not in result_of(api, "ActressSearch", initial="ん")
    assert ask(api, "ActressSearch", sort="height").status_code == 400
    assert ask(api, "ActressSearch", actress_id="x").status_code == 400


def test_an_item_is_found_by_its_id_wherever_it_stands(api: EmulatedApi) -> None:
    comic = items_of(api, "FANZA", "ebook", "comic")[5]
    assert result_of(api, "ItemList", site="FANZA", cid=comic["content_id"])["items"] == [comic]
    assert result_of(api, "ItemList", site="DMM.com", cid=comic["content_id"])["items"] == []
    assert result_of(api, "ItemList", site="FANZA", service="digital", cid=comic["content_id"])["total_count"] == 0


def test_filters_name_entities_of_their_floor(api: EmulatedApi) -> None:
    comics = items_of(api, "FANZA", "ebook", "comic")
    author = next(row["id"] for item in comics for row in item["iteminfo"].get("author", []))
    wanted = [c for c in comics if author in [row["id"] for row in c["iteminfo"].get("author", [])]]
    by_author = {"article": "author", "article_id": str(author)}
    assert items_of(api, "FANZA", "ebook", "comic", **by_author) == wanted
    assert result_of(api, "ItemList", site="FANZA", service="digital", **by_author)["total_count"] == 0
    publisher = wanted[0]["iteminfo"]["manufacture"][0]["id"]
    both = by_author | {"article[1]": "maker", "article_id[1]": str(publisher)}
    narrowed = items_of(api, "FANZA", "ebook", "comic", **both)
    assert wanted[0] in narrowed
    assert all(item in wanted and item["iteminfo"]["manufacture"][0]["id"] == publisher for item in narrowed)


def test_further_floors_can_be_left_empty(world: World) -> None:
    with EmulatedApi(world, has_further_floors=False) as bare:
        assert items_of(bare, "FANZA", "ebook", "comic") == []
        assert "author" not in result_of(bare, "AuthorSearch", floor_id=COMIC)
        assert len(items_of(bare, "FANZA", "digital", "videoa")) > 1_000


def test_the_video_floors_are_the_same_with_and_without_further_floors(api: EmulatedApi, world: World) -> None:
    with EmulatedApi(world, has_further_floors=False) as bare:
        for sort in ("date", "rank", "-price", "review"):
            alone, among = (
                [item["content_id"] for item in items_of(one, "FANZA", "digital", "videoc", sort=sort)]
                for one in (bare, api)
            )
            assert alone == among

"""A day's ranking is written whole, once, on its day, and its pages are a re-read of the items on them."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from orchestration.landing.emulator.server import EmulatedApi, Fault
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import LandingError, TransientSourceError
from orchestration.landing.pulls.rankings import RankingsResult, sync_rankings
from orchestration.landing.sources.contract import Place
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials
from orchestration.landing.windows import JAPAN
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect
from orchestration.warehouse.locks import holding

pytestmark = pytest.mark.warehouse

API_ID, AFFILIATE_ID = "SENTINELAPIID123", "sentinelaffiliate-990"
VIDEOA, VIDEOC = Place("FANZA", "digital", "videoa"), Place("FANZA", "digital", "videoc")
NOON = datetime(2026, 7, 1, 12, tzinfo=JAPAN)
Loader = Callable[[], psycopg.Connection[Any]]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


@pytest.fixture(scope="module")
def api(world: World) -> Iterator[EmulatedApi]:
    with EmulatedApi(world) as running:
        yield running


def client_of(api: EmulatedApi) -> DmmClient:
    pace: dict[str, Any] = {"requests_per_second": None, "backoff": 0.001, "longest_backoff": 0.002, "max_attempts": 2}
    return DmmClient(DmmCredentials(API_ID, AFFILIATE_ID), api.base_url, **pace)


def pull(api: EmulatedApi, loader: Loader, run_id: str = "r-1", **options: Any) -> RankingsResult:
    given = {"places": [VIDEOA, VIDEOC], "top": 150, "clock": lambda: NOON} | options
    with client_of(api) as client:
        return sync_rankings(loader, client, run_id=run_id, **given)


def order(api: EmulatedApi, floor: str) -> list[str]:
    ids: list[str] = []
    total = 1
    with client_of(api) as client:
        while len(ids) < total:
            page = client.page(site="FANZA", service="digital", floor=floor, sort="rank", offset=len(ids) + 1)
            ids, total = ids + [item["content_id"] for item in page.items], page.total_count
    return ids


def test_the_first_positions_of_each_floor_land_in_their_order(api: EmulatedApi, loader: Loader, look: Any) -> None:
    seen: list[tuple[int, int | None]] = []
    result = pull(api, loader, on_progress=lambda done, total: seen.append((done, total)))
    for floor in ("videoa", "videoc"):
        ranked = look(f"select rank, content_id from raw_dmm.rankings where floor = '{floor}' order by 1")
        assert ranked == list(enumerate(order(api, floor)[:150], start=1))
    assert (result.floors, result.skipped, result.ranked) == (2, 0, len(look("select from raw_dmm.rankings")))
    assert result.ranked_on == date(2026, 7, 1)
    assert look("select distinct source, service, ranked_on, run_id from raw_dmm.rankings") == [
        ("dmm", "digital", date(2026, 7, 1), "r-1")
    ]
    assert seen[-1] == (2, 2)


def test_a_floor_with_fewer_items_is_ranked_to_its_end(api: EmulatedApi, loader: Loader, look: Any) -> None:
    everything = order(api, "videoc")
    result = pull(api, loader, places=[VIDEOC], top=len(everything) + 500)
    assert result.ranked == len(everything)
    assert result.requests == -(-len(everything) // 100)


def test_the_pages_are_a_re_read_of_their_items(world: World, api: EmulatedApi, loader: Loader, look: Any) -> None:
    first = pull(api, loader)
    assert (first.added, first.unchanged, first.quarantined) == (first.offered, 0, 0)
    assert look("select count(*), count(distinct content_id) from raw_dmm.items") == [(first.offered,) * 2]
    with EmulatedApi(world, day=3) as later:
        second = pull(later, loader, "r-2", clock=lambda: NOON + timedelta(days=3))
    assert second.offered == second.added + second.unchanged
    assert second.added > 0
    assert look("select count(*) from raw_dmm.items") == [(first.added + second.added,)]
    assert look("select array_agg(distinct ranked_on order by ranked_on) from raw_dmm.rankings") == [
        ([date(2026, 7, 1), date(2026, 7, 4)],)
    ]
    text = str(look("select payload::text from raw_dmm.items limit 50"))
    assert "af_id={af_id}" in text
    assert AFFILIATE_ID not in text


def test_a_day_is_written_once_and_asked_for_once(world: World, api: EmulatedApi, loader: Loader, look: Any) -> None:
    pull(api, loader, places=[VIDEOA])
    before = look("select rank, content_id, run_id from raw_dmm.rankings order by 1")
    with EmulatedApi(world, day=9) as later:  # another order, the same day
        again = pull(later, loader, "r-2")
        assert later.requests == {"ItemList": again.requests}
        assert (again.floors, again.skipped) == (1, 1)
        third = pull(later, loader, "r-3")
        assert (third.floors, third.skipped, third.requests) == (0, 2, 0)
    assert look("select rank, content_id, run_id from raw_dmm.rankings where floor = 'videoa' order by 1") == before


@pytest.mark.parametrize("day", [date(2026, 6, 30), date(2026, 7, 2)])
def test_another_day_than_today_in_japan_is_refused_before_any_request(
    api: EmulatedApi, loader: Loader, look: Any, day: date
) -> None:
    start = sum(api.requests.values())
    message = f"^a ranking can only be asked for on its day: it is 2026-07-01 in Japan, not {day}$"
    with pytest.raises(LandingError, match=message):
        pull(api, loader, ranked_on=day)
    assert sum(api.requests.values()) == start
    assert look("select count(*) from raw_dmm.syncs") == [(0,)]


def test_the_day_is_japans_day(api: EmulatedApi, loader: Loader) -> None:
    late = datetime(2026, 6, 30, 15, 30, tzinfo=UTC)  # half past midnight in Japan
    assert pull(api, loader, places=[VIDEOC], top=1, clock=lambda: late).ranked_on == date(2026, 7, 1)
    assert pull(api, loader, "r-2", places=[VIDEOC], ranked_on=date(2026, 7, 1)).skipped == 1


def test_a_ranking_that_is_read_across_midnight_is_left_out(api: EmulatedApi, loader: Loader, look: Any) -> None:
    moments = iter([NOON.replace(hour=23, minute=59, second=58) + timedelta(seconds=n / 2) for n in range(1_000)])
    with pytest.raises(LandingError, match="it is 2026-07-02 in Japan, not 2026-07-01"):
        pull(api, loader, top=100, clock=lambda: next(moments))
    floors = {floor for (floor,) in look("select distinct floor from raw_dmm.rankings")}
    assert floors < {"videoa", "videoc"}
    assert look("select state from raw_dmm.syncs") == [("failed",)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing_title", "missing_title"), ("bad_id", "bad_content_id"), ("renamed_key", "missing_content_id")],
)
def test_a_row_that_cannot_be_read_is_quarantined_and_its_rank_stays_empty(
    world: World, loader: Loader, look: Any, name: str, reason: str
) -> None:
    with EmulatedApi(world, faults=[Fault(name, requests=frozenset([1]))]) as api:
        result = pull(api, loader, places=[VIDEOA])
        assert result.quarantined_by_reason == {reason: 1}
        assert result.ranked == 149
        right = dict(enumerate(order(api, "videoa")[:150], start=1))
    ranked = dict(look("select rank, content_id from raw_dmm.rankings"))
    assert ranked.items() <= right.items()
    assert look("select kind, origin, run_id from raw_dmm.quarantine") == [("item", "dmm:digital/videoa:rank", "r-1")]
    assert look("select counts -> 'quarantined_by_reason' from raw_dmm.syncs") == [({reason: 1},)]


def test_an_item_on_two_pages_has_one_rank(world: World, loader: Loader, look: Any) -> None:
    with EmulatedApi(world, faults=[Fault("duplicate_row", requests=frozenset([1]))]) as api:
        result = pull(api, loader, places=[VIDEOA])
        ids = order(api, "videoa")
    # The hundredth row came as the first again: it has no rank of its own and the rest closes up.
    expected = ids[:99] + ids[100:151]
    assert look("select rank, content_id from raw_dmm.rankings order by 1") == list(enumerate(expected, start=1))
    assert result.ranked == 150


def test_an_outage_leaves_no_half_ranking_and_the_next_call_goes_on(world: World, loader: Loader, look: Any) -> None:
    with EmulatedApi(world) as api:
        api.server.faults = (Fault("http_500", requests=frozenset(range(4, 100))),)
        with pytest.raises(TransientSourceError, match=r"^ranking of FANZA digital/videoc: ItemList: the API answered"):
            pull(api, loader)
        assert look("select distinct floor from raw_dmm.rankings") == [("videoa",)]
        [(state, error)] = look("select state, error from raw_dmm.syncs")
        assert (state, error[:10]) == ("failed", "ranking of")
        api.server.faults = ()
        assert pull(api, loader).skipped == 1
    assert look("select state, kind, purpose from raw_dmm.syncs") == [
        ("complete", "rankings", "top 150 of 2026-07-01 on FANZA digital/videoa, FANZA digital/videoc")
    ]
    assert look("select count(distinct floor) from raw_dmm.rankings") == [(2,)]


def test_an_empty_floor_and_an_impossible_length_are_errors(api: EmulatedApi, loader: Loader, look: Any) -> None:
    with pytest.raises(LandingError, match=r"^ranking of FANZA digital/nikkatsu: none of its 0 rows can be ranked$"):
        pull(api, loader, places=[Place("FANZA", "digital", "nikkatsu")])
    for top in (0, 50_000):
        with pytest.raises(LandingError, match="a ranking holds from 1 to 49999 ranks"):
            pull(api, loader, top=top)
    assert look("select count(*) from raw_dmm.rankings") == [(0,)]


def test_two_sites_with_a_floor_of_one_name_are_refused_because_one_would_hide_the_other(
    api: EmulatedApi, loader: Loader, look: Any
) -> None:
    places = [Place(site, "ebook", "comic") for site in ("FANZA", "DMM.com")]
    with pytest.raises(LandingError, match="can be ranked for one of them only"):
        pull(api, loader, places=places)
    assert look("select count(*) from raw_dmm.syncs") == [(0,)]


def test_two_pulls_of_rankings_do_not_run_at_once(
    api: EmulatedApi, loader: Loader, warehouse: DatabaseSettings
) -> None:
    with (
        connect(warehouse, "loader", autocommit=True) as other,
        holding(other, "pull of rankings from source 'dmm'"),
        pytest.raises(LandingError, match="another pull of rankings from source 'dmm' is running"),
    ):
        pull(api, loader, lock_timeout=0.1)

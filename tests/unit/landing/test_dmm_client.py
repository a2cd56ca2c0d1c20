"""The client against the emulated API over real HTTP: pages, every fault by name, and no id in any log or error."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from orchestration.landing.emulator.server import FAULTS, HTTP_FAULTS, EmulatedApi, Fault, parse_fault
from orchestration.landing.emulator.world import World, build_world
from orchestration.landing.errors import (
    CredentialsError,
    LandingError,
    PermanentSourceError,
    TransientSourceError,
)
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials
from orchestration.landing.windows import Window

API_ID, AFFILIATE_ID = "SENTINELAPIID123", "sentinelaffiliate-990"
PLACE = {"site": "FANZA", "service": "digital", "floor": "videoa"}

TRANSIENT = (
    *("http_429", "http_500", "http_502", "http_503", "timeout", "connection_reset", "truncated_json"),
    *("html_body", "missing_result", "status_in_body", "empty_page", "missing_row", "wrong_position"),
    *("missing_total", "missing_items", "wrong_content_type", "clock_skew"),
)
FOR_LATER = ("short_page", "duplicate_row", "items_object", "unknown_key", "renamed_key", "type_flip")
FOR_LATER += ("missing_title", "bad_date", "nul_character", "bad_id", "missing_key", "iteminfo_object")
FOR_LATER += ("numbers_as_strings", "total_as_string", "vanishing_row", "inserted_row", "slow_body")


@pytest.fixture(scope="module")
def world() -> World:
    return build_world("small")


@contextmanager
def client_of(api: EmulatedApi, **options: Any) -> Iterator[DmmClient]:
    settings: dict[str, Any] = {"requests_per_second": None, "backoff": 0.001, "longest_backoff": 0.002}
    with DmmClient(DmmCredentials(API_ID, AFFILIATE_ID), api.base_url, **settings | options) as client:
        yield client


@pytest.fixture(scope="module")
def calm(world: World) -> Iterator[EmulatedApi]:
    with EmulatedApi(world, cap=500) as api:
        yield api


def test_pages_of_a_query_hold_every_item_once(calm: EmulatedApi, world: World) -> None:
    window = Window(datetime(2026, 1, 1), datetime(2026, 5, 31, 23, 59, 59))  # noqa: DTZ001
    seen: list[str] = []
    with client_of(calm) as client:
        offset, total = 1, 1
        while offset <= total:
            page = client.page(**PLACE, window=window, offset=offset)
            seen += [item["content_id"] for item in page.items]
            offset, total = offset + page.result_count, page.total_count
        assert client.requests == (total + 99) // 100
    first, last = int(window.first_at.timestamp()), int(window.last_at.timestamp())
    inside = (world.floor == 0) & (world.released >= first) & (world.released <= last)
    assert sorted(seen) == sorted(world.content_ids[inside].tolist())
    assert total < 500


def test_the_window_includes_both_ends(calm: EmulatedApi, world: World) -> None:
    moment = int(world.released[world.floor == 0][0])
    second = Window.between(*(datetime.fromtimestamp(s).astimezone() for s in (moment, moment + 1)))
    expected = int(((world.floor == 0) & (world.released == moment)).sum())
    with client_of(calm) as client:
        assert client.page(**PLACE, window=second).total_count == expected


def test_the_total_saturates_at_the_cap_and_offsets_behind_it_are_refused(calm: EmulatedApi) -> None:
    with client_of(calm) as client:
        assert client.page(**PLACE, offset=500, hits=1).total_count == 500
        with pytest.raises(PermanentSourceError, match="400 \\(offset\\)"):
            client.page(**PLACE, offset=501)
        assert client.retries == 0


def test_the_emulator_echoes_the_ids_but_the_client_hands_on_only_the_result(calm: EmulatedApi) -> None:
    with client_of(calm) as client:
        assert "request" not in client.fetch("FloorList")


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_transient_fault_is_retried_and_then_the_page_arrives(world: World, name: str) -> None:
    fault = Fault(name, requests=frozenset({1, 2}))
    with EmulatedApi(world, faults=[fault], timeout_seconds=0.6, retry_after=0) as api:
        with client_of(api, timeout=0.25) as client:
            assert client.page(**PLACE).result_count == 100
            assert (client.requests, client.retries) == (3, 2)
        assert api.server.struck[name] == 2


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_fault_that_stays_ends_after_five_attempts(world: World, name: str) -> None:
    emulated = EmulatedApi(world, faults=[Fault(name)], timeout_seconds=0.3, retry_after=0)
    with emulated as api, client_of(api, timeout=0.05) as client:
        with pytest.raises(TransientSourceError, match="gave up after 5 attempts"):
            client.page(**PLACE)
        assert client.requests == 5


@pytest.mark.parametrize("name", FOR_LATER)
def test_a_fault_inside_the_rows_is_left_to_landing(world: World, name: str) -> None:
    with EmulatedApi(world, faults=[Fault(name)]) as api, client_of(api) as client:
        page = client.page(**PLACE)
        assert page.result_count == len(page.items) == (50 if name == "short_page" else 100)
        assert client.retries == 0


def test_a_body_that_only_drips_is_given_up_although_every_piece_is_in_time(world: World) -> None:
    emulated = EmulatedApi(world, faults=[Fault("slow_body", requests=frozenset({1}))], drip_seconds=0.05)
    with emulated as api, client_of(api, timeout=5, longest_answer=0.1) as client:
        assert client.page(**PLACE).result_count == 100
        assert client.retries == 1


def test_a_clock_that_differs_for_good_is_named(world: World) -> None:
    with (
        EmulatedApi(world, faults=[Fault("clock_skew")]) as api,
        client_of(api) as client,
        pytest.raises(TransientSourceError, match=r"our clock is 21[56]\d\d s behind the API's"),
    ):
        client.page(**PLACE)


def test_every_fault_has_a_test() -> None:
    assert {*TRANSIENT, *FOR_LATER, "http_401", "http_403"} == set(FAULTS)


@pytest.mark.parametrize("name", ["http_401", "http_403"])
def test_refused_credentials_are_not_retried(world: World, name: str) -> None:
    with EmulatedApi(world, faults=[Fault(name)]) as api, client_of(api) as client:
        with pytest.raises(CredentialsError, match=str(HTTP_FAULTS[name])):
            client.page(**PLACE)
        assert client.requests == 1


def test_ids_that_are_not_registered_are_refused(world: World) -> None:
    emulated = EmulatedApi(world, accepted=("anotherid", "another-990"))
    with emulated as api, client_of(api) as client, pytest.raises(CredentialsError, match="401"):
        client.page(**PLACE)


@pytest.mark.parametrize(
    ("api_id", "affiliate_id", "what"),
    [
        ("", AFFILIATE_ID, "api_id is missing"),
        (API_ID, " ", "affiliate_id is missing"),
        ("not an id", AFFILIATE_ID, "api_id is malformed"),
        (API_ID, "sentinel-001", "must end in -990 to -999"),
        (API_ID, "-990", "must end in -990 to -999"),
    ],
)
def test_malformed_ids_are_refused_before_any_request(api_id: str, affiliate_id: str, what: str) -> None:
    with pytest.raises(CredentialsError, match=what) as caught:
        DmmCredentials(api_id, affiliate_id)
    assert "sentinel" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"site": "nowhere"}, {"floor": "adult"}, {"service": "x"}, {"sort": "-date"}, {"hits": 101}]
)
def test_a_bad_parameter_is_permanent_and_named(calm: EmulatedApi, change: dict[str, Any]) -> None:
    with client_of(calm) as client:
        with pytest.raises(PermanentSourceError, match=next(iter(change))):
            client.page(**PLACE | change)
        assert client.requests == 1


def test_retry_after_is_honoured(world: World) -> None:
    waits: list[float] = []
    fault = Fault("http_429", requests=frozenset({1}))
    with EmulatedApi(world, faults=[fault], retry_after=7) as api, client_of(api, sleep=waits.append) as client:
        client.page(**PLACE)
    assert waits == [7.0]


def test_back_off_grows_and_is_jittered(world: World) -> None:
    waits: list[float] = []
    slow = {"sleep": waits.append, "backoff": 1.0, "longest_backoff": 60.0}
    with (
        EmulatedApi(world, faults=[Fault("http_500")]) as api,
        client_of(api, **slow) as client,
        pytest.raises(TransientSourceError),
    ):
        client.page(**PLACE)
    assert len(waits) == 4
    assert all(0 <= wait <= 2**n for n, wait in enumerate(waits))


def test_the_pace_is_kept(calm: EmulatedApi) -> None:
    waits: list[float] = []
    with client_of(calm, sleep=waits.append, requests_per_second=10.0) as client:
        for _ in range(3):
            client.page(**PLACE, hits=1)
    assert len(waits) == 2
    assert all(0 < wait <= 0.2 for wait in waits)


def test_the_request_budget_ends_the_run(calm: EmulatedApi) -> None:
    with client_of(calm, request_budget=2) as client:
        client.page(**PLACE)
        client.page(**PLACE)
        with pytest.raises(PermanentSourceError, match="budget of 2"):
            client.page(**PLACE)
    assert client.requests == 2


def test_nobody_listening_is_transient_and_says_so_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    credentials = DmmCredentials(API_ID, AFFILIATE_ID)
    with (
        DmmClient(credentials, f"http://127.0.0.1:{port}", requests_per_second=None, backoff=0.001) as client,
        pytest.raises(TransientSourceError, match="connection failed") as caught,
    ):
        client.page(**PLACE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", [None, *TRANSIENT, "http_401"])
def test_no_log_line_error_or_repr_holds_an_id(
    world: World, fault: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, logger=name)
    text = ""
    faults = [Fault(fault)] if fault else []
    emulated = EmulatedApi(world, faults=faults, timeout_seconds=0.3, retry_after=0)
    with emulated as api, client_of(api, timeout=0.05 if fault == "timeout" else 5.0) as client:
        try:
            client.page(**PLACE)
        except (TransientSourceError, CredentialsError) as error:
            seen: BaseException | None = error
            while seen is not None:
                text += f"{seen!r} {seen} {vars(seen)}"
                seen = seen.__cause__ or seen.__context__
        text += repr(client) + repr(client._credentials)
    text += "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert "httpcore" in {record.name.split(".")[0] for record in caplog.records}
    assert API_ID not in text
    assert AFFILIATE_ID not in text


def test_master_searches_answer_in_their_odd_shape(calm: EmulatedApi) -> None:
    with client_of(calm) as client:
        floors = client.fetch("FloorList")["site"][0]["service"][0]["floor"]
        ids = {floor["code"]: floor["id"] for floor in floors}
        for endpoint, array in (("GenreSearch", "genre"), ("MakerSearch", "maker"), ("SeriesSearch", "series")):
            result = client.fetch(endpoint, {"floor_id": ids["videoa"], "hits": "5"})
            assert result["status"] == "200"
            assert isinstance(result["total_count"], str)
            assert len(result[array]) == result["result_count"] == 5
        assert "author" not in client.fetch("AuthorSearch", {"floor_id": ids["videoa"]})
        assert client.fetch("ActressSearch", {"hits": "3"})["result_count"] == 3
        with pytest.raises(PermanentSourceError, match="floor_id"):
            client.fetch("GenreSearch", {"floor_id": "999"})
        with pytest.raises(PermanentSourceError, match="404"):
            client.fetch("NoSuchSearch")


def test_sorts_order_as_documented(calm: EmulatedApi) -> None:
    with client_of(calm) as client:
        dear, cheap, newest = (client.page(**PLACE, sort=sort).items for sort in ("price", "-price", "date"))
    amounts = [[int(item["prices"]["price"].rstrip("~")) for item in page] for page in (dear, cheap)]
    assert amounts[0] == sorted(amounts[0], reverse=True)
    assert amounts[1] == sorted(amounts[1])
    dates = [item["date"] for item in newest]
    assert dates == sorted(dates, reverse=True)
    assert dates[0] > "2026-07-01"


def test_filters_narrow_to_what_they_name(calm: EmulatedApi) -> None:
    with client_of(calm) as client:
        item = client.page(**PLACE, hits=1).items[0]
        maker = item["iteminfo"]["maker"][0]["id"]
        found = client.fetch("ItemList", PLACE | {"article": "maker", "article_id": str(maker), "hits": "100"})["items"]
        assert {row["iteminfo"]["maker"][0]["id"] for row in found} == {maker}
        assert client.fetch("ItemList", PLACE | {"cid": item["content_id"]})["total_count"] == 1


def test_links_carry_the_callers_id(calm: EmulatedApi) -> None:
    with client_of(calm) as client:
        item = client.page(**PLACE, hits=1, offset=100).items[0]
    assert f"af_id={AFFILIATE_ID}&" in item["affiliateURL"]


def test_a_taken_port_is_one_clear_line(calm: EmulatedApi, world: World) -> None:
    port = int(calm.base_url.split(":")[2].split("/")[0])
    with (
        pytest.raises(LandingError, match=f"port {port} on 127.0.0.1 is already in use"),
        EmulatedApi(world, port=port),
    ):
        pass


@pytest.mark.parametrize("text", ["nonsense", "http_500:2", "http_500:x"])
def test_a_fault_that_would_never_strike_is_refused(text: str) -> None:
    with pytest.raises(LandingError):
        parse_fault(text)


def test_faults_are_parsed_and_strike_at_their_rate(world: World) -> None:
    with EmulatedApi(world, faults=[parse_fault("http_500:0.3")], seed=5) as api, client_of(api) as client:
        for _ in range(60):
            client.page(**PLACE, hits=1)
        assert 0.15 < api.server.struck["http_500"] / client.requests < 0.45

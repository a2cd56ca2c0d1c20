"""An import accounts for every earlier row, adds nothing twice, refuses what it cannot read, and tells no password."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from orchestration.landing.errors import LandingError
from orchestration.landing.items.form import stable_id
from orchestration.landing.legacy import database as legacy
from orchestration.landing.legacy.database import LegacyResult, import_legacy
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect
from orchestration.warehouse.locks import holding

pytestmark = pytest.mark.warehouse

PASSWORD = "sentinel/pass@word:1"
SCHEMA = """
create table videos (
    id uuid primary key, external_id text, title text, description text, duration_seconds int, thumbnail_url text,
    preview_video_url text, sample_video_url text, price numeric, product_released_at timestamptz, maker text,
    label text, series text, director text, product_code text, source text, distribution_code text, maker_code text,
    image_urls jsonb, product_url text, created_at timestamptz not null default now()
);
create table tags (id uuid primary key, name text, tag_group_id uuid);
create table video_tags (video_id uuid, tag_id uuid);
create table performers (id uuid primary key, name text, name_kana text, fanza_actress_id int);
create table video_performers (video_id uuid, performer_id uuid);
create table user_video_decisions (user_id uuid, video_id uuid, decision_type text, created_at timestamptz);
create table profiles (user_id uuid primary key, created_at timestamptz, is_age_verified boolean);
"""
Loader = Callable[[], psycopg.Connection[Any]]


def key(name: str) -> UUID:
    return uuid5(UUID(int=0), name)


class Earlier:
    """The earlier database: a connection of its owner, and the address of a login that may only read it."""

    def __init__(self, database: DatabaseSettings, connection: psycopg.Connection[Any], login: str) -> None:
        self.connection = connection
        self.dsn = replace(database, user=login, password=PASSWORD).url()

    def run(self, query: str, *values: Any) -> None:
        self.connection.execute(query, values or None)  # type: ignore[arg-type]

    def insert(self, table: str, **row: Any) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, row))
        places = sql.SQL(", ").join(map(sql.Placeholder, row))
        self.connection.execute(
            sql.SQL("insert into {} ({}) values ({})").format(sql.Identifier(table), names, places), row
        )

    def grant(self) -> None:
        self.run("grant select on all tables in schema public to earlier_reader")


@pytest.fixture(scope="module")
def second(template: DatabaseSettings) -> Iterator[Earlier]:
    """A second database on the same server."""
    maintenance = replace(template, dbname="postgres")
    database = replace(template, dbname="earlier")
    with connect(maintenance, autocommit=True) as connection:
        connection.execute(sql.SQL("create role earlier_reader login password {}").format(sql.Literal(PASSWORD)))
        connection.execute("create database earlier")
        with connect(database, autocommit=True) as owner:
            yield Earlier(database, owner, "earlier_reader")
        connection.execute("drop database earlier with (force)")
        connection.execute("drop role earlier_reader")


@pytest.fixture
def empty(second: Earlier) -> Earlier:
    """The second database with nothing in it."""
    second.run("drop schema public cascade; create schema public; grant usage on schema public to earlier_reader")
    return second


@pytest.fixture
def earlier(empty: Earlier) -> Earlier:
    """The earlier database in its main form, with odd rows."""
    empty.run(SCHEMA)
    video: dict[str, Any] = {"title": "春の旅行だより", "product_released_at": "2026-01-10T01:00:53Z", "price": 1980}
    for n in range(5):
        empty.insert("videos", id=key(f"v{n}"), external_id=f"ABC{n:05d}", **video)
    empty.run(
        "update videos set maker = '甲 / 乙', series = 'シリーズ 春', duration_seconds = 5340, "
        "description = '短い紹介', "
        "product_url = 'https://r.example/?lurl=https%%3A%%2F%%2Fshop.example%%2F1&af_id=someone-990', "
        "sample_video_url = 'https://img.example/1.jpg', preview_video_url = 'https://player.example/1/', "
        "image_urls = '[\"https://img.example/2.jpg\"]', thumbnail_url = 'https://img.example/p.jpg' where id = %s",
        key("v0"),
    )
    empty.run("update videos set price = 0 where id = %s", key("v1"))
    odd = {"no id": {"external_id": None}, "no title": {"title": " "}, "no date": {"product_released_at": None}}
    odd |= {"bad id": {"external_id": "a b"}, "for ever": {"product_released_at": "infinity"}}
    for name, change in odd.items():
        empty.insert("videos", id=key(name), **{"external_id": name.replace(" ", "_"), **video, **change})
    empty.insert("videos", id=key("twin"), **video | {"external_id": "abc00004", "title": "若いほうの題"})
    empty.run("update videos set created_at = now() + interval '1 day' where id = %s", key("twin"))
    for name in ("旅", "雨", "使われない"):
        empty.insert("tags", id=key(name), name=name)
    empty.insert("performers", id=key("p1"), name="出演者 一", name_kana="しゅつえんしゃ", fanza_actress_id=930001)
    empty.insert("performers", id=key("p2"), name="出演者 二")
    for video_id, tag in (("v0", "旅"), ("v0", "雨"), ("v1", "旅"), ("gone", "旅"), ("v1", "no tag")):
        empty.insert("video_tags", video_id=key(video_id), tag_id=key(tag))
    for performer in ("p1", "p2"):
        empty.insert("video_performers", video_id=key("v0"), performer_id=key(performer))
    for n in range(3):
        empty.insert(
            "profiles", user_id=key(f"u{n}"), created_at="2025-01-01T00:00:00Z", is_age_verified=bool(n) or None
        )
    empty.insert("profiles", user_id=key("u3"), created_at=None, is_age_verified=True)
    decision = {"user_id": key("u1"), "video_id": key("v0"), "created_at": "2026-02-01T00:00:00Z"}
    for word, video_id in (("like", "v0"), ("nope", "v1"), ("skip", "v2"), ("dislike", "v3")):
        empty.insert("user_video_decisions", **decision | {"decision_type": word, "video_id": key(video_id)})
    changes = [{"decision_type": "love"}, {"user_id": None}, {"created_at": None}, {"video_id": key("gone")}]
    changes += [{"video_id": None}, {"video_id": key("no id")}, {}, {}]
    for change in changes:
        empty.insert("user_video_decisions", **decision | {"decision_type": "like"} | change)
    empty.grant()
    return empty


def adds_up(result: LegacyResult) -> bool:
    tables = result.tables
    whole = [tables[name] for name in ("videos", "profiles", "user_video_decisions")]
    parts = [tables[name] for name in ("tags", "video_tags", "performers", "video_performers")]
    return (
        all(one.there == one.offered == one.landed + one.unchanged + one.quarantined for one in whole)
        and all(one.quarantined == one.quarantined_by_reason.total() for one in whole)
        and all(one.there == one.offered + one.orphans for one in parts)
    )


def test_every_row_is_accounted_for_on_both_sides(earlier: Earlier, loader: Loader, look: Any) -> None:
    seen: list[tuple[int, int | None]] = []
    result = import_legacy(loader, earlier.dsn, on_progress=lambda done, total: seen.append((done, total)))
    assert adds_up(result)
    videos, users = result.tables["videos"], result.tables["profiles"]
    assert (videos.there, videos.landed, videos.unchanged) == (11, 5, 1)
    assert videos.quarantined_by_reason == {
        **{"missing_content_id": 1, "missing_title": 1, "missing_date": 1, "bad_content_id": 1, "bad_date": 1}
    }
    assert (users.there, users.landed, users.quarantined_by_reason) == (4, 3, {"missing_created_at": 1})
    decisions = result.tables["user_video_decisions"]
    assert (decisions.there, decisions.landed, decisions.unchanged, decisions.orphans) == (12, 4, 2, 2)
    assert decisions.quarantined_by_reason == {
        **{"video_missing": 2, "bad_decision": 1, "missing_user_id": 1, "missing_decided_at": 1},
        "missing_content_id": 1,
    }
    links = {name: (one.there, one.offered, one.orphans) for name, one in result.tables.items()}
    assert links["video_tags"] == (5, 3, 2)
    assert links["tags"] == (3, 2, 1)
    assert (links["performers"], links["video_performers"]) == ((2, 2, 0), (2, 2, 0))
    assert seen[-1] == (54, 54)  # each of 27 rows is read once and landed once
    kept = look("select kind, reason, count(*) from raw_app.quarantine group by 1, 2 order by 3 desc, 2")
    assert kept[0] == ("decision", "video_missing", 2)
    assert look("select count(*) from raw_dmm.quarantine") == [(5,)]


def test_items_users_and_decisions_say_what_the_earlier_rows_said(earlier: Earlier, loader: Loader, look: Any) -> None:
    result = import_legacy(loader, earlier.dsn, floor="videoc", run_id="import-1")
    assert look("select distinct source, service, floor, run_id from raw_dmm.items") == [
        ("legacy", "digital", "videoc", "import-1")
    ]
    items = dict(look("select content_id, payload from raw_dmm.items"))
    full, zero = items["abc00000"], items["abc00001"]
    assert (full["date"], full["volume"], full["prices"]) == ("2026-01-10 10:00:53", "1:29:00", {"price": "1980"})
    assert "prices" not in zero
    assert full["sampleMovieURL"] == {"size_720_480": "https://player.example/1/"}
    pictures = ["https://img.example/2.jpg", "https://img.example/1.jpg"]
    assert full["sampleImageURL"] == {"sample_l": {"image": pictures}}
    assert full["URL"] == "https://shop.example/1"
    assert "af_id={af_id}" in full["affiliateURL"]
    assert "someone-990" not in str(items)
    info = full["iteminfo"]
    assert {(tag["id"], tag["name"]) for tag in info["genre"]} == {
        (stable_id("genre", key(n)), n) for n in ("旅", "雨")
    }
    people = {person["name"]: person for person in info["actress"]}
    assert people["出演者 一"] == {"id": 930001, "name": "出演者 一", "ruby": "しゅつえんしゃ"}
    assert people["出演者 二"]["id"] == stable_id("actress", key("p2"))
    assert [maker["name"] for maker in info["maker"]] == ["甲", "乙"]
    assert full["legacy"]["description"] == "短い紹介"
    assert items["abc00004"]["title"] == "若いほうの題"
    assert look("select user_id, age_verified from raw_app.users order by created_at, age_verified, user_id") == [
        (str(key("u0")), False),
        *sorted((str(key(name)), True) for name in ("u1", "u2")),
    ]
    assert look("select content_id, decision from raw_app.decisions order by 1") == [
        *(("abc00000", "like"), ("abc00001", "nope"), ("abc00002", "skip"), ("abc00003", "nope"))
    ]
    assert result.tables["videos"].landed == len(items)


def test_a_second_import_adds_nothing(earlier: Earlier, loader: Loader, look: Any) -> None:
    tables = "raw_dmm.items", "raw_app.users", "raw_app.decisions", "raw_dmm.quarantine", "raw_app.quarantine"
    count = f"select {', '.join(f'(select count(*) from {table})' for table in tables)}"
    first = import_legacy(loader, earlier.dsn)
    before = look(count)
    second = import_legacy(loader, earlier.dsn)
    assert look(count) == before
    assert adds_up(second)
    for name, one in second.tables.items():
        assert (one.there, one.landed) == (first.tables[name].there, 0)
        assert one.quarantined_by_reason == first.tables[name].quarantined_by_reason


def test_an_earlier_form_with_other_names_and_types_is_read_too(empty: Earlier, loader: Loader, look: Any) -> None:
    empty.run(
        """
        create table videos (id bigint primary key, cid text, dmm_content_id text, title text, release_date date,
            duration_minutes int, image_urls text[], price int);
        create table tags (id int primary key, name text);
        create table video_tags (video_id bigint, tag_id int);
        create table performers (id int primary key, name text, ruby text);
        create table video_performers (video_id bigint, performer_id int);
        create table user_video_decisions (user_id text, video_id bigint, decision text, created_at timestamp);
        create table profiles (id text primary key, created_at timestamp);
        insert into videos values (1, 'abc1', null, '題', '2026-01-10', 90, '{https://img.example/1.jpg}', 300);
        insert into tags values (7, '旅');
        insert into video_tags values (1, 7);
        insert into user_video_decisions values ('u1', 1, 'DISLIKE', '2026-02-01 03:00');
        insert into profiles values ('u1', '2025-01-01 00:00');
        """
    )
    empty.grant()
    assert adds_up(import_legacy(loader, empty.dsn, source="older"))
    [(payload,)] = look("select payload from raw_dmm.items where source = 'older'")
    assert (payload["content_id"], payload["date"], payload["volume"]) == ("abc1", "2026-01-10 00:00:00", "90")
    assert payload["iteminfo"] == {"genre": [{"id": stable_id("genre", 7), "name": "旅"}]}
    assert look("select user_id, age_verified from raw_app.users") == [("u1", False)]
    assert look("select decision, extract(hour from decided_at)::int from raw_app.decisions") == [("nope", 3)]


def nothing_landed(look: Any) -> bool:
    tables = "raw_dmm.items", "raw_app.users", "raw_app.decisions", "raw_dmm.quarantine", "raw_app.quarantine"
    return look(f"select {' + '.join(f'(select count(*) from {table})' for table in tables)}") == [(0,)]


def test_missing_columns_and_tables_are_named_in_one_line_before_anything_is_written(
    earlier: Earlier, loader: Loader, look: Any
) -> None:
    earlier.run("alter table videos drop column external_id, drop column title; drop table video_performers")
    with pytest.raises(LandingError) as caught:
        import_legacy(loader, earlier.dsn)
    message = str(caught.value)
    assert message.startswith("the earlier database cannot be read: table videos lacks external_id (or dmm_content_id")
    assert ", title; table video_performers is missing" in message
    assert "\n" not in message
    assert nothing_landed(look)


def test_no_videos_at_all_is_an_error(earlier: Earlier, loader: Loader, look: Any) -> None:
    earlier.run("truncate videos")
    with pytest.raises(LandingError, match="table videos holds no rows"):
        import_legacy(loader, earlier.dsn)
    assert nothing_landed(look)


def test_no_profiles_and_no_decisions_are_none(earlier: Earlier, loader: Loader, look: Any) -> None:
    earlier.run("truncate profiles, user_video_decisions")
    result = import_legacy(loader, earlier.dsn)
    assert adds_up(result)
    assert result.tables["videos"].landed == 5


def test_rows_hidden_by_row_security_are_an_error_and_not_a_small_table(
    earlier: Earlier, loader: Loader, look: Any
) -> None:
    earlier.run("alter table user_video_decisions enable row level security")
    with pytest.raises(LandingError, match=r"row-level security policy for table .user_video_decisions.$"):
        import_legacy(loader, earlier.dsn)
    assert nothing_landed(look)


def test_an_id_that_occurs_twice_stops_the_import_instead_of_doubling_decisions(
    earlier: Earlier, loader: Loader, look: Any
) -> None:
    earlier.run("alter table videos drop constraint videos_pkey; insert into videos select * from videos limit 1")
    with pytest.raises(LandingError, match=r"of the earlier database: .* rows there, .* met"):
        import_legacy(loader, earlier.dsn)
    assert nothing_landed(look)


def test_the_earlier_database_is_read_in_one_snapshot_that_cannot_write(
    earlier: Earlier, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = legacy._count

    def busy(connection: psycopg.Connection[Any], columns: Any) -> Any:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), connection.transaction():
            connection.execute("create temporary table x (); create table y ()")
        counts = count(connection, columns)
        earlier.run("insert into user_video_decisions select * from user_video_decisions")  # the app is still running
        return counts

    monkeypatch.setattr(legacy, "_count", busy)
    assert adds_up(import_legacy(loader, earlier.dsn))


@pytest.mark.parametrize("source", ["dmm", "feed", "", "DMM", "a b", "x/y"])
def test_an_import_never_takes_the_name_of_a_catalogue(loader: Loader, source: str) -> None:
    with pytest.raises(LandingError, match="cannot name the source of an import"):
        import_legacy(loader, "postgresql://nowhere.invalid/x", source=source)


def test_two_imports_do_not_run_at_once(
    earlier: Earlier, loader: Loader, warehouse: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy, "holding", lambda connection, what: holding(connection, what, 0.1))
    with (
        connect(warehouse, "loader", autocommit=True) as other,
        holding(other, "import of source 'legacy'"),
        pytest.raises(LandingError, match="another import of source 'legacy' is running"),
    ):
        import_legacy(loader, earlier.dsn)


ADDRESSES = {
    "wrong password": (lambda dsn: dsn.replace("sentinel", "sentinelX"), "refused the login: check user and password"),
    "no such database": (lambda dsn: f"{dsn}_of_another_name", "has no such database or user"),
    "password not encoded": (lambda dsn: "postgresql://u:sentinel/pass@word:1@127.0.0.1/x", "the earlier database"),
    "at sign not encoded": (lambda dsn: "postgresql://u:x@sentinel.invalid@127.0.0.1:1/x", "the earlier database"),
    "no address": (lambda dsn: "sentinel pass", "is neither a Postgres URL nor key=value words"),
    "nobody there": (lambda dsn: "host=127.0.0.1 port=1 user=u password=sentinel", "no Postgres answers"),
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_that_does_not_work_is_one_line_that_repeats_nothing_of_it(
    name: str, empty: Earlier, loader: Loader, look: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    spoil, message = ADDRESSES[name]
    with pytest.raises(LandingError, match=message) as caught:
        import_legacy(loader, spoil(empty.dsn))
    assert "\n" not in str(caught.value)
    assert "sentinel" not in str(caught.value) + caplog.text
    assert nothing_landed(look)


def test_the_command_prints_counts_and_no_password(
    earlier: Earlier,
    warehouse: DatabaseSettings,
    look: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from orchestration.cli import app

    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MATCHING_HOME", str(tmp_path))
    for name, value in warehouse.environment().items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["import-legacy", earlier.dsn])
    assert done.exit_code == 0, done.output
    assert "user_video_decisions" in done.output
    assert "video_missing × 2" in done.output
    tables = look("select table_schema, table_name from information_schema.tables where table_schema like 'raw%'")
    text = "".join(str(look(f"select t::text from {schema}.{table} as t")) for schema, table in tables)
    assert "abc00000" in text
    assert "sentinel" not in done.output + caplog.text + text


def test_the_command_keeps_real_rows_out_of_the_demos_home(
    warehouse: DatabaseSettings, look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.cli import app
    from orchestration.landing.emulator.marker import mark

    mark(tmp_path, "small")
    monkeypatch.setenv("MATCHING_HOME", str(tmp_path))
    for name, value in warehouse.environment().items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["import-legacy", "postgresql://127.0.0.1:1/x"])
    assert done.exit_code == 1
    assert "holds the demo's small sample world" in " ".join(done.stderr.split())
    assert nothing_landed(look)

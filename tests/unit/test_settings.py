"""Settings: explicit values win, missing ones are named, secrets do not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.installation import BLOCK_END, BLOCK_START, write_env_block
from orchestration.settings import DatabaseSettings, SettingsError, load_settings


def test_a_home_without_a_warehouse_says_what_to_run(tmp_path: Path) -> None:
    settings = load_settings({"MATCHING_HOME": str(tmp_path)})
    assert settings.embedded
    with pytest.raises(SettingsError, match="run `matching up` first"):
        settings.database()


def test_pghost_means_an_external_server_unless_said_otherwise(tmp_path: Path) -> None:
    base = {"MATCHING_HOME": str(tmp_path), "PGHOST": "db.example", "PGPORT": "6000", "PGPASSWORD": "p w/d"}
    database = load_settings(base).database()
    assert (database.host, database.port, database.password) == ("db.example", 6000, "p w/d")
    assert load_settings(base | {"MATCHING_POSTGRES": "embedded"}).embedded
    with pytest.raises(SettingsError, match="MATCHING_POSTGRES must be"):
        load_settings(base | {"MATCHING_POSTGRES": "elsewhere"})


def test_missing_and_malformed_settings_are_named(tmp_path: Path) -> None:
    base = {"MATCHING_HOME": str(tmp_path)}
    with pytest.raises(SettingsError, match="DMM_API_ID and DMM_AFFILIATE_ID not set"):
        load_settings(base).dmm()
    ids = base | {"DMM_API_ID": "x", "DMM_AFFILIATE_ID": "x-990", "DMM_REQUEST_BUDGET": "many"}
    with pytest.raises(SettingsError, match="DMM_REQUEST_BUDGET must be a number"):
        load_settings(ids).dmm()


FEED = {"FEED_BASE_URL": "https://shop.example/feed", "FEED_API_KEY": "sentinel4", "FEED_CATEGORIES": "music, outdoor"}


def test_the_feed_is_optional_and_needs_three_settings(tmp_path: Path) -> None:
    base = {"MATCHING_HOME": str(tmp_path)}
    with pytest.raises(SettingsError, match="FEED_BASE_URL and FEED_API_KEY and FEED_CATEGORIES not set"):
        load_settings(base).feed()
    feed = load_settings(base | FEED).feed()
    assert (feed.categories, feed.requests_per_second) == (("music", "outdoor"), 1.0)
    assert "sentinel" not in repr(feed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FEED_BASE_URL", "shop.example/feed", "must be an address like"),
        ("FEED_BASE_URL", "https://[shop", "must be an address like"),
        ("FEED_BASE_URL", "https://me:sentinel@shop.example/feed", "without login or query"),
        ("FEED_BASE_URL", "https://shop.example/feed?key=sentinel", "without login or query"),
        ("FEED_BASE_URL", "http://shop.example/feed", "must start with https"),
        ("FEED_CATEGORIES", "Music", "must list slugs"),
        ("FEED_CATEGORIES", ",", "must list slugs"),
        ("FEED_REQUESTS_PER_SECOND", "fast", "must be a number"),
    ],
)
def test_an_unusable_setting_of_the_feed_is_named_without_what_may_be_secret(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=f"{name} .*{message}|{name} {message}") as caught:
        load_settings({"MATCHING_HOME": str(tmp_path)} | FEED | {name: value}).feed()
    assert "sentinel" not in str(caught.value)


def test_no_secret_shows_in_a_repr_and_the_url_is_quoted(tmp_path: Path) -> None:
    values = {"MATCHING_HOME": str(tmp_path), "PGHOST": "h", "PGPASSWORD": "sentinel@1", "DMM_API_ID": "sentinel2"}
    values["DMM_AFFILIATE_ID"] = "sentinel3-990"
    settings = load_settings(values)
    assert "sentinel" not in repr(settings) + repr(settings.database()) + repr(settings.dmm())
    database = DatabaseSettings("h", 1, "u", "a@b/c", "w")
    assert database.url("postgresql+psycopg2", role="trainer") == (
        "postgresql+psycopg2://u:a%40b%2Fc@h:1/w?options=-c%20role%3Dtrainer"
    )


def test_the_env_block_is_rewritten_and_own_lines_are_kept_below_it(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("DMM_API_ID=mine\n")
    write_env_block(file, {"PGPORT": "1"})
    write_env_block(file, {"PGPORT": "2"})
    assert file.read_text().splitlines() == [BLOCK_START, "PGPORT=2", BLOCK_END, "DMM_API_ID=mine"]
    assert file.stat().st_mode & 0o077 == 0

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

"""Invented rows stay out of an external warehouse, and real rows out of a home that holds the sample world."""

from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from orchestration.defs.landing.assets import CatalogueConfig, raw_dmm_items
from orchestration.demo import DemoError, run_demo
from orchestration.landing.emulator import marker
from orchestration.landing.emulator.server import EmulatedServer
from orchestration.landing.emulator.world import build_world
from orchestration.reporting import SilentReporter
from orchestration.settings import SettingsError, load_settings

IDS = {"DMM_API_ID": "SENTINELAPIID123", "DMM_AFFILIATE_ID": "sentinelaffiliate-990"}


def pull(home: Path, **environment: str) -> None:
    settings = load_settings({"MATCHING_HOME": str(home), **IDS, **environment})
    day = dg.PartitionKeyRange("2026-06-30", "2026-06-30")
    raw_dmm_items(dg.build_asset_context(partition_key_range=day), config=CatalogueConfig(), settings=settings)


def test_a_home_knows_which_world_it_holds(tmp_path: Path) -> None:
    assert marker.marked_size(tmp_path) is None
    for size in ("small", "medium"):
        marker.mark(tmp_path, size)
        assert marker.marked_size(tmp_path) == size


def test_the_emulated_api_counts_as_emulated_and_the_real_one_does_not() -> None:
    with EmulatedServer(build_world("small")) as server:
        assert marker.is_emulated(server.base_url)
    assert not marker.is_emulated(load_settings(IDS).dmm().base_url)
    assert not marker.is_emulated("https://127.0.0.1.example/affiliate/v3")
    assert not marker.is_emulated("")


def test_the_real_catalogue_is_not_pulled_into_a_home_that_holds_the_sample_world(tmp_path: Path) -> None:
    marker.mark(tmp_path, "small")
    with pytest.raises(dg.Failure, match=r"holds the demo's sample world \(small\)") as caught:
        pull(tmp_path)
    assert not caught.value.allow_retries
    # Past that check these homes stop at the next one: they have no warehouse.
    for home, url in ((tmp_path, "http://127.0.0.1:9/affiliate/v3"), (tmp_path / "other", "https://api.example/v3")):
        with pytest.raises(SettingsError, match="no warehouse"):
            pull(home, DMM_BASE_URL=url)


def test_the_demo_refuses_an_external_server_before_it_connects_or_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for name, value in {"MATCHING_HOME": str(home), "MATCHING_POSTGRES": "external", "PGPORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DemoError, match="stays away from an external Postgres") as caught:
        run_demo("small", "simple", Console(quiet=True), SilentReporter())
    assert "\n" not in str(caught.value)
    assert not home.exists()

"""The deploy files say what deploy/README.md promises; no container engine is needed to find out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LONG_RUNNING = ("postgres", "webserver", "daemon")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def instance() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "deploy" / "Dockerfile").read_text()


def test_plain_compose_starts_postgres_and_nothing_else(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "profiles" not in service] == ["postgres"]


def test_postgres_is_pinned_and_has_room_for_parallel_index_builds(compose: dict[str, Any]) -> None:
    postgres = compose["services"]["postgres"]
    assert re.fullmatch(r"pgvector/pgvector:\d+\.\d+\.\d+-pg\d+", postgres["image"])
    assert postgres["shm_size"] == "1gb"
    assert "postgres:/var/lib/postgresql" in postgres["volumes"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_long_running_services_have_a_health_check_and_come_back(compose: dict[str, Any], name: str) -> None:
    assert compose["services"][name]["healthcheck"]["test"]
    assert compose["services"][name]["restart"] == "unless-stopped"


def test_ports_listen_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert "127.0.0.1:55432:5432" in ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_passwords_come_from_the_environment_and_have_no_default(compose: dict[str, Any]) -> None:
    secrets = {
        (name, key): value
        for name, service in compose["services"].items()
        for key, value in service.get("environment", {}).items()
        if "PASSWORD" in key
    }
    assert {name for name, _ in secrets} == set(compose["services"])
    assert all(value.startswith("${PGPASSWORD:?") for value in secrets.values())


def test_dagster_waits_for_migrations_and_migrations_for_postgres(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["setup"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("webserver", "daemon"):
        assert services[name]["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}


def test_every_named_volume_is_declared(compose: dict[str, Any]) -> None:
    used = {v.split(":")[0] for service in compose["services"].values() for v in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == set(compose["volumes"])


def test_dagster_keeps_its_state_in_postgres_named_by_variables_that_compose_sets(
    compose: dict[str, Any], instance: dict[str, Any]
) -> None:
    storage = instance["storage"]["postgres"]["postgres_db"]
    assert storage["scheme"] == "postgresql+psycopg2"
    assert storage["db_name"] == "dagster"
    named = {value["env"] for value in storage.values() if isinstance(value, dict)}
    assert {"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD"} == named
    assert named <= set(compose["services"]["daemon"]["environment"])


def test_the_installed_dagster_knows_every_storage_key(instance: dict[str, Any]) -> None:
    from dagster_postgres import DagsterPostgresStorage

    known = DagsterPostgresStorage.config_type()["postgres_db"].config_type.fields
    assert set(instance["storage"]["postgres"]["postgres_db"]) <= set(known)


def test_the_mounted_instance_file_lies_where_the_image_looks_for_it(compose: dict[str, Any], dockerfile: str) -> None:
    home = re.search(r"DAGSTER_HOME=(\S+)", dockerfile)
    assert home is not None
    assert f"./deploy/dagster.yaml:{home[1]}/dagster.yaml:ro" in compose["services"]["daemon"]["volumes"]


def test_the_image_is_locked_pinned_and_not_root(dockerfile: str) -> None:
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    assert re.fullmatch(r"FROM python:3\.11-slim-\w+", lines[0])
    syncs = [line for line in lines if "uv sync" in line]
    assert len(syncs) == 2
    assert all("--locked" in line and "--no-dev" in line for line in syncs)
    assert [line for line in lines if line.startswith("USER ")] == ["USER matching"]
    assert not any("PASSWORD" in line or "API_ID" in line for line in lines)


def test_the_image_gets_what_it_copies_and_no_state(dockerfile: str) -> None:
    rules = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {word for line in dockerfile.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert rules[1] == "*"
    assert {f"!{name}" for name in copied} == {rule for rule in rules if rule.startswith("!")}

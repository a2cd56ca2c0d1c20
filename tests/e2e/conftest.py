"""One whole chain per session, run as a person would: the `matching` command in a state folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from e2e_chain import AFFILIATE_ID, API_ID, Chain, Home

from orchestration.landing.emulator.server import EmulatedApi, parse_fault
from orchestration.landing.emulator.world import ANCHOR, build_world, write_app_files
from orchestration.warehouse.connection import connect


@pytest.fixture(scope="session")
def new_home() -> Iterator:
    """Make state folders that are stopped and removed at the end."""
    made: list[Home] = []

    def make(**extra: str) -> Home:
        folder = Path(tempfile.mkdtemp(prefix="matching-e2e-"))
        folder.chmod(0o755)
        made.append(Home(folder / "home", extra))
        return made[-1]

    yield make
    for home in made:
        home.run("down", check=False)
        shutil.rmtree(home.path.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def chain(new_home, tmp_path_factory) -> Iterator[Chain]:
    """Land a small world through a faulty API, load its users, build, gate, train, judge, publish.

    One decision is on an item of a floor that is not pulled.
    """
    world = build_world("small")
    files = write_app_files(world, tmp_path_factory.mktemp("world"))
    faults = [parse_fault(text) for text in ("http_500:0.1", "truncated_json:0.1", "http_429:0.05")]
    with EmulatedApi(world, faults=faults, accepted=(API_ID, AFFILIATE_ID)) as api:
        made = Chain(new_home(), world, files, api)
        home = made.home
        home.run("up")
        for job in ("dmm_sync", "dmm_masters", "dmm_rankings"):
            home.run("run", job, **made.credentials())
        home.run(
            "load",
            f"--users={files.users}",
            f"--decisions={files.decisions}",
            f"--exposures={files.exposures}",
            **made.credentials(),
        )
        with connect(home.database(), "loader") as connection:  # as an app would
            connection.execute(
                "insert into raw_app.decisions (user_id, content_id, decision, decided_at) values (%s, %s, 'like', %s)",
                [str(world.user_ids[0]), made.orphan(), ANCHOR - timedelta(days=1)],
            )
        home.run("run", "full", "--config", "simple", "--promote", "always", **made.credentials())
        yield made

"""The embedded server: made once, found again, refused clearly, and whole after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.warehouse import embedded
from orchestration.warehouse.connection import WarehouseError, connect

pytestmark = pytest.mark.warehouse


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="matching-embedded-"))
    folder.chmod(0o755)
    yield folder / "postgres"
    embedded.stop(folder / "postgres")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_second_start_finds_the_same_server_and_stop_ends_it(root: Path) -> None:
    first = embedded.start(root)
    assert embedded.is_running(root)
    assert embedded.start(root) == first
    assert (root / "password").stat().st_mode & 0o077 == 0
    assert embedded.stop(root)
    assert not embedded.is_running(root)
    assert not embedded.stop(root)
    assert embedded.start(root).port == first.port


def test_a_taken_port_is_refused_by_number(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WarehouseError, match=f"port {port} is taken by another process"):
            embedded.start(root, port)
    assert embedded.start(root, port).port == port


def test_a_killed_server_starts_again_with_every_committed_row(root: Path) -> None:
    server = embedded.start(root)
    with connect(server.database("postgres")) as connection:
        connection.execute("create table kept as select 1 as x")
    pid = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while embedded.is_running(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    with connect(embedded.start(root).database("postgres")) as connection:
        assert connection.execute("select x from kept").fetchone() == (1,)


def test_a_state_folder_closed_to_others_still_works_as_root(root: Path) -> None:
    root.parent.chmod(0o700)  # what a temporary folder or /root looks like to the server's user
    server = embedded.start(root)
    with connect(server.database("postgres")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    embedded.stop(root)
    if server.data.parent != root:
        shutil.rmtree(server.data.parent)


def test_a_deleted_state_folder_is_made_anew_although_its_data_lay_elsewhere(root: Path) -> None:
    root.parent.chmod(0o700)
    first = embedded.start(root)
    shutil.rmtree(root)
    second = embedded.start(root)
    assert second.password != first.password
    with connect(second.database("postgres")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    embedded.stop(root)
    if second.data.parent != root:
        shutil.rmtree(second.data.parent)


def test_a_start_that_was_killed_before_it_noted_the_port_is_found_again(root: Path) -> None:
    first = embedded.start(root)
    (root / "port").unlink()
    assert embedded.start(root) == first
    assert (root / "port").read_text() == str(first.port)


def test_a_cluster_that_was_being_made_when_killed_is_made_again(root: Path) -> None:
    (root / "data.partial").mkdir(parents=True)
    (root / "data.partial" / "PG_VERSION").write_text("18")
    (root / "initdb-password").write_text("left behind")
    with connect(embedded.start(root).database("postgres")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert not (root / "initdb-password").exists()

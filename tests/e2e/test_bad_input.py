"""What goes wrong ends as one clear line, a non-zero exit, and nothing half-written."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from e2e_chain import AFFILIATE_ID, API_ID, MATCHING, Chain, Home

from orchestration.landing.emulator.server import EmulatedApi, parse_fault
from orchestration.landing.emulator.world import build_world
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect

pytestmark = pytest.mark.e2e

FILES = {
    "not_json.jsonl": "this is not json\n",
    "no_columns.csv": "a,b\n1,2\n",
    "empty.csv": "",
    "all_bad.csv": "user_id,content_id,decision,decided_at\n,x,like,2026-01-01T00:00:00Z\nu,x,love,2026-01-01\n",
}


def failed(home: Home, *words: str, **extra: str) -> str:
    """Run a command that must fail, and return its one line."""
    done = home.run(*words, check=False, **extra)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def rows(database: DatabaseSettings) -> dict[str, int]:
    counts = {}
    with connect(database) as connection:
        for table in ("raw_dmm.items", "raw_app.users", "raw_app.decisions", "raw_app.exposures", "ml.runs"):
            row = connection.execute(f"select count(*) from {table}").fetchone()
            assert row is not None
            counts[table] = row[0]
    return counts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recommend", "nobody"), "unknown user 'nobody'"),
        (("similar", "nothing"), "item 'nothing' is not in the active run"),
        (("publish", "no-such-run"), "there is no model run 'no-such-run'"),
        (("verify", "no-such-run"), "there is no model run 'no-such-run'"),
        (("rollback",), "no run was active before"),
        (("standardize", "/nowhere/at/all.csv", "--out", "x.parquet"), "all.csv"),
        (("run", "no_such_job"), "there is no job 'no_such_job'"),
        (("run", "full", "--config", "no_such_config"), "no_such_config"),
        (("run", "full", "--promote", "perhaps"), "--promote must be gate or always"),
        (("load", "--decisions=/nowhere/at/all.csv"), "all.csv"),
        (("run", "dmm_sync"), "DMM_API_ID and DMM_AFFILIATE_ID not set"),
    ],
)
def test_what_does_not_exist_is_named(chain: Chain, words: tuple[str, ...], message: str) -> None:
    before = rows(chain.home.database())
    assert message in failed(chain.home, *words)
    assert rows(chain.home.database()) == before


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_at_all_lands_nothing(chain: Chain, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(FILES[name])
    kind = "items" if name.endswith("jsonl") else "decisions"
    before = rows(chain.home.database())
    assert name in failed(chain.home, "load", f"--{kind}={file}")
    assert rows(chain.home.database()) == before


def test_a_refused_affiliate_id_is_said_without_showing_it(chain: Chain) -> None:
    line = failed(chain.home, "run", "dmm_sync", **(chain.credentials() | {"DMM_AFFILIATE_ID": "private-123"}))
    assert "affiliate_id must end in -990 to -999" in line
    assert "private" not in line


def test_an_api_that_fails_for_ever_fails_the_run_and_moves_no_slice_to_complete(chain: Chain) -> None:
    before = rows(chain.home.database())
    with EmulatedApi(build_world("small"), faults=[parse_fault("http_500:1")]) as broken:
        line = failed(chain.home, "run", "dmm_sync", **(chain.credentials() | {"DMM_BASE_URL": broken.base_url}))
    assert "500" in line
    assert API_ID not in line
    assert AFFILIATE_ID not in line
    assert rows(chain.home.database()) == before


def test_a_wrong_password_and_a_stopped_server_are_told_apart(chain: Chain, new_home) -> None:
    database = chain.home.database()
    external = {
        "MATCHING_POSTGRES": "external",
        "PGHOST": database.host,
        "PGPORT": str(database.port),
        "PGUSER": database.user,
    }
    wrong = new_home(**external, PGPASSWORD="SENTINELwrong")
    line = failed(wrong, "recommend", "u1")
    assert "refused the password of user 'matching'" in line
    assert "SENTINEL" not in line
    gone = new_home(**(external | {"PGPORT": "1"}))
    assert "no Postgres answers at 127.0.0.1:1" in failed(gone, "recommend", "u1")


def test_a_taken_port_and_a_home_that_was_never_set_up_say_what_to_do(new_home) -> None:
    home = new_home()
    assert "run `matching up` first" in failed(home, "recommend", "u1")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "is taken by another process" in failed(home, "up", "--port", str(other.getsockname()[1]))


def test_training_without_decisions_is_refused_before_anything_is_registered(new_home) -> None:
    home = new_home()
    home.run("up")
    line = failed(home, "run", "full")
    assert "gx_feat_training_examples closed" in line
    assert rows(home.database()) == dict.fromkeys(rows(home.database()), 0)


def is_training(home: Home) -> bool:
    """Whether a process of this home holds the lock of training: a moment at which a half-written state would hurt."""
    if not (home.path / "postgres" / "port").exists():
        return False
    try:
        with connect(home.database()) as connection:
            query = "select 1 from pg_stat_activity where application_name = 'matching trainer' and query like %s"
            return connection.execute(query, ["%pg_try_advisory_lock%"]).fetchone() is not None
    except WarehouseError:  # the server is being made
        return False


def test_a_demo_that_was_killed_goes_on_when_it_is_run_again(new_home) -> None:
    home, demo = new_home(), ("demo", "--size", "small", "--config", "simple")
    first = subprocess.Popen(
        [MATCHING, *demo],
        env=home.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not is_training(home):
        assert first.poll() is None
        time.sleep(0.3)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    shown = home.run(*demo).stdout
    for words in ("Rows landed", "gates open", "two-tower", "windowed popularity", "iALS", "because you liked «"):
        assert words in shown
    with connect(home.database()) as connection:
        assert connection.execute("select count(*) from ml.runs").fetchone() == (1,)
        assert connection.execute("select count(distinct content_id) = count(*) from raw_dmm.items").fetchone() == (
            True,
        )

"""`matching sql`: psql that acts as `analyst`, writes nothing, and shows the password to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import embedded

pytestmark = pytest.mark.warehouse

MATCHING = str(Path(sys.executable).with_name("matching"))
WHEEL = str(embedded.psql().parent)


def matching_sql(
    database: DatabaseSettings, *words: str, path: str = f"{WHEEL}:{os.defpath}", stdin: str = "", **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run `matching sql` on a server that is not its own."""
    known = {"MATCHING_POSTGRES": "external", "PATH": path, "COLUMNS": "200"}
    return subprocess.run(
        [MATCHING, "sql", *words],
        env=known | database.environment() | extra,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_statements_run_as_analyst_and_are_read_only(warehouse_session: DatabaseSettings, tmp_path: Path) -> None:
    asked = "select current_user, current_setting('default_transaction_read_only') as read_only, '日本' as word"
    by_command = matching_sql(warehouse_session, "--command", asked)
    assert by_command.returncode == 0, by_command.stderr
    assert [word.strip() for word in by_command.stdout.splitlines()[2].split("|")] == ["analyst", "on", "日本"]
    file = tmp_path / "question.sql"
    file.write_text(f"{asked};\nselect 1 as one;\n")
    by_file = matching_sql(warehouse_session, "--file", str(file))
    assert by_file.stdout.startswith(by_command.stdout)
    assert "one" in by_file.stdout
    assert matching_sql(warehouse_session, stdin=file.read_text()).stdout == by_file.stdout


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("select * from raw_app.users", "permission denied"),
        (
            "insert into raw_app.users (user_id, created_at, age_verified) values ('u', now(), true)",
            "permission denied",
        ),
        ("create temporary table mine as select 1 as x", "read-only transaction"),
        ("reset role; select * from raw_app.users", "permission denied"),
    ],
)
def test_what_an_analyst_may_not_do_is_refused(
    warehouse_session: DatabaseSettings, statement: str, refusal: str
) -> None:
    done = matching_sql(warehouse_session, "-c", statement)
    assert done.returncode == 1
    assert refusal in done.stderr
    assert "Traceback" not in done.stderr


def test_the_prompt_names_the_role_and_no_argument_holds_the_password(warehouse_session: DatabaseSettings) -> None:
    prompt = matching_sql(warehouse_session, "-c", r"\echo :PROMPT1")
    assert prompt.stdout.startswith("analyst@")
    own_arguments = matching_sql(warehouse_session, "-c", r"\! tr '\0' ' ' < /proc/$PPID/cmdline")
    assert own_arguments.stdout.startswith(f"{WHEEL}/psql --no-psqlrc")
    assert warehouse_session.password not in own_arguments.stdout


def test_a_service_file_leads_nowhere_else(warehouse_session: DatabaseSettings, tmp_path: Path) -> None:
    file = tmp_path / "services.conf"
    file.write_text("[elsewhere]\nport=1\n")
    done = matching_sql(warehouse_session, "-c", "select 1", PGSERVICE="elsewhere", PGSERVICEFILE=str(file))
    assert done.returncode == 0, done.stderr


def test_without_psql_server_or_choice_one_line_says_so(warehouse_session: DatabaseSettings) -> None:
    without = matching_sql(warehouse_session, "-c", "select 1", path="/nowhere")
    assert without.returncode == 1
    assert without.stderr == "error: there is no psql on PATH: install the PostgreSQL client of your system\n"
    gone = matching_sql(warehouse_session, "-c", "select 1", PGPORT="1")
    assert gone.stderr == "error: no Postgres answers at 127.0.0.1:1: start it with `matching up`\n"
    both = matching_sql(warehouse_session, "-c", "select 1", "-f", "x.sql")
    assert both.returncode == 2
    assert "one at a time" in both.stderr

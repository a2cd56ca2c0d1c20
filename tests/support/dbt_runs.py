"""How tests run dbt: a command of its own for one run, or a process that reads the project once for many runs.

Belongs here: starting dbt on a test's database. Does not belong here: what lands before, what must stand after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from orchestration.settings import DatabaseSettings

REPO_ROOT = Path(__file__).resolve().parents[2]
PROJECT = REPO_ROOT / "dbt_project"


def environment(database: DatabaseSettings, folder: Path, project: Path = PROJECT) -> dict[str, str]:
    """Return the variables of a dbt process that builds a project in a database and writes into a folder only."""
    paths = {
        "DBT_PROJECT_DIR": project,
        "DBT_PROFILES_DIR": REPO_ROOT,
        "DBT_TARGET_PATH": folder / "target",
        "DBT_LOG_PATH": folder / "logs",
    }
    return os.environ | database.environment() | {name: str(path) for name, path in paths.items()}


def dbt(database: DatabaseSettings, folder: Path, *arguments: str) -> str:
    """Run one dbt command to its good end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", "--no-use-colors", *arguments],
        cwd=folder,
        env=environment(database, folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return done.stdout


class DbtFailed(Exception):
    """A dbt command ended badly; the message names each node that failed."""


class DbtProcess:
    """A dbt that has read a project and waits for commands: each then costs what the database costs.

    Importing dbt and reading the project take longer than building a small warehouse.
    """

    def __init__(self, database: DatabaseSettings, folder: Path, project: Path = PROJECT) -> None:
        """Start the process; it reads the project while the caller goes on."""
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = (folder / "stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=folder,
            env=environment(database, folder, project),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    def start(self, *arguments: str) -> None:
        """Begin a command without waiting for its end."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, str]:
        """Wait for the end of the command and return the state of each node it ran.

        Raises:
            DbtFailed: A node failed, or the process died.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise DbtFailed(f"the process is gone: {self._errors.read()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["success"]:
            raise DbtFailed(answer["failed"])
        states: dict[str, str] = answer["states"]
        return states

    def run(self, *arguments: str) -> dict[str, str]:
        """Run a command to its end; see `finish`."""
        self.start(*arguments)
        return self.finish()

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                stream.close()


def _serve() -> None:
    """Answer each line of arguments on standard input with one line about how the command ended."""
    from dbt.cli.main import dbtRunner

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever dbt prints must not look like an answer
    read = dbtRunner().invoke(["--quiet", "parse"])
    for line in sys.stdin:
        if read.success:
            # A run leaves marks on what it was given, so each gets a copy.
            result = dbtRunner(manifest=read.result.deepcopy()).invoke(["--quiet", *json.loads(line)])
        else:
            result = read
        nodes = getattr(result.result, "results", [])
        answer = {
            "success": result.success,
            "states": {node.node.name: str(node.status) for node in nodes},
            "failed": "\n".join(
                [f"{node.node.name}: {node.message}" for node in nodes if str(node.status) == "error"]
                + ([repr(result.exception)] if result.exception else [])
            ),
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()

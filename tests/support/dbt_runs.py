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

    def start(self, *arguments: str, reread: bool = False) -> int:
        """Begin a command and return the number of the process that runs it, which may be killed.

        Args:
            arguments: Of the command line.
            reread: Whether files of the project have changed since the process began.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps([reread, *arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def finish(self) -> dict[str, str]:
        """Wait for the end of the command and return the state of each node it ran.

        Raises:
            DbtFailed: A node failed, or the command was killed.
        """
        answer: dict[str, Any] = json.loads(self._answer())
        if not answer["success"]:
            raise DbtFailed(answer["failed"])
        states: dict[str, str] = answer["states"]
        return states

    def run(self, *arguments: str, reread: bool = False) -> dict[str, str]:
        """Run a command to its end; see `start` and `finish`."""
        self.start(*arguments, reread=reread)
        return self.finish()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream:
                stream.close()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise DbtFailed(f"the process is gone: {self._errors.read()[-4000:]}")
        return line


def _serve() -> None:
    """Answer each line of arguments on standard input with a line at the start of the command and one at its end."""
    from dbt.cli.main import dbtRunner

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever dbt prints must not look like an answer
    quietly = ("--quiet", "--no-use-colors", "--log-level-file", "none", "--no-write-json")
    read = dbtRunner().invoke([*quietly, "parse"])
    if not read.success:
        raise SystemExit(f"the project cannot be read: {read.exception}")
    for line in sys.stdin:
        # A child of its own for each command: none sees what another left behind, and each can be killed.
        said, says = os.pipe()
        child = os.fork()
        if child == 0:
            reread, *arguments = json.loads(line)
            runner = dbtRunner(manifest=None if reread else read.result)
            # The static parser's threads do not live on in a child, and it would wait for them.
            result = runner.invoke([*quietly, *(["--no-static-parser"] if reread else []), *arguments])
            with os.fdopen(says, "w") as end:
                end.write(json.dumps(_told(result)))
            os._exit(0)
        os.close(says)
        answers.write(f"{child}\n")
        with os.fdopen(said) as end:
            answer = end.read() or json.dumps({"success": False, "failed": "killed"})
        os.waitpid(child, 0)
        answers.write(answer + "\n")


def _told(result: Any) -> dict[str, Any]:
    nodes = getattr(result.result, "results", [])
    failed = [f"{node.node.name}: {node.message}" for node in nodes if str(node.status) in ("error", "fail")]
    return {
        "success": result.success,
        "states": {node.node.name: str(node.status) for node in nodes},
        "failed": "\n".join([*failed, *([repr(result.exception)] if result.exception else [])]),
    }


if __name__ == "__main__":
    _serve()

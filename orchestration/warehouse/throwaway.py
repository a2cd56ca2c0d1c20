"""Run a command against a throw-away migrated warehouse: `python -m orchestration.warehouse.throwaway sqlfluff lint …`.

For tools that need a database to compile SQL, such as sqlfluff's dbt templater. Not for anything that keeps data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestration.settings import DBT_PROJECT_DIR, REPO_ROOT
from orchestration.warehouse import embedded
from orchestration.warehouse.migrate import create_databases, migrate


def main(command: list[str]) -> int:
    """Start a server, migrate, run the command with `PG*` set, and return its exit code."""
    root = Path(tempfile.mkdtemp(prefix="matching-throwaway-"))
    try:
        with embedded.throwaway(root) as server:
            database = server.database()
            create_databases(database, names=())
            migrate(database)
            environment = {
                **os.environ,
                **database.environment(),
                "DBT_PROJECT_DIR": str(DBT_PROJECT_DIR),
                "DBT_PROFILES_DIR": str(REPO_ROOT),
                "DBT_TARGET_PATH": str(root / "dbt" / "target"),
                "DBT_LOG_PATH": str(root / "dbt" / "logs"),
            }
            return subprocess.run(command, env=environment, cwd=REPO_ROOT, check=False).returncode
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

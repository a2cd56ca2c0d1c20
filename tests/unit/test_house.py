"""The house stands: every module imports, names are ours, and the front door opens without waking anyone."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ml", "expectations", "orchestration")
# Importing these starts the code location (it parses the dbt project); tests/contracts does that on purpose.
NEEDS_MANIFEST = ("orchestration.defs", "orchestration.definitions")


@pytest.mark.parametrize("name", PACKAGES)
def test_package_names_resolve_to_this_repository(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(REPO_ROOT)


def test_every_module_imports() -> None:
    failed = []
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(REPO_ROOT / package)], f"{package}."):
            if found.name.startswith(NEEDS_MANIFEST) or found.name.endswith("__main__"):
                continue
            try:
                importlib.import_module(found.name)
            except Exception as error:
                failed.append(f"{found.name}: {error!r}")
    assert failed == []


def test_the_command_line_opens_without_heavy_imports() -> None:
    code = "import sys, orchestration.cli; print([m for m in sys.modules if m in sys.argv[1:]])"
    heavy = ["tensorflow", "dagster", "great_expectations", "psycopg", "numpy", "dbt"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_reads_settings_or_connects_when_imported() -> None:
    code = (
        "import os, socket\n"
        "socket.socket.connect = lambda *a: (_ for _ in ()).throw(AssertionError('connected at import'))\n"
        "import orchestration.installation, orchestration.demo, orchestration.warehouse.serving\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""})

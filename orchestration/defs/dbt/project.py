"""The dbt project as Dagster sees it: its manifest, groups, keys and owners."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtProject

from orchestration.settings import DBT_PROJECT_DIR, REPO_ROOT, load_settings

SOURCE_SUFFIXES = {".sql", ".yml", ".csv", ".md"}


class Translator(DagsterDbtTranslator):
    """Asset key = (schema, name), group = layer."""

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        """Return the asset of one dbt node."""
        spec = super().get_asset_spec(manifest, unique_id, project)
        node = self.get_resource_props(manifest, unique_id)
        if node["resource_type"] == "source":
            return spec
        return spec.replace_attributes(
            key=dg.AssetKey([node["schema"], node["name"]]),
            group_name=node["schema"],
            owners=["team:data"],
            kinds={"dbt", "postgres", "seed" if node["resource_type"] == "seed" else "sql"},
        )


def prepared_project() -> DbtProject:
    """Return the project with a manifest that matches its files, parsing it when they changed.

    Parsing needs no database; it happens here because assets are made from the manifest. Processes take turns, and the
    manifest appears whole: webserver, daemon and command line may start at the same moment.
    """
    target = load_settings().dbt_manifest_dir
    target.mkdir(parents=True, exist_ok=True)
    fingerprint, stamp = _fingerprint(DBT_PROJECT_DIR), target / "manifest.sha256"
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((target / "manifest.json").exists() and stamp.exists() and stamp.read_text() == fingerprint):
            _parse(target)
            stamp.write_text(fingerprint)
    return DbtProject(project_dir=DBT_PROJECT_DIR, profiles_dir=REPO_ROOT, target_path=target)


def _parse(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target) as folder:
        parsed = subprocess.run(
            [sys.executable, "-m", "dbt.cli.main", "parse", "--quiet", "--no-use-colors"],
            cwd=REPO_ROOT,
            env={
                **os.environ,
                "DBT_PROJECT_DIR": str(DBT_PROJECT_DIR),
                "DBT_PROFILES_DIR": str(REPO_ROOT),
                "DBT_TARGET_PATH": folder,
                "DBT_LOG_PATH": folder,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if parsed.returncode:
            raise RuntimeError(f"dbt cannot parse {DBT_PROJECT_DIR}:\n{parsed.stdout}{parsed.stderr}")
        (Path(folder) / "manifest.json").replace(target / "manifest.json")


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in SOURCE_SUFFIXES and "target" not in p.parts):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


DBT_PROJECT = prepared_project()

"""What end-to-end tests share: a state folder driven through the command line, and a finished chain.

Belongs here: helpers that tests import by name. Does not belong here: fixtures (see `tests/e2e/conftest.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.landing.emulator.server import EmulatedApi
from orchestration.landing.emulator.world import AppFiles, World
from orchestration.landing.sources.dmm import DmmClient, DmmCredentials
from orchestration.settings import DatabaseSettings, load_settings

MATCHING = str(Path(sys.executable).with_name("matching"))
API_ID, AFFILIATE_ID = "SENTINELapi0001", "sentinelaff-990"


@dataclass
class Home:
    """A state folder and the environment that points at it."""

    path: Path
    extra: dict[str, str] = field(default_factory=dict)
    output: str = ""
    """Everything any command printed."""

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") if name in os.environ}
        kept |= {name: value for name, value in os.environ.items() if name.lower().startswith("npm_config")}
        # What a developer keeps in .env (a real server, real ids) must not reach a test.
        sealed = {"MATCHING_POSTGRES": "embedded", "DMM_API_ID": "", "DMM_AFFILIATE_ID": ""}
        return {**kept, **sealed, "MATCHING_HOME": str(self.path), "COLUMNS": "200", **self.extra}

    def run(self, *words: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [MATCHING, *words], env={**self.environment, **extra}, capture_output=True, text=True, timeout=900
        )
        self.output += done.stdout + done.stderr
        if check:
            assert done.returncode == 0, f"matching {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        return done

    def database(self) -> DatabaseSettings:
        return load_settings({"MATCHING_HOME": str(self.path)}).database()


@dataclass
class Chain:
    """What the chain was made from and where it lives."""

    home: Home
    world: World
    files: AppFiles
    api: EmulatedApi

    def orphan(self) -> str:
        """Return an id that the API knows on a floor that is not pulled."""
        ids = DmmCredentials(API_ID, AFFILIATE_ID)
        with DmmClient(ids, self.api.base_url, requests_per_second=None, backoff=0.01) as client:
            return str(client.page(site="FANZA", service="digital", floor="anime", hits=1).items[0]["content_id"])

    def credentials(self) -> dict[str, str]:
        return {
            "DMM_BASE_URL": self.api.base_url,
            "DMM_API_ID": API_ID,
            "DMM_AFFILIATE_ID": AFFILIATE_ID,
            "DMM_REQUESTS_PER_SECOND": "0",
        }

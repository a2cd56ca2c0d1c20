"""Settings of one installation, read once from the environment and `.env` and handed down as values.

Belongs here: names of environment variables, defaults and validation. Does not belong here: connecting, starting
or writing anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values

REPO_ROOT = Path(__file__).resolve().parents[1]
DBT_PROJECT_DIR = REPO_ROOT / "dbt_project"
DMM_IDS = ("DMM_API_ID", "DMM_AFFILIATE_ID")
EMULATED_API_ID = "emulated-api-id"
EMULATED_AFFILIATE_ID = "emulated-990"
DMM_BASE_URL = "https://api.dmm.com/affiliate/v3"
DMM_PLACES = "FANZA/digital/videoa, FANZA/digital/videoc"
FEED_NAMES = ("FEED_BASE_URL", "FEED_API_KEY", "FEED_CATEGORIES")


class SettingsError(RuntimeError):
    """A setting is missing or unusable; the message names it and says what to do."""


@dataclass(frozen=True)
class DatabaseSettings:
    """Where the warehouse is and as whom to log in.

    The login is a member of every group role; each connection switches to the one role it needs.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    dbname: str = "warehouse"

    def url(self, driver: str = "postgresql", role: str | None = None) -> str:
        """Return the SQLAlchemy or libpq URL. It holds the password: hand it to a library, never log it."""
        options = f"?options=-c%20role%3D{role}" if role else ""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{driver}://{login}@{self.host}:{self.port}/{quote(self.dbname, safe='')}{options}"

    def environment(self) -> dict[str, str]:
        """Return the `PG*` variables for a child process such as dbt or psql."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "DBT_ENV_SECRET_PGPASSWORD": self.password,
            "PGDATABASE": self.dbname,
        }


@dataclass(frozen=True)
class DmmSettings:
    """The catalogue API: where it is, our ids there, and how gently to call it."""

    base_url: str
    api_id: str = field(repr=False)
    affiliate_id: str = field(repr=False)
    requests_per_second: float
    request_budget: int
    places: tuple[tuple[str, str, str], ...]
    """Floors to pull: site, service and floor code of each."""


@dataclass(frozen=True)
class FeedSettings:
    """The JSON feed: where it is, our key there, what to pull, and how gently to call it."""

    base_url: str
    api_key: str = field(repr=False)
    categories: tuple[str, ...]
    requests_per_second: float
    request_budget: int


@dataclass(frozen=True)
class Settings:
    """One installation: its state folder, its database and the catalogue API."""

    home: Path
    embedded: bool
    external_database: DatabaseSettings | None
    pg_port: int | None
    environment: Mapping[str, str] = field(repr=False, compare=False)

    @property
    def is_default_home(self) -> bool:
        """Whether the state lives in the repository's own `.matching/`."""
        return self.home == (REPO_ROOT / ".matching").resolve()

    @property
    def postgres_dir(self) -> Path:
        """Folder of the embedded server."""
        return self.home / "postgres"

    @property
    def artifacts_dir(self) -> Path:
        """Folder with one sub-folder per model run."""
        return self.home / "artifacts"

    @property
    def unfinished_dir(self) -> Path:
        """Folder with one sub-folder per training that has not ended, for the one that goes on with it."""
        return self.home / "unfinished"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance folder."""
        return self.home / "dagster"

    @property
    def gx_dir(self) -> Path:
        """Great Expectations results and Data Docs."""
        return self.home / "gx"

    @property
    def reports_dir(self) -> Path:
        """Pages for people: one per state of the data, and one per judged run."""
        return self.home / "reports"

    @property
    def node_dir(self) -> Path:
        """Where the parity check installs TensorFlow.js for Node."""
        return self.home / "node"

    @property
    def max_decision_age_days(self) -> float | None:
        """Oldest acceptable newest decision, None for any: `MATCHING_MAX_DECISION_AGE_DAYS`, for live data.

        Raises:
            SettingsError: The value is not a number.
        """
        name = "MATCHING_MAX_DECISION_AGE_DAYS"
        return _number(self.environment, name, 0.0) if self.environment.get(name) else None

    @property
    def dbt_manifest_dir(self) -> Path:
        """The manifest that Dagster makes its assets from; apart from what a bare `dbt` writes."""
        return self.home / "dbt" / "manifest"

    @property
    def dbt_target_dir(self) -> Path:
        """Compiled SQL and manifest of dbt."""
        return self.home / "dbt" / "target"

    @property
    def env_file(self) -> Path:
        """The `.env` that `matching up` maintains: the repository's for the default home, else the home's own."""
        return (REPO_ROOT if self.is_default_home else self.home) / ".env"

    def database(self) -> DatabaseSettings:
        """Return how to log in to the warehouse.

        Raises:
            SettingsError: The embedded server was never set up in this home.
        """
        if self.external_database is not None:
            return self.external_database
        port_file, password_file = self.postgres_dir / "port", self.postgres_dir / "password"
        if not (port_file.exists() and password_file.exists()):
            raise SettingsError(f"no warehouse in {self.home} yet: run `matching up` first")
        return DatabaseSettings(
            host="127.0.0.1",
            port=int(port_file.read_text()),
            user="matching",
            password=password_file.read_text().strip(),
        )

    def dmm(self) -> DmmSettings:
        """Return the catalogue API settings.

        Raises:
            SettingsError: The ids are missing, or a number is not a number.
        """
        env = self.environment
        missing = [name for name in DMM_IDS if not env.get(name)]
        if missing:
            raise SettingsError(
                f"{' and '.join(missing)} not set: put your DMM Affiliate API ids into .env, "
                "or try `matching demo` with the emulated API"
            )
        return DmmSettings(
            base_url=env.get("DMM_BASE_URL", DMM_BASE_URL),
            api_id=env["DMM_API_ID"],
            affiliate_id=env["DMM_AFFILIATE_ID"],
            requests_per_second=_number(env, "DMM_REQUESTS_PER_SECOND", 1.0),
            request_budget=int(_number(env, "DMM_REQUEST_BUDGET", 20_000)),
            places=_places(env.get("DMM_PLACES") or DMM_PLACES),
        )

    def feed(self) -> FeedSettings:
        """Return the settings of the JSON feed.

        Raises:
            SettingsError: Something is missing or unusable.
        """
        env = self.environment
        missing = [name for name in FEED_NAMES if not env.get(name)]
        if missing:
            raise SettingsError(f"{' and '.join(missing)} not set: feed_sync needs them in .env")
        return FeedSettings(
            base_url=_feed_url(env["FEED_BASE_URL"]),
            api_key=env["FEED_API_KEY"],
            categories=_categories(env["FEED_CATEGORIES"]),
            requests_per_second=_number(env, "FEED_REQUESTS_PER_SECOND", 1.0),
            request_budget=int(_number(env, "FEED_REQUEST_BUDGET", 20_000)),
        )


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read settings from the process environment over the home's `.env` over the repository's `.env`.

    Args:
        environment: Replaces `os.environ` and every `.env` file; for tests.

    Raises:
        SettingsError: A value is unusable.
    """
    if environment is None:
        environment = os.environ
        in_file = {k: v for k, v in dotenv_values(REPO_ROOT / ".env").items() if v is not None}
        home = _home(environment.get("MATCHING_HOME") or in_file.get("MATCHING_HOME"))
        if home != (REPO_ROOT / ".matching").resolve():
            in_file |= {k: v for k, v in dotenv_values(home / ".env").items() if v is not None}
        # A server named in the shell wins over the one that `matching up` wrote into .env.
        kind = _kind(environment) or _kind(in_file) or "embedded"
        environment = {**in_file, **environment}
    else:
        home = _home(environment.get("MATCHING_HOME"))
        kind = _kind(environment) or "embedded"
    if kind not in ("embedded", "external"):
        raise SettingsError(f"MATCHING_POSTGRES must be embedded or external, not {kind!r}")
    external = None
    if kind == "external":
        external = DatabaseSettings(
            host=environment.get("PGHOST") or "localhost",
            port=int(_number(environment, "PGPORT", 5432)),
            user=environment.get("PGUSER") or "matching",
            password=environment.get("PGPASSWORD") or environment.get("DBT_ENV_SECRET_PGPASSWORD") or "",
            dbname=environment.get("PGDATABASE") or "warehouse",
        )
    port = environment.get("MATCHING_PG_PORT")
    return Settings(
        home=home,
        embedded=kind == "embedded",
        external_database=external,
        pg_port=int(_number(environment, "MATCHING_PG_PORT", 0)) if port else None,
        environment=dict(environment),
    )


def _kind(environment: Mapping[str, str]) -> str | None:
    return environment.get("MATCHING_POSTGRES") or ("external" if environment.get("PGHOST") else None)


def _home(value: str | None) -> Path:
    return (Path(value).expanduser() if value else REPO_ROOT / ".matching").resolve()


def _places(text: str) -> tuple[tuple[str, str, str], ...]:
    places = [tuple(part.strip() for part in place.split("/")) for place in text.split(",") if place.strip()]
    if not places or any(len(place) != 3 or not all(place) for place in places):
        raise SettingsError(f"DMM_PLACES must list site/service/floor, such as {DMM_PLACES!r}, not {text!r}")
    if len({place[1:] for place in places}) < len(places):
        raise SettingsError("DMM_PLACES names a floor twice: items are kept by service and floor, whatever their site")
    return tuple((site, service, floor) for site, service, floor in places)


def _feed_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_plain = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        is_plain = False
    if not is_plain or "@" in text:  # not repeated in the message: it may hold a password
        raise SettingsError("FEED_BASE_URL must be an address like https://shop.example/feed, without login or query")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise SettingsError("FEED_BASE_URL must start with https://, or FEED_API_KEY would travel in the clear")
    return text


def _categories(text: str) -> tuple[str, ...]:
    categories = [part.strip() for part in text.split(",") if part.strip()]
    if not categories or not all(re.fullmatch(r"[a-z0-9_-]{1,64}", one) for one in categories):
        raise SettingsError(f"FEED_CATEGORIES must list slugs, such as 'music, outdoor', not {text!r}")
    return tuple(dict.fromkeys(categories))


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{name} must be a number, not {text!r}") from None

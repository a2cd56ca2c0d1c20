"""The whole house in one command: an emulated API, a sample world, and the same jobs an operator runs.

Belongs here: the order of steps and what a newcomer reads at the end. Does not belong here: any step's own logic.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestration.reporting import Reporter, reporting_to
from orchestration.settings import (
    EMULATED_AFFILIATE_ID,
    EMULATED_API_ID,
    DatabaseSettings,
    Settings,
    SettingsError,
    load_settings,
)

SIZES = ("small", "medium", "large")


class DemoError(RuntimeError):
    """A step of the demo failed; the message names the step and the reason."""


def run_demo(size: str, config: str, console: Console, reporter: Reporter) -> None:
    """Land, build, judge, train, publish and serve the sample world. Running it again goes on where it stopped.

    Raises:
        DemoError: A job failed, or the warehouse is not one that invented rows may enter.
        SettingsError: The size is unknown.
    """
    from orchestration import installation
    from orchestration.defs.launch import JobOutcome, run_job
    from orchestration.landing.emulator.server import EmulatedApi
    from orchestration.landing.emulator.world import build_world, write_app_files
    from orchestration.landing.files.load import load_files
    from orchestration.model_runs import model_config
    from orchestration.warehouse.connection import connector

    if size not in SIZES:
        raise SettingsError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
    started = time.monotonic()
    settings = load_settings()
    if not settings.embedded:
        raise DemoError(
            "the demo lands invented rows and stays away from an external Postgres: give it an embedded one, "
            "e.g. MATCHING_POSTGRES=embedded MATCHING_HOME=.matching-demo make demo"
        )
    outcomes: dict[str, JobOutcome] = {}
    with reporting_to(reporter):
        _headline(console, 1, "A warehouse")
        with reporter.task("embedded Postgres"):
            state = installation.up(settings)
        claim_warehouse(settings.home, state.database, size)
        _headline(console, 2, f"Raw data: a {size} sample world behind an emulated DMM API")
        with reporter.task("sample world"):
            world = build_world(size)
            files = write_app_files(world, settings.home / "world" / size)
        with (
            EmulatedApi(world, accepted=(EMULATED_API_ID, EMULATED_AFFILIATE_ID)) as api,
            installation.process_environment(_emulated_credentials(api.base_url)),
        ):
            outcomes["dmm_sync"] = _checked(run_job(settings, "dmm_sync"))
        with reporter.task("users, decisions, exposures") as on_progress:
            loaded = load_files(
                connector(state.database, "loader"),
                users=files.users,
                decisions=files.decisions,
                exposures=files.exposures,
                on_progress=on_progress,
            )
        _headline(console, 3, "Features, gates, training, judging, publishing")
        outcomes["full"] = _checked(run_job(settings, "full", model_config(config)))
    _headline(console, 4, "What came out")
    _print_landing(console, outcomes["dmm_sync"].metadata.get("raw_dmm/items", {}), loaded.files)
    _print_build(console, outcomes["full"])
    _print_model(console, settings)
    _print_recommendations(console, settings)
    _print_next(console, settings)
    console.print(f"[green]✓[/] done in {time.monotonic() - started:.0f} s")


def claim_warehouse(home: Path, database: DatabaseSettings, size: str) -> None:
    """Mark a warehouse as the one of this sample world.

    Raises:
        DemoError: It holds rows that are not from this world.
    """
    from orchestration.landing.emulator import marker
    from orchestration.warehouse.connection import connect

    if marker.marked_size(home) == size:
        return
    with connect(database, "loader") as connection:
        is_empty = connection.execute(
            """
            select not (
                exists (select from raw_dmm.items) or exists (select from raw_app.users)
                or exists (select from raw_app.decisions) or exists (select from raw_app.exposures)
            )
            """
        ).fetchone()
    if is_empty != (True,):
        raise DemoError(
            "this warehouse holds other data: use an empty MATCHING_HOME, "
            f"e.g. MATCHING_HOME=.matching-{size} make demo SIZE={size}"
        )
    marker.mark(home, size)


def emulate_until_interrupted(
    size: str, port: int, faults: list[str], app_files: Path | None, console: Console
) -> None:
    """Serve the emulated API until Ctrl-C.

    Raises:
        SettingsError: The size is unknown.
        LandingError: The port is taken, or a fault's name is unknown.
    """
    from orchestration.landing.emulator.server import parse_fault, serve
    from orchestration.landing.emulator.world import build_world, write_app_files

    if size not in SIZES:
        raise SettingsError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
    chosen = [parse_fault(text) for text in faults]
    world = build_world(size)
    if app_files is not None:
        written = write_app_files(world, app_files)
        console.print(f"users, decisions and exposures: {written.users.parent}")

    def ready(base_url: str) -> None:
        console.print(f"emulated DMM API with {world.item_count:,} items: DMM_BASE_URL={base_url}", soft_wrap=True)
        console.print(f"ids it accepts: DMM_API_ID={EMULATED_API_ID} DMM_AFFILIATE_ID={EMULATED_AFFILIATE_ID}")
        console.print("Ctrl-C stops it")

    try:
        serve(world, port=port, faults=chosen, accepted=(EMULATED_API_ID, EMULATED_AFFILIATE_ID), on_ready=ready)
    except KeyboardInterrupt:
        console.print("stopped")


def _emulated_credentials(base_url: str) -> dict[str, str]:
    return {
        "DMM_BASE_URL": base_url,
        "DMM_API_ID": EMULATED_API_ID,
        "DMM_AFFILIATE_ID": EMULATED_AFFILIATE_ID,
        "DMM_REQUESTS_PER_SECOND": "0",  # our own server, on this machine
    }


def _checked(outcome: Any) -> Any:
    if not outcome.succeeded:
        raise DemoError(f"a job failed. {outcome.reason}")
    return outcome


def _headline(console: Console, number: int, text: str) -> None:
    console.print(f"\n[bold cyan]{number}[/] [bold]{text}[/]")


def _print_landing(console: Console, items: dict[str, Any], files: dict[str, Any]) -> None:
    table = Table("landed", "offered", "new", "unchanged", "quarantined", title="Rows landed", title_justify="left")
    table.add_row("items", *(f"{items.get(name, 0):,}" for name in ("offered", "added", "unchanged", "quarantined")))
    for kind, count in files.items():
        table.add_row(kind, *(f"{n:,}" for n in (count.offered, count.landed, count.unchanged, count.quarantined)))
    console.print(table)


def _print_build(console: Console, outcome: Any) -> None:
    gates = [check for check in outcome.checks if check.name.startswith("gx_") and check.is_blocking]
    tests = [check for check in outcome.checks if not check.name.startswith("gx_")]
    table = Table("what", "how many", title="Built and checked", title_justify="left")
    for group, count in outcome.materialized.items():
        table.add_row(f"assets in {group}", str(count))
    table.add_row("asset checks passed", f"{sum(check.passed for check in tests)} of {len(tests)}")
    table.add_row("gates open", f"{sum(check.passed for check in gates)} of {len(gates)}")
    parity = outcome.metadata.get("ml/tfjs_bundle", {}).get("parity")
    table.add_row("browser bundle against training", str(parity or "not checked"))
    console.print(table)


def _print_model(console: Console, settings: Settings) -> None:
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    with connect(settings.database(), "trainer") as connection:
        run = registry.active_run(connection)
    if run is None or run.metrics is None:
        raise DemoError("no run is active after the demo: `matching runs` shows why")
    table = Table("who", "NDCG@10", "95 %", "Recall@20", "coverage@10", "top-3 makers")
    table.title, table.title_justify = f"Judged on held-out time: run {run.run_id}", "left"
    best_first = sorted(run.metrics["rows"].items(), key=lambda row: -row[1]["metrics"]["ndcg@10"]["mean"])
    for name, row in best_first:
        ndcg = row["metrics"]["ndcg@10"]
        table.add_row(
            name,
            f"{ndcg['mean']:.4f}",
            f"{ndcg['low']:.4f} to {ndcg['high']:.4f}",
            f"{row['metrics']['recall@20']['mean']:.4f}",
            f"{row['lists']['coverage@10']:.3f}",
            f"{row['lists']['top3_maker_share']:.3f}",
        )
    console.print(table)
    console.print(f"gate: {'passed' if run.gate_passed else 'failed'}, {run.gate_reason}")


def _print_recommendations(console: Console, settings: Settings) -> None:
    from orchestration.warehouse import serving
    from orchestration.warehouse.connection import connect

    database = settings.database()
    with connect(database, "analyst") as connection:
        users = connection.execute(
            "select user_id, like_count from features.feat_users where is_age_verified and decision_count > 0"
            " order by like_count, user_id"
        ).fetchall()
    for user_id, likes in (users[len(users) // 10], users[len(users) // 2], users[-1]):
        table = Table("#", "title", "score", "reason", title=f"For {user_id}, who liked {likes}", title_justify="left")
        for item in serving.recommend(database, user_id, 5):
            table.add_row(str(item.rank), item.title, f"{item.score:.3f}", item.reason)
        console.print(table)


def _print_next(console: Console, settings: Settings) -> None:
    from expectations.runner import GateRunner
    from orchestration.data_report import newest_data_report
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    with connect(settings.database(), "trainer") as connection:
        run = registry.active_run(connection)
    docs = GateRunner(settings.database().url("postgresql+psycopg2"), settings.gx_dir).docs_path
    rows = [
        ("see every step as a graph", "uv run matching ui   then http://127.0.0.1:3000"),
        ("what changed in the data", str(newest_data_report(settings) or "")),
        ("what the gates saw", str(docs)),
        ("how the model did", str(settings.artifacts_dir / run.artifact_path / "report.html") if run else ""),
        ("a user's list", "uv run matching recommend USER"),
        ("items like one", "uv run matching similar CONTENT_ID"),
        ("rebuild the models in SQL", "uv run dbt build"),
        ("all jobs, all model runs", "uv run matching list; uv run matching runs"),
        ("check the served run", f"uv run matching verify {run.run_id}" if run else ""),
        ("stop the database", "uv run matching down"),
    ]
    console.print("\nWhere to go next", style="italic")
    for what, where in rows:
        console.print(f"  {what:<28}[cyan]{where}[/]", soft_wrap=True)

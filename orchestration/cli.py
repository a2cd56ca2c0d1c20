"""`matching …`: the human's door. A command parses arguments, calls one function and prints the result.

Belongs here: words, tables and bars. Does not belong here: logic. Heavy imports sit inside commands, so that
`matching --help` is instant.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestration.progress import ProgressCallback

app = typer.Typer(
    name="matching",
    help="Warehouse-native recommender: land a catalogue and decisions, build features, train, publish, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A pipe or a log has no width of its own: wide enough for titles and paths.
console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
errors = Console(stderr=True, highlight=False)

quarantine = typer.Typer(help="Rows that could not be read: look at them, replay them, dismiss them.")
app.add_typer(quarantine, name="quarantine", no_args_is_help=True)
export = typer.Typer(help="Files for apps: the user tower of a run, and vectors of its items.")
app.add_typer(export, name="export", no_args_is_help=True)

Area = Annotated[str | None, typer.Option(help="raw_dmm or raw_app.")]
RowKind = Annotated[str | None, typer.Option("--kind", help="item, user, decision, exposure, excluded_tag, …")]
Reason = Annotated[str | None, typer.Option(help="Reason code.")]
PROMOTE = "gate: only when it wins; always: whatever the judge says. Neither passes a gate that found the data broken."
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A model run; `matching runs` lists them.")]
CONFIG = "Named model configuration; unless given, the one a job train_… is named after, else standard_768."
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many items.")]


@contextmanager
def quiet(name: str) -> Iterator[Path]:
    """Send what libraries write to standard output and error to a log file; our own consoles stay on the terminal.

    TensorFlow and dbt write below Python's streams, so the file descriptors themselves are moved.
    """
    from orchestration.settings import load_settings

    folder = load_settings().home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {stream: os.dup(stream) for stream in (1, 2)}
    with log.open("ab") as sink, os.fdopen(saved[1], "w") as out, os.fdopen(saved[2], "w") as err:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        console.file, errors.file = out, err
        try:
            yield log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[1], 1)
            os.dup2(saved[2], 2)
            console.file, errors.file = sys.stdout, sys.stderr


class TerminalReporter:
    """Draws one bar per task; prints a plain line per task where the output is no terminal."""

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[ProgressCallback]:
        """Show one task until the context ends."""
        if not console.is_terminal:
            import time

            started = time.monotonic()
            yield lambda done, all_: None
            console.print(f"  {label}: {time.monotonic() - started:.1f} s")
            return
        with Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        ) as progress:
            bar = progress.add_task(escape(label), total=total)
            yield lambda done, all_: progress.update(bar, completed=done, total=all_)
            finished = progress.tasks[0].total or progress.tasks[0].completed or 1
            progress.update(bar, total=finished, completed=finished)

    def note(self, text: str) -> None:
        """Print one line about what was just done."""
        console.print(f"    {text}", style="dim", markup=False)


@app.command()
def up(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port for the embedded server.")] = None,
) -> None:
    """Start Postgres, create roles and tables, and write .env for dbt and Dagster."""
    from dataclasses import replace

    from orchestration import installation
    from orchestration.settings import load_settings

    settings = load_settings()
    if port is not None:
        settings = replace(settings, pg_port=port)
    with TerminalReporter().task("warehouse"):
        state = installation.up(settings)
    kind = "embedded" if settings.embedded else "external"
    console.print(
        f"[green]✓[/] {kind} Postgres {state.server_version} with pgvector {state.pgvector_version} at "
        f"{state.database.host}:{state.database.port}, {len(state.applied)} migrations applied"
    )
    if not settings.is_default_home:
        console.print(f"for a bare `dbt` on this home: set -a; . {settings.env_file}; set +a", soft_wrap=True)


@app.command()
def down() -> None:
    """Stop the embedded Postgres. Data stays."""
    from orchestration import installation
    from orchestration.settings import load_settings

    stopped = installation.down(load_settings())
    console.print("stopped" if stopped else "no embedded server was running")


@app.command()
def demo(
    size: Annotated[str, typer.Option(help="small, medium or large.")] = "medium",
    config: Annotated[str, typer.Option(help="Named model configuration.")] = "standard_768",
) -> None:
    """From raw catalogue to recommendations, on an emulated API and a sample world."""
    from orchestration.demo import run_demo

    with quiet("demo"):
        run_demo(size, config, console, TerminalReporter())


@app.command()
def emulate(
    size: Annotated[str, typer.Option(help="small, medium or large.")] = "medium",
    port: Annotated[int, typer.Option(help="Port to listen on, 0 for any free one.")] = 8055,
    fault: Annotated[list[str] | None, typer.Option(help="name:probability, e.g. http_500:0.1; repeatable.")] = None,
    app_files: Annotated[Path | None, typer.Option(help="Also write users, decisions and exposures here.")] = None,
) -> None:
    """Run the emulated DMM API over the sample world until Ctrl-C."""
    from orchestration.demo import emulate_until_interrupted

    emulate_until_interrupted(size, port, fault or [], app_files, console)


@app.command()
def load(
    items: Annotated[Path | None, typer.Option(help="Items, one DMM ItemList item a line.")] = None,
    users: Annotated[Path | None, typer.Option(help="user_id, created_at, age_verified.")] = None,
    decisions: Annotated[Path | None, typer.Option(help="user_id, content_id, decision, decided_at, …")] = None,
    exposures: Annotated[Path | None, typer.Option(help="user_id, content_id, exposed_at, surface, …")] = None,
    excluded_tags: Annotated[Path | None, typer.Option(help="user_id, tag_id and perhaps excluded_at.")] = None,
    into_demo: Annotated[bool, typer.Option(help="Load next to the demo's invented rows all the same.")] = False,
) -> None:
    """Load JSONL, CSV or Parquet files (also .gz, or - for standard input) into the raw tables."""
    from orchestration.landing.emulator.marker import marked_size
    from orchestration.landing.files.load import load_files
    from orchestration.settings import DMM_IDS, load_settings
    from orchestration.warehouse.connection import connector

    if not any((items, users, decisions, exposures, excluded_tags)):
        raise typer.BadParameter("name at least one of --items, --users, --decisions, --exposures, --excluded-tags")
    settings = load_settings()
    if not into_demo and (size := marked_size(settings.home)):
        raise _failed(
            f"{settings.home} holds the demo's {size} sample world, and invented and real rows could not be told apart "
            "again: use another MATCHING_HOME, or --into-demo"
        )
    with TerminalReporter().task("load") as on_progress:
        result = load_files(
            connector(settings.database(), "loader"),
            items=items,
            users=users,
            decisions=decisions,
            exposures=exposures,
            excluded_tags=excluded_tags,
            secrets=tuple(filter(None, (settings.environment.get(name) for name in DMM_IDS))),
            on_progress=on_progress,
        )
    table = Table("kind", "file", "offered", "landed", "unchanged", "quarantined")
    for kind, count in result.files.items():
        numbers = (count.offered, count.landed, count.unchanged, count.quarantined)
        table.add_row(kind, count.file, *(f"{n:,}" for n in numbers))
    console.print(table)
    for kind, count in result.files.items():
        for reason, n in sorted(count.quarantined_by_reason.items()):
            console.print(f"  quarantined {kind}: {reason} × {n:,}")


@app.command("import-legacy")
def import_legacy(
    dsn: Annotated[str, typer.Argument(envvar="MATCHING_LEGACY_DSN", help="Address of the earlier database.")],
    source: Annotated[str, typer.Option(help="Name to file its items under.")] = "legacy",
    service: Annotated[str, typer.Option(help="Service code to file its items under.")] = "digital",
    floor: Annotated[str, typer.Option(help="Floor code to file its items under.")] = "videoa",
) -> None:
    """Bring items, users and decisions over from the product's earlier database. Twice adds nothing."""
    from orchestration.landing.emulator.marker import marked_size
    from orchestration.landing.legacy.database import import_legacy
    from orchestration.settings import DMM_IDS, load_settings
    from orchestration.warehouse.connection import connector

    settings = load_settings()
    if size := marked_size(settings.home):
        raise _failed(f"{settings.home} holds the demo's {size} sample world: import into another MATCHING_HOME")
    with TerminalReporter().task("import") as on_progress:
        result = import_legacy(
            connector(settings.database(), "loader"),
            dsn,
            source=source,
            service=service,
            floor=floor,
            secrets=tuple(filter(None, (settings.environment.get(name) for name in DMM_IDS))),
            on_progress=on_progress,
        )
    table = Table("earlier table", "there", "offered", "landed", "unchanged", "quarantined", "orphans")
    for name, one in result.tables.items():
        numbers = (one.there, one.offered, one.landed, one.unchanged, one.quarantined, one.orphans)
        table.add_row(name, *(f"{n:,}" for n in numbers))
    console.print(table)
    for name, one in result.tables.items():
        for reason, n in sorted(one.quarantined_by_reason.items()):
            console.print(f"  quarantined {name}: {reason} × {n:,}")


@quarantine.command("list")
def list_quarantine(
    area: Area = None,
    kind: RowKind = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=0, max=1000, help="How many examples.")] = 10,
) -> None:
    """Count rows by area, kind and reason, and show open ones."""
    from orchestration.landing.replay import Filter, open_rows, summarize
    from orchestration.settings import load_settings
    from orchestration.warehouse.connection import connect

    which = Filter(area, kind, reason)
    with connect(load_settings().database(), "loader") as connection:
        groups, examples = summarize(connection, which), open_rows(connection, which, limit)
    if not groups:
        console.print("nothing is in quarantine")
        return
    table = Table("area", "kind", "reason", "open", "resolved", "first seen", "last seen")
    for group in groups:
        times = (f"{moment:%Y-%m-%d %H:%M}" for moment in (group.first_seen_at, group.last_seen_at))
        table.add_row(group.area, group.kind, group.reason, f"{group.open:,}", f"{group.resolved:,}", *times)
    console.print(table)
    if examples:
        table = Table("area", "id", "reason", "detail", "origin", "times seen", "first seen", "last seen")
        for row in examples:
            times = (f"{moment:%Y-%m-%d %H:%M}" for moment in (row.quarantined_at, row.last_seen_at))
            words = (row.area, row.quarantine_id, row.reason, row.detail, row.origin, row.times_seen)
            table.add_row(*(escape(str(word)) for word in words), *times)
        console.print(table)


@quarantine.command()
def replay(
    area: Area = None,
    kind: RowKind = None,
    reason: Reason = None,
    id: Annotated[list[int] | None, typer.Option(help="A single row; repeatable, with --area.")] = None,
) -> None:
    """Run open rows through today's rules; those that can be read land and are closed."""
    from orchestration.landing.replay import Filter
    from orchestration.landing.replay import replay as replay_rows
    from orchestration.settings import DMM_IDS, load_settings
    from orchestration.warehouse.connection import connector

    settings = load_settings()
    which = Filter(area, kind, reason, tuple(id or ()))
    with TerminalReporter().task("replay") as on_progress:
        result = replay_rows(
            connector(settings.database(), "loader"),
            which,
            secrets=tuple(filter(None, (settings.environment.get(name) for name in DMM_IDS))),
            on_progress=on_progress,
        )
    if not result:
        console.print("no open row matches")
        return
    table = Table("area", "kind", "offered", "landed", "unchanged", "still bad")
    for place, count in sorted(result.items()):
        numbers = (count.offered, count.landed, count.unchanged, count.still_bad)
        table.add_row(*place, *(f"{n:,}" for n in numbers))
    console.print(table)
    for (_, name), count in sorted(result.items()):
        for why, n in sorted(count.still_bad_by_reason.items()):
            console.print(f"  still bad {name}: {why} × {n:,}")


@quarantine.command()
def dismiss(
    area: Annotated[str, typer.Option(help="raw_dmm or raw_app.")],
    id: Annotated[list[int], typer.Option(help="A row; repeatable.")],
) -> None:
    """Close rows for good: they are never replayed, and meeting them again does not open them."""
    from orchestration.landing.replay import Filter
    from orchestration.landing.replay import dismiss as dismiss_rows
    from orchestration.settings import load_settings
    from orchestration.warehouse.connection import connect

    with connect(load_settings().database(), "loader", autocommit=True) as connection:
        count = dismiss_rows(connection, Filter(area, ids=tuple(id)))
    console.print(f"{count:,} rows dismissed")


@app.command("list")
def list_() -> None:
    """List the named jobs."""
    _print_jobs("")


@app.command()
def search(word: str) -> None:
    """Find jobs by a word in name or description."""
    if not _print_jobs(word):
        raise _failed(f"no job mentions {word!r}: `matching list` shows all")


@app.command()
def run(
    name: str,
    config: Annotated[str | None, typer.Option(help=CONFIG)] = None,
    promote: Annotated[str, typer.Option(help=PROMOTE)] = "gate",
    seed: Annotated[int, typer.Option(help="Seed of training.")] = 0,
    retrain: Annotated[bool, typer.Option(help="Train even when an equal run exists.")] = False,
    model_run: Annotated[str | None, typer.Option(help="Run to publish, for job publish.")] = None,
    days: Annotated[str | None, typer.Option(help="FIRST or FIRST:LAST, for jobs that run by days.")] = None,
    backfill_day: Annotated[str | None, typer.Option(help="Features: compute again all that this day touches.")] = None,
    full_refresh: Annotated[bool, typer.Option(help="Features: make every table anew.")] = False,
    released: Annotated[str | None, typer.Option(help="FROM:UNTIL, releases to pull instead of what is due.")] = None,
    allow_withdrawals: Annotated[bool, typer.Option(help="Believe a source that offers much less at once.")] = False,
    accept_drift: Annotated[bool, typer.Option(help="What the gates found changed is real: go on from here.")] = False,
) -> None:
    """Run a job to its end, on the instance that the UI shows."""
    from orchestration.defs.launch import run_job
    from orchestration.model_runs import model_config
    from orchestration.reporting import reporting_to
    from orchestration.settings import load_settings

    if model_run is not None and name != "publish":
        raise typer.BadParameter("--model-run goes with job publish only")
    op_config = model_config(
        config, promote=promote, seed=seed, retrain=retrain, run_id=model_run, accept_drift=accept_drift
    )
    op_config["dbt_models"] = {"backfill_day": backfill_day, "full_refresh": full_refresh}
    released_from, released_until = _pair(released, "--released") or (None, None)
    op_config["raw_dmm__items"] = op_config["raw_feed__items"] = {
        "released_from": released_from,
        "released_until": released_until,
        "allow_withdrawals": allow_withdrawals,
    }
    day_range = _pair(days if days is None or ":" in days else f"{days}:{days}", "--days")
    with quiet(name if name.isidentifier() else "run") as log, reporting_to(TerminalReporter()):
        outcome = run_job(load_settings(), name, op_config, day_range)
    failed = [check for check in outcome.checks if not check.passed]
    for check in failed:
        errors.print(f"[yellow]![/] {escape(check.asset)}: {escape(check.description or check.name)}", soft_wrap=True)
    assets = ", ".join(f"{count} {group}" for group, count in outcome.materialized.items()) or "none"
    console.print(
        f"{name}: {'done' if outcome.succeeded else 'failed'}; assets: {assets}; "
        f"checks: {len(outcome.checks) - len(failed)} passed, {len(failed)} failed; run {outcome.dagster_run_id}"
    )
    if not outcome.succeeded:
        errors.print(f"[dim]details: the Dagster UI (`matching ui`) and {log}[/]", soft_wrap=True)
        raise _failed(f"{name}: {outcome.reason}")


@app.command()
def runs(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Tell everything about this one.")] = None,
) -> None:
    """List model runs, newest first, or tell the story of one: judgement, evidence, verification."""
    from orchestration import run_tables
    from orchestration.settings import load_settings
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    settings = load_settings()
    with connect(settings.database(), "trainer") as connection:
        if run_id is not None:
            one = registry.get_run(connection, run_id)
            story = registry.transitions(connection, run_id)
            verification = registry.newest_verification(connection, run_id)
        else:
            found = registry.list_runs(connection)
    if run_id is not None:
        for part in run_tables.run_page(one, story, verification, str(settings.artifacts_dir / one.artifact_path)):
            console.print(part)
    elif found:
        console.print(run_tables.runs_table(found))
    else:
        console.print("no model run yet: `matching run full` makes one")


@app.command()
def tune(
    config: Annotated[str, typer.Argument(help="Named configuration to start from.")] = "standard_768",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all; those of earlier calls count.")] = 30,
    minutes: Annotated[float, typer.Option(min=0.01, help="Time for this call.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the search and of training.")] = 0,
    key: Annotated[list[str] | None, typer.Option(help="Search this key only; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the best configuration here, as TOML.")] = None,
) -> None:
    """Search a better configuration, judged on validation only. Stopped and started again it goes on."""
    from orchestration.reporting import reporting_to
    from orchestration.settings import load_settings
    from orchestration.tuning import leading_trials, write_config
    from orchestration.tuning import tune as search

    with quiet("tune"), reporting_to(TerminalReporter()):
        tuned = search(load_settings(), config, trials, minutes, seed, key)
    table = Table("trial", "NDCG@10 on validation", "epochs", "what it changes")
    for trial, change in leading_trials(tuned):
        table.add_row(str(trial.number), f"{trial.score:.4f}", str(trial.epochs), escape(change))
    console.print(table)
    states = [trial.state for trial in tuned.trials]
    told = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    console.print(f"{len(states)} of {trials} trials, {tuned.n_new} now: {told}; study {tuned.study.study_id[:12]}")
    if out is not None:
        write_config(tuned, out)
        console.print(f"best configuration → {out}", soft_wrap=True)


@app.command()
def promote(
    run_id: RunId,
    always: Annotated[
        bool, typer.Option("--always", help="Whatever the judge says; no gate on data is passed.")
    ] = False,
) -> None:
    """Serve a published run, if its judgement beside the active run allows it."""
    from orchestration import model_runs
    from orchestration.settings import load_settings
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    settings = load_settings()
    with connect(settings.database(), "trainer") as connection:
        one = registry.get_run(connection, run_id)
    console.print(model_runs.promote_run(settings, one, "always" if always else "gate"))


@app.command()
def reject(
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why; kept with the run.")],
) -> None:
    """Close a run that is not to be served, or served again."""
    from orchestration.model_runs import reject_run
    from orchestration.settings import load_settings

    console.print(reject_run(load_settings(), run_id, reason))


@app.command()
def rollback(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run that was served before.")] = None,
) -> None:
    """Serve the run that was active before, at once; again goes one step further back."""
    from orchestration.model_runs import roll_back
    from orchestration.settings import load_settings

    console.print(roll_back(load_settings(), run_id))


@app.command()
def verify(
    run_id: RunId,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out training again.")] = False,
) -> None:
    """Check a run end to end: files, weights, browser bundle, rows in pgvector, training again."""
    from orchestration import run_tables
    from orchestration.reporting import reporting_to
    from orchestration.settings import load_settings
    from orchestration.verification import verify_run
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    settings = load_settings()
    with connect(settings.database(), "trainer") as connection:
        one = registry.get_run(connection, run_id)
    with quiet("verify"), reporting_to(TerminalReporter()):
        checks = [check.as_dict() for check in verify_run(settings, one, quick=quick)]
    console.print(run_tables.checks_table(checks, f"Verification of {run_id}"))
    failed = [check["name"] for check in checks if check["status"] == "failed"]
    if failed:
        raise _failed(f"run {run_id} is not what it claims to be: {', '.join(failed)}")
    left_out = sum(check["status"] == "not checked" for check in checks)
    console.print(f"[green]✓[/] {len(checks) - left_out} checks passed, {left_out} not made")


@export.command("tfjs")
def export_tfjs(
    run_id: RunId,
    weights: Annotated[str, typer.Option(help="float32, float16 or uint16 (the smallest).")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Folder for the bundle; the run's own unless given.")] = None,
) -> None:
    """Write the user tower of a run for browsers and Node: model, manifest, and the typed module matching.js."""
    from orchestration.model_runs import export_bundle
    from orchestration.reporting import reporting_to
    from orchestration.settings import load_settings
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    settings = load_settings()
    with connect(settings.database(), "trainer") as connection:
        one = registry.get_run(connection, run_id)
    with quiet("export"), reporting_to(TerminalReporter()):
        bundle = export_bundle(settings, one, weights, out)
    console.print(f"{bundle.gzipped_bytes / 1e6:.2f} MB gzipped, {weights} → {bundle.folder}", soft_wrap=True)
    console.print(f"TensorFlow.js beside the model: {bundle.parity}")


@export.command("vectors")
def export_vectors(
    out: Annotated[Path, typer.Option(help="Folder for items.json and items.f16.")],
    run_id: Annotated[str | None, typer.Option("--run", help="Whose vectors; the active run's.")] = None,
    items: Annotated[int, typer.Option(min=1, help="How many: half the most popular, half of all others.")] = 2000,
) -> None:
    """Write item vectors of a published run as files that matching.js loads; no user is in them."""
    from orchestration.item_files import write_item_files
    from orchestration.model_runs import ModelRunError
    from orchestration.settings import load_settings
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    settings = load_settings()
    with connect(settings.database(), "trainer") as connection:
        one = registry.get_run(connection, run_id) if run_id else registry.active_run(connection)
    if one is None:
        raise ModelRunError("no model run is active yet: `matching run full` makes one")
    deck = write_item_files(settings, one, out, items)
    console.print(f"{len(deck.content_ids):,} item vectors of run {one.run_id} → {out}", soft_wrap=True)


@app.command()
def playground(
    run_id: Annotated[str | None, typer.Option("--run", help="Whose model; unless given, the active run's.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1, 0 for any free one.")] = 8060,
    items: Annotated[int, typer.Option(min=20, help="Items in the deck.")] = 2000,
) -> None:
    """Serve a page, on this machine only, that ranks in the browser and compares with the warehouse; until Ctrl-C."""
    from orchestration.playground import open_playground
    from orchestration.settings import load_settings

    server, session = open_playground(load_settings(), run_id, port, items)
    console.print(
        f"playground of run {session['run_id']}: [cyan]http://127.0.0.1:{server.server_port}/[/]  Ctrl-C stops it"
    )
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("stopped")


@app.command()
def standardize(
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or npz: item_id or content_id, and vector.")],
    out: Annotated[Path, typer.Option(help="Parquet to write: the same ids with unit vectors of 768 dimensions.")],
    run_id: Annotated[str | None, typer.Option("--run", help="Whose standard counts; the active run's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into learning and measuring.")] = 0,
) -> None:
    """Bring older vectors to the standard of a run by a projection learned on shared items, and say what it keeps."""
    from orchestration.reporting import reporting_to
    from orchestration.settings import load_settings
    from orchestration.standardization import standardize_file

    with quiet("standardize"), reporting_to(TerminalReporter()):
        done = standardize_file(load_settings(), file, out, run_id, seed)
    about, recall = done.about, done.about["recall@20"]
    console.print(
        f"{about['source']['vectors']:,} vectors of {about['source']['dimensions']} dimensions → {done.out}, "
        f"by {about['method']} learned on {about['learned_from']:,} of {about['shared_items']:,} shared items",
        soft_wrap=True,
    )
    console.print(
        f"on {about['held_out']:,} items held out: finds {recall['mean']:.1%} of an item's 20 nearest "
        f"({recall['low']:.1%} to {recall['high']:.1%}; by chance {about['chance']:.1%}), "
        f"mean cosine {about['mean_cosine']:.3f}",
        soft_wrap=True,
    )
    console.print(f"manifest: {done.manifest}", soft_wrap=True)


@app.command()
def publish(
    run_id: RunId,
    promote: Annotated[str, typer.Option(help=PROMOTE)] = "gate",
) -> None:
    """Encode and write the vectors of a trained run, then promote it by the same rules as `promote`."""
    from orchestration.settings import load_settings
    from orchestration.warehouse import registry
    from orchestration.warehouse.connection import connect

    with connect(load_settings().database(), "trainer") as connection:
        registry.get_run(connection, run_id)
    run("publish", promote=promote, model_run=run_id)


@app.command()
def recommend(
    user_id: Annotated[str | None, typer.Argument(help="The user; or --all.")] = None,
    limit: Limit = 20,
    everyone: Annotated[bool, typer.Option("--all", help="Every age-verified user.")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV for --all: user_id,content_id,rank,score.")] = None,
    tag: Annotated[list[int] | None, typer.Option(help="Only this tag id; again for any of several.")] = None,
    maker: Annotated[list[int] | None, typer.Option(help="Only this maker id; again for any of several.")] = None,
    price_min: Annotated[int | None, typer.Option(min=0, help="Yen, at least.")] = None,
    price_max: Annotated[int | None, typer.Option(min=0, help="Yen, at most.")] = None,
    released_after: Annotated[datetime | None, typer.Option(help="Only what was released later, in UTC.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not this content id; again for several.")] = None,
) -> None:
    """Show what a user is recommended, or write the lists of all users."""
    from orchestration.settings import load_settings
    from orchestration.warehouse import serving

    database = load_settings().database()
    after = None if released_after is None else released_after.replace(tzinfo=UTC)
    filters = serving.Filters(tag, maker, price_min, price_max, after, exclude)
    if everyone:
        if filters.arguments():
            raise typer.BadParameter("filters are for the list of one user, not for --all")
        if out is None:
            raise typer.BadParameter("--all needs --out FILE")
        with TerminalReporter().task("recommend") as on_progress:
            export = serving.write_all(database, limit, out, on_progress)
        skipped = f", {export.skipped:,} users skipped who may not be served any more" if export.skipped else ""
        console.print(f"{export.rows:,} recommendations for {export.users:,} users → {out}{skipped}", soft_wrap=True)
        return
    if user_id is None:
        raise typer.BadParameter("name a user, or use --all --out FILE")
    _print_items(serving.recommend(database, user_id, limit, filters))


@app.command()
def similar(content_id: str, limit: Limit = 20) -> None:
    """Show items like one item."""
    from orchestration.settings import load_settings
    from orchestration.warehouse import serving

    _print_items(serving.similar_items(load_settings().database(), content_id, limit))


@app.command()
def feed(
    user_id: Annotated[str | None, typer.Argument(help="The user; nobody is a guest.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many places.")] = 20,
    seed: Annotated[int | None, typer.Option(help="Decides what is drawn; another page each time without one.")] = None,
    tag: Annotated[list[int] | None, typer.Option(help="A tag chosen at the start; again for several.")] = None,
) -> None:
    """Show a page mixed from the model, what is popular or new, and chance."""
    from orchestration.settings import load_settings
    from orchestration.warehouse import lists

    rows = lists.feed(load_settings().database(), user_id, limit, seed, tag)
    _print_items(rows)
    if rows:
        params = rows[0].params
        console.print(f"[dim]tier {params['tier']}, seed {params['seed']}[/]")
        for source, places in sorted(params.get("filled_by_others", {}).items()):
            console.print(f"[yellow]{places} places of {source} were filled by others[/]")


@app.command()
def popular(
    user_id: Annotated[str | None, typer.Argument(help="The user; nobody is a guest.")] = None,
    days: Annotated[int | None, typer.Option(help="1, 7 or 30; the policy's unless given.")] = None,
    limit: Limit = 20,
) -> None:
    """Show what was liked most."""
    from orchestration.settings import load_settings
    from orchestration.warehouse import lists

    _print_items(lists.popular(load_settings().database(), user_id, days, limit))


@app.command()
def sql(
    command: Annotated[str | None, typer.Option("--command", "-c", help="Run this and print the answer.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Run what is in this file, - for stdin.")] = None,
) -> None:
    """Open psql as role analyst, read-only."""
    from orchestration.settings import load_settings
    from orchestration.warehouse.console import open_psql

    if command is not None and file is not None:
        raise typer.BadParameter("--command and --file go one at a time")
    open_psql(load_settings(), command, file)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000) -> None:
    """Open the Dagster UI on this installation."""
    from orchestration.installation import child_environment
    from orchestration.settings import REPO_ROOT, load_settings

    settings = load_settings()
    environment = {**os.environ, **child_environment(settings)}
    options = ["-m", "orchestration.definitions", "-h", "127.0.0.1", "-p", str(port)]
    command = [str(Path(sys.executable).with_name("dagster")), "dev", *options]
    # Dagster lets the .env of its working folder win over everything: it must be this home's.
    folder = REPO_ROOT if settings.is_default_home else settings.home
    raise typer.Exit(subprocess.run(command, cwd=folder, env=environment, check=False).returncode)


def _print_jobs(word: str) -> int:
    from orchestration.defs.launch import list_jobs

    found = [job for job in list_jobs() if word.lower() in f"{job.name} {job.description}".lower()]
    if found:
        table = Table("job", "what it does")
        for job in found:
            table.add_row(job.name, job.description)
        console.print(table)
    return len(found)


def _print_items(rows: list) -> None:
    table = Table("#", "content_id", "title", "score", "source", "reason")
    for row in rows:
        table.add_row(str(row.rank), row.content_id, row.title, f"{row.score:.3f}", row.source, row.reason)
    console.print(table)
    if rows:
        runs = sorted({row.model_run for row in rows if row.model_run})
        console.print(f"[dim]model run {', '.join(runs) or 'none: no row asked for a vector'}[/]")


def _pair(text: str | None, option: str) -> tuple[str, str] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (first and colon and last):
        raise typer.BadParameter(f"{option} takes two days, such as 2026-01-01:2026-01-31")
    return first, last


def _failed(message: str) -> typer.Exit:
    errors.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    return typer.Exit(1)


def main() -> None:
    """Run the command line; known errors end as one line and exit code 1."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        errors.print("interrupted; everything committed so far is kept, run the same command again to go on")
        raise SystemExit(130) from None
    except Exception as error:
        package = type(error).__module__.split(".")[0]
        if isinstance(error, OSError) and error.strerror:
            _failed(f"{error.strerror}: {error.filename}")
        elif package == "psycopg":
            _failed(f"the warehouse refused: {str(error).splitlines()[0]}")
        elif package in ("orchestration", "ml", "expectations"):  # their messages are written for this reader
            _failed(str(error))
        else:
            raise
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

"""The data report of a run: one self-contained HTML page on what changed in the tables since the last accepted state.

Belongs here: reading counts, verdicts and distributions as plain values, and turning them into a page without script or
outside resource. Does not belong here: judging (`expectations`), or how a model did (`orchestration.run_report`).

The page names no user: gates keep counts and shares only, and so does everything else that is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from html import escape
from pathlib import Path
from typing import Any

import psycopg

from expectations.checkpoints import GATES
from expectations.drift import OTHER, Profile, Sample, excess_psi
from expectations.runner import Verdict
from orchestration.landing.windows import JAPAN
from orchestration.page import count_text, document, number_text, row
from orchestration.settings import Settings
from orchestration.warehouse.connection import connect

EMPTY = "(none)"
"""The bin of rows without a value."""
DAYS = 60
"""Days of volume that are shown."""
HISTORY = 20
"""Gate runs behind the small line beside each verdict."""
MAX_BINS = 24
CLEAR, DOUBTFUL = 0.25, 0.1
"""The customary limits of the population stability index: another population, worth a look."""
TABLE_GATES = tuple(gate for gate in GATES.values() if not gate.by_run)


@dataclass(frozen=True)
class JudgedTable:
    """What one gate said about one table, now and when it last accepted a state.

    Attributes:
        gate: The gate.
        relation: The table, `schema.name`.
        passed: Whether no critical expectation failed.
        judged_at: When.
        state: Number of the build that last changed the table.
        verdicts: Every expectation.
        profile: Distributions of the judged rows.
        accepted_at: When the state was judged that this one is compared with; None for the first of all.
        accepted_as_of: The instant at which that state stood.
        accepted_state: Number of the build that had last changed the table then.
        accepted_profile: Distributions of that state.
        accepted_observed: What each expectation observed of that state.
        history: What each expectation observed in the newest gate runs, oldest first, this one included.
    """

    gate: str
    relation: str
    passed: bool
    judged_at: datetime
    state: int | None
    verdicts: tuple[Verdict, ...]
    profile: Profile = field(default_factory=Profile)
    accepted_at: datetime | None = None
    accepted_as_of: datetime | None = None
    accepted_state: int | None = None
    accepted_profile: Profile = field(default_factory=Profile)
    accepted_observed: Mapping[str, float | None] = field(default_factory=dict)
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltTable:
    """What the last build did to one incremental model; `rows` is None where the reader may not count."""

    model: str
    build_number: int
    changed_build_number: int
    was_full: bool
    rows_removed: int | None
    rows_added: int | None
    built_at: datetime
    rows: int | None = None


@dataclass(frozen=True)
class DataReport:
    """Everything the page tells, as plain values.

    Attributes:
        as_of: The instant at which the features stand; None in an empty warehouse.
        dbt_manifest_hash: Which dbt project built them.
        gates: Every gate of a table.
        tables: Every incremental model.
        volume: Rows per day in Japan by kind, such as `like` or `exposures`; days without rows are left out.
    """

    as_of: datetime | None
    dbt_manifest_hash: str
    gates: tuple[JudgedTable, ...]
    tables: tuple[BuiltTable, ...]
    volume: Mapping[date, Mapping[str, int]]

    @property
    def accepted_as_of(self) -> datetime | None:
        """The instant of the newest state that a gate compares with."""
        return max((gate.accepted_as_of for gate in self.gates if gate.accepted_as_of), default=None)

    @property
    def build_number(self) -> int:
        """The newest build that the page tells of."""
        return max((table.build_number for table in self.tables), default=0)


def write_data_report(settings: Settings, dagster_run_id: str | None = None) -> Path:
    """Read what the gates said last, or said in one Dagster run, and write the page of it.

    Returns:
        The page, in `Settings.reports_dir`.
    """
    with connect(settings.database(), "trainer") as connection:
        report = read_data_report(connection, settings.dbt_manifest_dir / "manifest.sha256", dagster_run_id)
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    moment = f"{report.as_of:%Y%m%d-%H%M%S}" if report.as_of else "empty"
    page = settings.reports_dir / f"data-{moment}-build{report.build_number}.html"
    partial = page.with_suffix(".partial")
    partial.write_text(render_data_report(report), encoding="utf-8")
    partial.replace(page)
    return page


def newest_data_report(settings: Settings) -> Path | None:
    """Return the page that was written last, if there is one."""
    pages = settings.reports_dir.glob("data-*.html") if settings.reports_dir.exists() else ()
    return max(pages, key=lambda page: page.stat().st_mtime, default=None)


def write_when_all_judged(settings: Settings, dagster_run_id: str) -> Path | None:
    """Write the page if every gate of a table has spoken in a Dagster run; None as long as one has not.

    The gates of a run come in no order, and what depends on a table does not start after a gate has closed, which is
    when the page matters most. So each gate asks whether it was the last.
    """
    with connect(settings.database(), "trainer") as connection:
        judged = connection.execute(
            "select distinct gate from ml.gate_runs where dagster_run_id = %s and run_id is null", [dagster_run_id]
        ).fetchall()
    if {gate for (gate,) in judged} < {gate.name for gate in TABLE_GATES}:
        return None
    return write_data_report(settings, dagster_run_id)


def read_data_report(
    connection: psycopg.Connection, manifest_stamp: Path, dagster_run_id: str | None = None
) -> DataReport:
    """Fetch everything the page tells.

    Args:
        connection: As trainer.
        manifest_stamp: File with the hash of the dbt project.
        dagster_run_id: Whose gate runs to show; None for the newest of each gate.
    """
    connection.execute("set transaction isolation level repeatable read, read only")
    gates = [_read_gate(connection, gate.name, dagster_run_id) for gate in TABLE_GATES]
    as_of = connection.execute("select as_of from features.feat_as_of").fetchone()
    return DataReport(
        as_of=as_of[0] if as_of else None,
        dbt_manifest_hash=manifest_stamp.read_text().strip() if manifest_stamp.exists() else "none",
        gates=tuple(gate for gate in gates if gate is not None),
        tables=_read_tables(connection),
        volume=_read_volume(connection, as_of[0]) if as_of else {},
    )


def _read_gate(connection: psycopg.Connection, gate: str, dagster_run_id: str | None) -> JudgedTable | None:
    from expectations.custom import VARYING  # it imports Great Expectations, which the page does not need

    row = connection.execute(
        "select gate_run_id, relation, passed, judged_at, changed_build_number, profile from ml.gate_runs"
        " where gate = %(gate)s and run_id is null"
        " and (dagster_run_id = %(run)s or %(run)s::text is null) order by gate_run_id desc limit 1",
        {"gate": gate, "run": dagster_run_id},
    ).fetchone()
    if row is None:
        return None
    gate_run_id, relation, passed, judged_at, state, profile = row
    profile.get("distributions", {}).pop(VARYING, None)  # it says which features differ at all
    # Once a state is accepted it may itself be what later ones are compared with: then look at the one before it.
    accepted = connection.execute(
        "select g.gate_run_id, g.judged_at, g.as_of, g.changed_build_number, g.profile from ml.gate_runs as g"
        " left join ml.accepted_states as b on g.gate_run_id = b.gate_run_id"
        " where g.gate = %s and g.run_id is null and g.passed and g.gate_run_id < %s"
        " order by b.gate_run_id is null, g.gate_run_id desc limit 1",
        [gate, gate_run_id],
    ).fetchone()
    observed = connection.execute(
        "select v.expectation, v.observed from ml.gate_verdicts as v where v.gate_run_id = %s",
        [accepted[0] if accepted else None],
    ).fetchall()
    history = connection.execute(
        "select v.expectation, array_agg(v.observed order by v.gate_run_id) filter (where v.observed is not null)"
        " from ml.gate_verdicts as v where v.gate_run_id in ("
        "     select g.gate_run_id from ml.gate_runs as g"
        "     where g.gate = %s and g.run_id is null and g.gate_run_id <= %s order by g.gate_run_id desc limit %s"
        " ) group by v.expectation",
        [gate, gate_run_id, HISTORY],
    ).fetchall()
    verdicts = connection.execute(
        "select expectation, severity, passed, observed, bounds, meaning from ml.gate_verdicts"
        " where gate_run_id = %s order by expectation",
        [gate_run_id],
    ).fetchall()
    return JudgedTable(
        gate=gate,
        relation=relation,
        passed=passed,
        judged_at=judged_at,
        state=state,
        verdicts=tuple(Verdict(*verdict) for verdict in verdicts),
        profile=Profile.from_json(profile),
        accepted_at=accepted[1] if accepted else None,
        accepted_as_of=accepted[2] if accepted else None,
        accepted_state=accepted[3] if accepted else None,
        accepted_profile=Profile.from_json(accepted[4]) if accepted else Profile(),
        accepted_observed=dict(observed),
        history={name: tuple(values or ()) for name, values in history},
    )


def _read_tables(connection: psycopg.Connection) -> tuple[BuiltTable, ...]:
    counted = {}
    for relation in sorted({gate.relation for gate in TABLE_GATES}):
        query = f"select count(*) from {relation}"  # noqa: S608 - constants of the registry of gates
        [(counted[relation.split(".")[1]],)] = connection.execute(query).fetchall()
    built = connection.execute(
        "select model, build_number, changed_build_number, was_full, rows_removed, rows_added, built_at"
        " from monitoring.model_builds order by model"
    ).fetchall()
    return tuple(BuiltTable(*values) for values in ((*row, counted.get(row[0])) for row in built))


def _read_volume(connection: psycopg.Connection, as_of: datetime) -> dict[date, dict[str, int]]:
    rows = connection.execute(
        """
        select (decided_at at time zone 'Asia/Tokyo')::date, decision, count(*) from marts.fct_decisions
        where decided_at between %(as_of)s - make_interval(days => %(days)s) and %(as_of)s
        group by 1, 2
        union all
        select (exposed_at at time zone 'Asia/Tokyo')::date, 'exposures', count(*) from marts.fct_exposures
        where exposed_at between %(as_of)s - make_interval(days => %(days)s) and %(as_of)s
        group by 1, 2
        union all
        select (first_seen_at at time zone 'Asia/Tokyo')::date, 'new items', count(*) from features.feat_items
        where first_seen_at between %(as_of)s - make_interval(days => %(days)s) and %(as_of)s
        group by 1, 2
        """,
        {"as_of": as_of, "days": DAYS},
    ).fetchall()
    volume: dict[date, dict[str, int]] = {}
    for day, kind, count in rows:
        volume.setdefault(day, {})[kind] = count
    return volume


KINDS = {"like": "#1f5fbf", "nope": "#c0653a", "skip": "#b9c0ca", "exposures": "#4c7f74", "new items": "#7a5ca8"}


def render_data_report(report: DataReport) -> str:
    """Return the page."""
    title = f"Data as of {report.as_of:%Y-%m-%d %H:%M} UTC" if report.as_of else "Data of an empty warehouse"
    failed = [(gate, v) for gate in report.gates for v in gate.verdicts if not v.passed and v.severity == "critical"]
    blocked = {(gate.gate, v.name) for gate, v in failed}
    warned = [
        (gate, v)
        for gate in report.gates
        for v in gate.verdicts
        # A change that blocks needs no second line that says it would be worth a look if it were slight.
        if not v.passed and v.severity == "warning" and (gate.gate, v.name.removesuffix("_slight")) not in blocked
    ]
    parts = [
        f"<h1>{title}</h1>",
        _verdict(report, failed, warned),
        "<h2>What needs a look</h2>",
        _failures([*failed, *warned]),
        "<h2>Rows</h2>",
        _tables(report),
        "<h2>Volume per day</h2>",
        _volume(report),
        "<h2>Distributions, now and in the accepted state</h2>",
        _distributions(report.gates),
        "<h2>Every expectation</h2>",
        *(_expectations(gate) for gate in report.gates),
        "<h2>Provenance</h2>",
        _provenance(report),
    ]
    return document(title, parts)


def _verdict(report: DataReport, failed: Sequence[Any], warned: Sequence[Any]) -> str:
    closed = [gate.gate for gate in report.gates if not gate.passed]
    if not report.gates:
        told = "<strong class='warned'>No gate has judged these tables.</strong>"
    elif closed:
        told = f"<strong class='failed'>Blocked</strong> by {escape(', '.join(closed))}: nothing is trained on this."
    else:
        told = "<strong class='passed'>Accepted</strong> by every gate."
    since = (
        f"Compared with the accepted state of {report.accepted_as_of:%Y-%m-%d %H:%M} UTC."
        if report.accepted_as_of
        else "No state was accepted before, so there is nothing to compare with."
    )
    n_met = sum(verdict.passed for gate in report.gates for verdict in gate.verdicts)
    exchanged = [table for table in report.tables if not table.was_full]
    added = sum(table.rows_added or 0 for table in exchanged)
    removed = sum(table.rows_removed or 0 for table in exchanged)
    tiles = [
        ("failed" if failed else "passed", len(failed), "critical failures"),
        ("warned" if warned else "passed", len(warned), "warnings"),
        ("", n_met, "expectations met"),
        ("", f"+{added:,} −{removed:,}" if exchanged else "all anew", "rows in the last build"),
    ]
    boxes = "".join(f"<div class='tile {mark}'><b>{value}</b>{name}</div>" for mark, value, name in tiles)
    return f"<p>{told} <span class='quiet'>{since}</span></p><div class='tiles'>{boxes}</div>"


def _failures(found: Sequence[tuple[JudgedTable, Verdict]]) -> str:
    if not found:
        return "<p>Nothing: every expectation was met.</p>"
    head = row("th", ("!", "!expectation", "observed", "accepted state", "!wanted", "recent"))
    body = "".join(
        row(
            "td",
            (
                f"!<span class='pill {escape(verdict.severity)}'>{escape(verdict.severity)}</span>",
                f"!<code>{escape(gate.gate)}.{escape(verdict.name)}</code>"
                f"<div class='quiet'>{escape(verdict.description)}</div>",
                f"<b class='{escape(verdict.severity)}'>{number_text(verdict.observed)}</b>",
                number_text(gate.accepted_observed.get(verdict.name)),
                f"!{escape(verdict.bounds)}",
                _line(gate.history.get(verdict.name, ())),
            ),
        )
        for gate, verdict in found
    )
    return f"<table>{head}{body}</table>"


def _tables(report: DataReport) -> str:
    if not report.tables:
        return "<p>No build is known.</p>"
    changed = {
        gate.relation.split(".")[1]: "first seen" if gate.accepted_at is None else _changed(gate)
        for gate in report.gates
    }
    top = max(((t.rows_added or 0) + (t.rows_removed or 0) for t in report.tables), default=0)
    head = row("th", ("!table", "rows", "removed", "added", "", "!last build", "!since the accepted state"))
    told = [t for t in report.tables if t.rows is not None or t.rows_added or t.rows_removed]
    ordered = sorted(
        told,
        key=lambda t: (t.rows is None, -(t.rows_added or 0) - (t.rows_removed or 0), t.model),
    )
    body = "".join(
        row(
            "td",
            (
                f"!<code>{escape(table.model)}</code>",
                count_text(table.rows),
                "" if table.was_full else count_text(table.rows_removed),
                "" if table.was_full else count_text(table.rows_added),
                "" if table.was_full else _exchange(table.rows_removed or 0, table.rows_added or 0, top),
                f"!{'made anew' if table.was_full else 'rows exchanged'}, {table.built_at:%Y-%m-%d %H:%M}",
                f"!{changed.get(table.model, '')}",
            ),
        )
        for table in ordered
    )
    others = {
        "Made anew as well: ": [t.model for t in report.tables if t not in told and t.was_full],
        "No row has changed in ": [t.model for t in report.tables if t not in told and not t.was_full],
    }
    notes = "".join(
        f"<p class='quiet'>{what}{', '.join(f'<code>{escape(name)}</code>' for name in names)}.</p>"
        for what, names in others.items()
        if names
    )
    return f"<table>{head}{body}</table>{notes}"


def _changed(gate: JudgedTable) -> str:
    return "the same rows" if gate.state == gate.accepted_state else "<b>changed</b>"


def _exchange(removed: int, added: int, top: int) -> str:
    """Draw removed rows to the left of the middle and added ones to the right."""
    scale = 48 / top if top else 0.0
    return (
        f"<svg viewBox='0 0 100 14' role='img' aria-label='{removed:,} removed, {added:,} added'>"
        "<line x1='50' x2='50' y1='0' y2='14' stroke='#b9c0ca'/>"
        f"<rect x='{50 - removed * scale:.1f}' y='3' width='{removed * scale:.1f}' height='8' fill='#c0653a'/>"
        f"<rect x='50' y='3' width='{added * scale:.1f}' height='8' fill='#1f5fbf'/></svg>"
    )


def _volume(report: DataReport) -> str:
    if not report.volume:
        return "<p>No event and no item yet.</p>"
    first, last = min(report.volume), max(report.volume)
    days = [date.fromordinal(n) for n in range(first.toordinal(), last.toordinal() + 1)]
    known = report.accepted_as_of.astimezone(JAPAN) if report.accepted_as_of else None
    charts = [
        _bars(
            days,
            known,
            {day: [report.volume.get(day, {}).get(kind, 0) for kind in kinds] for day in days},
            kinds,
            title,
        )
        for title, kinds in (
            ("decisions", ("like", "nope", "skip")),
            ("exposures", ("exposures",)),
            ("items first seen", ("new items",)),
        )
        if any(kind in counts for counts in report.volume.values() for kind in kinds)
    ]
    note = "Days of Japan; the newest is not over." + (
        " What the accepted state knew ends at the line." if known else ""
    )
    return f"{''.join(charts)}<p class='quiet'>{note}</p>"


def _bars(
    days: Sequence[date], known: datetime | None, counts: Mapping[date, Sequence[int]], kinds: Sequence[str], title: str
) -> str:
    width, height, left = 960, 120, 60
    step = (width - left) / len(days)
    top = max(sum(counts[day]) for day in days) or 1
    marks = []
    for number, day in enumerate(days):
        y = float(height)
        told = ", ".join(f"{count:,} {kind}" for kind, count in zip(kinds, counts[day], strict=True))
        bars = []
        for kind, count in zip(kinds, counts[day], strict=True):
            tall = (height - 15) * count / top
            y -= tall
            bars.append(
                f"<rect x='{left + number * step + step * 0.1:.1f}' y='{y:.1f}' width='{step * 0.8:.1f}'"
                f" height='{tall:.1f}' fill='{KINDS[kind]}'/>"
            )
        marks.append(f"<g><title>{day}: {told}</title>{''.join(bars)}</g>")
    ends = (
        f"<text x='{left}' y='{height + 14}'>{days[0]}</text>"
        f"<text x='{width}' y='{height + 14}' text-anchor='end'>{days[-1]}</text>"
        f"<text x='{left - 6}' y='20' text-anchor='end'>{top:,}</text>"
        f"<text x='{left - 6}' y='{height}' text-anchor='end'>0</text>"
        f"<line x1='{left}' x2='{width}' y1='{height}' y2='{height}' stroke='#b9c0ca'/>"
    )
    if known is not None and days[0] <= known.date() <= days[-1]:
        x = left + (days.index(known.date()) + known.hour / 24) * step
        ends += f"<line x1='{x:.1f}' x2='{x:.1f}' y1='5' y2='{height}' stroke='#222' stroke-dasharray='3 3'/>"
    key = "".join(f"<i style='background:{KINDS[kind]}'></i>{kind}" for kind in kinds) if len(kinds) > 1 else ""
    return (
        f"<h3>{title} <span class='key quiet'>{key}</span></h3>"
        f"<svg viewBox='0 0 {width} {height + 18}' role='img' aria-label='{title} per day, at most {top:,}'>"
        f"{''.join(marks)}{ends}</svg>"
    )


def _distributions(gates: Iterable[JudgedTable]) -> str:
    found = [
        (gate, name, sample, gate.accepted_profile.samples.get(name))
        for gate in gates
        for name, sample in gate.profile.samples.items()
        if sample.rows or gate.accepted_profile.samples.get(name, sample).rows
    ]
    if not found:
        return "<p>No gate kept a distribution.</p>"
    moved = [Moved(*one) for one in found]
    moved.sort(key=lambda one: (one.index is None, -(one.index or 0.0), one.gate.gate, one.name))
    key = (
        "<p class='key quiet'>Most changed first, by the population stability index beyond what samples of these sizes"
        f" show by chance: under {DOUBTFUL} nothing has happened, over {CLEAR} it is another population. Where rows"
        " have a time, the gate judges each new day by itself, and the number is that of the worst of them."
        "<br><i style='background:var(--now);margin-left:0'></i>now<i style='background:var(--then)'></i>accepted</p>"
    )
    return f"{key}<div class='plots'>{''.join(_histogram(one) for one in moved)}</div>"


@dataclass(frozen=True)
class Moved:
    """One distribution in two states."""

    gate: JudgedTable
    name: str
    now: Sample
    then: Sample | None

    @property
    def index(self) -> float | None:
        """How far it has moved: as the gate measured, which looks at days one by one, else between the two states."""
        judged = [v.observed for v in self.gate.verdicts if v.name == f"drift_{self.name}"]
        if judged and isinstance(judged[0], float | int):
            return float(judged[0])
        return excess_psi(self.now, self.then) if self.then else None


def _histogram(moved: Moved) -> str:
    gate, name, now, then, index = moved.gate, moved.name, moved.now, moved.then, moved.index
    before: Mapping[str, float] = then.shares if then else {}
    bins = _bins(now.shares, before)
    width, height = 300, 90
    top = max((max(pair) for pair in bins.values()), default=0.0) or 1.0
    step = width / max(len(bins), 4)
    marks = []
    for number, (label, (share, share_then)) in enumerate(bins.items()):
        x = number * step
        tall, tall_then = height * share / top, height * share_then / top
        told = f"{label}: {share:.1%}" + (f", accepted {share_then:.1%}" if then else "")
        marks.append(
            f"<g><title>{escape(told)}</title>"
            f"<rect x='{x + step * 0.08:.1f}' y='{height - tall_then:.1f}' width='{step * 0.84:.1f}'"
            f" height='{tall_then:.1f}' fill='var(--then)'/>"
            f"<rect x='{x + step * 0.28:.1f}' y='{height - tall:.1f}' width='{step * 0.44:.1f}'"
            f" height='{tall:.1f}' fill='var(--now)'/></g>"
        )
        if len(bins) <= 8:
            marks.append(_label(x + step / 2, height, "middle", label))
        elif number == 0:
            marks.append(_label(0, height, "start", label))
        elif number == len(bins) - 1:
            marks.append(_label(width, height, "end", label))
    mark = "quiet" if index is None or index < DOUBTFUL else "failed" if index > CLEAR else "warned"
    told = "new" if index is None else f"{index:.3f}"
    meaning = next((v.description for v in gate.verdicts if v.name == f"drift_{name}"), "")
    most = max(bins, key=lambda label: bins[label][0], default="nothing")
    alternative = f"shares of {name}, most {most}; moved by {told}" if index is not None else f"shares of {name}"
    rows = f"{now.rows:,} rows" + (f", accepted {then.rows:,}" if then else "")
    return (
        f"<figure><figcaption><span><code>{escape(name)}</code> <span class='quiet'>{escape(gate.gate)}</span></span>"
        f"<b class='{mark}'>{told}</b></figcaption>"
        f"<svg viewBox='0 0 {width} {height + 18}' role='img' aria-label='{escape(alternative, quote=True)}'>"
        f"{''.join(marks)}"
        f"<line x1='0' x2='{width}' y1='{height}' y2='{height}' stroke='#b9c0ca'/></svg>"
        f"<p>{rows}{'. A gap means: ' + escape(meaning) if meaning else ''}</p></figure>"
    )


def _bins(now: Mapping[str, float], then: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the shares of both states per bin, in an order a reader expects; the least frequent bins as one."""
    pairs = {name: (now.get(name, 0.0), then.get(name, 0.0)) for name in {*now, *then} - {OTHER}}
    rest = [now.get(OTHER, 0.0), then.get(OTHER, 0.0)]
    kept = sorted(pairs, key=lambda name: (-max(pairs[name]), name))[: MAX_BINS - 1]
    for name in pairs.keys() - set(kept):
        rest[0] += pairs[name][0]
        rest[1] += pairs[name][1]
    if len(kept) == len(pairs) and all(_as_number(name) is not None or name == EMPTY for name in kept):
        kept.sort(key=lambda name: (name == EMPTY, _as_number(name) or 0.0))
    ordered = {name: pairs[name] for name in kept}
    return ordered | ({OTHER: (rest[0], rest[1])} if any(rest) else {})


def _as_number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def _label(x: float, floor: int, anchor: str, label: str) -> str:
    short = label if len(label) <= 9 else f"{label[:8]}…"
    return f"<text x='{x:.1f}' y='{floor + 13}' text-anchor='{anchor}'>{escape(short)}</text>"


def _expectations(gate: JudgedTable) -> str:
    n_failed = sum(not verdict.passed for verdict in gate.verdicts)
    state = f"<span class='failed'>{n_failed} not met</span>" if n_failed else "<span class='passed'>all met</span>"
    head = row("th", ("!expectation", "!severity", "observed", "accepted state", "!wanted", "recent"))
    body = "".join(
        row(
            "td",
            (
                f"!<span title='{escape(verdict.description, quote=True)}'><code>{escape(verdict.name)}</code></span>",
                f"!{escape(verdict.severity)}",
                f"<span class='{'passed' if verdict.passed else 'failed'}'>{number_text(verdict.observed)}</span>",
                number_text(gate.accepted_observed.get(verdict.name)),
                f"!{escape(verdict.bounds)}",
                _line(gate.history.get(verdict.name, ())),
            ),
        )
        for verdict in sorted(gate.verdicts, key=lambda v: (v.passed, v.severity != "critical", v.name))
    )
    return (
        f"<details><summary><code>{escape(gate.gate)}</code> on {escape(gate.relation)}: "
        f"{len(gate.verdicts)} expectations, {state}</summary><table>{head}{body}</table></details>"
    )


def _provenance(report: DataReport) -> str:
    facts = {
        "features as of": f"{report.as_of:%Y-%m-%d %H:%M:%S} UTC" if report.as_of else "nothing landed",
        "newest build": f"{report.build_number:,}",
        "dbt project": report.dbt_manifest_hash[:12],
    }
    facts |= {
        f"state of {relation}": f"build {state:,}" if state is not None else "unknown"
        for relation, state in sorted({gate.relation: gate.state for gate in report.gates}.items())
    }
    facts |= {
        f"{gate.gate} judged": f"{gate.judged_at:%Y-%m-%d %H:%M:%S} UTC, against "
        + (
            f"{gate.accepted_at:%Y-%m-%d %H:%M:%S} UTC"
            + (f" (build {gate.accepted_state:,})" if gate.accepted_state is not None else "")
            if gate.accepted_at
            else "nothing"
        )
        for gate in report.gates
    }
    return "<table>" + "".join(row("td", (f"!{escape(k)}", f"!{escape(v)}")) for k, v in facts.items()) + "</table>"


def _line(values: Sequence[float]) -> str:
    """Draw the newest observations, oldest first; a single one says nothing."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    points = [(4 + 92 * n / (len(values) - 1), 20 - 16 * (value - low) / spread) for n, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    told = escape(", ".join(map(number_text, values)), quote=True)
    return (
        f"<svg viewBox='0 0 100 24' role='img' aria-label='{told}'><title>{told}</title>"
        f"<polyline points='{path}' fill='none' stroke='#5c6470' stroke-width='1.5'/>"
        f"<circle cx='{points[-1][0]:.1f}' cy='{points[-1][1]:.1f}' r='3' fill='#1f5fbf'/></svg>"
    )

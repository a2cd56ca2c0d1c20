"""The expectation classes of this project: a number computed in SQL that must lie within bounds.

Belongs here: how a rule is computed, judged and described. Does not belong here: any rule about a particular table, or
what the measures of change mean (`drift`).

Great Expectations' own column-map expectations would do for half of the rules, but at result format SUMMARY they copy
up to twenty offending *values* into results and Data Docs; aggregates computed in SQL cannot leak a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from great_expectations.expectations import UnexpectedRowsExpectation

from expectations import drift
from expectations.parameters import GateParameters

Severity = Literal["critical", "warning", "info"]


class ExpectStatisticToBeBetween(UnexpectedRowsExpectation):
    """One statistic of the whole batch, named `observed` by the query, lies between two inclusive bounds."""

    min_value: float | None = None
    max_value: float | None = None
    null_passes: bool = False

    # The parent also counts the query's rows, which would run every query twice.
    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.table",)
    success_keys: ClassVar[tuple[str, ...]] = ("unexpected_rows_query", "min_value", "max_value", "null_passes")

    def _validate(
        self,
        metrics: dict,
        runtime_configuration: dict | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        rows = metrics["unexpected_rows_query.table"]
        if len(rows) > 1 or any(set(row) != {"observed"} for row in rows):
            raise ValueError("the query of a statistic must return at most one row with one column named observed")
        value = rows[0]["observed"] if rows else None
        observed = None if value is None else float(value)
        return {"success": self._accepts(observed), "result": {"observed_value": _plain(observed)}}

    def _accepts(self, observed: float | None) -> bool:
        if observed is None:
            return self.null_passes
        # Written so that NaN, for which every comparison is false, fails.
        above = self.min_value is None or observed >= self.min_value
        below = self.max_value is None or observed <= self.max_value
        return above and below and not math.isnan(observed)


class ExpectFailingShareToBeAtMost(ExpectStatisticToBeBetween):
    """The share of rows that break a rule is at most `max_value`: 1 % broken rows read as 0.01 on any table size."""


def statistic(
    name: str,
    sql: str,
    *,
    why: str,
    min_value: float | None = None,
    max_value: float | None = None,
    severity: Severity = "critical",
    null_passes: bool = False,
) -> ExpectStatisticToBeBetween:
    """Return an expectation on one number of the batch.

    Args:
        name: Stable snake_case name; appears in outcomes, checks and tests.
        sql: Query over `{batch}` returning the column `observed` in one row, or no row for "nothing to look at".
        why: One sentence for Data Docs: what a failure would mean.
        min_value: Inclusive lower bound.
        max_value: Inclusive upper bound.
        severity: `critical` blocks, `warning` warns, `info` is only reported.
        null_passes: Whether "no value" (no row to look at) is acceptable.
    """
    return ExpectStatisticToBeBetween(
        unexpected_rows_query=sql,
        min_value=min_value,
        max_value=max_value,
        null_passes=null_passes,
        severity=severity,
        description=f"{name}: {why}",
        meta={"name": name},
    )


def failing_share(
    name: str,
    bad: str,
    *,
    why: str,
    max_share: float = 0.0,
    where: str = "true",
    severity: Severity = "critical",
) -> ExpectFailingShareToBeAtMost:
    """Return an expectation on the share of rows for which `bad` holds, among the rows for which `where` holds.

    A `bad` that is null counts as broken: a comparison with a missing value must not pass by accident. No row to look
    at passes; that there are rows is another expectation's job.
    """
    sql = (
        f"select (count(*) filter (where ({bad}) is not false))::float8 / nullif(count(*), 0) as observed "  # noqa: S608
        f"from {{batch}} where {where}"
    )
    return ExpectFailingShareToBeAtMost(
        unexpected_rows_query=sql,
        max_value=max_share,
        null_passes=True,
        severity=severity,
        description=f"{name}: {why}",
        meta={"name": name},
    )


Measure = Literal["excess_psi", "unseen_share", "smallest_ratio", "smallest_count_ratio", "size_ratio"]
_MEASURES: Mapping[str, Callable[[drift.Sample, drift.Sample], float | None]] = MappingProxyType(
    {
        "excess_psi": drift.excess_psi,
        "unseen_share": drift.unseen_share,
        "smallest_ratio": drift.smallest_ratio,
        "smallest_count_ratio": drift.smallest_count_ratio,
        "size_ratio": drift.size_ratio,
    }
)
VARYING = "varying_features"
"""The entry of a profile that says which features differ between rows."""
_WORST_IS_LEAST = ("smallest_ratio", "smallest_count_ratio", "size_ratio")
# A vocabulary may hold a hundred thousand ids; what is rarer than the 500th is no distribution to compare.
_MOST_BINS = 500
_TEXT = "coalesce(({})::text, '(none)')"
_SHOWN = f"""numbered as (select bin, n, row_number() over (order by n desc, bin) as place from counted),
            shown as (
                select case when place <= {_MOST_BINS} then bin else '{drift.OTHER}' end as bin, sum(n) as n
                from numbered group by 1
            )"""  # noqa: S608 - constants
_DAYS = 28
_FEWEST_UNITS = 20
_FEWEST_ROWS_TO_VARY = 100


@dataclass(frozen=True)
class Distribution:
    """Rows of a table counted per bin.

    Attributes:
        name: Its name in the profile; the rules about it are called after it.
        bin: SQL expression whose text is the bin. Never an id of a user: bins are kept and shown.
        source: What to select from; must mention `{batch}`.
        where: Which rows count.
        time: Column of the moment a row came to be. With it, each day that the accepted state does not know is judged
            by itself, counted back from the newest row: one bad day is seen although years are good.
        unit: Column of who stands behind a row. What a person does in a day is partly alike, so the rows of a day are
            worth the root of rows times people. Measured on the sample worlds, where a person makes seven decisions
            a day: labels, floors and prices scatter as 1 to 1.3 times fewer rows would, ages of items 3.4 times.
        is_sitting: All rows of a person's day are one draw, such as the hour (measured: 7 to 10 times fewer).
        against_all: Compare a day with all rows instead of with those of the last four weeks.
        count: How the rows of a bin are counted, where a row stands for many; not together with `time`.
    """

    name: str
    bin: str
    source: str = "{batch}"
    where: str = "true"
    time: str | None = None
    unit: str | None = None
    is_sitting: bool = False
    against_all: bool = False
    count: str = "count(*)"

    def sql(self, known_until: float | None) -> str:
        """Return a query for the counts as one JSON text.

        Args:
            known_until: Newest moment of the accepted state; days after it are counted one by one. The newest day
                always is.
        """
        if self.time is None:
            return self._whole_sql()
        days = "day = 0"
        if known_until is not None:  # half a day of slack: runs do not start at the same second every day
            days += f" or (day < {_DAYS} and newest - make_interval(secs => 86400 * (day + 0.5))"
            days += f" > to_timestamp({known_until!r}))"
        reference = "true" if self.against_all else f"day < {_DAYS}"
        reach = "" if self.against_all else f"and {self.time} > newest - interval '{_DAYS} days'"
        units, day_units = "count(*)", "count(*)"
        if self.unit:
            units, day_units = "count(distinct (unit, day))", "count(distinct unit)"
            if not self.is_sitting:
                units, day_units = (f"round(sqrt(count(*) * {people}))::int" for people in (units, day_units))
        return f"""
            with edge as materialized (select max({self.time}) as newest from {self.source} where {self.where}),
            drawn as materialized (
                select {_TEXT.format(self.bin)} as bin, {self.unit or "null"} as unit, newest,
                    floor(extract(epoch from newest - {self.time}) / 86400)::int as day
                from {self.source} cross join edge where {self.where} {reach}
            ),
            counted as (select bin, count(*) as n from drawn where {reference} group by bin),
            {_SHOWN},
            by_day as (
                select day, bin, count(*) as n,
                    row_number() over (partition by day order by count(*) desc, bin) as place
                from drawn where {days} group by day, bin
            ),
            days as (
                select day, jsonb_object_agg(bin, n) as bins from by_day where place <= {_MOST_BINS} group by day
            ),
            day_units as (select day, {day_units} as units from drawn where {days} group by day)
            select jsonb_build_object(
                'bins', (select jsonb_object_agg(bin, n) from shown),
                'units', (select {units} from drawn where {reference}),
                'newest', (select extract(epoch from newest) from edge),
                'days', (select jsonb_agg(jsonb_build_object('bins', bins, 'units', units)) from days
                         join day_units using (day))
            )::text as observed
        """  # noqa: S608 - constants of the suites

    def _whole_sql(self) -> str:
        return f"""
            with counted as (
                select {_TEXT.format(self.bin)} as bin, {self.count} as n
                from {self.source} where {self.where} group by 1
            ),
            {_SHOWN}
            select jsonb_build_object(
                'bins', (select jsonb_object_agg(bin, n) from shown),
                'units', (select coalesce(sum(n), 0) from counted),
                'newest', null,
                'days', null
            )::text as observed
        """  # noqa: S608 - constants of the suites


class ExpectDistributionToHold(UnexpectedRowsExpectation):
    """A measure of change between the accepted state of a distribution and today's lies between two bounds.

    Without an accepted state nothing is judged; the counts are reported either way, to become one.
    """

    distribution: str
    measure: str
    reference: str | None = None
    min_value: float | None = None
    max_value: float | None = None

    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.table",)
    success_keys: ClassVar[tuple[str, ...]] = (
        *("unexpected_rows_query", "distribution", "measure", "reference", "min_value", "max_value"),
    )

    def _validate(
        self,
        metrics: dict,
        runtime_configuration: dict | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        ((counted,),) = (row.values() for row in metrics["unexpected_rows_query.table"])
        stored, days = _samples(json.loads(counted))
        observed = None
        if self.reference is not None:
            observed = self._worst(days or [stored], drift.sample_from_json(self.reference))
        passed = observed is None or (
            (self.min_value is None or observed >= self.min_value)
            and (self.max_value is None or observed <= self.max_value)
        )
        details = {"distribution": self.distribution, "sample": drift.sample_as_json(stored)}
        return {"success": passed, "result": {"observed_value": _plain(observed), "details": details}}

    def _worst(self, judged: list[drift.Sample], reference: drift.Sample) -> float | None:
        if self.measure.startswith("varies:"):
            if judged[0].units < _FEWEST_ROWS_TO_VARY:
                return None
            return float(judged[0].shares.get(self.measure.removeprefix("varies:"), 0) > 0)
        measured = [
            value
            for sample in judged
            if min(sample.units, reference.units) >= _FEWEST_UNITS
            and (value := _MEASURES[self.measure](sample, reference)) is not None
        ]
        worst = min if self.measure in _WORST_IS_LEAST else max
        return worst(measured, default=None)


def _samples(counted: dict[str, Any]) -> tuple[drift.Sample, list[drift.Sample]]:
    """Return what is to be kept, and the days to be judged."""
    kept = drift.sample_of(counted["bins"] or {}, counted["units"], counted["newest"])
    return kept, [drift.sample_of(day["bins"], day["units"]) for day in counted["days"] or ()]


def change(
    name: str,
    distribution: Distribution,
    parameters: GateParameters,
    *,
    why: str,
    measure: Measure = "excess_psi",
    min_value: float | None = None,
    max_value: float | None = None,
    severity: Severity = "critical",
) -> ExpectDistributionToHold:
    """Return an expectation on how far a distribution has moved from the accepted state.

    It is reported, and blocks nothing, where there is no accepted state, or where a person accepts the change.
    """
    accepted = parameters.accepted.samples.get(distribution.name)
    is_judged = accepted is not None and not parameters.accept_drift
    return ExpectDistributionToHold(
        unexpected_rows_query=distribution.sql(None if accepted is None else accepted.newest),
        distribution=distribution.name,
        measure=measure,
        reference=None if accepted is None else drift.sample_as_json(accepted),
        min_value=min_value,
        max_value=max_value,
        severity=severity if is_judged else "info",
        description=f"{name}: {why}",
        meta={"name": name},
    )


def drifts(
    distribution: Distribution,
    parameters: GateParameters,
    *,
    why: str,
    limit: float = 0.25,
    doubtful: float = 0.1,
) -> Iterator[ExpectDistributionToHold]:
    """Yield the blocking and the warning rule about one distribution, computed by one query.

    The limits are the customary ones of the population stability index: under 0.1 nothing has happened, over 0.25 it is
    another population. They hold for what exceeds the noise of samples of this size (`drift.excess_psi`).
    """
    name = f"drift_{distribution.name}"
    yield change(name, distribution, parameters, why=why, max_value=limit)
    yield change(f"{name}_slight", distribution, parameters, why=why, max_value=doubtful, severity="warning")


def varying(columns: Iterable[str], parameters: GateParameters) -> Iterator[ExpectDistributionToHold]:
    """Yield one rule per column: a feature that told rows apart in the accepted state still does.

    Args:
        columns: Numbers or times that are never rightly the same for all; no flag that only a few rows have.
        parameters: With the accepted state.
    """
    columns = tuple(columns)
    flags = ", ".join(f"'{name}', coalesce((min({name}) <> max({name}))::int, 0)" for name in columns)
    sql = (
        f"select jsonb_build_object('bins', jsonb_build_object({flags}), 'units', count(*), "  # noqa: S608
        "'newest', null, 'days', null)::text as observed from {batch}"
    )
    accepted = parameters.accepted.samples.get(VARYING)
    for column in columns:
        did_vary = accepted is not None and accepted.shares.get(column, 0) > 0
        yield ExpectDistributionToHold(
            unexpected_rows_query=sql,
            distribution=VARYING,
            measure=f"varies:{column}",
            reference=drift.sample_as_json(accepted) if accepted is not None and did_vary else None,
            min_value=1,
            severity="critical" if did_vary and not parameters.accept_drift else "info",
            description=f"{column}_varies: every row has the same {column}; in the accepted state rows differed",
            meta={"name": f"{column}_varies"},
        )


def _plain(observed: float | None) -> float | int | str | None:
    """Return a JSON-safe number: counts as integers, NaN and infinities as text."""
    if observed is None:
        return None
    if not math.isfinite(observed):
        return str(observed)
    return int(observed) if observed == int(observed) else observed

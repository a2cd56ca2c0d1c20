"""The two expectation classes of this project: a number computed in SQL that must lie within bounds.

Belongs here: how a rule is computed, judged and described. Does not belong here: any rule about a particular table.

Great Expectations' own column-map expectations would do for half of the rules, but at result format SUMMARY they copy
up to twenty offending *values* into results and Data Docs; aggregates computed in SQL cannot leak a row.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from great_expectations.expectations import UnexpectedRowsExpectation

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


def _plain(observed: float | None) -> float | int | str | None:
    """Return a JSON-safe number: counts as integers, NaN and infinities as text."""
    if observed is None:
        return None
    if not math.isfinite(observed):
        return str(observed)
    return int(observed) if observed == int(observed) else observed

"""Rules about how many events a day has, shared by the logs of decisions and exposures.

A day is counted back from the newest event, so that it is whole at whatever hour a build runs. It is compared with the
same weekday of the four weeks before: with the weakest of the four when it is small, with the strongest when it is big.
That needs no model of weekends. Measured on the sample worlds: with 130 people a day, days scatter by a tenth and the
smallest of two hundred clean days is 0.78 of its weakest; with 15 people they scatter by a third, so that nothing can
be told; days with fewer than 80 people are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from great_expectations.expectations import UnexpectedRowsExpectation

from expectations.custom import Severity, statistic
from expectations.parameters import GateParameters

_RATIO = """
    with edge as materialized (select max({time}) as newest from {{batch}} where {where}),
    counted as (
        select floor(extract(epoch from newest - {time}) / 86400)::int as day, count(*) as n,
            count(distinct user_id) as people
        from {{batch}} cross join edge where {where} and {time} > newest - interval '57 days' group by 1
    ),
    days as (
        select day, coalesce(n, 0) as n, coalesce(people, 0) as people
        from generate_series(0, (select max(day) from counted)) as day
        left join counted using (day)
    ),
    compared as (
        select d.day, d.n::float8 / {extreme}(e.n) as ratio
        from days as d join days as e on e.day - d.day in (7, 14, 21, 28) cross join edge
        where {judged} group by d.day, d.n having count(*) >= 3 and min(e.people) >= 80
    )
    select {extreme}(ratio) as observed from compared
"""


def volume_rules(
    noun: str, time: str, where: str, known_until: float | None, parameters: GateParameters
) -> Iterator[UnexpectedRowsExpectation]:
    """Yield rules about days with too few and too many events.

    Args:
        noun: What the events are called.
        time: Column of when they happened.
        where: Which rows have a time that can be believed.
        known_until: Newest event of the accepted state: every day since is judged. None: the newest day only, and
            nothing blocks.
        parameters: Whether a person accepts the change.
    """
    judged = "d.day = 0"
    if known_until is not None:
        middle = "newest - make_interval(secs => 86400 * (d.day + 0.5))"
        judged += f" or (d.day < 28 and {middle} > to_timestamp({known_until!r}))"

    def rule(
        name: str, why: str, severity: Severity, min_value: float | None = None, max_value: float | None = None
    ) -> UnexpectedRowsExpectation:
        extreme = "max" if min_value is None else "min"
        if known_until is None and severity == "critical":
            severity = "warning"  # an imported history may rightly taper off: nobody has accepted any of it yet
        return statistic(
            name,
            _RATIO.format(time=time, where=where, judged=judged, extreme=extreme),
            min_value=min_value,
            max_value=max_value,
            null_passes=True,
            severity="info" if parameters.accept_drift else severity,
            why=why,
        )

    # Half of a day's ids lost is half a day; holidays and outages of an hour are not.
    lost = f"a day has far fewer {noun} than the same weekday of the four weeks before: part of the feed is missing"
    yield rule(f"{noun}_not_lost", lost, "critical", min_value=0.7)
    yield rule(f"{noun}_mostly_there", lost, "warning", min_value=0.8)
    # A campaign may double a day; ten times as many are repeats or a robot.
    many = f"a day has many times the {noun} of the same weekday of the four weeks before: repeats, or a robot"
    yield rule(f"{noun}_not_multiplied", many, "critical", max_value=4.0)
    yield rule(f"{noun}_not_doubled", many, "warning", max_value=1.8)

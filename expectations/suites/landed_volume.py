"""Did about as much land as usual, from as many people, about as many items? Rules over days of `marts.fct_decisions`.

Belongs here: amounts, and what has stopped altogether. Does not belong here: what the decisions say (`fct_decisions`).
"""

from __future__ import annotations

from great_expectations import ExpectationSuite

from expectations.custom import Distribution, change, statistic
from expectations.parameters import GateParameters
from expectations.suites._volume import volume_rules

COLUMNS = ("user_id", "item_id", "content_key", "unjoined_reason", "decision", "decided_at")

_DATED = "unjoined_reason is distinct from 'decided_in_future'"
# The newest moment first, then its day: a window function would write all decisions to disk to find it.
_NEWEST_DAY = (
    f"{{batch}} where {_DATED} and decided_at > "  # noqa: S608 - constants
    f"(select max(decided_at) from {{batch}} where {_DATED}) - interval '1 day'"
)


def _largest_share(column: str) -> str:
    counted = f"(select count(*) as n from {_NEWEST_DAY} group by {column}) as counted"  # noqa: S608
    return f"select max(n)::float8 / sum(n) as observed from {counted} having sum(n) >= 100"  # noqa: S608


def build(parameters: GateParameters) -> ExpectationSuite:
    """Return the suite; `max_age_days` decides whether a feed that stopped blocks by the clock."""
    floors = Distribution(
        "decisions_by_floor",
        "split_part(item_id, '/', 3)",
        where=f"{_DATED} and item_id is not null",
        time="decided_at",
        unit="user_id",
    )
    accepted = parameters.accepted.samples.get(floors.name)
    known_until = None if accepted is None else accepted.newest
    rules = [
        *volume_rules("decisions", "decided_at", _DATED, known_until, parameters),
        change(
            *("no_floor_stopped", floors, parameters),
            measure="smallest_ratio",
            min_value=0.1,
            why="a floor that users decided on gets no decision any more: its items are gone, or ids have changed",
        ),
        # The same event sent again with a new time is a new event to the warehouse.
        statistic(
            "newest_decisions_not_repeated",
            "select 1 - count(distinct (user_id, content_key, decision))::float8 / count(*) as observed "  # noqa: S608
            f"from {_NEWEST_DAY} having count(*) >= 100",
            max_value=0.25,
            null_passes=True,
            why="users made the same decision on the same item again within a day: a client repeats what it has sent",
        ),
        statistic(
            "no_user_dominates_newest_day",
            _largest_share("user_id"),
            max_value=0.4,
            null_passes=True,
            why="one user made two in five decisions of the newest day: a robot, a test account or a lost user id",
        ),
        statistic(
            "no_item_dominates_newest_day",
            _largest_share("content_key"),
            max_value=0.4,
            null_passes=True,
            why="two in five decisions of the newest day are about one item: ids have collapsed",
        ),
        # Landing of one log goes on while the other has stopped; by its own newest event a log always looks fresh.
        statistic(
            "decisions_keep_up_with_exposures",
            "select extract(epoch from max(newest_event_at) filter (where dataset = 'raw_app.exposures') "
            "- max(newest_event_at) filter (where dataset = 'raw_app.decisions')) / 86400.0 as observed "
            "from monitoring.landing_freshness where exists (select from {batch})",
            max_value=0.75,
            null_passes=True,
            why="items are shown, but nobody has decided on any since: the log of decisions has stopped",
        ),
    ]
    for name, dataset, why in (
        ("decisions_landed_age_days", "raw_app.decisions", "no decision has landed for too long: the feed is stale"),
        ("items_seen_age_days", "raw_dmm.item_sightings", "nobody has looked at the catalogue for too long"),
    ):
        age = (
            f"select extract(epoch from now() - max(newest_landed_at)) / 86400.0 as observed "  # noqa: S608
            f"from monitoring.landing_freshness where dataset = '{dataset}' and exists (select from {{batch}})"
        )
        limit = parameters.max_age_days
        rules.append(
            statistic(
                name,
                age,
                min_value=-1 if limit is None else None,
                max_value=limit,
                null_passes=True,
                severity="info" if limit is None else "critical",
                why=why,
            )
        )
    return ExpectationSuite(name="landed_volume", expectations=rules)

"""Do decisions find their items? Rules about `marts.fct_decisions`, where events without an item stay visible.

The feature tables hold joined events only; what was lost on the way can be seen nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

from great_expectations import ExpectationSuite
from great_expectations.expectations import UnexpectedRowsExpectation

from expectations.custom import Distribution, drifts, failing_share, statistic
from expectations.parameters import GateParameters

COLUMNS = ("user_id", "item_id", "unjoined_reason", "decided_at", "ingested_at", "decision", "surface")

_DATED = "unjoined_reason is distinct from 'decided_in_future'"


def _changes(parameters: GateParameters) -> Iterator[UnexpectedRowsExpectation]:
    """Yield the rules that compare each new day with the accepted four weeks."""
    for distribution, why in (
        # People are awake at certain hours; nine hours of shift move everything by more than two of these bins.
        (
            Distribution(
                "decision_hour",
                "extract(hour from decided_at at time zone 'Asia/Tokyo')::int / 4",
                where=_DATED,
                time="decided_at",
                unit="user_id",
                is_sitting=True,
            ),
            "people decide at other hours of the day: a time zone was lost or added",
        ),
        (
            Distribution("decision_surface", "surface", where=_DATED, time="decided_at", unit="user_id"),
            "decisions come from other places of the app: a client has stopped sending them",
        ),
        # A floor is the third part of an item's id.
        (
            Distribution(
                "decision_floor",
                "split_part(item_id, '/', 3)",
                where=f"{_DATED} and item_id is not null",
                time="decided_at",
                unit="user_id",
            ),
            "users decide on another floor's items: a floor is empty, or ids resolve to another one",
        ),
        (
            Distribution("unjoined_reason", "unjoined_reason", time="ingested_at", unit="user_id"),
            "newly landed decisions no longer join as they did: wrong clocks, or ids in another form",
        ),
    ):
        yield from drifts(distribution, parameters, why=why)
    # The three shares are alike: see `feat_training_examples`.
    yield from drifts(
        Distribution("decision", "decision", where=_DATED, time="decided_at", unit="user_id"),
        parameters,
        limit=0.1,
        doubtful=0.05,
        why="likes, skips and nopes have swapped places, or a client has stopped sending one",
    )


def build(parameters: GateParameters) -> ExpectationSuite:
    """Return the suite. An item blocked by content policy is a decision of ours and never a fault."""
    unknown = "unjoined_reason is not distinct from 'content_id_unknown'"
    # One clock at 2030 would else be the newest week for years, and the rules about it would see one row.
    newest_week = (
        f"{{batch}} where {_DATED} and decided_at > "  # noqa: S608 - constants
        f"(select max(decided_at) from {{batch}} where {_DATED}) - interval '7 days'"
    )
    return ExpectationSuite(
        name="fct_decisions",
        expectations=[
            # An earlier system trained on 46 % of its decisions, with the rest dropped in silence.
            failing_share(
                "decisions_find_items",
                unknown,
                max_share=0.3,
                why="more than three decisions in ten are about items the catalogue does not know",
            ),
            failing_share(
                "decisions_mostly_find_items",
                unknown,
                max_share=0.05,
                severity="warning",
                why="more than one decision in twenty is about an item the catalogue does not know",
            ),
            failing_share(
                "decisions_happened_before_they_landed",
                "unjoined_reason is not distinct from 'decided_in_future'",
                max_share=0.01,
                severity="warning",
                why="more than one decision in a hundred is from the future: a client's clock or time zone is wrong",
            ),
            # A broken id format touches new events first; in a year of history its share stays small for weeks.
            statistic(
                "recent_decisions_find_items",
                f"select avg(({unknown})::int) as observed from {newest_week} having count(*) >= 100",  # noqa: S608 - constants
                max_value=0.5,
                null_passes=True,
                why="most decisions of the newest week are about unknown items: an id format has changed",
            ),
            # A client that stops sending one of its buttons: still valid rows, other labels.
            statistic(
                "recent_decisions_have_likes",
                f"select avg((decision = 'like')::int) as observed from {newest_week} having count(*) >= 200",  # noqa: S608
                min_value=0.005,
                null_passes=True,
                why="the newest week has practically no like: a client has stopped sending them",
            ),
            *_changes(parameters),
        ],
    )

"""Can a user be encoded from these histories? Rules about `features.feat_user_histories`."""

from __future__ import annotations

from collections.abc import Iterator

from great_expectations import ExpectationSuite
from great_expectations.expectations import UnexpectedRowsExpectation

from expectations.custom import Distribution, change, drifts, failing_share, statistic, varying
from expectations.parameters import GateParameters

COLUMNS = ("item_ids", "decisions", "decided_at", "history_length")

_AS_OF = "(select as_of from features.feat_as_of)"


def _changes(parameters: GateParameters) -> Iterator[UnexpectedRowsExpectation]:
    """Yield the rules that compare the histories with the accepted ones."""
    lengths = Distribution("history_length", "width_bucket(history_length, array[2, 5, 25, 125])")
    yield change(
        *("histories_not_lost", lengths, parameters),
        measure="size_ratio",
        min_value=0.8,
        why="users who had a history have none: decisions were lost, or no longer join",
    )
    yield from drifts(lengths, parameters, why="histories are much shorter or longer: events were lost or doubled")
    yield from drifts(
        Distribution("decisions", "decision", source="(select unnest(decisions) as decision from {batch}) as listed"),
        parameters,
        why="likes, skips and nopes have swapped places",
    )
    yield from varying(["history_length"], parameters)


def build(parameters: GateParameters) -> ExpectationSuite:
    """Return the suite."""
    return ExpectationSuite(
        name="feat_user_histories",
        expectations=[
            statistic(
                "histories_present",
                "select count(*) as observed from {batch}",
                min_value=1,
                why="no user has a history: decisions do not join the catalogue",
            ),
            failing_share(
                "arrays_without_gaps",
                "array_position(item_ids, null) is not null or array_position(decisions, null) is not null "
                "or array_position(decided_at, null) is not null",
                why="a history holds a missing item, decision or time",
            ),
            # dbt cannot check the elements of an array with accepted_values.
            failing_share(
                "decisions_known",
                "not decisions <@ array[1, 0, -1]::smallint[]",
                why="a decision is neither like (1), skip (0) nor nope (-1)",
            ),
            failing_share(
                "oldest_first",
                "decided_at[1] > decided_at[history_length]",
                why="a history runs backwards: 'the most recent decisions' would be the oldest ones",
            ),
            failing_share(
                "nothing_after_as_of",
                f"decided_at[history_length] > {_AS_OF}",
                why="a history knows a decision made after the moment it claims to describe",
            ),
            # A user is encoded from the vectors of these items: an item without features has none.
            statistic(
                "items_in_catalogue",
                "select avg((i.item_id is null)::int) as observed from (select item_ids[history_length] as item_id "
                "from {batch}) as last left join features.feat_items as i using (item_id)",
                max_value=0.05,
                null_passes=True,
                why="items that users decided on are not in the catalogue: the user tower would see nothing there",
            ),
            # as_of is the newest decision landed, joined or not. When the joined ones stop earlier, the catalogue
            # no longer knows what users decide on.
            statistic(
                "joined_decisions_fresh",
                "select extract(epoch from (select as_of from features.feat_as_of) "
                "- max(decided_at[history_length])) / 86400.0 as observed from {batch}",
                max_value=30,
                why="decisions keep landing, but none of the last 30 days joins an item",
            ),
            statistic(
                "likes_present",
                "select avg((1 = any (decisions))::int) as observed from {batch}",
                min_value=0.05,
                why="hardly any user likes anything: labels are flipped or lost",
            ),
            statistic(
                "items_vary",
                "select count(distinct item_ids[history_length])::float8 as observed from {batch} "
                "having count(*) >= 50",
                min_value=5,
                null_passes=True,
                why="everybody's last decision is about the same few items: item ids have collapsed",
            ),
            # One item again and again is a normaliser that maps many ids to one, or a client that repeats itself.
            failing_share(
                "histories_not_repetitive",
                "(select count(distinct item_id) from unnest(item_ids) as item_id) < history_length * 0.5",
                where="history_length >= 10",
                max_share=0.05,
                severity="warning",
                why="users decide on the same items over and over",
            ),
            statistic(
                "histories_have_depth",
                "select avg((history_length > 1)::int) as observed from {batch}",
                min_value=0.05,
                severity="warning",
                why="nearly all users have a single decision: there is nothing to learn a sequence from",
            ),
            *_changes(parameters),
        ],
    )

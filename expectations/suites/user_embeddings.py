"""Are one run's user vectors fit to serve? Rules about a partition of `ml.user_embeddings`."""

from __future__ import annotations

from great_expectations import ExpectationSuite

from expectations.custom import failing_share, statistic
from expectations.parameters import GateParameters
from expectations.suites._vectors import shared_rules

COLUMNS = ("user_id", "embedding", "history_length", "encoded_until")


def build(_parameters: GateParameters) -> ExpectationSuite:
    """Return the suite."""
    return ExpectationSuite(
        name="user_embeddings",
        expectations=[
            # Two users with one like of the same item rightly share a vector; with five decisions each, hardly ever.
            *shared_rules("user_id", distinct_inputs="history_length >= 5"),
            statistic(
                "users_covered",
                "select (select count(*) from {batch} as b join features.feat_user_histories as h "
                "on h.user_id = b.user_id)::float8 "
                "/ nullif((select count(*) from features.feat_user_histories), 0) as observed",
                min_value=0.95,
                why="users with a history have no vector: they would be served as strangers",
            ),
            failing_share(
                "encoded_not_in_future",
                "encoded_until > now() + interval '1 day'",
                why="a user was encoded from decisions of the future: a clock is wrong",
            ),
        ],
    )

"""Do the users look like people who use the app? Rules about `features.feat_users`."""

from __future__ import annotations

from great_expectations import ExpectationSuite

from expectations.custom import failing_share, statistic
from expectations.parameters import GateParameters

COLUMNS = (
    "created_at",
    "is_age_verified",
    "decision_count",
    "like_rate",
    "first_decided_at",
    "last_decided_at",
    "as_of",
)


def build(_parameters: GateParameters) -> ExpectationSuite:
    """Return the suite."""
    return ExpectationSuite(
        name="feat_users",
        expectations=[
            statistic(
                "users_present",
                "select count(*) as observed from {batch}",
                min_value=1,
                why="without users nobody can be served",
            ),
            statistic(
                "some_users_age_verified",
                "select count(*) filter (where is_age_verified) as observed from {batch}",
                min_value=1,
                why="only age-verified users are served, and there is none: the field has been lost",
            ),
            # A person likes some and passes some; a world of all-likers or never-likers is a swapped or lost label.
            statistic(
                "like_rates_vary",
                "select count(distinct like_rate) as observed from {batch} where decision_count >= 5 "
                "having count(*) >= 50",
                min_value=2,
                null_passes=True,
                why="all active users have the same like rate: the decision column is constant",
            ),
            failing_share(
                "users_decide",
                "decision_count = 0",
                max_share=0.99,
                why="hardly any user has a decision: decisions and users no longer share their ids",
            ),
            failing_share(
                "users_mostly_decide",
                "decision_count = 0",
                max_share=0.8,
                severity="warning",
                why="four users in five have no decision",
            ),
            statistic(
                "no_user_dominates",
                "select max(decision_count)::float8 / nullif(sum(decision_count), 0) as observed from {batch}",
                max_value=0.5,
                null_passes=True,
                why="one user made most decisions: a test account or a lost user id",
            ),
            failing_share(
                "created_plausible",
                "created_at not between timestamptz '1990-01-01' and now() + interval '1 day'",
                max_share=0.01,
                why="accounts created before 1990 or in the future come from a wrong unit or time zone",
            ),
            failing_share(
                "created_before_deciding",
                "first_decided_at < created_at - interval '1 day'",
                where="first_decided_at is not null",
                max_share=0.05,
                severity="warning",
                why="users decided before they existed: one of the two clocks is wrong",
            ),
            failing_share(
                "nothing_after_as_of",
                "last_decided_at > as_of",
                where="last_decided_at is not null",
                why="a feature knows a decision made after the moment it claims to describe",
            ),
        ],
    )

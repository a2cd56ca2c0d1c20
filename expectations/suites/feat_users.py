"""Do the users look like people who use the app? Rules about `features.feat_users`."""

from __future__ import annotations

from collections.abc import Iterator

from great_expectations import ExpectationSuite
from great_expectations.expectations import UnexpectedRowsExpectation

from expectations.custom import Distribution, change, drifts, failing_share, statistic, varying
from expectations.parameters import GateParameters

COLUMNS = (
    "created_at",
    "is_age_verified",
    "decision_count",
    "like_count",
    "nope_count",
    "skip_count",
    "like_rate",
    "recent_like_rate",
    "distinct_maker_count",
    "mean_liked_price_jpy",
    "active_day_count",
    "exposure_count",
    "first_decided_at",
    "last_decided_at",
)
FEATURES = tuple(name for name in COLUMNS if name not in ("is_age_verified", "first_decided_at", "last_decided_at"))

_AS_OF = "(select as_of from features.feat_as_of)"


def _changes(parameters: GateParameters) -> Iterator[UnexpectedRowsExpectation]:
    """Yield the rules that compare the users with the accepted ones."""
    verified = Distribution("age_verified", "is_age_verified")
    yield change(
        *("users_not_lost", verified, parameters),
        measure="size_ratio",
        min_value=0.8,
        why="users who were there are gone: erasures are few, so a table was read in part",
    )
    for distribution, why in (
        (verified, "the age check of many users has changed: they would be refused, or served who must not be"),
        (
            Distribution("like_rate", "width_bucket(like_rate, 0, 1, 10)", where="decision_count >= 5"),
            "users like much more or less than they did: labels are flipped or lost",
        ),
        (
            Distribution("activity", "width_bucket(decision_count, array[1, 3, 10, 30, 100, 300, 1000])"),
            "users have many more or fewer decisions: events were lost, doubled or given to others",
        ),
        (
            Distribution(
                "liked_price",
                "width_bucket(mean_liked_price_jpy, array[100, 200, 300, 500, 1000, 2000, 5000])",
                where="mean_liked_price_jpy is not null",  # null for all likes before the catalogue was landed
            ),
            "what users paid for what they like has changed: prices are in another unit or lost",
        ),
    ):
        yield from drifts(distribution, parameters, why=why)
    yield from varying(FEATURES, parameters)


def build(parameters: GateParameters) -> ExpectationSuite:
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
                f"last_decided_at > {_AS_OF}",
                where="last_decided_at is not null",
                why="a feature knows a decision made after the moment it claims to describe",
            ),
            *_changes(parameters),
        ],
    )

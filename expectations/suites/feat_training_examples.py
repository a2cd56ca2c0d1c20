"""Are these labels and histories fit to learn from? Rules about `features.feat_training_examples`."""

from __future__ import annotations

from collections.abc import Iterator

from great_expectations import ExpectationSuite
from great_expectations.expectations import UnexpectedRowsExpectation

from expectations.custom import Distribution, change, drifts, failing_share, statistic, varying
from expectations.drift import OTHER
from expectations.parameters import GateParameters

COLUMNS = (
    "user_id",
    "item_id",
    "decision",
    "decided_at",
    "history_size",
    "is_first_like",
    "is_item_known",
    "price_jpy",
    "item_age_days",
    "item_like_count_30d",
    "exposure_count",
    "exposure_position",
    "exposure_propensity",
)
FEATURES = (
    *("decision", "history_size", "price_jpy", "item_age_days"),
    *("item_like_count_30d", "exposure_count", "exposure_position", "exposure_propensity"),
)

_COVERAGE = (
    "select avg(({part})::int) as observed from {{batch}} as e join features.feat_items as i on i.item_id = e.item_id"
)
# A share of at most one half: one pseudo-user with all the actions, or one item with all the likes, trains a model that
# looks well on its own rows and is useless.
_LARGEST_SHARE = (
    "select max(n)::float8 / sum(n) as observed from (select count(*) as n from {{batch}} group by {column}) as counted"
)


def _changes(parameters: GateParameters) -> Iterator[UnexpectedRowsExpectation]:
    """Yield the rules that compare each new day with the accepted four weeks.

    Judged by day, because a year of examples hides a broken day; by user, because one sitting is one draw. Bins of what
    grows with the age of an app are wide: within four weeks of its first months, histories double.
    """
    # Labels of a day scatter by less than 0.01 where a thousand decisions are made; likes and nopes of the sample world
    # that swap places measure 0.19, since their shares are alike. The customary limits would not see it.
    label = Distribution("label", "decision", time="decided_at", unit="user_id")
    why = "likes, skips and nopes have swapped places, or one of them is lost"
    yield from drifts(label, parameters, limit=0.1, doubtful=0.05, why=why)
    for name, expression, where, why in (
        (
            "history_length",
            "width_bucket(history_size, array[1, 5, 25, 125])",
            "true",
            "users decide with much shorter or longer histories: events were lost, or their users mixed up",
        ),
        (
            "item_age",
            "width_bucket(item_age_days, array[-1, 7, 30, 90, 365, 1000, 3000])",
            "is_item_known",
            "users decide on much older or newer items: release dates or decision times have moved",
        ),
        (
            "price_decided_on",
            "width_bucket(price_jpy, array[1, 100, 200, 300, 500, 1000, 2000, 5000, 10000])",
            "is_item_known",
            "prices of what users decide on have changed: another unit, or another price column",
        ),
        (
            "item_popularity",
            "width_bucket(item_like_count_30d, array[1, 4, 16, 64, 256])",
            "true",
            "users decide on much more or less popular items: the window of likes is wrong, or the feed is",
        ),
    ):
        distribution = Distribution(name, expression, where=where, time="decided_at", unit="user_id")
        yield from drifts(distribution, parameters, why=why)
    # An app that starts to log exposures, or a catalogue that starts to be landed, is no fault; the reverse is.
    for name, condition, why in (
        ("items_stay_known", "is_item_known", "items are no longer landed before users decide on them"),
        ("exposures_stay_known", "exposure_count > 0", "decisions no longer follow exposures: their log is lost"),
    ):
        yield change(
            name,
            Distribution(
                name, f"case when {condition} then 'yes' else '{OTHER}' end", time="decided_at", unit="user_id"
            ),
            parameters,
            measure="smallest_ratio",
            min_value=0.5,
            why=why,
        )
    yield from varying(FEATURES, parameters)


def build(parameters: GateParameters) -> ExpectationSuite:
    """Return the suite; `max_age_days` decides whether old data blocks."""
    rules = [
        # Below these sizes no split leaves enough to judge a model by; they are minima, not recommendations.
        statistic(
            "examples_enough",
            "select count(*) as observed from {batch}",
            min_value=100,
            why="too few decisions to train on",
        ),
        statistic(
            "users_enough",
            "select count(distinct user_id) as observed from {batch}",
            min_value=10,
            why="too few users: a model of one person (or of one lost user id) is no recommender",
        ),
        statistic(
            "items_enough",
            "select count(distinct item_id) as observed from {batch}",
            min_value=10,
            why="too few items: ids have collapsed, or most decisions do not join",
        ),
        statistic(
            "no_user_dominates",
            _LARGEST_SHARE.format(column="user_id"),
            max_value=0.5,
            why="one user made more than half of the decisions",
        ),
        statistic(
            "no_item_dominates",
            _LARGEST_SHARE.format(column="item_id"),
            max_value=0.5,
            why="one item got more than half of the decisions",
        ),
        statistic(
            "like_share",
            "select avg((decision = 1)::int) as observed from {batch}",
            min_value=0.01,
            max_value=0.99,
            why="nearly all decisions are likes, or none is: the label is constant, flipped or lost",
        ),
        statistic(
            "first_likes_enough",
            "select count(*) filter (where is_first_like) as observed from {batch}",
            min_value=20,
            why="too few first likes: the model has no positives to learn from",
        ),
        failing_share(
            "decided_not_in_future",
            "decided_at > now() + interval '1 day'",
            why="a decision from tomorrow: a clock or a time zone is wrong",
        ),
        failing_share(
            "decided_after_1990",
            "decided_at < timestamptz '1990-01-01'",
            why="decisions from before any app: seconds were read as milliseconds, or a missing time as zero",
        ),
        statistic(
            "times_tell_order",
            "select count(distinct decided_at) as observed from {batch}",
            min_value=10,
            why="decisions share so few moments that no temporal split is possible",
        ),
        failing_share(
            "times_not_dates",
            "decided_at = date_trunc('day', decided_at, 'UTC')",
            max_share=0.5,
            severity="warning",
            why="most decisions happened at midnight: the time of day was lost",
        ),
        # The history is what this user did strictly before, counted from the clock. One row too
        # many is the most valuable leak there is, since metrics rise.
        statistic(
            "history_is_strictly_before",
            "select avg((history_size <> strictly_before)::int) as observed from "
            "(select history_size, rank() over (partition by user_id order by decided_at) - 1 as strictly_before "
            "from {batch}) as counted",
            max_value=0,
            null_passes=True,
            why="a history holds decisions of the same moment or later, or misses earlier ones",
        ),
        failing_share(
            "examples_have_history",
            "history_size = 0",
            max_share=0.95,
            why="nearly all examples come without any history: the user tower would learn one constant vector",
        ),
        failing_share(
            "item_age_plausible",
            "item_age_days not between -400 and 50000",
            where="item_age_days is not null",
            max_share=0.01,
            why="items decided on more than a year before release or a century after it: dates are shifted",
        ),
        failing_share(
            "price_present",
            "price_jpy is null",
            where="is_item_known",
            max_share=0.5,
            severity="warning",
            why="most examples have no price",
        ),
        # More than everything liked in total means the window join multiplied rows.
        statistic(
            "like_count_possible",
            "select max(item_like_count_30d)::float8 / nullif(count(*) filter (where decision = 1), 0) as observed "
            "from {batch}",
            max_value=1,
            null_passes=True,
            why="an item had more likes in 30 days than there are likes: a join multiplies rows",
        ),
        statistic(
            "like_count_informative",
            "select max(item_like_count_30d) as observed from {batch} having count(*) >= 1000",
            min_value=1,
            null_passes=True,
            severity="warning",
            why="no item ever had a like in the 30 days before: the popularity feature is constant",
        ),
        # What the model knows about an item besides its id, of the items that count: those users decide on.
        statistic(
            "examples_have_tags",
            _COVERAGE.format(part="cardinality(i.tag_ids) > 0"),
            min_value=0.5,
            null_passes=True,
            why="most examples are about items without tags: a new item gets a vector from next to nothing",
        ),
        statistic(
            "examples_have_makers",
            _COVERAGE.format(part="i.maker_id is not null"),
            min_value=0.5,
            null_passes=True,
            severity="warning",
            why="most examples are about items without a maker",
        ),
        statistic(
            "decisions_not_repeated",
            "select 1 - count(distinct (user_id, item_id))::float8 / nullif(count(*), 0) as observed from {batch}",
            max_value=0.3,
            null_passes=True,
            severity="warning",
            why="users decide on the same items again and again: ids have collapsed or a client repeats itself",
        ),
    ]
    newest_age = "select extract(epoch from now() - max(decided_at)) / 86400.0 as observed from {batch}"
    if parameters.max_age_days is None:
        rules.append(
            statistic(
                "newest_decision_age_days",
                newest_age,
                min_value=-1,
                severity="info",
                why="age of the newest decision in days; give max_age_days to block stale data",
            )
        )
    else:
        rules.append(
            statistic(
                "newest_decision_age_days",
                newest_age,
                max_value=parameters.max_age_days,
                why="the newest decision is too old: a feed has stopped, and a fresh model would only look fresh",
            )
        )
    return ExpectationSuite(name="feat_training_examples", expectations=[*rules, *_changes(parameters)])

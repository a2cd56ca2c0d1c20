"""Is the catalogue fit to train on and to serve from? Rules about `features.feat_items`."""

from __future__ import annotations

from collections.abc import Iterator

from great_expectations import ExpectationSuite
from great_expectations.expectations import UnexpectedRowsExpectation

from expectations.custom import Distribution, change, drifts, failing_share, statistic, varying
from expectations.parameters import GateParameters

COLUMNS = (
    "item_id",
    "floor",
    "title",
    "maker_id",
    "tag_ids",
    "performer_ids",
    "price_jpy",
    "discount_share",
    "runtime_minutes",
    "review_count",
    "review_average",
    "review_score",
    "released_at",
    "first_seen_at",
    "last_changed_at",
    "has_sample",
    "is_eligible",
)
# Not discounts, which end with a sale; not times of landing, which are one when a whole catalogue comes in one file.
FEATURES = ("price_jpy", "runtime_minutes", "review_count", "review_average", "review_score", "released_at")

_PRICE = "width_bucket(price_jpy, array[1, 100, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 5000, 10000])"
# Powers of ten: a sale moves prices by half, a change of unit by a hundred.
_MAGNITUDE = "case when {0} > 0 then floor(log({0}))::int when {0} <= 0 then -1 end"
_TAGGED = "(select unnest(tag_ids) as tag_id, last_changed_at from {batch}) as tagged"
_STARRED = "(select unnest(performer_ids) as performer_id from {batch}) as starred"
# What the newest day landed, where that is not the whole catalogue.
_NEWEST = "(select max(last_changed_at) from {batch})"
_NEWEST_DAY = f"last_changed_at > {_NEWEST} - interval '1 day'"


def _whole(parameters: GateParameters) -> Iterator[UnexpectedRowsExpectation]:
    """Yield the rules that compare the catalogue with the accepted one."""
    floors, eligible = Distribution("floor", "floor"), Distribution("eligible_floor", "floor", where="is_eligible")
    lost = "items that were there are gone: a feed was read in part, or ids have changed"
    yield change("items_not_lost", floors, parameters, measure="size_ratio", min_value=0.8, why=lost)
    yield change(
        *("items_mostly_kept", floors, parameters),
        measure="size_ratio",
        min_value=0.97,
        severity="warning",
        why=lost,
    )
    yield change(
        *("items_not_multiplied", floors, parameters),
        measure="size_ratio",
        max_value=1.5,
        why="there are half as many items again: the catalogue has landed a second time under other ids",
    )
    yield change(
        *("no_floor_emptied", eligible, parameters),
        measure="smallest_count_ratio",
        min_value=0.5,
        why="a floor has lost half of what it may recommend: its feed came empty or was read as withdrawn",
    )
    for distribution, why in (
        (floors, "items have moved to other floors"),
        (Distribution("price", _PRICE), "prices have changed as no sale changes them"),
        (Distribution("tags", "tag_id", source=_TAGGED), "tags mean something else: ids changed or lists were mixed"),
        (
            Distribution("tags_per_item", "least(cardinality(tag_ids), 20)"),
            "items have many more or fewer tags: genres exploded or were lost",
        ),
        (Distribution("runtime", "width_bucket(runtime_minutes, 0, 300, 15)"), "runtimes are in another unit"),
        (
            Distribution("reviews", "width_bucket(review_count, array[1, 2, 4, 8, 16, 32, 64])"),
            "reviews were lost or counted another way",
        ),
        (
            Distribution("release_year", "extract(year from released_at at time zone 'Asia/Tokyo')"),
            "release dates have moved",
        ),
        (Distribution("sample", "has_sample"), "samples were lost: items without one are not eligible"),
        (Distribution("eligibility", "is_eligible"), "many items may no longer be recommended, or suddenly may"),
    ):
        yield from drifts(distribution, parameters, why=why)
    # The model reads an id it never met as unknown: with many of them the vector of an item says little.
    for kind, distribution in (
        ("tags", Distribution("tags", "tag_id", source=_TAGGED)),
        ("makers", Distribution("makers", "maker_id", where="maker_id is not null")),
        ("performers", Distribution("performers", "performer_id", source=_STARRED)),
    ):
        unseen = f"{kind} have ids that the accepted catalogue did not have: the model would not know them"
        yield change(*(f"{kind}_unknown", distribution, parameters), measure="unseen_share", max_value=0.25, why=unseen)
        yield change(
            *(f"{kind}_partly_unknown", distribution, parameters),
            measure="unseen_share",
            max_value=0.1,
            severity="warning",
            why=unseen,
        )
    yield from varying(FEATURES, parameters)


def _landed(parameters: GateParameters) -> Iterator[UnexpectedRowsExpectation]:
    """Yield the rules about what the newest day brought: in years of catalogue, one bad day is a small share.

    A day's items are no sample of the catalogue (new releases cost more, sales come by series), so these rules look at
    magnitudes and allow four times the usual limit: a day with a third of its prices a power of ten higher passes at
    0.6, a change of unit measures above 5.
    """
    for name, expression, why in (
        ("price", _MAGNITUDE.format("price_jpy"), "prices of the day are another power of ten, or were lost"),
        ("runtime", "width_bucket(runtime_minutes, array[0, 10, 400])", "runtimes of the day are in another unit"),
        ("tags_per_item", "width_bucket(cardinality(tag_ids), array[1, 13])", "items of the day lost their tags"),
        ("sample", "has_sample", "items of the day came without samples"),
    ):
        day = Distribution(f"landed_{name}", expression, time="last_changed_at", against_all=True)
        yield change(f"drift_landed_{name}", day, parameters, max_value=1.0, why=why)
    yield change(
        "landed_tags_unknown",
        Distribution("landed_tags", "tag_id", source=_TAGGED, time="last_changed_at", against_all=True),
        parameters,
        measure="unseen_share",
        max_value=0.25,
        why="tags of the day's items are ids that nobody has seen: an explosion, or another numbering",
    )
    # A snapshot without a title or a date is no state of an item: it lands, and nothing comes of it.
    snapshots = Distribution(
        "snapshots_landed",
        "'raw_dmm.items'",
        source="(select row_count from monitoring.landing_freshness where dataset = 'raw_dmm.items' "
        "and exists (select from {batch})) as landed",
        count="sum(row_count)",
    )
    yield change(
        *("snapshots_landed", snapshots, parameters),
        measure="size_ratio",
        min_value=1,
        severity="info",
        why="how many snapshots have landed for each one of the accepted state",
    )
    landed, seen = (parameters.accepted.samples.get(name) for name in (snapshots.name, "landed_price"))
    rows, until = ("null", "null") if landed is None or seen is None else (landed.rows, seen.newest or "null")
    yield statistic(
        "landed_items_arrive",
        "select arrived::float8 / landed as observed from (select count(*) filter (where extract(epoch from "  # noqa: S608
        f"last_changed_at) > {until}) as arrived, (select row_count from monitoring.landing_freshness "
        f"where dataset = 'raw_dmm.items') - {rows} as landed from {{batch}}) as since where landed >= 20",
        min_value=0.5,
        null_passes=True,
        severity="info" if rows == "null" or parameters.accept_drift else "critical",
        why="of what has landed since, most did not become a state of an item: titles or dates cannot be read",
    )
    # The share above is one of all that landed since the accepted state; one bad day at the end of a week hides in it.
    yield statistic(
        "landed_items_current",
        "select extract(epoch from (select newest_landed_at from monitoring.landing_freshness "  # noqa: S608
        f"where dataset = 'raw_dmm.items' and row_count - {rows} >= 20) - max(last_changed_at)) / 3600.0 as observed "
        "from {batch}",
        max_value=18,
        null_passes=True,
        severity="info" if rows == "null" or parameters.accept_drift else "critical",
        why="snapshots went on landing for hours after the newest state of any item: titles or dates cannot be read",
    )
    yield statistic(
        "landed_titles_present",
        f"select avg((btrim(title) = '')::int) as observed from {{batch}} where {_NEWEST_DAY} having count(*) >= 10",  # noqa: S608
        max_value=0.2,
        null_passes=True,
        why="titles of the newest day are blank: the field has moved or changed its name",
    )
    yield statistic(
        "landed_titles_distinct",
        f"select count(distinct title)::float8 / count(*) as observed from {{batch}} where {_NEWEST_DAY} "  # noqa: S608
        "having count(*) >= 30",
        min_value=0.1,
        null_passes=True,
        why="items of the newest day share a title: one payload was landed under many ids",
    )
    # A catalogue may have one price; a day on which everything suddenly has one price is a broken parser.
    yield statistic(
        "landed_prices_differ",
        f"select count(distinct price_jpy) filter (where {_NEWEST_DAY}) as observed from {{batch}} "  # noqa: S608
        f"having count(price_jpy) filter (where {_NEWEST_DAY}) >= 20 "
        f"and count(distinct price_jpy) filter (where not {_NEWEST_DAY}) >= 5",
        min_value=2,
        null_passes=True,
        why="every item of the newest day has the same price: the field has become a constant",
    )
    yield statistic(
        "landed_releases_plausible",
        "select avg((released_at between timestamptz '1969-12-31' and timestamptz '1970-01-02' "  # noqa: S608 - constants
        "or released_at > last_changed_at + interval '400 days')::int) as observed "
        f"from {{batch}} where {_NEWEST_DAY} having count(*) >= 10",
        max_value=0.1,
        null_passes=True,
        why="items of the newest day are released at the Unix epoch or in more than a year: dates were misread",
    )


def build(parameters: GateParameters) -> ExpectationSuite:
    """Return the suite. Thresholds hold for a catalogue of a few hundred items as for one of a million."""
    return ExpectationSuite(
        name="feat_items",
        expectations=[
            statistic(
                "items_present",
                "select count(*) as observed from {batch}",
                min_value=1,
                why="without items nothing can be trained or served; an empty landing must not look like success",
            ),
            # Zero eligible items is a broken feed or rule. A low share may be a real catalogue without samples.
            statistic(
                "some_items_eligible",
                "select count(*) filter (where is_eligible) as observed from {batch}",
                min_value=1,
                why="no item may be recommended at all",
            ),
            failing_share(
                "mostly_eligible",
                "not is_eligible",
                max_share=0.5,
                severity="warning",
                why="more than half of the catalogue may not be recommended",
            ),
            failing_share(
                "price_present",
                "price_jpy is null",
                max_share=0.5,
                why="the price parser misses most items: the source has probably changed its format",
            ),
            failing_share(
                "price_plausible",
                "price_jpy not between 0 and 1000000",
                where="price_jpy is not null",
                max_share=0.001,
                why="prices outside 0 to 1,000,000 yen are parse errors (ids or several numbers run together)",
            ),
            # Single prices may be anything; half of a catalogue above 100,000 yen is a change of unit.
            statistic(
                "price_typical",
                "select percentile_cont(0.5) within group (order by price_jpy) as observed from {batch}",
                max_value=100_000,
                null_passes=True,
                why="the median price is beyond any catalogue's: the unit has changed",
            ),
            failing_share(
                "price_not_free",
                "price_jpy = 0",
                where="price_jpy is not null",
                max_share=0.5,
                severity="warning",
                why="more than half of the items are free: a missing price has become a zero",
            ),
            failing_share(
                "runtime_plausible",
                "runtime_minutes not between 1 and 10000",
                where="runtime_minutes is not null",
                max_share=0.001,
                why="a runtime is positive and shorter than a week; else seconds or page counts were read as minutes",
            ),
            # Books and goods have no runtime, so its absence can only be worth a look.
            failing_share(
                "runtime_present",
                "runtime_minutes is null",
                max_share=0.9,
                severity="warning",
                why="hardly any item has a runtime",
            ),
            failing_share(
                "discount_plausible",
                "discount_share not between 0 and 1",
                where="discount_share is not null",
                max_share=0.05,
                severity="warning",
                why="items cost more than their list price: the two prices are swapped or from different offers",
            ),
            failing_share(
                "review_average_plausible",
                "review_average not between 0 and 5",
                where="review_average is not null",
                max_share=0.001,
                why="an average beyond five stars: counts or percentages were read as averages",
            ),
            failing_share(
                "has_tags",
                "cardinality(tag_ids) = 0",
                max_share=0.5,
                why="items without tags get a vector from next to nothing; most of the catalogue lost its tags",
            ),
            failing_share(
                "tags_per_item",
                "cardinality(tag_ids) > 100",
                max_share=0.001,
                why="no item has a hundred tags: lists of several items were merged",
            ),
            # An array that was turned into text, or an id per item, gives every item a tag of its own: the feature
            # is still filled, and worth nothing.
            statistic(
                "tag_vocabulary",
                "select count(distinct tag_id)::float8 / nullif(count(distinct item_id), 0) as observed "
                "from (select item_id, unnest(tag_ids) as tag_id from {batch}) as tagged having count(*) >= 100",
                max_value=0.5,
                null_passes=True,
                why="there is more than one tag for every two items: tags no longer group anything",
            ),
            statistic(
                "tags_tell_items_apart",
                "select count(distinct tag_ids) as observed from {batch} having count(*) >= 100",
                min_value=2,
                null_passes=True,
                why="every item has exactly the same tags: the feature is constant",
            ),
            failing_share(
                "released_plausible",
                "released_at < timestamptz '1900-01-01' or released_at > greatest("
                "(select as_of from features.feat_as_of), now()) + interval '3 years'",
                max_share=0.01,
                why="release dates before 1900 or more than three years ahead are parse errors or placeholders",
            ),
            # 1970-01-01 is what a missing date becomes.
            failing_share(
                "released_not_epoch",
                "released_at between timestamptz '1969-12-31' and timestamptz '1970-01-02'",
                max_share=0.05,
                why="many items released at the Unix epoch: missing dates were read as zero",
            ),
            failing_share(
                "first_seen_not_in_future",
                "first_seen_at > now() + interval '1 day'",
                max_share=0.0,
                why="an item was landed in the future: a clock or a time zone is wrong",
            ),
            failing_share(
                "title_present",
                "btrim(title) = ''",
                max_share=0.01,
                why="titles are blank: the field has moved or changed its name",
            ),
            statistic(
                "titles_distinct",
                "select count(distinct title)::float8 / count(*) as observed from {batch} having count(*) >= 100",
                min_value=0.1,
                null_passes=True,
                why="nearly all items share a title: one payload was landed under many ids",
            ),
            statistic(
                "titles_mostly_distinct",
                "select count(distinct title)::float8 / count(*) as observed from {batch} having count(*) >= 100",
                min_value=0.5,
                null_passes=True,
                severity="warning",
                why="half of the items share their title with another one",
            ),
            *_landed(parameters),
            *_whole(parameters),
        ],
    )

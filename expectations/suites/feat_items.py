"""Is the catalogue fit to train on and to serve from? Rules about `features.feat_items`."""

from __future__ import annotations

from great_expectations import ExpectationSuite

from expectations.custom import failing_share, statistic
from expectations.parameters import GateParameters

COLUMNS = (
    "item_id",
    "title",
    "tag_ids",
    "price_jpy",
    "runtime_minutes",
    "released_at",
    "first_seen_at",
    "is_eligible",
    "as_of",
)


def build(_parameters: GateParameters) -> ExpectationSuite:
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
                "released_at < timestamptz '1900-01-01' or released_at > greatest(as_of, now()) + interval '3 years'",
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
        ],
    )

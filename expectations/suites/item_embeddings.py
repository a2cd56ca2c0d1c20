"""Are one run's item vectors fit to serve? Rules about a partition of `ml.item_embeddings`."""

from __future__ import annotations

from great_expectations import ExpectationSuite

from expectations.custom import failing_share, statistic
from expectations.parameters import GateParameters
from expectations.suites._vectors import shared_rules

COLUMNS = ("item_id", "embedding", "popularity_prior", "is_eligible")


def build(_parameters: GateParameters) -> ExpectationSuite:
    """Return the suite."""
    return ExpectationSuite(
        name="item_embeddings",
        expectations=[
            *shared_rules("item_id"),
            statistic(
                "catalogue_covered",
                "select (select count(*) from {batch} as b join features.feat_items as i on i.item_id = b.item_id)"
                "::float8 / nullif((select count(*) from features.feat_items), 0) as observed",
                min_value=0.95,
                why="items of the catalogue have no vector: they could never be recommended",
            ),
            statistic(
                "some_items_eligible",
                "select count(*) filter (where is_eligible) as observed from {batch}",
                min_value=1,
                why="the run has no item that may be recommended",
            ),
            failing_share(
                "prior_finite",
                "popularity_prior in ('NaN', 'Infinity', '-Infinity')",
                why="a popularity prior that is no number ranks first or nowhere",
            ),
        ],
    )

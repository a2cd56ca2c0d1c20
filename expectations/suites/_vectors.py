"""Rules that item and user vectors share. Layout: 1 popularity, 2 norm filler, 3 to 768 the learned direction.

Collapse is judged on the learned direction alone: the first two coordinates are the same for all users and similar for
all items, so that on whole vectors a healthy model would look half collapsed.
"""

from __future__ import annotations

from expectations.custom import ExpectStatisticToBeBetween, failing_share, statistic

# 400 vectors are 79,800 pairs, computed in a fraction of a second, whatever the size of the table. The order by a hash
# makes the sample arbitrary but the same at every run. Under 20 vectors there is nothing to say.
_PAIRS = (
    "with sample as materialized ("
    "select l2_normalize(subvector(embedding, 3, 766))::vector as direction from {{batch}} "
    "where l2_norm(subvector(embedding, 3, 766)) > 0{where} order by md5({key}) limit 400), "
    "numbered as materialized ("
    "select row_number() over () as n, {direction} as direction from sample), "
    "pairs as (select inner_product(a.direction, b.direction) as cosine "
    "from numbered as a, numbered as b where a.n < b.n) "
    "select {aggregate} as observed from pairs having count(*) >= 190"
)
_CENTRED = "l2_normalize(direction - (select avg(direction) from sample))"
# For unit vectors the squared length of their mean is the mean cosine of all pairs (up to 1/n).
_MEAN_COSINE = (
    "select inner_product(m, m) as observed from "
    "(select avg(l2_normalize(subvector(embedding, 3, 766))::vector) as m from {batch}) as mean"
)


def shared_rules(key: str, *, distinct_inputs: str | None = None) -> list[ExpectStatisticToBeBetween]:
    """Return norm and collapse rules.

    Args:
        key: Id column, `item_id` or `user_id`.
        distinct_inputs: SQL condition under which two rows surely had different inputs; duplicates are judged there.
    """
    condition = f" and {distinct_inputs}" if distinct_inputs else ""
    where = f" where {distinct_inputs}" if distinct_inputs else ""
    duplicates = (
        f"select 1 - count(distinct embedding)::float8 / count(*) as observed from {{batch}}{where} "  # noqa: S608
        "having count(*) >= 20"
    )
    near_duplicates = _PAIRS.format(
        key=key, where=condition, direction="direction", aggregate="avg((cosine > 0.9999)::int)"
    )
    participation_ratio = _PAIRS.format(
        key=key, where="", direction=_CENTRED, aggregate="1 / nullif(avg(cosine * cosine), 0)"
    )
    return [
        statistic(
            "vectors_present",
            "select count(*) as observed from {batch}",
            min_value=1,
            why="the run has no vectors: nothing was published under it",
        ),
        # Half precision keeps eleven bits, so a unit vector of 768 of them is off by about 1e-4. Zero vectors fail
        # here too. (Dimension, NaN and infinity need no rule: the halfvec(768) type refuses them.)
        failing_share(
            "norm_is_one",
            "abs(l2_norm(embedding) - 1) > 1e-3",
            why="ranking by inner product equals ranking by the model's score only for unit vectors",
        ),
        statistic(
            "mean_cosine",
            _MEAN_COSINE,
            max_value=0.8,
            null_passes=True,
            why="all vectors point the same way: recommendations would be the same for everybody",
        ),
        statistic(
            "mean_cosine_low",
            _MEAN_COSINE,
            max_value=0.5,
            null_passes=True,
            severity="warning",
            why="vectors lean strongly towards one direction; healthy models measured below 0.3",
        ),
        # One over the mean squared cosine is the participation ratio, a lower bound of the effective rank, which the
        # model judge computes exactly. Two is a plane. Centred, so that it sees what mean_cosine cannot: vectors that
        # differ, but only in a few ways.
        statistic(
            "participation_ratio",
            participation_ratio,
            min_value=2,
            null_passes=True,
            why="the vectors fill no more than a plane of the 766 learned dimensions: the model has collapsed",
        ),
        statistic(
            "participation_ratio_high",
            participation_ratio,
            min_value=4,
            null_passes=True,
            severity="warning",
            why="the vectors fill fewer than four dimensions",
        ),
        # A smaller model padded with zeros has the right type and wastes the room.
        statistic(
            "coordinates_used",
            "select count(*) filter (where mean_square > 1e-10) as observed from (select unnest(avg("
            "subvector(embedding, 3, 766)::vector * subvector(embedding, 3, 766)::vector)::real[]) as mean_square "
            "from {batch}) as coordinates having count(*) > 0",
            min_value=383,
            null_passes=True,
            why="more than half of the learned coordinates are zero in every vector",
        ),
        statistic(
            "duplicate_vectors",
            duplicates,
            max_value=0.5,
            null_passes=True,
            why="most vectors are exact copies of another one: the model no longer sees its input",
        ),
        statistic(
            "duplicate_vectors_few",
            duplicates,
            max_value=0.01,
            null_passes=True,
            severity="warning",
            why="more than one vector in a hundred is an exact copy of another one",
        ),
        statistic(
            "near_duplicate_pairs",
            near_duplicates,
            max_value=0.01,
            null_passes=True,
            why="pairs of different inputs have practically the same vector",
        ),
    ]

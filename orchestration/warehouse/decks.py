"""Items of a run that may be shown, with their vectors and what a page says of them.

Belongs here: the query. Does not belong here: files (`orchestration.item_files`) or ranking; no user is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect

# Of the floors that sell a content id, the one that histories and serving.encode_history take. Half of the items are
# the most popular, half are drawn from all others by a hash of their id: the same ones every time.
_DECK = """
with

shown as (
    select distinct on (e.content_id)
        e.content_id, e.embedding, e.popularity_prior,
        f.title, f.maker_id, f.performer_ids, f.tag_ids
    from ml.item_embeddings as e
    inner join features.feat_items as f on e.item_id = f.item_id
    where e.run_id = %(run_id)s and e.is_eligible and f.is_eligible
    order by e.content_id, split_part(e.item_id, '/', 2) = 'digital' desc, e.item_id collate "C"
),

placed as (
    select
        *,
        row_number() over (order by popularity_prior desc, content_id) as place,
        md5(content_id) as lot
    from shown
),

chosen as (
    select * from placed
    order by least(place, %(limit)s / 2 + 1), lot
    limit %(limit)s
)

select
    content_id, embedding, popularity_prior, title, coalesce(maker_id, 0),
    coalesce(performer_ids, '{}'), coalesce(tag_ids, '{}')
from chosen
order by popularity_prior desc, content_id
"""


@dataclass(frozen=True)
class Deck:
    """Items of one run, the most popular first; one row per content id, all eligible when they were read."""

    content_ids: list[str]
    vectors: NDArray[np.float16]
    """Items x 768, as stored."""
    priors: list[float]
    titles: list[str]
    maker_ids: list[int]
    """0 is no maker."""
    performer_ids: list[list[int]]
    tag_ids: list[list[int]]
    maker_names: dict[int, str]
    tag_names: dict[int, str]
    diversity: dict[str, int | None]
    """The limits of the serving policy: places, max_per_maker, max_per_performer."""


def read_deck(database: DatabaseSettings, run_id: str, limit: int) -> Deck:
    """Read at most `limit` items that have vectors under a run: half of them the most popular, half from all others.

    Raises:
        WarehouseError: No vectors of the run may be shown, or the feature tables were never built.
    """
    with connect(database, "trainer") as connection:
        try:
            rows = connection.execute(_DECK, {"run_id": run_id, "limit": limit}, binary=True).fetchall()
        except psycopg.errors.UndefinedTable:
            raise WarehouseError("features.feat_items does not exist yet: `matching run build_features`") from None
        if not rows:
            raise WarehouseError(f"run {run_id} has no published vectors of items that may be shown")
        ids, vectors, priors, titles, makers, performers, tags = (list(column) for column in zip(*rows, strict=True))
        maker_names = connection.execute(
            "select maker_id, maker_name from marts.dim_makers where maker_id = any(%s) and maker_name is not null",
            [sorted(set(makers))],
        ).fetchall()
        tag_names = connection.execute(
            "select tag_id, tag_name from marts.dim_tags where tag_id = any(%s)",
            [sorted({tag for row in tags for tag in row})],
        ).fetchall()
    return Deck(
        content_ids=ids,
        vectors=np.stack([vector.to_numpy() for vector in vectors]).astype(np.float16),
        priors=priors,
        titles=titles,
        maker_ids=makers,
        performer_ids=performers,
        tag_ids=tags,
        maker_names=dict(maker_names),
        tag_names=dict(tag_names),
        diversity=_diversity(database),
    )


def _diversity(database: DatabaseSettings) -> dict[str, int | None]:
    """Return the limits that lists of the warehouse keep, so that a list made elsewhere can keep them too."""
    names = ("places", "max_per_maker", "max_per_performer")
    with connect(database, "serving_owner") as connection:
        rows = connection.execute(
            "select serving.policy_value('diversity_' || name)"
            " from unnest(%s::text[]) with ordinality as asked (name, n) order by n",
            [list(names)],
        ).fetchall()
    return dict(zip(names, (value for (value,) in rows), strict=True))

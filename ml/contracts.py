"""The one list of feature columns, decision codes and vector coordinates that all readers share.

Belongs here: names, types and constants that must never differ between two readers. Does not belong here: any
code that reads a table or touches an array.
"""

import hashlib
import json
from typing import Final

LIKE: Final = 1
SKIP: Final = 0
NOPE: Final = -1
DECISIONS: Final = (LIKE, NOPE, SKIP)
"""Decision codes in the order in which the user tower lists its channels."""

DIMENSIONS: Final = 768
LEARNED: Final = 766
PRIOR_COORDINATE: Final = 0
FILLER_COORDINATE: Final = 1
FIRST_LEARNED: Final = 2
PREFIXES: Final = (64, 128, 256, 768)
"""Prefixes of the stored vector that are good vectors on their own; each includes the two special coordinates."""
PRIOR_UNIT: Final = 8.0
"""The prior coordinate of an item is its prior divided by this, that of a user the weight of the prior times it."""
PRIOR_LIMIT: Final = 16.0
"""Priors are centred log counts, cut off here; it fixes the length that all item vectors are filled up to."""
STORED_NORM: Final = (1 + (PRIOR_LIMIT / PRIOR_UNIT) ** 2) ** 0.5
"""What stored item coordinates are divided by: the same for every item and every publication, so that rows written on
different days can be compared, and a history can be read from stored vectors."""

ITEM_COLUMNS: Final = {
    "item_id": "text",
    "content_id": "text",
    "floor": "text",
    "title": "text",
    "maker_id": "bigint",
    "series_id": "bigint",
    "label_id": "bigint",
    "tag_ids": "bigint[]",
    "performer_ids": "bigint[]",
    "director_ids": "bigint[]",
    "price_jpy": "integer",
    "list_price_jpy": "integer",
    "discount_share": "double precision",
    "runtime_minutes": "integer",
    "review_count": "integer",
    "review_average": "double precision",
    "review_score": "double precision",
    "released_at": "timestamptz",
    "first_seen_at": "timestamptz",
    "last_changed_at": "timestamptz",
    "price_changed_at": "timestamptz",
    "has_sample": "boolean",
    "is_eligible": "boolean",
}
USER_COLUMNS: Final = {
    "user_id": "text",
    "created_at": "timestamptz",
    "is_age_verified": "boolean",
    "decision_count": "integer",
    "like_count": "integer",
    "nope_count": "integer",
    "skip_count": "integer",
    "like_rate": "double precision",
    "recent_like_rate": "double precision",
    "distinct_maker_count": "integer",
    "mean_liked_price_jpy": "double precision",
    "active_day_count": "integer",
    "exposure_count": "integer",
    "first_decided_at": "timestamptz",
    "last_decided_at": "timestamptz",
    "activity_tier": "text",
}
HISTORY_COLUMNS: Final = {
    "user_id": "text",
    "item_ids": "text[]",
    "decisions": "smallint[]",
    "decided_at": "timestamptz[]",
    "history_length": "integer",
}
AS_OF_COLUMNS: Final = {
    "as_of": "timestamptz",
    "catalogue_as_of": "timestamptz",
}
EXAMPLE_COLUMNS: Final = {
    "user_id": "text",
    "sequence": "integer",
    "item_id": "text",
    "decision": "smallint",
    "decided_at": "timestamptz",
    "history_size": "integer",
    "is_first_like": "boolean",
    "surface": "text",
    "is_item_known": "boolean",
    "price_jpy": "integer",
    "item_age_days": "double precision",
    "item_like_count_30d": "integer",
    "exposure_count": "integer",
    "exposure_position": "integer",
    "exposure_propensity": "double precision",
}
TABLES: Final = {
    "feat_as_of": AS_OF_COLUMNS,
    "feat_items": ITEM_COLUMNS,
    "feat_users": USER_COLUMNS,
    "feat_user_histories": HISTORY_COLUMNS,
    "feat_training_examples": EXAMPLE_COLUMNS,
}


def contract_hash() -> str:
    """Return the hash that a model stores and every reader compares before it encodes or serves."""
    content = {
        "tables": {name: sorted(columns.items()) for name, columns in TABLES.items()},
        "decisions": DECISIONS,
        "vector": [DIMENSIONS, LEARNED, PRIOR_COORDINATE, FILLER_COORDINATE, PREFIXES, PRIOR_UNIT, PRIOR_LIMIT],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

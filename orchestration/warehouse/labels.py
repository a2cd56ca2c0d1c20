"""What makers and tags are called, for people who read a judgement.

Belongs here: the query over `marts`. Does not belong here: anything that training or ranking could depend on.
"""

from __future__ import annotations

import psycopg

from ml.evaluation.labels import Labels


def read_labels(connection: psycopg.Connection) -> Labels:
    """Return the names of makers and tags, and the groups of tags."""
    makers = connection.execute("select maker_id, maker_name from marts.dim_makers where maker_name is not null")
    tags = connection.execute("select tag_id, tag_name, tag_group from marts.dim_tags").fetchall()
    return Labels(
        makers=dict(makers.fetchall()),
        tags={tag_id: name for tag_id, name, _ in tags if name},
        tag_groups={tag_id: group for tag_id, _, group in tags if group},
    )

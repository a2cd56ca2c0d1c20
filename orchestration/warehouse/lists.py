"""Calling the lists that need no vector of a user, and the feed, as the role an app has.

Belongs here: one Python function per door, by named arguments. Does not belong here: lists for one person (serving.py),
or any ranking; that is SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestration.settings import DatabaseSettings
from orchestration.warehouse import serving
from orchestration.warehouse.connection import connect
from orchestration.warehouse.serving import ServedItem

# Rows have the shape of every list; model_run is None where no vector was asked for.


def popular(
    database: DatabaseSettings, user_id: str | None = None, days: int | None = None, limit: int = 20
) -> list[ServedItem]:
    """Return what was liked most; ``score`` is likes within the window.

    Args:
        database: The warehouse.
        user_id: Whose decisions and exclusions count; None is a guest.
        days: 1, 7 or 30; None takes the policy's.
        limit: How many items.

    Raises:
        ServingError: Unknown or not age-verified user, or another window.
    """
    return _ask(
        database, "popular", p_user_id=user_id, p_window=None if days is None else f"{days} days", p_limit=limit
    )


def fresh(database: DatabaseSettings, user_id: str | None = None, limit: int = 20) -> list[ServedItem]:
    """Return the newest releases; ``score`` is the release in days since 1970. Raises as `popular`."""
    return _ask(database, "fresh", p_user_id=user_id, p_limit=limit)


def explore(
    database: DatabaseSettings, user_id: str | None = None, limit: int = 20, seed: int | None = None
) -> list[ServedItem]:
    """Return items drawn uniformly from all that may be shown; the seed decides. Raises as `popular`."""
    return _ask(database, "explore", p_user_id=user_id, p_limit=limit, p_seed=seed)


def search_by_tags(
    database: DatabaseSettings, tags: Sequence[int], user_id: str | None = None, limit: int = 20
) -> list[ServedItem]:
    """Return items with any of the tags, nearest to all of them first; raises as `popular`, and without a run."""
    return _ask(database, "search_by_tags", p_tags=list(tags), p_user_id=user_id, p_limit=limit)


def search_text(
    database: DatabaseSettings, query: str, user_id: str | None = None, limit: int = 20
) -> list[ServedItem]:
    """Return items by the words of their titles; ``score`` 1 is as written, less is alike. Raises as `popular`."""
    return _ask(database, "search_text", p_query=query, p_user_id=user_id, p_limit=limit)


def feed(
    database: DatabaseSettings,
    user_id: str | None = None,
    limit: int = 20,
    seed: int | None = None,
    tags: Sequence[int] | None = None,
) -> list[ServedItem]:
    """Return a page mixed by tier; ``params`` say the tier, the slot of each place and what ran dry.

    Args:
        database: The warehouse.
        user_id: None is a guest.
        limit: Places, 1 to 200.
        seed: Decides what is drawn; None draws another page each time.
        tags: What somebody who likes nothing yet has chosen.

    Raises:
        ServingError: Unknown or not age-verified user, or another limit.
    """
    given = None if tags is None else list(tags)
    return _ask(database, "feed", p_user_id=user_id, p_limit=limit, p_seed=seed, p_tags=given)


def _ask(database: DatabaseSettings, function: str, **named: Any) -> list[ServedItem]:
    with connect(database, "app") as connection:
        return serving._call(connection, function, named, ServedItem)

"""A populated warehouse for lists: items of a few makers and many, users of every tier, one active run with vectors.

Belongs here: rows in the very tables that dbt made. Does not belong here: what is served of them.
"""

from __future__ import annotations

import numpy as np
import psycopg
import publications
from publications import unit

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect
from orchestration.warehouse.vectors import ItemVectors, UserVectors

N_ITEMS = 600
RUN = "lists"
USERS = {"user-new": 0, "user-some": 3, "user-heavy": 40}
"""How many items each likes; each says nope to as many."""
BIG = N_ITEMS // 4
"""The first items, all of three makers and three performers, are nearest to every taste, liked most and newest."""


def content_id(number: int) -> str:
    return f"i{number:05d}"


def item_id(number: int) -> str:
    return f"dmm/digital/videoa/{content_id(number)}"


def fill(database: DatabaseSettings) -> None:
    """Put the world in the place of what a copy of the built warehouse holds."""
    with connect(database) as connection:
        for table in ("features.feat_items", "marts.dim_servable_contents", "marts.fct_popular_contents"):
            connection.execute(f"truncate {table}")
        connection.execute(
            """
            insert into features.feat_items
            select
                'dmm/digital/videoa/i' || to_char(k, 'FM00000'),
                'i' || to_char(k, 'FM00000'),
                'videoa',
                (array['春', '夏', '秋', '冬'])[1 + k %% 4] || 'の' || (array['温泉', '山小屋', '料理'])[1 + k %% 3]
                || case when k %% 5 = 0 then '旅行' else 'の記録' end || ' ＡＢ' || k,
                case when k < %(big)s then 1 + k %% 3 when k %% 11 > 0 then 10 + k %% 40 end,
                null,
                null,
                array[k %% 7, 100 + k %% 50],
                array[case when k < %(big)s then 1 + k %% 3 else 50 + k %% 60 end],
                '{}', 300, 300, 0, 60, 0, null, 3.5,
                now() - k * interval '1 hour',
                now(), now(), now(), true,
                k %% 50 <> 7
            from generate_series(0, %(n)s - 1) as k
            """,
            {"big": BIG, "n": N_ITEMS},
        )
        build_contents(connection)
        connection.execute(
            """
            insert into marts.fct_popular_contents
            select w, row_number() over (partition by w order by c.slot), c.content_id, 2000 * w - c.slot, current_date
            from unnest(array[1, 7, 30]) as w
            inner join marts.dim_servable_contents as c on c.slot <= w * 40
            """
        )
        connection.execute("truncate raw_app.users, raw_app.decisions, raw_app.excluded_tags")
        connection.execute(
            "insert into raw_app.users (user_id, created_at, age_verified)"
            " select u, now(), u <> 'user-unverified' from unnest(%s::text[]) as u",
            [[*USERS, "user-unverified", "user-elsewhere"]],
        )
        connection.execute(
            """
            insert into raw_app.decisions (user_id, content_id, decision, decided_at)
            select u.name, 'i' || to_char(5 * k + d.shift, 'FM00000'), d.decision, now() - k * interval '1 minute'
            from unnest(%s::text[], %s::int[]) as u (name, likes)
            cross join lateral generate_series(1, u.likes) as k
            cross join (values ('like', 0), ('nope', 1)) as d (decision, shift)
            union all
            select 'user-elsewhere', 'unknown' || k, 'like', now() from generate_series(1, 5) as k
            """,
            [list(USERS), list(USERS.values())],
        )
        connection.execute(
            "insert into raw_app.excluded_tags (user_id, tag_id) values ('user-heavy', 3), ('user-heavy', 104)"
        )
    with connect(database, autocommit=True) as connection:
        connection.execute("vacuum analyze")
    publish(database)


def build_contents(connection: psycopg.Connection) -> None:
    """Number what is eligible, as marts.dim_servable_contents does."""
    connection.execute("truncate marts.dim_servable_contents")
    connection.execute(
        """
        insert into marts.dim_servable_contents
        select
            row_number() over (order by content_id collate "C"),
            content_id,
            array_agg(item_id order by item_id collate "C"),
            array(
                select distinct unnest(o.tag_ids)
                from features.feat_items as o
                where o.content_id = f.content_id and o.is_eligible order by 1
            ),
            lower(normalize(min(title), nfkc))
        from features.feat_items as f
        where is_eligible
        group by content_id
        """
    )


def publish(database: DatabaseSettings, run_id: str = RUN, seed: int = 0) -> None:
    """Publish vectors and make their run the active one: every taste is nearest to the items of three makers."""
    rng = np.random.default_rng(seed)
    items, users = unit(rng, N_ITEMS, filler=True), unit(rng, len(USERS), filler=False)
    taste = unit(rng, 1, filler=False)[0, 2:]
    items[:BIG, 2:] = items[:BIG, 2:] * 0.4 + taste
    users[:, 2:] = users[:, 2:] * 0.2 + taste
    for rows in (items, users):
        rest = np.sqrt(1 - rows[:, 0] ** 2 - rows[:, 1] ** 2)
        rows[:, 2:] *= (rest / np.linalg.norm(rows[:, 2:], axis=1))[:, None]
    numbers = range(N_ITEMS)
    publications.publish(
        database,
        run_id,
        (
            ItemVectors(
                [item_id(k) for k in numbers],
                [content_id(k) for k in numbers],
                items,
                items[:, 0].copy(),
                np.arange(N_ITEMS) % 50 != 7,
            ),
            UserVectors(["user-some", "user-heavy"], users[1:], np.array([6, 80]), publications.WHEN),
        ),
    )
    publications.activate(database, run_id)

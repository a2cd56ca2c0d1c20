"""Lists that need no vector of a user: what they show and to whom, on populated tables, as the role that calls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import lists_world
import numpy as np
import psycopg
import pytest
from lists_world import BIG, N_ITEMS, RUN, USERS, content_id
from scipy.stats import chisquare

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

Row = dict[str, Any]
Ask = Callable[..., list[Row]]
COLUMNS = [
    *("rank", "content_id", "item_id", "title", "score", "source", "reason", "model_run"),
    *("policy", "propensity", "params"),
]
LISTS: dict[str, dict[str, Any]] = {
    "popular": {"p_window": "7 days"},
    "fresh": {},
    "explore": {"p_seed": 7},
    "search_by_tags": {"p_tags": [1, 5]},
    "search_text": {"p_query": "温泉"},
    "feed": {"p_seed": 7},
}
ELIGIBLE = {content_id(k) for k in range(N_ITEMS) if k % 50 != 7}


def numbers(rows: list[Row]) -> list[int]:
    return [int(row["content_id"][1:]) for row in rows]


def decided(user_id: str | None) -> set[str]:
    return {content_id(5 * k + d) for k in range(1, USERS.get(user_id or "", 0) + 1) for d in (0, 1)}


def allowed(user_id: str | None) -> set[str]:
    """What may be shown to somebody, told from the world and not from the functions."""
    tagged = {k for k in range(N_ITEMS) if user_id == "user-heavy" and (k % 7 == 3 or k % 50 == 4)}
    return ELIGIBLE - decided(user_id) - {content_id(k) for k in tagged}


@pytest.mark.parametrize("user_id", [None, "user-new", "user-some", "user-heavy", "user-elsewhere"])
@pytest.mark.parametrize("name", LISTS)
def test_every_list_answers_everybody_with_what_may_be_shown_and_can_be_logged(
    ask: Ask, name: str, user_id: str | None
) -> None:
    rows = ask(name, p_user_id=user_id, p_limit=12, **LISTS[name])
    assert len(rows) == 12
    assert [row["rank"] for row in rows] == list(range(1, 13))
    shown = [row["content_id"] for row in rows]
    assert len(set(shown)) == len(shown)
    assert set(shown) <= allowed(user_id)
    for row in rows:
        assert list(row) == COLUMNS
        assert row["item_id"] == lists_world.item_id(int(row["content_id"][1:]))
        assert row["title"]
        assert row["source"]
        assert row["reason"]
        assert np.isfinite(row["score"])
        assert 0 < row["propensity"] <= 1
        assert row["policy"] == name
        assert row["params"]["limit"] == 12
        assert row["model_run"] == (RUN if row["source"] in ("two_tower", "tags") else None)
        assert user_id is None or user_id not in str(row["params"])


@pytest.mark.parametrize("name", LISTS)
def test_nobody_unknown_or_not_age_verified_is_served(ask: Ask, name: str) -> None:
    for user_id, error, message in (
        ("user-unknown", psycopg.errors.NoDataFound, "unknown user"),
        ("user-unverified", psycopg.errors.InsufficientPrivilege, "user is not age-verified"),
    ):
        with pytest.raises(error, match=message) as caught:
            ask(name, p_user_id=user_id, **LISTS[name])
        logged = (caught.value.diag.message_primary, caught.value.diag.message_detail, caught.value.diag.context)
        assert user_id not in " ".join(filter(None, logged))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, given | {"p_limit": limit}) for name, given in LISTS.items() for limit in (0, 1001, None)),
        ("popular", {"p_window": "2 days"}),
        ("popular", {"p_window": "0 days"}),
        ("popular", {"p_window": "25 hours"}),
        ("search_by_tags", {"p_tags": []}),
        ("search_by_tags", {"p_tags": None}),
        ("search_text", {"p_query": "  "}),
        ("search_text", {"p_query": None}),
        ("search_text", {"p_query": "a" * 201}),
    ],
)
def test_arguments_that_mean_nothing_are_refused(ask: Ask, name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="must"):
        ask(name, **arguments)


def test_a_decision_just_made_and_a_tag_just_excluded_vanish_from_every_list(
    ask: Ask, owner: psycopg.Connection
) -> None:
    before = {name: ask(name, p_user_id="user-new", p_limit=12, **LISTS[name]) for name in LISTS}
    gone = {rows[0]["content_id"] for rows in before.values()}
    owner.execute(
        "insert into raw_app.decisions (user_id, content_id, decision, decided_at)"
        " select 'user-new', upper(c), 'nope', now() from unnest(%s::text[]) as c",
        [list(gone)],
    )
    owner.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('user-new', 2)")
    for name in LISTS:
        rows = ask(name, p_user_id="user-new", p_limit=12, **LISTS[name])
        assert len(rows) == 12, name
        assert not gone & {row["content_id"] for row in rows}, name
        assert all(k % 7 != 2 for k in numbers(rows)), name


def test_an_item_withdrawn_since_the_last_build_of_marts_is_not_shown(ask: Ask, owner: psycopg.Connection) -> None:
    owner.execute("update features.feat_items set is_eligible = false where right(content_id, 5)::int % 4 > 0")
    for name in LISTS:
        rows = ask(name, p_limit=12, **LISTS[name])
        assert rows, name
        assert all(k % 4 == 0 for k in numbers(rows)), name


def test_of_several_floors_one_that_may_be_shown_is(ask: Ask, owner: psycopg.Connection) -> None:
    """Each content id is sold on three floors, the first of which stopped and the second of which is excluded."""
    owner.execute("update features.feat_items set is_eligible = false, content_id = content_id")
    for floor, tags in (("b", "{999}"), ("c", "{3}")):
        owner.execute(
            "create temporary table floor as select * from features.feat_items where floor = 'videoa';"
            f" update floor set item_id = 'dmm/{floor}/' || content_id, floor = '{floor}', tag_ids = '{tags}',"
            " is_eligible = true; insert into features.feat_items select * from floor; drop table floor"
        )
    lists_world.build_contents(owner)
    owner.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('user-new', 999)")
    for name in set(LISTS) - {"search_by_tags"}:  # the run knows none of these floors
        rows = ask(name, p_user_id="user-new", p_limit=12, **LISTS[name])
        assert len({row["content_id"] for row in rows}) == 12, name
        assert {row["item_id"] for row in rows} == {f"dmm/c/{row['content_id']}" for row in rows}, name
    [drawn] = ask("explore", p_user_id="user-new", p_limit=1)
    assert drawn["params"]["among"] == N_ITEMS
    owner.execute("insert into raw_app.excluded_tags (user_id, tag_id) values ('user-new', 3)")
    assert ask("explore", p_user_id="user-new", p_limit=1) == []


def test_popular_is_what_was_liked_most_and_longer_windows_follow(ask: Ask) -> None:
    rows = ask("popular", p_window="1 day", p_limit=60)
    within = [row["params"]["liked_within_days"] for row in rows]
    assert within == sorted(within)
    assert Counter(within) == {1: 40, 7: 20}
    likes = [row["score"] for row in rows]
    assert likes[:40] == [1999 - place for place in range(40)]
    assert likes[40:] == sorted(likes[40:], reverse=True)
    assert ask("popular", p_limit=5) == ask("popular", p_window="7 days", p_limit=5)


def test_windows_are_those_that_the_mart_has(served: DatabaseSettings) -> None:
    with connect(served) as connection:
        built = connection.execute("select distinct window_days from marts.fct_popular_contents").fetchall()
    assert {days for (days,) in built} == {1, 7, 30}


def test_fresh_is_newest_first(ask: Ask) -> None:
    expected = sorted(allowed("user-some"))  # numbers rise with age
    assert [row["content_id"] for row in ask("fresh", p_user_id="user-some", p_limit=1000)] == expected
    assert [row["content_id"] for row in ask("fresh", p_user_id="user-some", p_limit=30)] == expected[:30]


@pytest.mark.parametrize("user_id", [None, "user-heavy"])
def test_explore_says_exactly_among_how_many_it_drew(ask: Ask, user_id: str | None) -> None:
    rows = ask("explore", p_user_id=user_id, p_limit=1000)
    assert {row["content_id"] for row in rows} == allowed(user_id)
    assert {row["params"]["among"] for row in rows} == {len(rows)}
    assert {row["propensity"] for row in rows} == {1 / len(rows)}


def test_the_same_seed_draws_the_same_and_another_another(ask: Ask) -> None:
    first = ask("explore", p_user_id="user-some", p_seed=5)
    assert ask("explore", p_user_id="user-some", p_seed=5) == first
    assert numbers(ask("explore", p_user_id="user-some", p_seed=6)) != numbers(first)
    unseeded = ask("explore", p_user_id="user-some")
    assert numbers(ask("explore", p_user_id="user-some", p_seed=unseeded[0]["params"]["seed"])) == numbers(unseeded)
    assert len({ask("explore", p_limit=1)[0]["params"]["seed"] for _ in range(5)}) == 5


def drawn(owner: psycopg.Connection, seeds: int, count: int, hidden: list[str]) -> list[list[str]]:
    found = owner.execute(
        """
        select array(
            select d.content_id
            from serving.drawn_contents(
                row(null, null, null, null, null, null, %s::text[])::serving.item_filter, s.seed, %s
            ) as d
            order by d.place
        )
        from generate_series(1, %s) as s (seed)
        """,
        [hidden, count, seeds],
    ).fetchall()
    return [row for (row,) in found]


@pytest.mark.parametrize("way", ["numbers drawn one by one", "all in the order of a hash"])
def test_exploration_is_uniform_over_what_may_be_shown(owner: psycopg.Connection, way: str) -> None:
    """At each place, over many seeds; a false alarm once in ten thousand runs of another catalogue or hash."""
    count, hidden = 3, sorted(decided("user-heavy"))
    wanted = sorted(ELIGIBLE - set(hidden))
    if way == "numbers drawn one by one":  # only where there are many: most of these offer nothing that may be shown
        owner.execute(
            "insert into marts.dim_servable_contents"
            " select 5000 - k, 'gone' || k, '{}', '{}', '' from generate_series(1, 4400) as k"
        )
    lists = drawn(owner, 4000, count, hidden)
    for place in range(count):
        seen = Counter(row[place] for row in lists)
        assert set(seen) <= set(wanted)
        assert chisquare([seen[one] for one in wanted]).pvalue > 1e-4, (way, place)
    assert all(len(set(row)) == count for row in lists)
    pairs = Counter((wanted.index(row[0]) % 10, wanted.index(row[1]) % 10) for row in lists)
    assert chisquare(list(pairs.values())).pvalue > 1e-4, "places are drawn independently"


def test_the_chi_square_would_see_a_draw_that_prefers_one_half(owner: psycopg.Connection) -> None:
    lists = drawn(owner, 4000, 1, [])
    half = sorted(ELIGIBLE)[: len(ELIGIBLE) // 2]
    biased = [row[0] for n, row in enumerate(lists) if row[0] in half or n % 2]
    seen = Counter(biased)
    assert chisquare([seen[one] for one in sorted(ELIGIBLE)]).pvalue < 1e-4


def test_a_search_by_tags_is_nearest_to_the_tags_and_of_them_only(ask: Ask, owner: psycopg.Connection) -> None:
    rows = ask("search_by_tags", p_tags=[3, 104], p_limit=500)
    assert set(numbers(rows)) == {k for k in range(N_ITEMS) if k % 50 != 7 and (k % 7 == 3 or k % 50 == 4)}
    embedded = {
        name: np.array(vector.to_list())[2:]
        for name, vector in owner.execute("select content_id, embedding from ml.item_embeddings").fetchall()
    }
    unit = {name: vector / np.linalg.norm(vector) for name, vector in embedded.items()}
    prior = dict(owner.execute("select content_id, popularity_prior from ml.item_embeddings").fetchall())
    voices = []
    for carries in (lambda k: k % 7 == 3, lambda k: k % 50 == 4):
        own = sorted((one for one in ELIGIBLE if carries(int(one[1:]))), key=lambda one: (-prior[one], one))[:300]
        mean = np.mean([unit[one] for one in own], axis=0)
        voices.append(mean / np.linalg.norm(mean))
    query = sum(voices) / np.linalg.norm(sum(voices))
    for row in rows:
        assert row["score"] == pytest.approx(float(unit[row["content_id"]] @ query), abs=2e-3)
    behind = [float(embedded[row["content_id"]] @ query) for row in rows[20:]]
    assert behind == pytest.approx(sorted(behind, reverse=True), abs=2e-3)
    assert ask("search_by_tags", p_tags=[987654]) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("温泉旅行", lambda title: "温泉旅行" in title),
        ("温泉", lambda title: "温泉" in title),
        ("ab12", lambda title: "ＡＢ12" in title),
        (" ＡＢ５９ ", lambda title: "ＡＢ59" in title),
    ],
)
def test_a_title_is_found_by_what_stands_in_it_whatever_the_width_and_case(
    ask: Ask, query: str, expected: Callable[[str], bool]
) -> None:
    rows = [row for row in ask("search_text", p_query=query, p_limit=1000) if row["score"] == 1]
    assert rows
    assert all(expected(row["title"]) for row in rows)
    everything = ask("fresh", p_limit=1000)
    assert len(rows) == sum(expected(row["title"]) for row in everything)


def test_a_title_is_found_with_a_slip_of_the_pen(ask: Ask) -> None:
    rows = ask("search_text", p_query="春の温泉族行", p_limit=5)
    assert all("春の温泉" in row["title"] for row in rows)
    assert all(0.4 <= row["score"] < 1 for row in rows)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


@pytest.mark.parametrize("query", ["%", "_", "\\", "温%泉", "'; drop table x"])
def test_signs_of_a_pattern_are_only_signs(ask: Ask, query: str) -> None:
    assert all(query in row["title"] or row["score"] < 1 for row in ask("search_text", p_query=query, p_limit=1000))


@pytest.mark.parametrize("scan", ["titles_with", "titles_like"])
def test_explain_shows_the_trigram_index(owner: psycopg.Connection, scan: str) -> None:
    owner.execute("set local enable_seqscan = off")  # a catalogue of this size is read whole otherwise
    plan = owner.execute(f"explain select * from serving.{scan}('春の温泉')").fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Bitmap Index Scan on" in text
    assert "search_title" in text


def test_what_a_new_item_needs_to_be_found_is_no_vector(ask: Ask, owner: psycopg.Connection) -> None:
    """It is reachable as soon as features are built: newest, by its title and by chance."""
    owner.execute(
        "create temporary table landed as select * from features.feat_items where content_id = 'i00300';"
        " update landed set item_id = 'dmm/digital/videoa/landed', content_id = 'landed', title = '氷の城', "
        " released_at = now() + interval '1 minute', is_eligible = true;"
        " insert into features.feat_items select * from landed"
    )
    lists_world.build_contents(owner)
    assert ask("fresh", p_limit=1)[0]["content_id"] == "landed"
    assert ask("search_text", p_query="氷の城", p_limit=1)[0]["content_id"] == "landed"
    assert "landed" in {row["content_id"] for row in ask("explore", p_limit=1000)}
    assert "landed" in {row["content_id"] for row in ask("feed", p_limit=20)}


def test_diversity_holds_on_the_tags_that_three_makers_own(ask: Ask, owner: psycopg.Connection) -> None:
    owner.execute("update features.feat_items set tag_ids = '{1}' where right(content_id, 5)::int < %s", [BIG + 40])
    makers = dict(owner.execute("select content_id, maker_id from features.feat_items").fetchall())
    top = ask("search_by_tags", p_tags=[1], p_limit=10)
    assert max(Counter(makers[row["content_id"]] for row in top).values()) <= 3

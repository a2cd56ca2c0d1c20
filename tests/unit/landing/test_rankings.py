"""Ranks are numbered once: the better rank stays, later ones close up, an unreadable row keeps its place."""

from hypothesis import given
from hypothesis import strategies as st

from orchestration.landing.items.snapshots import Snapshot, prepare_item
from orchestration.landing.pulls.rankings import ranks_of
from orchestration.landing.quarantine import BadRow


def item(content_id: str) -> Snapshot:
    row = {"service_code": "digital", "floor_code": "videoa", "content_id": content_id, "title": "春の旅行だより"}
    prepared = prepare_item(row | {"date": "2026-01-10 10:00:53"})
    assert isinstance(prepared, Snapshot)
    return prepared


def bad(payload: str) -> BadRow:
    return BadRow("missing_content_id", "", payload)


def test_an_item_on_two_pages_keeps_its_better_rank_and_later_ones_close_up() -> None:
    rows = [item(name) for name in ("a1", "a2", "a3", "a2", "a1", "a4")]
    assert ranks_of(rows, 10) == [(1, "a1"), (2, "a2"), (3, "a3"), (4, "a4")]


def test_an_unreadable_row_keeps_its_rank_empty_also_when_it_comes_twice() -> None:
    rows = [item("a1"), bad('{"n":1}'), bad('{"n":2}'), bad('{"n":1}'), item("A2")]
    assert ranks_of(rows, 10) == [(1, "a1"), (4, "a2")]


@given(st.lists(st.integers(-3, 12)), st.integers(1, 20))
def test_ranks_are_different_ascending_and_at_most_top(numbers: list[int], top: int) -> None:
    rows = [item(f"a{n}") if n >= 0 else bad(f'{{"n":{n}}}') for n in numbers]
    ranks = ranks_of(rows, top)
    places = [rank for rank, _ in ranks]
    assert places == sorted(set(places))
    assert all(1 <= rank <= top for rank in places)
    first_seen = list(dict.fromkeys(numbers))
    assert ranks == [(rank, f"a{n}") for rank, n in enumerate(first_seen, start=1) if n >= 0 and rank <= top]

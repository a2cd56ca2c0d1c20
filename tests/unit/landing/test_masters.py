"""Lists are read to their announced end or not at all, and of a performer nothing but identity survives."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.landing.errors import CredentialsError, LandingError, TransientSourceError
from orchestration.landing.pulls.masters import (
    Master,
    MasterList,
    floor_rows,
    only_identity,
    prepare_master,
    read_list,
)
from orchestration.landing.quarantine import BadRow

GENRES = MasterList("genre", "GenreSearch", 3, "FANZA digital/videoa", "43")


class Lists:
    """Answers like a master search; `spoil` may change an answer, given its number."""

    secrets = ("sentinelaffiliate-990",)

    def __init__(self, rows: list[Any], spoil: Any = lambda answer, number: answer) -> None:
        self.rows, self.spoil, self.asked = rows, spoil, []

    def fetch(self, endpoint: str, parameters: dict[str, str]) -> dict[str, Any]:
        self.asked.append(parameters)
        offset, hits = int(parameters["offset"]), int(parameters["hits"])
        page = self.rows[offset - 1 : offset - 1 + hits]
        answer: dict[str, Any] = {"status": "200", "result_count": len(page), "total_count": str(len(self.rows))}
        answer |= {"first_position": offset, "floor_id": parameters.get("floor_id", "")}
        return self.spoil(answer | ({"genre": page} if page else {}), len(self.asked))


def genres(count: int) -> list[Any]:
    return [{"genre_id": str(900_000 + n), "name": f"ジャンル {n}", "ruby": f"じゃんる{n}"} for n in range(count)]


def ids(rows: list[Master | BadRow]) -> list[str]:
    return [row.entity_id for row in rows if isinstance(row, Master)]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_a_list_is_read_to_its_announced_end(count: int) -> None:
    client = Lists(genres(count))
    assert ids(read_list(client, GENRES)) == [str(900_000 + n) for n in range(count)]
    assert [one["offset"] for one in client.asked] == [str(1 + 3 * n) for n in range(max(1, -(-count // 3)))]
    assert all(one["floor_id"] == "43" for one in client.asked)


def test_short_pages_are_followed_up_and_do_not_end_a_list() -> None:
    def short(answer: dict[str, Any], number: int) -> dict[str, Any]:
        return answer | {"genre": answer["genre"][:1], "result_count": 1}

    assert len(read_list(Lists(genres(7), short), GENRES)) == 7


def without_rows(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "genre"} | {"result_count": 0}


SPOILED = {
    "empty page": (without_rows, "empty page at offset 4 of 7"),
    "lost row": (lambda answer: answer | {"genre": answer["genre"][:-1]}, "3 rows announced on a page, 2 present"),
    "another page": (lambda answer: answer | {"first_position": 1}, "asked for offset 4, got 1"),
    "another floor": (lambda answer: answer | {"floor_id": "44"}, "asked for floor 43, got another one"),
    "no total": (lambda answer: answer | {"total_count": None}, "the answer does not have the shape of a page"),
    "no array": (lambda answer: answer | {"genre": "x"}, "the answer does not have the shape of a page"),
    "same row twice": (
        lambda answer: answer | {"genre": [answer["genre"][0], *answer["genre"][:-1]]},
        "6 different ids seen, 7 announced",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_list_that_does_not_add_up_is_read_once_more(name: str) -> None:
    spoil = SPOILED[name][0]
    client = Lists(genres(7), lambda answer, number: spoil(answer) if number == 2 else answer)
    assert len(set(ids(read_list(client, GENRES)))) == 7


@pytest.mark.parametrize("name", SPOILED)
def test_a_list_that_never_adds_up_fails_by_list_and_floor(name: str) -> None:
    spoil, message = SPOILED[name]
    client = Lists(genres(7), lambda answer, number: spoil(answer) if client.asked[-1]["offset"] == "4" else answer)
    with pytest.raises(LandingError, match=f"^GenreSearch of FANZA digital/videoa: {message}, after reading it twice"):
        read_list(client, GENRES)


def test_a_total_at_the_cap_is_refused_because_it_may_mean_more() -> None:
    client = Lists(genres(3), lambda answer, number: answer | {"total_count": "50000"})
    with pytest.raises(LandingError, match="50000 rows announced, more than can be paged through"):
        read_list(client, GENRES)


@pytest.mark.parametrize("kind", [TransientSourceError, CredentialsError])
def test_a_refusal_keeps_its_type_and_says_which_floor(kind: type[Exception]) -> None:
    def fail(answer: dict[str, Any], number: int) -> dict[str, Any]:
        raise kind("GenreSearch: the API answered 500")

    with pytest.raises(kind, match=r"^FANZA digital/videoa: GenreSearch: the API answered 500$"):
        read_list(Lists(genres(3), fail), GENRES)


def test_unreadable_rows_count_towards_completeness_and_keep_their_place() -> None:
    rows = [*genres(2), {"name": "番号なし"}, {"name": "番号なし"}, "x", {"genre_id": "12_ruby", "name": "よみ"}]
    read = read_list(Lists(rows), GENRES)
    reasons = [row.reason for row in read if isinstance(row, BadRow)]
    assert reasons == ["missing_genre_id", "missing_genre_id", "not_an_object", "bad_genre_id"]
    assert len(ids(read)) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"name": "旅"}, "missing_genre_id"),
        ({"genre_id": "", "name": "旅"}, "missing_genre_id"),
        ({"genre_id": "x1", "name": "旅"}, "bad_genre_id"),
        ({"genre_id": True, "name": "旅"}, "bad_genre_id"),
        ({"genre_id": -1, "name": "旅"}, "bad_genre_id"),
        ({"genre_id": "1"}, "missing_name"),
        ({"genre_id": "1", "name": "  "}, "missing_name"),
        ({"genre_id": "1", "name": 7}, "bad_name"),
        ({"genre_id": "1", "name": "a\x00"}, "nul_character"),
        ({"genre_id": "1", "name": "a\ud800"}, "bad_text"),
        ([1], "not_an_object"),
    ],
)
def test_each_bad_row_has_one_reason(row: object, reason: str) -> None:
    bad = prepare_master(row, "genre_id")
    assert isinstance(bad, BadRow)
    assert bad.reason == reason


def test_an_id_is_the_same_as_number_and_as_text_and_callers_ids_are_masked() -> None:
    link = "https://shop.example/list/?af_id=sentinelaffiliate-990"
    for number in (77, "77", " 077 "):
        row = prepare_master({"genre_id": number, "name": "旅", "list_url": link}, "genre_id")
        assert isinstance(row, Master)
        assert row.entity_id == "77"
        assert "sentinelaffiliate" not in row.payload
        assert "af_id={af_id}" in row.payload


BODY = {"bust": "1", "cup": "2", "waist": "3", "hip": "4", "height": "5", "birthday": "2000-01-01", "blood_type": "A"}
BODY |= {"hobby": "x", "prefectures": "y", "imageURL": {"small": "https://img.example/a.jpg"}}


def test_of_a_performer_only_identity_is_kept() -> None:
    links = {"digital": "https://shop.example/1", "note": "5"}
    row = {"id": "930001", "name": "出演者 一", "ruby": "しゅつえんしゃいち", "listURL": links, **BODY}
    assert only_identity(row) == {
        **{"id": "930001", "name": "出演者 一", "ruby": "しゅつえんしゃいち"},
        "listURL": {"digital": "https://shop.example/1"},
    }


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*BODY, "id", "name", "listURL"]), inner),
    )
)
def test_whatever_a_performers_row_holds_no_other_field_survives(row: object) -> None:
    kept = only_identity(row)
    if isinstance(kept, dict):
        assert set(kept) <= {"id", "name", "ruby", "listURL", "list_url"}
        assert all(isinstance(kept[name], str | int) for name in ("id", "name", "ruby") if name in kept)
    else:
        assert kept == f"({type(row).__name__})"


def test_floor_list_becomes_one_row_per_floor() -> None:
    floor = {"id": "43", "name": "ビデオ", "code": "videoa"}
    service = {"name": "動画", "code": "digital", "floor": [floor, "odd"]}
    result = {"site": [{"name": "FANZA", "code": "FANZA", "service": [service]}, None]}
    assert floor_rows(result) == [
        {
            **{"site_code": "FANZA", "site_name": "FANZA", "service_code": "digital", "service_name": "動画"},
            **{"floor_id": "43", "floor_code": "videoa", "floor_name": "ビデオ", "name": "ビデオ"},
        }
    ]
    assert floor_rows({}) == floor_rows({"site": {"x": 1}}) == []
    assert json.dumps(floor_rows(result))

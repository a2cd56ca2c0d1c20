"""What the rows of the product's earlier database mean, in the form that landing reads.

Belongs here: the column names that are accepted, and pure functions from its rows to items, users and decisions. Does
not belong here: connecting, reading, landing (legacy).

The earlier schema changed between its migrations. Its main form, with the names that are accepted for each field in
the order in which the first filled one counts, is `TABLES` below. What its values mean here:

- A video becomes an item of ItemList form. What it was before stands beside it, under the key `legacy`.
- Its tags become genres. Maker, label, series and director were names joined with " / "; each name becomes an entity.
- Ids were uuids, or missing for names. Staging reads whole numbers, so each becomes 53 bits of the sha256 of kind and
  id: stable everywhere, and far from the source's own small numbers. A performer's id at the source is kept.
- A price of 0 stood for a missing one, unless a list price says that the item was marked down to nothing.
- Links to pictures stood in the columns for sample movies. A picture never becomes a movie here: it joins the sample
  pictures.
- A release moment with a zone is moved to Japan time; a date, or a moment without a zone, is taken as Japan's. Any
  other moment without a zone is taken as UTC, the clock of the earlier servers.
- A profile is age-verified only when it says so; a missing column says nothing.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from orchestration.landing.errors import LandingError
from orchestration.landing.items.form import clock, stable_id
from orchestration.landing.windows import JAPAN

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A field of an earlier table.

    Attributes:
        names: Accepted column names; in a row the first filled one counts.
        is_required: Whether the import is refused without any of them.
    """

    names: tuple[str, ...]
    is_required: bool = True


def _optional(*names: str) -> Field:
    return Field(names, is_required=False)


TABLES: dict[str, dict[str, Field]] = {
    "videos": {
        "id": Field(("id",)),
        "content_id": Field(("external_id", "dmm_content_id", "content_id", "cid")),
        "title": Field(("title",)),
        "released": Field(("product_released_at", "release_date", "released_at")),
        "description": _optional("description"),
        "seconds": _optional("duration_seconds"),
        "minutes": _optional("duration_minutes", "duration"),
        "thumbnail": _optional("thumbnail_url"),
        "movie": _optional("sample_video_url", "preview_video_url"),
        "images": _optional("image_urls"),
        "price": _optional("price"),
        "list_price": _optional("list_price"),
        "maker": _optional("maker"),
        "label": _optional("label"),
        "series": _optional("series"),
        "director": _optional("director"),
        "product_id": _optional("product_id", "product_code"),
        "product_url": _optional("product_url"),
        "source": _optional("source"),
        "distribution_code": _optional("distribution_code"),
        "maker_code": _optional("maker_code"),
        "created_at": _optional("created_at"),
    },
    "tags": {"id": Field(("id",)), "name": Field(("name",))},
    "video_tags": {"video_id": Field(("video_id",)), "tag_id": Field(("tag_id",))},
    "performers": {
        "id": Field(("id",)),
        "name": Field(("name",)),
        "ruby": _optional("name_kana", "ruby"),
        "source_id": _optional("fanza_actress_id"),
    },
    "video_performers": {"video_id": Field(("video_id",)), "performer_id": Field(("performer_id",))},
    "user_video_decisions": {
        "user_id": Field(("user_id",)),
        "video_id": Field(("video_id",)),
        "decision": Field(("decision_type", "decision")),
        "decided_at": Field(("created_at", "decided_at")),
    },
    "profiles": {
        "user_id": Field(("user_id", "id")),
        "created_at": Field(("created_at",)),
        "age_verified": _optional("age_verified", "is_age_verified", "age_verified_at"),
    },
}
"""The earlier tables that are read, their fields, and the column names accepted for each."""

_IMAGE = re.compile(r"\.(?:jpe?g|png|gif|webp|avif|bmp)(?:[?#].*)?$", re.IGNORECASE)
_ZERO = re.compile(r"0+(?:\.0+)?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?")
_YES = ("true", "t", "yes", "1")
_DECISIONS = {"dislike": "nope"}


def match_columns(present: Mapping[str, Collection[str]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Find each field's columns in a database.

    Args:
        present: Column names by table.

    Returns:
        Table to field to its columns, those that exist, in the order in which they count.

    Raises:
        LandingError: Tables or required columns are missing; one line names them all.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    problems = []
    for table, fields in TABLES.items():
        if not present.get(table):
            problems.append(f"table {table} is missing or may not be read")
            continue
        found[table] = {name: tuple(c for c in field.names if c in present[table]) for name, field in fields.items()}
        missing = [field.names for name, field in fields.items() if field.is_required and not found[table][name]]
        if missing:
            described = (f"{names[0]} (or {', '.join(names[1:])})" if names[1:] else names[0] for names in missing)
            problems.append(f"table {table} lacks {', '.join(described)}")
    if problems:
        raise LandingError(f"the earlier database cannot be read: {'; '.join(problems)}")
    return found


def item_of(
    row: Row,
    columns: Mapping[str, tuple[str, ...]],
    tags: Iterable[Row],
    performers: Iterable[Row],
    *,
    service: str,
    floor: str,
) -> dict[str, Any]:
    """Bring a video into the form of an ItemList item. What is missing stays missing, for landing to judge.

    Args:
        row: The video, as JSON has it.
        columns: Field to columns, from `match_columns`.
        tags: Its tags: `id`, `name`.
        performers: Its performers: `id`, `name`, and perhaps `ruby`, `source_id`.
        service: Service code to file it under.
        floor: Floor code to file it under.

    Returns:
        The item.
    """

    def get(name: str) -> Any:
        return filled(row, columns[name])

    pictures, movie = samples(
        [row.get(column) for column in columns["movie"]], get("images"), besides=_text(get("thumbnail"))
    )
    item: dict[str, Any] = {
        "service_code": service,
        "floor_code": floor,
        "content_id": _text(get("content_id")),
        "product_id": _text(get("product_id")),
        "title": _text(get("title")),
        "date": japan_time(get("released")),
        "volume": volume(get("seconds"), get("minutes")),
        "prices": prices(get("price"), get("list_price")),
        "imageURL": {"large": _text(get("thumbnail"))} if get("thumbnail") is not None else None,
        "sampleImageURL": {"sample_l": {"image": pictures}} if pictures else None,
        # Its size was not recorded; readers take the largest there is.
        "sampleMovieURL": {"size_720_480": movie} if movie else None,
        "iteminfo": {
            "genre": [_entity("genre", tag) for tag in tags],
            "actress": [_entity("actress", performer) for performer in performers],
            **{kind: _named(kind, get(kind)) for kind in ("maker", "label", "series", "director")},
        },
        **links(get("product_url")),
        "legacy": {name: value for name, value in row.items() if value is not None},
    }
    item["iteminfo"] = {kind: entries for kind, entries in item["iteminfo"].items() if entries}
    return {name: value for name, value in item.items() if value not in (None, {})}


def user_of(row: Row, columns: Mapping[str, tuple[str, ...]]) -> tuple[str, str, str]:
    """Return `user_id, created_at, age_verified` of a profile, as a users file holds them."""
    verified = filled(row, columns["age_verified"])
    is_moment = isinstance(verified, str) and _MOMENT.match(verified) is not None
    is_verified = is_moment or str(verified).strip().lower() in _YES
    return (
        _text(filled(row, columns["user_id"])) or "",
        utc_time(filled(row, columns["created_at"])) or "",
        "true" if is_verified else "false",
    )


def decision_of(
    row: Row, columns: Mapping[str, tuple[str, ...]], content_columns: tuple[str, ...]
) -> tuple[str, str, str, str]:
    """Return `user_id, content_id, decision, decided_at` of a decision, as a decisions file holds them.

    A word that is not known stays as it is: landing quarantines it.
    """
    word = (_text(filled(row, columns["decision"])) or "").lower()
    return (
        _text(filled(row, columns["user_id"])) or "",
        _text(filled(row, content_columns)) or "",
        _DECISIONS.get(word, word),
        utc_time(filled(row, columns["decided_at"])) or "",
    )


def filled(row: Row, names: Iterable[str]) -> Any:
    """Return the first value of some columns that says anything, or None."""
    for name in names:
        value = row.get(name)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            return value
    return None


def japan_time(value: object) -> str | None:
    """Write a release moment as the source does; what is no moment stays as it is, for landing to refuse."""
    text = _text(value)
    if text is None:
        return None
    if _DAY.fullmatch(text):
        return f"{text} 00:00:00"
    if _MOMENT.fullmatch(text):
        return text[:19].replace("T", " ")
    moment = _aware(text)
    return text if moment is None else f"{moment.astimezone(JAPAN):%Y-%m-%d %H:%M:%S}"


def utc_time(value: object) -> str | None:
    """Write an event's moment with an offset; without one it is UTC."""
    text = _text(value)
    if text is None:
        return None
    if _DAY.fullmatch(text):
        return f"{text}T00:00:00+00:00"
    return f"{text}+00:00" if _MOMENT.fullmatch(text) else text


def prices(price: object, list_price: object) -> dict[str, str] | None:
    """Return the prices that are known; 0 is one only beside a list price that is not 0."""
    now, before = _amount(price), _amount(list_price)
    if before is not None and _ZERO.fullmatch(before):
        before = None
    if now is not None and _ZERO.fullmatch(now) and before is None:
        now = None
    known = {"price": now, "list_price": before}
    return {name: amount for name, amount in known.items() if amount is not None} or None


def volume(seconds: object, minutes: object) -> str | None:
    """Write a running time as the source does: `H:MM:SS` from seconds, or whole minutes; 0 and less say nothing."""
    if (exact := clock(seconds)) is not None:
        return exact
    if isinstance(minutes, int | float) and not isinstance(minutes, bool):
        return str(round(minutes)) if minutes >= 1 else None
    text = _text(minutes)
    return None if text is None or _ZERO.fullmatch(text) else text


def samples(movies: Iterable[object], images: object, besides: str | None = None) -> tuple[list[str], str | None]:
    """Tell sample pictures from the sample movie.

    Args:
        movies: Values of the movie columns, most trusted first.
        images: Value of the picture column.
        besides: A picture that is shown anyway.

    Returns:
        The pictures, each once, and the first link of the movie columns that is no picture.
    """
    pictures, movie = list(_links(images)), None
    for link in (link for value in movies for link in _links(value)):
        if _IMAGE.search(link):
            pictures.append(link)
        elif movie is None:
            movie = link
    return [link for link in dict.fromkeys(pictures) if link != besides], movie


def links(product_url: object) -> dict[str, str]:
    """Tell an affiliate link from a plain one; of the former the target is the plain one."""
    url = _text(product_url)
    if url is None:
        return {}
    if "af_id=" not in url:
        return {"URL": url}
    try:
        target = parse_qs(urlsplit(url).query).get("lurl", [])
    except ValueError:
        target = []
    return {"affiliateURL": url} | ({"URL": target[0]} if target else {})


def _entity(kind: str, row: Row) -> dict[str, Any]:
    source_id = _text(row.get("source_id"))
    is_known = source_id is not None and source_id.isascii() and source_id.isdigit() and 0 < int(source_id) < 2**53
    entity = {"id": int(source_id) if source_id and is_known else stable_id(kind, row["id"]), "name": row.get("name")}
    ruby = _text(row.get("ruby"))
    return entity | ({"ruby": ruby} if ruby else {})


def _named(kind: str, value: object) -> list[dict[str, Any]]:
    names = (name.strip() for name in (_text(value) or "").split(" / "))
    return [{"id": stable_id(kind, name), "name": name} for name in dict.fromkeys(names) if name]


def _links(value: object) -> Iterable[str]:
    """Yield the links in a value: a text, a list, an object, or JSON in a text."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("[", "{"):
            try:
                decoded = json.loads(text)
            except (ValueError, RecursionError):
                return
            yield from _links(decoded)
        elif text.startswith(("https://", "http://")):
            yield text
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _links(one)


def _aware(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _amount(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _text(value)


def _text(value: object) -> str | None:
    """Return a value as trimmed text; blank and missing are None."""
    if value is None:
        return None
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip() or None

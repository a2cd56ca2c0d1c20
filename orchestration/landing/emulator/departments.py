"""The floors of the emulated shop and the items that stand on them.

Belongs here: which world fills which floor, and what its items look like there. Does not belong here: searching and
sorting them (stock), parameters (catalogue).

The sample world fills two floors of videos. Three more get a small catalogue of their own, each from a generator of
its own, so that what is published about the sample world does not move when they do.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

import numpy as np

from orchestration.landing.emulator.vocabulary import (
    FIRST_AUTHOR,
    FIRST_DIRECTOR,
    FIRST_GENRE,
    FIRST_LABEL,
    FIRST_MAKER,
    FIRST_MANUFACTURE,
    FIRST_PERFORMER,
    FIRST_SERIES,
)
from orchestration.landing.emulator.world import Ints, World, catalogue_world

_SMALL = 160
"""Items on each of the further floors: more than a page."""


@dataclass(frozen=True)
class Floor:
    """One floor of FloorList; `number` is the id that the master searches want, `code` the one for ItemList."""

    site: str
    service: str
    code: str
    number: int
    name: str
    service_name: str


VIDEOA = Floor("FANZA", "digital", "videoa", 43, "ビデオ", "動画")
VIDEOC = Floor("FANZA", "digital", "videoc", 44, "フロア C", "動画")
ANIME = Floor("FANZA", "digital", "anime", 46, "アニメ動画", "動画")
COMIC = Floor("FANZA", "ebook", "comic", 82, "コミック", "電子書籍")
GENERAL_COMIC = Floor("DMM.com", "ebook", "comic", 19, "コミック", "電子書籍")

FLOORS = (
    *(VIDEOA, VIDEOC, Floor("FANZA", "digital", "nikkatsu", 45, "映画", "動画"), ANIME),
    *(Floor("FANZA", "mono", "dvd", 74, "DVD", "通販"), COMIC),
    *(GENERAL_COMIC, Floor("DMM.com", "ebook", "novel", 21, "文芸・小説", "電子書籍")),
    Floor("DMM.com", "mono", "dvd", 25, "DVD", "通販"),
)
"""Every floor that can be asked for; a floor on which no department stands is empty."""


@dataclass(frozen=True)
class Entities:
    """The entities of one kind, by item.

    Attributes:
        column: Index of each item's entity, -1 for none; one column, or one row per item.
        first: Id of the entity with index 0.
        word: What `entity_name` calls the kind.
    """

    column: Ints
    first: int
    word: str


@dataclass(frozen=True)
class Department:
    """A world and the floors that its items stand on.

    Attributes:
        world: The items.
        floors: By the world's floor numbers.
        entities: By the name that filters and master searches use.
        texts: Renders items by (indexes, day, affiliate id).
    """

    world: World
    floors: tuple[Floor, ...]
    entities: Mapping[str, Entities]
    texts: Callable[[Ints, int, str], list[str]]


def video_department(world: World) -> Department:
    """Put the sample world on its two floors."""
    entities = _video_entities(world) | {"actress": Entities(world.performers, FIRST_PERFORMER, "performer")}
    return Department(world, (VIDEOA, VIDEOC), entities, partial(_video_texts, world))


@lru_cache(maxsize=1)
def further_departments() -> tuple[Department, ...]:
    """Fill the further floors; they are the same for every world."""
    anime = _small_world(ANIME, "a")
    anime = replace(anime, performers=np.full_like(anime.performers, -1))
    departments = [Department(anime, (ANIME,), _video_entities(anime), partial(_texts, anime, ANIME, _as_anime))]
    for floor, prefix in ((COMIC, "b"), (GENERAL_COMIC, "k")):
        world = _small_world(floor, prefix)
        entities = {
            "genre": Entities(world.genres, FIRST_GENRE, "genre"),
            "maker": Entities(world.maker, FIRST_MANUFACTURE, "manufacture"),
            "series": Entities(world.series, FIRST_SERIES, "series"),
            "author": Entities(world.performers, FIRST_AUTHOR, "author"),
            "label": Entities(world.label, FIRST_LABEL, "label"),
        }
        departments.append(Department(world, (floor,), entities, partial(_texts, world, floor, _as_comic)))
    return tuple(departments)


def _video_entities(world: World) -> dict[str, Entities]:
    return {
        "genre": Entities(world.genres, FIRST_GENRE, "genre"),
        "maker": Entities(world.maker, FIRST_MAKER, "maker"),
        "series": Entities(world.series, FIRST_SERIES, "series"),
        "director": Entities(world.director, FIRST_DIRECTOR, "director"),
        "label": Entities(world.label, FIRST_LABEL, "label"),
    }


def _small_world(floor: Floor, prefix: str) -> World:
    world = catalogue_world(_SMALL, seed=floor.number)
    return replace(
        world,
        content_ids=np.char.add(f"{prefix}{floor.number}", world.content_ids),
        floor=np.zeros_like(world.floor),
    )


def _video_texts(world: World, indexes: Ints, day: int, affiliate_id: str) -> list[str]:
    return world.item_texts(indexes, day=day, affiliate_id=affiliate_id)


def _texts(
    world: World,
    floor: Floor,
    change: Callable[[World, int, dict[str, Any], str], dict[str, Any]],
    indexes: Ints,
    day: int,
    affiliate_id: str,
) -> list[str]:
    texts = []
    for index in indexes.tolist():
        item = world.item_json(index, day=day, affiliate_id=affiliate_id) | _context(floor)
        page = f"https://shop.example/{floor.service}/{floor.code}/-/detail/=/cid={item['content_id']}/"
        link = f"https://redirect.example/?lurl={quote(page, safe='')}&af_id={affiliate_id}&ch=api"
        item = change(world, index, item | {"URL": page, "affiliateURL": link}, affiliate_id)
        texts.append(json.dumps(item, ensure_ascii=False, separators=(",", ":")))
    return texts


def _context(floor: Floor) -> dict[str, str]:
    return {
        "service_code": floor.service,
        "service_name": floor.service_name,
        "floor_code": floor.code,
        "floor_name": floor.name,
        "category_name": f"{floor.name} ({floor.service_name})",
    }


def _as_anime(world: World, index: int, item: dict[str, Any], affiliate_id: str) -> dict[str, Any]:
    return item


def _as_comic(world: World, index: int, item: dict[str, Any], affiliate_id: str) -> dict[str, Any]:
    """Turn a video into an e-book: pages, a volume number, a publisher and authors; a preview instead of a player."""
    for name in ("sampleImageURL", "sampleMovieURL"):
        item.pop(name, None)
    if "volume" in item:
        item["volume"] = str(16 + int(world.runtime_seconds[index]) // 60)
        reader = f"https://reader.example/preview/{item['content_id']}/"
        item["tachiyomi"] = {"URL": reader, "affiliateURL": f"{reader}?af_id={affiliate_id}"}
    item["number"] = str(index % 20 + 1)
    if index % 10 == 0:  # some e-books are dated with slashes
        item["date"] = item["date"].replace("-", "/")
    names = {
        "maker": ("manufacture", FIRST_MAKER, FIRST_MANUFACTURE),
        "actress": ("author", FIRST_PERFORMER, FIRST_AUTHOR),
    }
    info = {}
    for kind, rows in item["iteminfo"].items():
        if kind == "director":
            continue
        key, old, new = names.get(kind, (kind, 0, 0))
        info[key] = [row | {"id": row["id"] - old + new} for row in rows]
    for row in info.get("manufacture", []):
        row["name"] = row["name"].replace("工房", "出版")
    return item | {"iteminfo": info}

"""Writes items of the sample world as the JSON text that ItemList would send.

Belongs here: the shape of a video item. Does not belong here: what the world holds (world), paging, HTTP.

Text and not dictionaries: a page of a hundred is written several times as fast, and a catalogue of a million has ten
thousand pages. No word of the vocabulary needs escaping.
"""

import json
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from orchestration.landing.emulator.vocabulary import (
    ANCHOR,
    DAY,
    FIRST_DIRECTOR,
    FIRST_GENRE,
    FIRST_LABEL,
    FIRST_MAKER,
    FIRST_PERFORMER,
    FIRST_SERIES,
    NO_LABEL,
    entity_name,
    title_of,
)

if TYPE_CHECKING:
    from orchestration.landing.emulator.world import World

FLOORS = ("videoa", "videoc")
"""The codes of a world's two floors, by number."""

_FLOOR_NAMES = ("ビデオ", "フロア C")
_PAGES = tuple(f"https://shop.example/digital/{code}/-/detail/=/cid=" for code in FLOORS)
_HEADS = tuple(
    f'{{"service_code":"digital","service_name":"動画","floor_code":"{code}","floor_name":"{name}",'
    f'"category_name":"{name} (動画)","content_id":"'
    for code, name in zip(FLOORS, _FLOOR_NAMES, strict=True)
)
_LINKS = tuple(f"https://redirect.example/?lurl={quote(page, safe='')}" for page in _PAGES)
_PLAYER_SIZES = ("476_306", "560_360", "644_414", "720_480")
_NO_LABEL = f'"label":[{{"id":{NO_LABEL},"name":"----"}}]'
_JAPAN_OFFSET = 9 * 3_600
_CAMPAIGN_DAYS = 14


class ItemRenderer:
    """Renders the items of one world; keeps the text of every entity it has named."""

    def __init__(self, world: "World") -> None:
        """Render nothing yet."""
        self._world = world
        self._rows: dict[tuple[str, int], str] = {}

    def render(self, indexes: NDArray[np.int64], day: int, affiliate_id: str) -> list[str]:
        """Return one JSON text per item, as of a day after the anchor, with this id in its links."""
        world = self._world
        columns: tuple[NDArray[Any], ...] = (
            *(world.floor, world.released, world.theme, world.runtime_seconds, world.review_count),
            *(world.review_average, world.has_sample, world.change_day, world.price, world.list_price),
            *(world.is_from_price, world.genres, world.series, world.maker, world.performers),
            *(world.director, world.label),
        )
        written = japan_texts(world.released[indexes])
        own_id = json.dumps(affiliate_id)[1:-1]
        values = zip(*(column[indexes].tolist() for column in columns), strict=True)
        ids = world.content_ids[indexes].tolist()
        rows = zip(indexes.tolist(), ids, written, values, repeat(day), repeat(own_id), strict=False)
        return [self._item(*row) for row in rows]

    def _item(self, index: int, cid: str, written: str, values: tuple[Any, ...], day: int, own_id: str) -> str:
        floor, released, theme, seconds, reviews, average, sampled, change_day, *rest = values
        price, full, is_from, *entities = rest
        # Pre-orders start out bare; their people, genres, sample and length fill in near release.
        bare = released > _ANCHOR_SECOND + (day + 5) * DAY
        changed = 0 < change_day <= day
        volume = "" if bare else f',"volume":"{_volume(floor, seconds)}"'
        review = f',"review":{{"count":{reviews},"average":"{average:.2f}"}}' if reviews else ""
        image = f"https://img.example/{cid}/{cid}"
        small = "" if floor else f',"small":"{image}ps.jpg"'
        sample = _sample(cid, image, own_id) if sampled and not bare else ""
        campaign = f',"campaign":[{_campaign(change_day)}]' if changed else ""
        return (
            f'{_HEADS[floor]}{cid}","product_id":"{cid}","title":"{title_of(index, theme)}"{volume}{review}'
            f',"URL":"{_PAGES[floor]}{cid}/","affiliateURL":"{_LINKS[floor]}{cid}%2F&af_id={own_id}&ch=api"'
            f',"imageURL":{{"list":"{image}pt.jpg","large":"{image}pl.jpg"{small}}}{sample}'
            f',"prices":{_prices(max(price * 7 // 10, 50) if changed else price, full, is_from)}'
            f',"date":"{written}","iteminfo":{{{self._iteminfo(bare, *entities)}}}{campaign}}}'
        )

    def _iteminfo(
        self, bare: bool, genres: list[int], series: int, maker: int, performers: list[int], director: int, label: int
    ) -> str:
        parts = (
            "" if bare else self._list("genre", "genre", FIRST_GENRE, genres),
            self._list("series", "series", FIRST_SERIES, (series,)),
            self._list("maker", "maker", FIRST_MAKER, (maker,)),
            "" if bare else self._list("actress", "performer", FIRST_PERFORMER, performers),
            "" if bare else self._list("director", "director", FIRST_DIRECTOR, (director,)),
            self._list("label", "label", FIRST_LABEL, (label,)) or _NO_LABEL,
        )
        return ",".join(part for part in parts if part)

    def _list(self, key: str, kind: str, first: int, indexes: list[int] | tuple[int, ...]) -> str:
        """Write the entities of one kind; a kind without any is left out, as the API does."""
        rows = [self._rows.get((kind, n)) or self._entity(kind, first, n) for n in indexes if n >= 0]
        return f'"{key}":[{",".join(rows)}]' if rows else ""

    def _entity(self, kind: str, first: int, index: int) -> str:
        name, ruby = entity_name(kind, index)
        reading = f',"ruby":"{ruby}"' if ruby else ""
        text = self._rows[kind, index] = f'{{"id":{first + index},"name":"{name}"{reading}}}'
        return text


_ANCHOR_SECOND = int(ANCHOR.timestamp())


def japan_texts(seconds: NDArray[np.int64]) -> list[str]:
    """Write moments as the API does: Japan time without a zone."""
    texts = np.datetime_as_string((seconds + _JAPAN_OFFSET).astype("datetime64[s]")).tolist()
    return [text.replace("T", " ") for text in texts]


def _volume(floor: int, seconds: int) -> str:
    if floor == 0:
        return str(seconds // 60)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _sample(cid: str, image: str, own_id: str) -> str:
    player = f"https://player.example/litevideo/-/part/=/cid={cid}"
    videos = ",".join(f'"size_{size}":"{player}/size={size}/affi_id={own_id}/"' for size in _PLAYER_SIZES)
    return (
        f',"sampleImageURL":{{"sample_s":{{"image":["{image}-1.jpg","{image}-2.jpg","{image}-3.jpg"]}}'
        f',"sample_l":{{"image":["{image}jp-1.jpg","{image}jp-2.jpg","{image}jp-3.jpg"]}}}}'
        f',"sampleMovieURL":{{{videos},"pc_flag":1,"sp_flag":1}}'
    )


@lru_cache(maxsize=1024)
def _prices(now: int, full: int, is_from: bool) -> str:
    if not is_from:
        return f'{{"price":"{now}","list_price":"{full}"}}'
    deliveries = (("stream", now, full), ("download", now * 2 + 66, full * 2 + 66), ("hd", now * 3, full * 3))
    rows = ",".join(f'{{"type":"{kind}","price":"{p}","list_price":"{f}"}}' for kind, p, f in deliveries)
    return f'{{"price":"{now}~","list_price":"{full}~","deliveries":{{"delivery":[{rows}]}}}}'


@lru_cache(maxsize=1024)
def _campaign(day: int) -> str:
    start = _ANCHOR_SECOND + day * DAY
    begin, end = japan_texts(np.array([start, start + _CAMPAIGN_DAYS * DAY]))
    return f'{{"date_begin":"{begin}","date_end":"{end}","title":"30%OFF"}}'

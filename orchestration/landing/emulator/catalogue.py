"""Answers the seven endpoints as the DMM Affiliate API does, without any HTTP.

Belongs here: parameters, limits, error bodies, the odd types of the envelope. Does not belong here: which items a
listing holds (stock), faults and bytes on the wire (server).
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

from orchestration.landing.emulator.departments import (
    FLOORS,
    Entities,
    Floor,
    further_departments,
    video_department,
)
from orchestration.landing.emulator.stock import SORTS, Query, Stock
from orchestration.landing.emulator.vocabulary import entity_name
from orchestration.landing.emulator.world import Ints, World
from orchestration.landing.windows import JAPAN

_AFFILIATE_ID = re.compile(r"[A-Za-z0-9_-]+-99[0-9]")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_ARTICLE = re.compile(r"article(\[[0-9]+\])?")
_ARTICLES = ("actress", "author", "genre", "series", "maker", "label", "director")
_HOBBIES = ("読書", "散歩", "料理", "写真")
_PREFECTURES = ("東京都", "北海道", "京都府", "沖縄県")
_PERSON_SORTS = ("name", "-name", "id", "-id")
_SITES = tuple(dict.fromkeys(floor.site for floor in FLOORS))


class BadRequest(Exception):
    """The request breaks a rule of the API; carries the error body's parts."""

    def __init__(self, errors: dict[str, str], status: int = 400, message: str = "BAD REQUEST") -> None:
        """Keep the parts of the error body."""
        super().__init__(message)
        self.errors, self.status, self.message = errors, status, message


class Catalogue:
    """Answers the seven endpoints from a world and the small catalogues of the further floors."""

    def __init__(
        self,
        world: World,
        *,
        day: int = 0,
        cap: int = 50_000,
        accepted: tuple[str, str] | None = None,
        has_further_floors: bool = True,
        cache_bytes: int = 0,
    ) -> None:
        """Put the items on their floors.

        Args:
            world: The catalogue of the two video floors.
            day: Days after the anchor that have passed.
            cap: Last offset that is answered, and where totals stop.
            accepted: Only these ids are let in; None lets in every well-formed pair.
            has_further_floors: Whether anything stands on the other floors.
            cache_bytes: How much rendered text of items to keep.
        """
        self.world, self.day, self.cap, self.accepted = world, day, cap, accepted
        further = further_departments() if has_further_floors else ()
        self.stock = Stock((video_department(world), *further), day, cache_bytes)
        self._present: dict[tuple[str, int | None], Ints] = {}

    def answer(self, endpoint: str, parameters: dict[str, str]) -> tuple[dict[str, Any], list[bytes]]:
        """Return the `result` object of a request, and the encoded rows of its `items`, which it leaves empty.

        Raises:
            BadRequest: The request breaks a rule.
        """
        if endpoint not in _ENDPOINTS:
            raise BadRequest({}, 404, "NOT FOUND")
        self._authenticate(parameters)
        if endpoint == "ItemList":
            return self.item_list(parameters)
        return _ENDPOINTS[endpoint](self, parameters), []

    def _authenticate(self, parameters: dict[str, str]) -> None:
        api_id, affiliate_id = parameters.get("api_id", ""), parameters.get("affiliate_id", "")
        errors = {}
        if not api_id:
            errors["api_id"] = "This is a required parameter."
        if not _AFFILIATE_ID.fullmatch(affiliate_id):
            errors["affiliate_id"] = "The affiliate id must end in -990 to -999." if affiliate_id else "Required."
        if errors:
            raise BadRequest(errors)
        if self.accepted and (api_id, affiliate_id) != self.accepted:
            raise BadRequest({"api_id": "Not registered."}, 401, "UNAUTHORIZED")

    def item_list(self, parameters: dict[str, str]) -> tuple[dict[str, Any], list[bytes]]:
        """ItemList."""
        query, offset, hits = self.listing(parameters)
        found = self.stock.find(query)
        rows = self.stock.texts(found[offset - 1 : min(offset - 1 + hits, self.cap)], parameters["affiliate_id"])
        return {
            "status": 200,
            "result_count": len(rows),
            "total_count": min(len(found), self.cap),
            "first_position": offset,
            "items": [],
        }, rows

    def listing(self, parameters: dict[str, str]) -> tuple[Query, int, int]:
        """Read the parameters of ItemList: what is listed, from which row, how many rows.

        Raises:
            BadRequest: A parameter breaks a rule.
        """
        errors: dict[str, str] = {}
        hits = _number(parameters, "hits", 20, 1, 100, errors)
        offset = _number(parameters, "offset", 1, 1, self.cap, errors)
        sort = parameters.get("sort", "rank")
        if sort not in SORTS:
            errors["sort"] = "Unknown sort."
        first, last = _moment(parameters, "gte_date", errors), _moment(parameters, "lte_date", errors)
        floors, articles = _floors(parameters, errors), _articles(parameters, errors)
        if errors:
            raise BadRequest(errors)
        word, cid = parameters.get("keyword", ""), parameters.get("cid", "")
        return Query(sort, floors, first, last, articles, word, cid), offset, hits

    def floor_list(self, parameters: dict[str, str]) -> dict[str, Any]:
        """FloorList: no status, no counts, ids as strings."""
        sites: list[dict[str, Any]] = []
        for site in _SITES:
            services: dict[str, dict[str, Any]] = {}
            for floor in (one for one in FLOORS if one.site == site):
                about = {"name": floor.service_name, "code": floor.service, "floor": []}
                listed = services.setdefault(floor.service, about)["floor"]
                listed.append({"id": str(floor.number), "name": floor.name, "code": floor.code})
            sites.append({"name": site, "code": site, "service": list(services.values())})
        return {"site": sites}

    def actress_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """ActressSearch: people of all floors; like the other searches it writes status and total as strings."""
        entities = self.stock.departments[0].entities["actress"]
        numbers = self._numbers("actress", None)
        errors: dict[str, str] = {}
        sort = parameters.get("sort", "id")
        if sort not in _PERSON_SORTS:
            errors["sort"] = "Unknown sort."
        wanted = parameters.get("actress_id")
        if wanted is not None and not _is_number(wanted):
            errors["actress_id"] = "The value must be a number."
        if errors:
            raise BadRequest(errors)
        if wanted is not None:
            numbers = numbers[numbers == int(wanted) - entities.first]
        if sort.endswith("name"):
            names = np.array([entity_name(entities.word, n)[1] or "" for n in numbers.tolist()], np.str_)
            numbers = numbers[np.argsort(names, kind="stable")]
        numbers = numbers[::-1] if sort.startswith("-") else numbers
        result = self._search(parameters, "actress", entities, numbers, 20, 100)
        people = [_person(row, parameters["affiliate_id"]) for row in result.get("actress", [])]
        return result | ({"actress": people} if people else {})

    def genre_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """GenreSearch."""
        return self._floor_search(parameters, "genre")

    def maker_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """MakerSearch."""
        return self._floor_search(parameters, "maker")

    def series_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """SeriesSearch."""
        return self._floor_search(parameters, "series")

    def author_search(self, parameters: dict[str, str]) -> dict[str, Any]:
        """AuthorSearch: video floors have no authors."""
        return self._floor_search(parameters, "author")

    def _floor_search(self, parameters: dict[str, str], kind: str) -> dict[str, Any]:
        floor = next((one for one in FLOORS if str(one.number) == parameters.get("floor_id")), None)
        if floor is None:
            raise BadRequest({"floor_id": "Unknown floor."})
        mine = (one.entities[kind] for one in self.stock.departments if floor in one.floors and kind in one.entities)
        entities = next(mine, Entities(np.zeros(0, np.int64), 0, "genre"))
        result = self._search(parameters, kind, entities, self._numbers(kind, floor), 100, 500)
        return result | {
            "site_name": floor.site,
            "site_code": floor.site,
            "service_name": floor.service_name,
            "service_code": floor.service,
            "floor_id": str(floor.number),
            "floor_name": floor.name,
            "floor_code": floor.code,
        }

    def _numbers(self, kind: str, floor: Floor | None) -> Ints:
        """Return the indexes of all entities of a kind that the items of a floor name, once each."""
        key = kind, floor.number if floor else None
        if key not in self._present:
            parts = [np.zeros(0, np.int64)]
            for one in self.stock.departments:
                if kind in one.entities and (floor is None or floor in one.floors):
                    column = one.entities[kind].column
                    rows = column if floor is None else column[one.world.floor == one.floors.index(floor)]
                    parts.append(np.unique(rows[rows >= 0]))
            self._present[key] = np.unique(np.concatenate(parts))
        return self._present[key]

    def _search(
        self, parameters: dict[str, str], array: str, entities: Entities, numbers: Ints, default: int, most: int
    ) -> dict[str, Any]:
        errors: dict[str, str] = {}
        hits = _number(parameters, "hits", default, 1, most, errors)
        offset = _number(parameters, "offset", 1, 1, self.cap, errors)
        if errors:
            raise BadRequest(errors)
        initial, word = parameters.get("initial", ""), parameters.get("keyword", "")
        if initial or word:
            named = ((n, *entity_name(entities.word, n)) for n in numbers.tolist())
            kept = [n for n, name, ruby in named if (ruby or name).startswith(initial) and word in name]
            numbers = np.array(kept, np.int64)
        key = "id" if array == "actress" else f"{array}_id"
        rows = []
        for number in numbers[offset - 1 : offset - 1 + hits].tolist():
            name, ruby = entity_name(entities.word, number)
            link = f"https://shop.example/list/{array}/{entities.first + number}/?af_id={parameters['affiliate_id']}"
            rows.append({key: str(entities.first + number), "name": name, "ruby": ruby or name, "list_url": link})
        result: dict[str, Any] = {
            "status": "200",
            "result_count": len(rows),
            "total_count": str(len(numbers)),
            "first_position": offset,
        }
        return result | ({array: rows} if rows else {})  # an empty search has no array at all


_ENDPOINTS: dict[str, Callable[[Catalogue, dict[str, str]], Any]] = {
    "ItemList": Catalogue.item_list,
    "FloorList": Catalogue.floor_list,
    "ActressSearch": Catalogue.actress_search,
    "GenreSearch": Catalogue.genre_search,
    "MakerSearch": Catalogue.maker_search,
    "SeriesSearch": Catalogue.series_search,
    "AuthorSearch": Catalogue.author_search,
}


def _person(row: dict[str, str], affiliate_id: str) -> dict[str, Any]:
    """Add what the API tells about a performer, known or not, and links by service in the place of one."""
    number = int(row["id"])
    is_known = number % 3 > 0
    page, _, _ = row["list_url"].partition("?")
    portrait = f"https://img.example/person/{number}"
    return {
        "id": row["id"],
        "name": row["name"],
        "ruby": row["ruby"],
        "height": str(150 + number % 30) if is_known else None,
        "birthday": f"{1980 + number % 20}-01-01" if is_known else None,
        "blood_type": "ABO"[number % 3] if is_known else None,
        "hobby": _HOBBIES[number % 4] if is_known else None,
        "prefectures": _PREFECTURES[number % 4] if is_known else None,
        "imageURL": {"small": f"{portrait}s.jpg", "large": f"{portrait}l.jpg"},
        "listURL": {service: f"{page}{service}/?af_id={affiliate_id}" for service in ("digital", "monthly", "mono")},
    }


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12


def _number(parameters: dict[str, str], name: str, default: int, least: int, most: int, errors: dict[str, str]) -> int:
    text = parameters.get(name, str(default))
    if not (_is_number(text) and least <= int(text) <= most):
        errors[name] = f"The value must be between {least} and {most}."
        return default
    return int(text)


def _moment(parameters: dict[str, str], name: str, errors: dict[str, str]) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return int(datetime.fromisoformat(text).replace(tzinfo=JAPAN).timestamp())
    except ValueError:
        errors[name] = "The value must look like 2026-01-31T00:00:00."
        return None


def _floors(parameters: dict[str, str], errors: dict[str, str]) -> tuple[Floor, ...]:
    site, service, code = (parameters.get(name) for name in ("site", "service", "floor"))
    if site not in _SITES:
        errors["site"] = f"The value must be {' or '.join(_SITES)}."
        return ()
    floors = tuple(floor for floor in FLOORS if floor.site == site)
    if service is not None:
        floors = tuple(floor for floor in floors if floor.service == service)
        if not floors:
            errors["service"] = "Unknown service."
            return ()
    if code is not None:
        floors = tuple(floor for floor in floors if floor.code == code) if service is not None else ()
        if not floors:
            errors["floor"] = "Unknown floor."
    return floors


def _articles(parameters: dict[str, str], errors: dict[str, str]) -> tuple[tuple[str, int], ...]:
    found = []
    for name, kind in parameters.items():
        if not _ARTICLE.fullmatch(name):
            continue
        number = parameters.get(name.replace("article", "article_id", 1), "")
        if kind not in _ARTICLES or not _is_number(number):
            errors["article"] = "Unknown article or article_id."
        else:
            found.append((kind, int(number)))
    return tuple(found)

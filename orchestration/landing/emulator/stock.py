"""Finds, sorts and renders the items of all departments.

Belongs here: what a listing holds and in which order, and rows that come and go between two pages. Does not belong
here: how a request is written (catalogue), what goes wrong on the way (server).

A listing of one floor by date is a slice of an order that is sorted once: a window of a million items costs no more
than one of a thousand.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestration.landing.emulator.departments import Department, Floor
from orchestration.landing.emulator.vocabulary import ANCHOR, DAY
from orchestration.landing.emulator.world import Ints, World

SORTS = ("rank", "price", "-price", "date", "review", "match")

_REMEMBERED = 64
"""Listings kept: a client reads a listing page by page."""
_OWN_ID = "{emulated-own-id}"
"""Stands for the caller's id in kept texts; no id and no text of an item can hold it."""


@dataclass(frozen=True)
class Query:
    """What a listing is of. Two requests with the same query page through the same listing."""

    sort: str
    floors: tuple[Floor, ...]
    first: int | None = None
    last: int | None = None
    articles: tuple[tuple[str, int], ...] = ()
    word: str = ""
    cid: str = ""


class Stock:
    """The items of several departments under one numbering."""

    def __init__(self, departments: Sequence[Department], day: int = 0, cache_bytes: int = 0) -> None:
        """Sort by date; other orders are sorted when they are first asked for.

        Args:
            departments: Who offers what.
            day: Days after the anchor that have passed.
            cache_bytes: How much rendered text to keep.
        """
        self.departments, self.day = tuple(departments), day
        worlds = [one.world for one in self.departments]
        self._starts = np.cumsum([0, *(world.item_count for world in worlds)])
        self._released = _joined([world.released for world in worlds])
        self._content_ids: Any = _joined([world.content_ids for world in worlds])
        self._by_id = np.argsort(self._content_ids, kind="stable")
        vanish = _joined([world.vanish_day for world in worlds])
        self._is_present = (vanish == 0) | (vanish > day)
        self._floor = np.concatenate([_floor_numbers(one) for one in self.departments])
        self._positions: dict[str, Ints] = {}
        self._lock = threading.RLock()
        self._dated = self._by_floor_and_date()
        self._listings: OrderedDict[tuple[Query, int], Ints] = OrderedDict()
        self._changes: list[tuple[int, int | None]] = []
        self._born: list[tuple[int, str]] = []
        self._kept: dict[int, bytes] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        """Return the number of items on day 0."""
        return len(self._released)

    def find(self, query: Query) -> Ints:
        """Return the numbers of a listing's items, in its order."""
        with self._lock:
            key = query, len(self._changes)
            found = self._listings.get(key)
            if found is None:
                found = self._listings[key] = self._changed(query, self._select(query))
                while len(self._listings) > _REMEMBERED:
                    self._listings.popitem(last=False)
            self._listings.move_to_end(key)
            return found

    def texts(self, numbers: Ints, affiliate_id: str) -> list[bytes]:
        """Render items, with this id in their links, as encoded JSON."""
        if self._room <= 0 and not self._kept:
            return [text.encode() for text in self._render(numbers, affiliate_id)]
        wanted = numbers.tolist()
        missing = [number for number in wanted if number not in self._kept]
        fresh = self._render(np.array(missing, np.int64), _OWN_ID) if missing else []
        rendered = {number: text.encode() for number, text in zip(missing, fresh, strict=True)}
        with self._lock:
            for number, body in rendered.items():
                if self._room > 0 and number < len(self) and number not in self._kept:
                    self._kept[number] = body
                    self._room -= len(body)
        mark, own_id = _OWN_ID.encode(), affiliate_id.encode()
        return [(rendered.get(n) or self._kept[n]).replace(mark, own_id) for n in wanted]

    def vanish_before(self, query: Query, offset: int) -> str | None:
        """Withdraw the last item before an offset everywhere, so that the rows behind it move up.

        Returns:
            The item's content id; None when no item stands there.
        """
        with self._lock:
            found = self.find(query)
            if not 2 <= offset <= len(found):
                return None
            number = int(found[offset - 2])
            self._changes.append((number, None))
            return self.content_id(number)

    def insert_before(self, query: Query, offset: int) -> str | None:
        """Bring in a new item just before the last one before an offset, so that this one moves behind it.

        Returns:
            The new item's content id; None when the listing ends before the offset.
        """
        with self._lock:
            found = self.find(query)
            if not 2 <= offset <= len(found):
                return None
            neighbour = int(found[offset - 2])
            cid = f"{self.content_id(neighbour)}n{len(self._born) + 1}"
            self._born.append((neighbour, cid))
            self._changes.append((len(self) + len(self._born) - 1, neighbour))
            return cid

    def undo_changes(self) -> None:
        """Forget what came and went."""
        with self._lock:
            self._changes.clear()
            self._born.clear()
            self._listings.clear()

    def content_id(self, number: int) -> str:
        """Return an item's id."""
        return self._born[number - len(self)][1] if number >= len(self) else str(self._content_ids[number])

    def _by_floor_and_date(self) -> dict[int, tuple[Ints, Ints]]:
        """Return each floor's items, newest first, and their negated release, which rises."""
        order = np.argsort(self._position("date"))  # the inverse: numbers in order of date
        order = order[self._is_present[order]]
        dated = {}
        for floor in np.unique(self._floor).tolist():
            mine = order[self._floor[order] == floor]
            dated[floor] = mine, -self._released[mine]
        return dated

    def _position(self, sort: str) -> Ints:
        """Return each item's place in an order of everything; ties end by content id."""
        with self._lock:
            if sort not in self._positions:
                text = np.empty(len(self), np.int64)
                text[self._by_id] = np.arange(len(self))
                key = np.concatenate([_sort_key(one.world, sort, self.day) for one in self.departments])
                position = self._positions[sort] = np.empty(len(self), np.int64)
                position[np.lexsort((text, key))] = np.arange(len(self))
            return self._positions[sort]

    def _select(self, query: Query) -> Ints:
        parts = [self._window(floor, query.first, query.last) for floor in query.floors]
        found = parts[0] if len(parts) == 1 else np.concatenate([*parts, np.zeros(0, np.int64)])
        if query.cid:
            found = found[np.isin(found, self._with_id(query.cid))]
        for kind, entity_id in query.articles:
            found = found[self._has(kind, entity_id, found)]
        if query.sort != "date" or len(parts) > 1:
            found = found[np.argsort(self._position(query.sort)[found])]
        if query.word:
            found = found[np.array([query.word in self._title(n) for n in found.tolist()], bool)]
        return found

    def _window(self, floor: Floor, first: int | None, last: int | None) -> Ints:
        found, negated = self._dated.get(floor.number, (np.zeros(0, np.int64),) * 2)
        start = 0 if last is None else int(np.searchsorted(negated, -last, "left"))
        end = len(found) if first is None else int(np.searchsorted(negated, -first, "right"))
        return found[start : max(start, end)]

    def _with_id(self, cid: str) -> Ints:
        new = next((len(self) + n for n, (_, born) in enumerate(self._born) if born == cid), None)
        while new is not None and new >= len(self):  # a new item is found where its neighbour stands
            new = self._born[new - len(self)][0]
        cid = cid if new is None else self.content_id(new)
        first, last = (int(np.searchsorted(self._content_ids, cid, side, sorter=self._by_id)) for side in _SIDES)
        return self._by_id[first:last]

    def _changed(self, query: Query, found: Ints) -> Ints:
        """Apply what came and went since the start, in that order."""
        for number, neighbour in self._changes:
            if neighbour is None:
                found = found[found != number]
            else:
                found = np.insert(found, np.flatnonzero(found == neighbour), number)
        if query.cid and self._born:
            found = np.array([n for n in found.tolist() if self.content_id(n) == query.cid], np.int64)
        return found

    def _has(self, kind: str, entity_id: int, found: Ints) -> Any:
        keep = np.zeros(len(found), bool)
        for start, one in zip(self._starts, self.departments, strict=False):
            mine = (found >= start) & (found < start + one.world.item_count)
            if kind in one.entities and mine.any():
                entities = one.entities[kind]
                hit = entities.column[found[mine] - start] == entity_id - entities.first
                keep[mine] = hit.any(axis=1) if hit.ndim == 2 else hit
        return keep

    def _title(self, number: int) -> str:
        which = int(np.searchsorted(self._starts, number, "right")) - 1
        return self.departments[which].world.title(number - int(self._starts[which]))

    def _render(self, numbers: Ints, affiliate_id: str) -> list[str]:
        if len(numbers) and numbers.max() >= len(self):
            return [self._render_one(int(number), affiliate_id) for number in numbers]
        which = np.searchsorted(self._starts, numbers, "right") - 1
        texts = np.empty(len(numbers), object)
        for department in np.unique(which).tolist():
            mine = which == department
            local = numbers[mine] - self._starts[department]
            texts[mine] = self.departments[department].texts(local, self.day, affiliate_id)
        return list(texts)

    def _render_one(self, number: int, affiliate_id: str) -> str:
        if number < len(self):
            return self._render(np.array([number]), affiliate_id)[0]
        neighbour, cid = self._born[number - len(self)]
        return self._render_one(neighbour, affiliate_id).replace(self.content_id(neighbour), cid)


_SIDES: tuple[Any, ...] = ("left", "right")


def _joined(arrays: list[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _floor_numbers(department: Department) -> Ints:
    return np.array([floor.number for floor in department.floors])[department.world.floor]


def _sort_key(world: World, sort: str, day: int) -> Any:
    if sort == "date":
        return -world.released
    if sort in ("price", "-price"):  # the API's signs look inverted: plain price is dear first
        return world.price_on(day) * (-1 if sort == "price" else 1)
    if sort == "review":
        return -world.review_average * (world.review_count > 0)
    age = np.maximum(int(ANCHOR.timestamp()) + day * DAY - world.released, 0) / DAY
    return -world.popularity * (1 + 9 * np.exp(-age / 18))

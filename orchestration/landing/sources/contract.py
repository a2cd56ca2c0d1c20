"""The contract between landing and a catalogue source, whoever runs it.

Belongs here: what a source must offer so that it can be planned, paged, proven complete and asked for one item. Does
not belong here: any source's protocol or fields; an adapter brings its items into the form of the DMM ItemList,
because that is what staging reads.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from orchestration.landing.windows import Window

PULLED = frozenset({"dmm", "feed"})
"""Names of the sources that are pulled: nothing else may land items under them."""


@dataclass(frozen=True, order=True)
class Place:
    """A part of a catalogue with a listing of its own.

    Attributes:
        site: The shop, such as `FANZA`.
        service: Service code within the site, such as `digital`.
        floor: Floor code within the service, such as `videoa`.
    """

    site: str
    service: str
    floor: str

    def __str__(self) -> str:
        """Read well in an error message."""
        return f"{self.service}/{self.floor}"


@dataclass(frozen=True)
class ItemPage:
    """One answer of a listing.

    Attributes:
        first_position: Position of the first item, counted from 1.
        result_count: Items on this page.
        total_count: Items of the whole listing; at the source's cap it means "that many or more".
        items: The items as decoded JSON, in ItemList form; ids of callers need not be masked yet.
    """

    first_position: int
    result_count: int
    total_count: int
    items: list[Any]


class CatalogueSource(Protocol):
    """A catalogue that can be read completely.

    Attributes:
        name: Names the source and its id namespace: items of two sources never meet, whatever their ids.
        secrets: Texts that must not be landed or logged, such as our ids at the source.
        page_size: The most items of one page.
        cap: Where `total_count` saturates and paging ends; a listing must be cut smaller than that.
        requests: Requests sent so far, retries included.
        retries: How many of them repeated a failed one.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def page_size(self) -> int:
        """See the class."""
        ...

    @property
    def cap(self) -> int:
        """See the class."""
        ...

    @property
    def requests(self) -> int:
        """See the class."""
        ...

    @property
    def retries(self) -> int:
        """See the class."""
        ...

    def page(self, place: Place, window: Window, *, offset: int = 1, hits: int | None = None) -> ItemPage:
        """Return one page of the items of a place that are released within a window.

        Args:
            place: Where to look.
            window: Release times, both ends included.
            offset: Position of the first item wanted, counted from 1.
            hits: Items wanted; None for `page_size`.

        Returns:
            The page. The order is the same for all pages of a window; a page is empty only behind the last item.

        Raises:
            TransientSourceError: Every attempt failed.
            PermanentSourceError: The source refuses the request.
        """
        ...

    def lookup(self, content_id: str) -> list[Any]:
        """Return the items with an id, wherever they stand in the catalogue; none when the source knows none."""
        ...

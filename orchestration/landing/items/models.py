"""What landing needs to know about an item, and the reason code when it does not hold.

Belongs here: the few fields that key and place an item. Does not belong here: prices, volumes, people: the whole
payload is landed as it came, and dbt types it. A row is refused only when nobody could ever place it.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainValidator, StringConstraints, ValidationError

from orchestration.landing.windows import JAPAN

CONTENT_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

_DATE = re.compile(r"^([0-9]{4})([-/])([0-9]{1,2})\2([0-9]{1,2}) ([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?$")


def parse_japan_time(text: str) -> datetime:
    """Read an API time (`2026-01-10 10:00:53`, `2026/01/10 10:00:53`, `2026/1/10 10:00`).

    Raises:
        ValueError: Any other form, or a date that does not exist.
    """
    match = _DATE.match(text.strip())
    if match is None:
        raise ValueError("not a date and time the API is known to write")
    year, _, month, day, hour, minute, second = match.groups()
    return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=JAPAN)


_Code = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^[A-Za-z0-9_-]{1,64}$", strict=True)
]


def _moment(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return parse_japan_time(value)


class Item(BaseModel):
    """What landing reads of one ItemList item; the payload keeps everything else untouched."""

    model_config = ConfigDict(extra="ignore")

    service_code: _Code
    floor_code: _Code
    content_id: Annotated[
        str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=CONTENT_ID_PATTERN, strict=True)
    ]
    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000, strict=True)]
    date: Annotated[datetime, PlainValidator(_moment)]


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be landed.

    Attributes:
        reason: Stable code: `not_an_object`, `bad_json`, `missing_<field>`, `bad_<field>`, `nul_character`, ...
        detail: What was seen, for a person.
    """

    reason: str
    detail: str


def check_item(value: object) -> Item | Rejected:
    """Check one decoded item.

    Args:
        value: What stood in the `items` array or on the line.

    Returns:
        The item with its keys trimmed and lower-cased, or why it was refused.
    """
    if not isinstance(value, dict):
        return Rejected("not_an_object", f"expected an object, found {type(value).__name__}")
    for name in Item.model_fields:
        field = value.get(name)
        if field is None or (isinstance(field, str) and not field.strip()):
            return Rejected(f"missing_{name}", f"{name} is missing or empty")
    try:
        return Item.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        return Rejected(f"bad_{name}", f"{name}: {first['msg']}: {str(value.get(name))[:120]!r}")

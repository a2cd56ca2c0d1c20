"""Checks columns in bulk and says, row by row, what is wrong with the few that are.

Belongs here: turning text or typed columns into what a table holds, with a reason code per refused row. Does not
belong here: files, SQL. Good rows never meet Python one by one; that is what makes ten million of them bearable.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestration.landing.errors import LandingError

Mask = NDArray[np.bool_]

_TIMESTAMP = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
)
_NUMBER = r"^[+-]?([0-9]{1,15}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_INSTANT = pa.timestamp("us", tz="UTC")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_CLOCK_SKEW = timedelta(hours=1)
_EXPONENTS = range(-1_000, 1_000)
_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")


@dataclass(frozen=True)
class Checked:
    """One column after checking.

    Attributes:
        values: In the table's type; anything where a problem is noted.
        problems: Reason code to the rows it holds for; the first one of a row counts.
    """

    values: pa.Array
    problems: list[tuple[str, Mask]]


Check = Callable[[str, pa.Array, bool], Checked]


@dataclass(frozen=True)
class Column:
    """A column of a load file.

    Attributes:
        name: As in the file's header and in the table.
        check: How its values are read.
        is_required: Whether every row needs a value and every file the column.
    """

    name: str
    check: Check
    is_required: bool = True


@dataclass(frozen=True)
class CheckedBatch:
    """A batch after checking: what can be landed, and which rows cannot.

    Attributes:
        table: The good rows, one column per table column.
        bad: Row number in the batch, and its reason code.
    """

    table: pa.Table
    bad: list[tuple[int, str]]


def check_batch(
    columns: tuple[Column, ...], batch: Mapping[str, pa.Array], rows: int, now: datetime | None = None
) -> CheckedBatch:
    """Check a batch.

    One event of the future would move "as of", and with it every window that ends there, so no column may hold a
    moment that has not come, but for the skew of clocks.

    Args:
        columns: What the table holds.
        batch: What the file holds; optional columns may be missing.
        rows: Rows in the batch.
        now: What counts as the future begins an hour later; the clock when not given.

    Returns:
        The good rows as a table and the bad ones by number. Each bad row has exactly one reason.

    Raises:
        LandingError: A whole column has a type that cannot be meant.
    """
    reasons: list[str] = []
    latest = pa.scalar((now or datetime.now(UTC)) + _CLOCK_SKEW, _INSTANT)
    code = np.zeros(rows, np.int32)
    arrays: dict[str, pa.Array] = {}
    for column in columns:
        given = batch.get(column.name)
        if given is None:
            given = pa.nulls(rows, pa.string())
        checked = column.check(column.name, given, column.is_required)
        arrays[column.name] = checked.values
        problems = checked.problems
        if checked.values.type == _INSTANT:
            problems = [*problems, ("timestamp_in_future", _mask(pc.greater(checked.values, latest)))]
        for reason, mask in problems:
            if mask.any():
                reasons.append(reason)
                code[(code == 0) & mask] = len(reasons)
    table = pa.table(arrays)
    if not reasons:
        return CheckedBatch(table, [])
    bad = [(int(row), reasons[code[row] - 1]) for row in np.flatnonzero(code)]
    return CheckedBatch(table.filter(pa.array(code == 0)), bad)


def text(pattern: str = r"^[^\x00-\x1f\x7f]{1,200}$", *, lower: bool = False) -> Check:
    """Return a check for trimmed text of a certain form."""

    def check(name: str, array: pa.Array, is_required: bool) -> Checked:
        values, unreadable = _strings(name, array)
        if lower:
            values = pc.utf8_lower(values)
        missing = _mask(pc.is_null(values))
        wrong = _mask(pc.invert(pc.match_substring_regex(values, pattern)))
        return Checked(values, _problems(name, is_required, missing, unreadable, wrong))

    return check


def one_of(*allowed: str) -> Check:
    """Return a check for one of a few words, in any case."""

    def check(name: str, array: pa.Array, is_required: bool) -> Checked:
        values, unreadable = _strings(name, array)
        values = pc.utf8_lower(values)
        missing = _mask(pc.is_null(values))
        wrong = ~missing & ~_mask(pc.is_in(values, pa.array(allowed)))
        return Checked(values, _problems(name, is_required, missing, unreadable, wrong))

    return check


def timestamp(name: str, array: pa.Array, is_required: bool) -> Checked:
    """Check moments: ISO 8601 with an offset, or a Parquet timestamp with a zone. Without one nobody knows when."""
    rows = len(array)
    unreadable, naive, wrong, outside = (np.zeros(rows, bool) for _ in range(4))
    if pa.types.is_timestamp(array.type):
        if array.type.tz is None:
            raise LandingError(
                f"column {name} has no time zone: write it as a timestamp with zone, or as text with offset"
            )
        missing = _mask(pc.is_null(array))
        outside = _outside(array)  # before the cast, which wraps around
        values = pc.cast(pc.if_else(pa.array(outside), None, array), _INSTANT, safe=False)
    else:
        strings, unreadable = _strings(name, array)
        missing = _mask(pc.is_null(strings))
        plain = _mask(pc.match_substring_regex(strings, _TIMESTAMP))
        values = None
        if plain.all():
            values = _cast(strings)
        if values is None:
            values, naive, wrong = _moments(strings, plain, missing | unreadable)
        outside = _outside(values)
    problems = [("timestamp_without_offset", naive), ("bad_timestamp", wrong | unreadable)]
    if is_required:
        problems.append((f"missing_{name}", missing))
    return Checked(values, [*problems, ("timestamp_out_of_range", outside)])


def number(low: float = -1e300, high: float = 1e300, *, above: bool = False) -> Check:
    """Return a check for finite numbers in [low, high], or in (low, high] with `above`."""

    def check(name: str, array: pa.Array, is_required: bool) -> Checked:
        rows = len(array)
        unreadable, wrong = np.zeros(rows, bool), np.zeros(rows, bool)
        kind = array.type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            values = pc.cast(array, pa.float64(), safe=False)
            values = pc.if_else(pc.is_nan(values), None, values)  # what data frames write for "none"
            missing = _mask(pc.is_null(values))
        else:
            strings, unreadable = _strings(name, array)
            missing = _mask(pc.is_null(strings))
            good = _mask(pc.match_substring_regex(strings, _NUMBER))
            wrong = ~missing & ~good
            values = pc.cast(pc.if_else(pa.array(good), strings, None), pa.float64())
        with np.errstate(invalid="ignore"):
            plain = values.to_numpy(zero_copy_only=False)
            outside = (plain <= low if above else plain < low) | (plain > high) | np.isinf(plain)
        return Checked(values, _problems(name, is_required, missing, unreadable, wrong | outside))

    return check


def integer(low: int, high: int = 2**31 - 1) -> Check:
    """Return a check for whole numbers in [low, high]."""
    base = number(low, high)

    def check(name: str, array: pa.Array, is_required: bool) -> Checked:
        checked = base(name, array, is_required)
        plain = np.nan_to_num(checked.values.to_numpy(zero_copy_only=False), nan=0.0, posinf=0.0, neginf=0.0)
        broken = plain != np.floor(plain)
        whole = np.where(broken | (np.abs(plain) > 2**53), 0, plain).astype(np.int64)
        nulls = _mask(pc.is_null(checked.values))
        return Checked(pa.array(whole, mask=nulls), [*checked.problems, (f"bad_{name}", broken)])

    return check


def whole_number(name: str, array: pa.Array, is_required: bool) -> Checked:
    """Check positive 64-bit integers, exactly: an id may be larger than a double can hold."""
    if pa.types.is_floating(array.type):  # what data frames make of integers with gaps
        plain = pc.cast(array, pa.float64(), safe=False)
        plain = pc.if_else(pc.is_nan(plain), None, plain)
        whole = _mask(pc.and_(pc.less_equal(pc.abs(plain), 2.0**53), pc.equal(plain, pc.floor(plain))))
        digits = pc.cast(pc.cast(pc.if_else(pa.array(whole), plain, None), pa.int64()), pa.string())
        missing, unreadable = _mask(pc.is_null(plain)), ~whole & ~_mask(pc.is_null(plain))
    else:
        strings, unreadable = _strings(name, array)
        missing = _mask(pc.is_null(strings))
        digits = strings
    good = _mask(pc.match_substring_regex(digits, r"^\+?0*[1-9][0-9]{0,18}(\.0*)?$"))
    digits = pc.replace_substring_regex(pc.if_else(pa.array(good), digits, None), r"^\+?0*([1-9][0-9]*).*$", r"\1")
    good &= _mask(pc.or_(pc.less(pc.utf8_length(digits), 19), pc.less_equal(digits, str(2**63 - 1))))
    values = pc.cast(pc.if_else(pa.array(good), digits, None), pa.int64())
    return Checked(values, _problems(name, is_required, missing, unreadable, ~missing & ~good))


def boolean(name: str, array: pa.Array, is_required: bool) -> Checked:
    """Check yes or no, in the usual spellings."""
    if pa.types.is_boolean(array.type):
        return Checked(array, _problems(name, is_required, _mask(pc.is_null(array))))
    strings, unreadable = _strings(name, array)
    words = pc.utf8_lower(strings)
    yes, no = _mask(pc.is_in(words, pa.array(_TRUE))), _mask(pc.is_in(words, pa.array(_FALSE)))
    missing = _mask(pc.is_null(words))
    return Checked(pa.array(yes), _problems(name, is_required, missing, unreadable, ~missing & ~yes & ~no))


def json_object(name: str, array: pa.Array, is_required: bool) -> Checked:
    """Check JSON objects that `jsonb` can hold."""
    if pa.types.is_struct(array.type) or pa.types.is_map(array.type):
        values = [None if v is None else _dumped(dict(v)) for v in array.to_pylist()]
        array = pa.array(values, pa.string())
    strings, unreadable = _strings(name, array)
    missing = _mask(pc.is_null(strings))
    wrong = np.zeros(len(strings), bool)
    for row in np.flatnonzero(~missing):
        wrong[row] = not _is_object(strings[int(row)].as_py())
    return Checked(strings, _problems(name, is_required, missing, unreadable, wrong))


def _dumped(value: dict[Any, Any]) -> str:
    return json.dumps({str(key): one for key, one in value.items()}, default=str)


def _is_object(value: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def finite(digits: str) -> float:
        # `jsonb` keeps every digit and refuses what a double would round to nothing.
        if Decimal(digits).as_tuple().exponent not in _EXPONENTS:
            raise ValueError(digits)
        return float(digits)

    try:
        decoded = json.loads(value, parse_constant=refuse, parse_float=finite)
        json.dumps(decoded, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and not re.search(r"(?<!\\)(?:\\\\)*\\u0000", value)


def _strings(name: str, array: pa.Array) -> tuple[pa.Array, Mask]:
    """Return trimmed text with blank as null, and the rows whose bytes are no UTF-8."""
    unreadable = np.zeros(len(array), bool)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            array = pc.cast(array, pa.string())
        except pa.ArrowInvalid:
            array, unreadable = _decode(array)
    elif pa.types.is_integer(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        array = pc.cast(array, pa.string())
    elif not pa.types.is_string(kind):
        raise LandingError(f"column {name} holds {kind}, which cannot be meant")
    try:
        trimmed = pc.utf8_trim_whitespace(array)
    except pa.ArrowInvalid:  # a Parquet file may call bytes text
        array, unreadable = _decode(pc.cast(array, pa.binary()))
        trimmed = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed), unreadable


def _decode(array: pa.Array) -> tuple[pa.Array, Mask]:
    values: list[str | None] = []
    unreadable = np.zeros(len(array), bool)
    for row, value in enumerate(array.to_pylist()):
        try:
            values.append(None if value is None else value.decode("utf-8"))
        except UnicodeDecodeError:
            unreadable[row] = True
            values.append("?")
    return pa.array(values, pa.string()), unreadable


def _outside(moments: pa.Array) -> Mask:
    earliest, latest = (pc.cast(pa.scalar(one, _INSTANT), moments.type) for one in (_EARLIEST, _LATEST))
    return _mask(pc.or_(pc.less(moments, earliest), pc.greater_equal(moments, latest)))


def _cast(strings: pa.Array) -> pa.Array | None:
    try:
        return pc.cast(strings, _INSTANT)
    except pa.ArrowInvalid:  # a month 13 somewhere; the caller looks at each row
        return None


def _moments(strings: pa.Array, plain: Mask, skip: Mask) -> tuple[pa.Array, Mask, Mask]:
    """Read a batch of times in which some are odd."""
    naive, wrong = np.zeros(len(strings), bool), np.zeros(len(strings), bool)
    bulk = _cast(pc.if_else(pa.array(plain), strings, None))
    look = np.flatnonzero(~skip & ~plain) if bulk is not None else np.flatnonzero(~skip)
    found: dict[int, datetime] = {}
    for row in look.tolist():
        try:
            moment = datetime.fromisoformat(_usual(strings[row].as_py()))
            if moment.tzinfo is None:
                naive[row] = True
            else:
                found[row] = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            wrong[row] = True
    if bulk is None:
        return pa.array([found.get(row) for row in range(len(strings))], _INSTANT), naive, wrong
    if found:
        odd = np.zeros(len(strings), bool)
        odd[list(found)] = True
        filled = pa.array([found.get(row) for row in range(len(strings))], _INSTANT)
        bulk = pc.if_else(pa.array(odd), filled, bulk)
    return bulk, naive, wrong


def _usual(value: str) -> str:
    """Bring database and query-tool spellings of an offset into the ISO one."""
    value = re.sub(r"\s*(?:UTC|GMT)$", "+00:00", value)
    return re.sub(r"\s+([+-][0-9]{2}:?[0-9]{2})$", r"\1", value)


def _problems(name: str, is_required: bool, missing: Mask, *wrong: Mask) -> list[tuple[str, Mask]]:
    problems = [(f"bad_{name}", mask) for mask in wrong]
    return [*problems, (f"missing_{name}", missing)] if is_required else problems


def _mask(array: Any) -> Mask:
    """Return an Arrow boolean array as a mask; null is False."""
    return np.asarray(pc.fill_null(array, False).to_numpy(zero_copy_only=False), bool)

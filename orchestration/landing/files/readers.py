"""Reads CSV, JSON lines and Parquet as a stream of column batches.

Belongs here: formats, compression, byte-order marks, broken lines. Does not belong here: what a column means.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import re
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from orchestration.landing.errors import LandingError
from orchestration.landing.masking import mask_text
from orchestration.landing.quarantine import BadRow

FORMATS = ("csv", "jsonl", "parquet")
STDIN = Path("-")

_SUFFIXES = {
    **{".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"},
    **{".parquet": "parquet", ".pq": "parquet"},
}
_BLOCK_BYTES = 8 << 20
_LINES = 50_000
_PARQUET_ROWS = 65_536
_BUFFER_BYTES = 1 << 20  # per column: a file may be one row group of ten million rows
_BOM = b"\xef\xbb\xbf"
_BROKEN = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError)


@dataclass(frozen=True)
class Batch:
    """Some rows as columns, and the rows that could not even be split into columns.

    Attributes:
        rows: Number of rows in every column.
        columns: By lower-case name; only columns the caller knows.
        bad: Rows that are no rows, with their reason.
    """

    rows: int
    columns: dict[str, pa.Array]
    bad: list[BadRow] = field(default_factory=list)


class Source:
    """One opened file. Opening finds out the format and, for CSV and Parquet, the column names; it reads no rows.

    Attributes:
        name: The file's name without folders, for messages and origins.
        format: One of `FORMATS`.
        columns: Column names, or None where each line has its own (JSON lines).
        total: Number of rows, where the file says so.
    """

    def __init__(self, path: Path, format: str | None = None) -> None:
        """Open a file, a gzip file, or stdin (`-`).

        Raises:
            LandingError: It cannot be opened, is empty, or is of no known format.
        """
        self.name = "stdin" if path == STDIN else path.name
        self._closing = contextlib.ExitStack()
        self.columns: list[str] | None = None
        self.total: int | None = None
        if format is not None and format not in FORMATS:
            raise LandingError(f"{self.name}: unknown format {format!r}, use {', '.join(FORMATS)}")
        self.format = format or ""
        try:
            self._stream = self._open(path)
            self.format = format or self._sniff(path)
            self._prepare()
        except _BROKEN as error:
            self.close()
            raise self._refusal(error) from None
        except LandingError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._closing.close()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of a JSON lines file that are not blank.

        Raises:
            LandingError: The file breaks off.
        """
        try:
            for line in self._stream:
                text = line.strip()
                if text:
                    yield text
        except _BROKEN as error:
            raise self._refusal(error) from None

    def batches(self, wanted: Iterable[str]) -> Iterator[Batch]:
        """Yield the rows, column by column.

        Args:
            wanted: Column names the caller knows; others are left out.

        Raises:
            LandingError: The file breaks off or is not what it seemed.
        """
        names = list(wanted)
        try:
            if self.format == "csv":
                yield from self._csv(names)
            elif self.format == "parquet":
                yield from self._parquet(names)
            else:
                yield from self._jsonl(names)
        except _BROKEN as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> LandingError:
        if isinstance(error, OSError) and error.strerror:
            return LandingError(f"{self.name}: cannot be read ({error.strerror})")
        if isinstance(error, EOFError):
            return LandingError(f"{self.name}: the gzip file is cut off")
        if isinstance(error, gzip.BadGzipFile | zlib.error):
            return LandingError(f"{self.name}: cannot be read (not a readable gzip file)")
        return LandingError(f"{self.name}: not readable as {self.format} ({_line(error)})")

    def _open(self, path: Path) -> Any:
        if path == STDIN:
            raw: Any = sys.stdin.buffer
        else:
            raw = self._closing.enter_context(path.open("rb"))
        if not hasattr(raw, "peek"):
            raw = io.BufferedReader(raw)
        if raw.peek(2)[:2] == b"\x1f\x8b":
            raw = self._closing.enter_context(gzip.GzipFile(fileobj=raw))
            raw = io.BufferedReader(raw, _BLOCK_BYTES)
        return raw

    def _sniff(self, path: Path) -> str:
        suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
        if suffixes and suffixes[-1] in _SUFFIXES:
            return _SUFFIXES[suffixes[-1]]
        head = self._stream.peek(4096)[:4096].removeprefix(_BOM).lstrip()
        if head.startswith(b"PAR1"):
            return "parquet"
        if head.startswith(b"{"):
            return "jsonl"
        first = head.split(b"\n", 1)[0]
        if b"," in first and b"\x00" not in first:
            return "csv"
        if not head:
            raise LandingError(f"{self.name}: the file is empty")
        raise LandingError(f"{self.name}: unknown format, name it with csv, jsonl or parquet")

    def _prepare(self) -> None:
        if self.format == "parquet":
            stream = self._stream
            if not stream.seekable() or isinstance(stream.raw, gzip.GzipFile):
                spool = self._closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the source
                while block := stream.read(_BLOCK_BYTES):
                    spool.write(block)
                spool.seek(0)
                stream = spool
            self._table = pa.parquet.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
            self._closing.callback(self._table.close)
            names = self._table.schema_arrow.names
            self._original = {name.strip().lower(): name for name in names}
            self.columns = self._once([name.strip().lower() for name in names])
            self.total = self._table.metadata.num_rows
            return
        if self._stream.peek(3)[:3] == _BOM:
            self._stream.read(3)
        if self.format == "csv":
            self.columns = self._header()

    def _header(self) -> list[str]:
        line = b""
        while not line.strip():
            line = self._stream.readline(1 << 20)
            if not line:
                raise LandingError(f"{self.name}: the file is empty")
        try:
            names = next(csv.reader([line.decode("utf-8").strip()]))
        except (UnicodeDecodeError, csv.Error):
            raise LandingError(f"{self.name}: the header line is not UTF-8 text") from None
        return self._once([name.strip().lower() for name in names])

    def _once(self, columns: list[str]) -> list[str]:
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise LandingError(f"{self.name}: column {twice[0]!r} occurs twice")
        return columns

    def _csv(self, wanted: list[str]) -> Iterator[Batch]:
        header = self.columns or []
        broken: list[BadRow] = []

        def keep(row: Any) -> str:
            detail = f"{row.actual_columns} fields where the header has {row.expected_columns}"
            broken.append(BadRow("wrong_field_count", detail, str(row.text or "")))
            return "skip"

        try:
            reader = pa.csv.open_csv(
                _Utf8(self._stream),
                read_options=pa.csv.ReadOptions(column_names=header, block_size=_BLOCK_BYTES, use_threads=False),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
                convert_options=pa.csv.ConvertOptions(
                    # As bytes: one badly encoded row must not take its neighbours with it.
                    column_types={name: pa.binary() for name in header},
                    include_columns=[name for name in header if name in wanted],
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" not in str(error):
                raise
            reader = ()
        for part in reader:
            bad, broken[:] = list(broken), []
            yield Batch(part.num_rows, dict(zip(part.schema.names, part.columns, strict=True)), bad)
        if broken:
            yield Batch(0, {}, list(broken))

    def _parquet(self, wanted: list[str]) -> Iterator[Batch]:
        known = {name: self._original[name] for name in self._original if name in wanted}
        for part in self._table.iter_batches(_PARQUET_ROWS, columns=list(known.values()), use_threads=False):
            yield Batch(part.num_rows, {name: part.column(original) for name, original in known.items()})

    def _jsonl(self, wanted: list[str]) -> Iterator[Batch]:
        rows: list[list[bytes | None]] = []
        bad: list[BadRow] = []
        for line in self.lines():
            row = row_fields(line, wanted)
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                rows.append(row)
            if len(rows) + len(bad) >= _LINES:
                yield Batch(len(rows), field_arrays(rows, wanted), bad)
                rows, bad = [], []
        if rows or bad:
            yield Batch(len(rows), field_arrays(rows, wanted), bad)


class _Utf8(io.RawIOBase):
    """A stream whose bytes that are no UTF-8 become a control character, which no column takes.

    Arrow's handler of broken rows cannot show such bytes: one row would make the whole file unreadable.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._ready:
            block = self._stream.read(_BLOCK_BYTES)
            text = self._decoder.decode(block, final=not block)
            try:
                self._ready = text.encode()
            except UnicodeEncodeError:
                self._ready = re.sub("[\udc80-\udcff]", "\x1a", text).encode()
            if not block:
                break
        size = len(self._ready) if size < 0 else size
        block, self._ready = self._ready[:size], self._ready[size:]
        return block


def row_fields(line: bytes, wanted: Iterable[str]) -> list[bytes | None] | BadRow:
    """Read one JSON line into the form a CSV row would have, or say why that cannot be done.

    Args:
        line: One JSON object.
        wanted: Column names.
    """
    row = decode_line(line)
    if isinstance(row, BadRow):
        return row
    if not isinstance(row, dict):
        return BadRow("not_an_object", "the line is JSON but not an object", _text(line))
    fields: list[bytes | None] = []
    for name in wanted:
        value = _as_text(row.get(name))
        if value is ...:
            return BadRow(f"bad_{name}", f"{name} has the wrong type", _text(line))
        # As bytes, as from CSV, so that half a surrogate pair in one row stays that row's problem.
        fields.append(None if value is None else value.encode("utf-8", "surrogatepass"))
    return fields


def field_arrays(rows: list[list[bytes | None]], names: list[str]) -> dict[str, pa.Array]:
    """Turn rows of `row_fields` into columns."""
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return {name: pa.array(column, pa.binary()) for name, column in zip(names, columns, strict=True)}


def decode_line(line: bytes) -> Any:
    """Decode one JSON line, or return why it is none."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return BadRow("bad_encoding", "the line is not UTF-8", mask_text(_text(line)))
    except (ValueError, RecursionError) as error:
        return BadRow("bad_json", f"the line is not JSON ({_line(error)})", mask_text(_text(line)))


def _as_text(value: Any) -> Any:
    """Bring a JSON value into the form a CSV field would have; `...` where it has none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        with contextlib.suppress(RecursionError):  # nested too deeply to be written is of no usable type
            return json.dumps(value)
    return ...


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]

"""A file that was damaged on its way is refused in one line or read in part, row by row; nothing else comes out."""

import contextlib
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from orchestration.landing.app.columns import check_batch
from orchestration.landing.app.kinds import DECISIONS
from orchestration.landing.errors import LandingError
from orchestration.landing.files.readers import Source

ROWS = 2_000
NAMES = [column.name for column in DECISIONS.columns]


def whole_files() -> dict[str, bytes]:
    table = pa.table(
        {
            "user_id": [f"u{n}" for n in range(ROWS)],
            "content_id": ["abc00123"] * ROWS,
            "decision": ["like"] * ROWS,
            "decided_at": pa.array(range(ROWS), pa.timestamp("us", tz="UTC")),
        }
    )
    found = {}
    for compression in ("snappy", "zstd", "none"):
        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out, compression=compression, row_group_size=700)
        found[f"{compression}.parquet"] = out.getvalue()
    out = io.BytesIO()
    pyarrow.csv.write_csv(table, out)
    found["d.csv"] = out.getvalue().replace(b'"', b"")
    row = {"user_id": "u", "content_id": "a", "decision": "like", "decided_at": "2026-01-01T00:00:00Z"}
    found["d.jsonl"] = b"".join(json.dumps(row | {"user_id": f"u{n}"}).encode() + b"\n" for n in range(ROWS))
    packed = {f"{name}.gz": gzip.compress(found[name], 1) for name in ("d.csv", "d.jsonl", "snappy.parquet")}
    return found | packed


WHOLE = whole_files()


def damaged(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    how = rng.randrange(3)
    if how == 0:
        return content[:place]
    if how == 1:
        return content[:place] + content[place + rng.randrange(1, 200) :]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 3, 20])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_ends_in_rows_or_in_one_line(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)  # noqa: S311
    path = tmp_path / name
    for _ in range(60):
        path.write_bytes(damaged(WHOLE[name], rng))
        message, rows = "", 0
        try:
            with contextlib.closing(Source(path)) as source:
                for batch in source.batches(NAMES):
                    checked = check_batch(DECISIONS.columns, batch.columns, batch.rows)
                    rows += checked.table.num_rows + len(checked.bad) + len(batch.bad)
        except LandingError as error:
            message = str(error)
        assert "\n" not in message
        assert message.startswith((name, "column ")) or rows <= ROWS + 20


def test_bytes_that_are_no_text_stay_the_problem_of_their_row(tmp_path: Path) -> None:
    """Also where the row has too many fields: Arrow's own handler gives up on the whole file there."""
    path = tmp_path / "d.csv"
    good = b"u,a,like,2026-01-01T00:00:00Z\n"
    lines = [
        b"u\xff,a,like,2026-01-01T00:00:00Z\n",
        b"u,\xc8,a,like,x,y\n",
        "映画,a,like,2026-01-01T00:00:00Z\n".encode(),
    ]
    path.write_bytes(b"user_id,content_id,decision,decided_at\n" + good + b"".join(lines) + good)
    reasons, users = [], []
    with contextlib.closing(Source(path)) as source:
        for batch in source.batches(NAMES):
            checked = check_batch(DECISIONS.columns, batch.columns, batch.rows)
            reasons += [row.reason for row in batch.bad] + [reason for _, reason in checked.bad]
            users += checked.table["user_id"].to_pylist()
    assert sorted(reasons) == ["bad_user_id", "wrong_field_count"]
    assert users == ["u", "映画", "u"]


def test_parquet_that_calls_bytes_text_is_refused_row_by_row() -> None:
    text = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"u"]).buffers())
    batch = {
        "user_id": text,
        **{name: pa.array([value] * 2) for name, value in (("content_id", "a"), ("decision", "like"))},
    }
    batch["decided_at"] = pa.array([0, 1], pa.timestamp("us", tz="UTC"))
    checked = check_batch(DECISIONS.columns, batch, 2)
    assert checked.bad == [(0, "bad_user_id")]
    assert checked.table["user_id"].to_pylist() == ["u"]

"""Files of vectors are read whole or refused in one line that says where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.vector_files import VectorFileError, read_vectors, write_vectors

IDS = [" ABC001 ", "abc002", "abc003"]
VECTORS = np.array([[1, 2, 3, 4], [0.5, 0, 0, 0], [-1, 1e-3, 7, 2]], dtype=np.float32)


def parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"content_id": IDS, "vector": VECTORS.tolist(), "more": [1, 2, 3]}), folder / "v.parquet")
    return folder / "v.parquet"


def csv(folder: Path) -> Path:
    lines = [f'{name},"{json.dumps(vector.tolist())}"' for name, vector in zip(IDS, VECTORS, strict=True)]
    (folder / "v.csv").write_text("content_id,vector\n" + "\n".join(lines) + "\n")
    return folder / "v.csv"


def npz(folder: Path) -> Path:
    np.savez(folder / "v.npz", content_id=np.array(IDS), vector=VECTORS)
    return folder / "v.npz"


@pytest.mark.parametrize("make", [parquet, csv, npz])
def test_the_three_forms_give_the_same(tmp_path: Path, make) -> None:
    found = read_vectors(make(tmp_path))
    assert (found.key, found.ids) == ("content_id", ["abc001", "abc002", "abc003"])
    assert np.array_equal(found.vectors, VECTORS)
    assert found.vectors.dtype == np.float32


def test_what_is_written_is_read_again_and_says_where_it_is_from(tmp_path: Path) -> None:
    out = tmp_path / "new" / "v.parquet"
    write_vectors(out, "item_id", ["a", "b"], VECTORS[:2], {"run_id": "run-1"})
    found = read_vectors(out)
    assert (found.key, found.ids) == ("item_id", ["a", "b"])
    assert np.array_equal(found.vectors, VECTORS[:2])
    assert json.loads(pq.read_schema(out).metadata[b"matching"]) == {"run_id": "run-1"}
    assert [path.name for path in out.parent.iterdir()] == ["v.parquet"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.txt", "x", "vectors are read from .parquet, .csv, .npz, not .txt"),
        ("v.parquet", "x", "v.parquet is no Parquet file"),
        ("v.npz", "x", "v.npz: arrays must be text and numbers"),
        ("v.csv", "", "needs a column item_id or content_id, and a column vector"),
        ("v.csv", "content_id,embedding\na,[1]\n", "needs a column item_id or content_id, and a column vector"),
        ("v.csv", "content_id,vector\n", "v.csv holds no vector"),
        ("v.csv", "content_id,vector\na,1 2\n", "the vector of row 1 is not written as"),
        ("v.csv", 'content_id,vector\na,"[1, 2]"\nb,"[1]"\n', "must be equally long, found lengths 2 (1 times), 1"),
        ("v.csv", 'content_id,vector\na,"[]"\n', "must be equally long, found lengths 0"),
        ("v.csv", "content_id,vector\na,7\n", "must be equally long, found lengths 0"),
        ("v.csv", 'content_id,vector\na,"[1, ""x""]"\n', "holds something that is no number"),
        ("v.csv", 'content_id,vector\na,"[1, null]"\n', "the vector of row 1 is not finite"),
        ("v.csv", 'content_id,vector\na,"[1]"\nb,"[0]"\n', "the vector of row 2 is not finite, or only zeros"),
        ("v.csv", 'content_id,vector\n,"[1]"\n', "row 1 has no content_id"),
        ("v.csv", 'content_id,vector\na,"[1]"\nA ,"[2]"\n', "content_id 'a' occurs more than once"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VectorFileError) as caught:
        read_vectors(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_that_would_run_code_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", content_id=np.array([{"a": 1}, "b"], dtype=object), vector=VECTORS[:2])
    with pytest.raises(VectorFileError, match="arrays must be text and numbers, not objects"):
        read_vectors(tmp_path / "v.npz")
    np.savez(tmp_path / "w.npz", content_id=np.array(["a"]), vector=VECTORS)
    with pytest.raises(VectorFileError, match="holds 1 ids and 3 vectors"):
        read_vectors(tmp_path / "w.npz")

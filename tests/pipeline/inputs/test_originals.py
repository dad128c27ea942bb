"""The rows of a shard as they are written to the output: only those that were captured."""

from __future__ import annotations

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.arrow_types import one_schema
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.originals import originals
from tamis.pipeline.inputs.shards import Shard, make_shards, read, rows_digest, scan

ROWS = [
    {"prompt": f"question {number}", "response": f"answer {number}", "id": str(number), "when": f"day {number}"}
    for number in range(12)
]
KINDS = ["jsonl", "jsonl.gz", "json", "csv", "parquet", "arrow"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    table, kind = pa.Table.from_pylist(rows), path.name.removeprefix("data.")
    if kind == "parquet":
        pq.write_table(table, path, compression="none")
    elif kind == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        pyarrow.csv.write_csv(table, path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        path.write_bytes(gzip.compress(lines, 0, mtime=0) if kind.endswith(".gz") else lines)


def shards_of(path: Path) -> list[Shard]:
    [file] = resolve([str(path)], "auto", {})
    dialect = Dialect.of("pair", prompt="prompt", response="response").to_dict()
    return make_shards(scan(file, 5, {}), "corpus", dialect, 0)


def captured(shard: Shard) -> str:
    """The digest, of what a reader reads of it: of a typed file only the columns with the conversation."""
    typed = shard.file.format in {"parquet", "arrow"}
    return rows_digest(read(shard, {}, ["prompt", "response"] if typed else None))


def test_columns_that_are_only_checked_are_read_as_they_were_captured(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    write(path, ROWS)
    checked = replace(Dialect.of("pair", prompt="prompt", response="response"), checks=(("answer", "id"),))
    [file] = resolve([str(path)], "auto", {})
    [shard] = make_shards(scan(file, 20, {}), "corpus", checked.to_dict(), 0)
    digest = rows_digest(read(shard, {}, checked.reads))
    table, _, _ = originals(shard, {}, SCHEMA, np.ones(12, dtype=bool), digest)
    assert table.to_pylist() == ROWS
    with pytest.raises(InputError, match="not those that were captured"):
        originals(shard, {}, SCHEMA, np.ones(12, dtype=bool), captured(shard))


SCHEMA = pa.schema([(name, pa.string()) for name in ROWS[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_those_that_were_captured(tmp_path: Path, kind: str) -> None:
    """Of the same size, and with the time of modification of the ones before."""
    path = tmp_path / f"data.{kind}"
    write(path, ROWS)
    shards = shards_of(path)
    digests = [captured(shard) for shard in shards]
    assert len(set(digests)) == len(shards) == 3
    valid = np.ones(5, dtype=bool)
    valid[1] = False
    for shard, digest in zip(shards, digests, strict=True):
        table, places, raw = originals(shard, {}, SCHEMA, valid[: shard.rows], digest)
        assert table.num_rows == len(places) == shard.rows - 1
        assert list(raw) == [1]
    before = path.stat()
    write(path, [{**row, "response": row["response"].upper()} if row["id"] == "6" else row for row in ROWS])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with ThreadPoolExecutor(1) as another:  # as in another process: a thread keeps open what it has read from
        another.submit(originals, shards[0], {}, SCHEMA, valid, digests[0]).result()
        with pytest.raises(InputError, match=r"rows 5 to 9 are not those that were captured, though the file's size"):
            another.submit(originals, shards[1], {}, SCHEMA, valid, digests[1]).result()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_column_of_other_values_beside_the_conversation(tmp_path: Path, kind: str) -> None:
    """What is not scored may have any type, and is not read when a shard is captured."""
    path = tmp_path / f"data.{kind}"
    write(path, [{**row, "nan": float("nan"), "blob": b"\xff\x00"} for row in ROWS])
    shard = shards_of(path)[0]
    table, _, _ = originals(shard, {}, SCHEMA, np.ones(5, dtype=bool), captured(shard))
    assert table.column_names == SCHEMA.names


def test_rows_of_parts_that_differ_come_out_alike(tmp_path: Path) -> None:
    """A folder of partitions whose parts have other types, one of them of a kind that pyarrow cannot filter."""
    kinds = [pa.string_view(), pa.large_string()]
    for year, kind in enumerate(kinds):
        (tmp_path / f"year={year}").mkdir()
        table = pa.table({name: pa.array([row[name] for row in ROWS[:4]], kind) for name in ("prompt", "response")})
        pq.write_table(table.append_column("n", pa.array(range(4), pa.int8() if year else pa.int64())),
                       tmp_path / f"year={year}/0.parquet")  # fmt: skip
    scanned = [scan(file, 3, {}) for file in resolve([str(tmp_path)], "auto", {})]
    schema, _ = one_schema({found.file.name: found.schema for found in scanned if found.schema is not None})
    assert schema.types == [pa.large_string(), pa.large_string(), pa.int64(), pa.int32()]
    dialect = Dialect.of("pair", prompt="prompt", response="response").to_dict()
    rows = []
    for shard in [shard for found in scanned for shard in make_shards(found, "corpus", dialect, 0)]:
        valid = np.ones(shard.rows, dtype=bool)
        valid[0] = False
        table, _, raw = originals(shard, {}, schema, valid, captured(shard))
        assert table.schema == schema
        assert json.loads(raw[0][1])["year"] in (0, 1)
        rows += table.to_pylist()
    wanted = [(row["prompt"], int(row["id"]), year) for year in (0, 1) for row in (ROWS[1], ROWS[2])]
    assert [(row["prompt"], row["n"], row["year"]) for row in rows] == wanted

"""How many requests a read of an object takes: few and large ones, counted between client and a real store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy
from object_store import S3

from tamis.pipeline.inputs.columnar import ColumnarFile, footer_of, read_rows
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import scan
from tamis.pipeline.inputs.text_files import TextFile, find_spans, read_records
from tamis.pipeline.storage.store import Store

GROUP_ROWS, GROUPS = 2000, 3


@dataclass
class Counted:
    """A bucket behind a proxy that changes nothing."""

    proxy: FaultProxy
    store: Store

    @property
    def gets(self) -> int:
        return self.proxy.count("GET", ranged=True)


@pytest.fixture
def counted(moto: S3, storage_environment: dict[str, str]) -> Iterator[Counted]:
    with FaultProxy(moto.endpoint) as proxy:
        bucket = "requests"
        client = moto.client()
        if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
        yield Counted(proxy, Store(f"s3://{bucket}/in", {"endpoint_url": proxy.endpoint}))


@pytest.fixture
def parquet(counted: Counted) -> tuple[ColumnarFile, pa.Table]:
    """Row groups of 10 MB, in columns of very different widths."""
    numbers = np.random.default_rng(5)
    rows = GROUP_ROWS * GROUPS
    texts = [numbers.bytes(2500).hex() for _ in range(rows)]
    table = pa.table({"id": np.arange(rows), "prompt": texts, "noise": numbers.random(rows), "response": texts[::-1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=GROUP_ROWS, compression="none")
    data = sink.getvalue().to_pybytes()
    counted.store.write("a.parquet", data)
    url = counted.store.path("a.parquet")
    return ColumnarFile(url, "parquet", counted.store.options, "an-etag", len(data)), table


@pytest.mark.parametrize("columns", [None, ["prompt"], ["prompt", "response"], ["id", "response"]])
def test_a_row_group_takes_at_most_three_ranged_gets(
    counted: Counted, parquet: tuple[ColumnarFile, pa.Table], columns: list[str] | None
) -> None:
    file, table = parquet
    read_rows(file, 0, 1, ["noise"])  # the footer is read once for all shards
    for group in range(GROUPS):
        before = counted.gets
        start = group * GROUP_ROWS
        found = read_rows(file, start, start + GROUP_ROWS, columns)
        expected = table if columns is None else table.select(columns)
        assert found.equals(expected.slice(start, GROUP_ROWS))
        assert 0 < counted.gets - before <= 3


def test_shards_of_one_row_group_share_its_requests(counted: Counted, parquet: tuple[ColumnarFile, pa.Table]) -> None:
    file, table = parquet
    read_rows(file, 0, 10)
    before = counted.gets
    for start in range(0, GROUP_ROWS, 100):
        assert read_rows(file, start, start + 100).equals(table.slice(start, 100))
    assert counted.gets == before


def test_the_footer_takes_one_or_two(counted: Counted, parquet: tuple[ColumnarFile, pa.Table]) -> None:
    file, table = parquet
    before = counted.gets
    assert footer_of(file).rows == table.num_rows
    assert counted.gets - before <= 2


def test_text_is_streamed_in_large_parts_and_a_shard_is_one_request(counted: Counted) -> None:
    lines = [b'{"prompt": "%d", "response": "%s"}' % (number, b"x" * 1000) for number in range(20_000)]
    counted.store.write("a.jsonl", b"\n".join(lines))
    file = TextFile(counted.store.path("a.jsonl"), "jsonl", None, counted.store.options)
    before = counted.gets
    spans = find_spans(file, 2048, 64 << 20)
    assert counted.gets - before <= 2  # 20 MB
    before = counted.gets
    records: list[Any] = read_records(file, spans[3])
    assert counted.gets - before == 1
    assert [record.value["prompt"] for record in records] == [str(n) for n in range(3 * 2048, 4 * 2048)]


def test_a_small_file_of_text_is_scanned_by_one_request(counted: Counted) -> None:
    data = b'{"prompt": "q", "response": "a"}\n' * 50
    counted.store.write("small.jsonl", data)
    file = SourceFile(counted.store.path("small.jsonl"), "small.jsonl", "jsonl", None, len(data), "an-etag")
    scan(file, 10, counted.store.options)  # the first one also asks what the driver asks of a bucket
    before = len(counted.proxy.requests)
    assert scan(file, 10, counted.store.options).rows == 50
    assert len(counted.proxy.requests) - before == 1


def test_a_large_object_is_uploaded_at_once_so_that_its_md5_is_told(counted: Counted) -> None:
    data = bytes(101 << 20)  # s3fs would send parts from 100 MiB on
    written = counted.store.write("large", data)
    told = counted.store.details("")["large"]
    assert written.md5 is not None
    assert (told["size"], str(told["ETag"]).strip('"')) == (len(data), written.md5)


def test_a_small_object_is_one_request(counted: Counted) -> None:
    counted.store.write("small", b"hello")
    before = len(counted.proxy.requests)
    assert counted.store.read("small") == b"hello"
    assert len(counted.proxy.requests) - before == 1

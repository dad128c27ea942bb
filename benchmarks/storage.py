"""Reading and writing an object store: tamis against plain boto3, on a real S3 server of this machine.

    python benchmarks/storage.py                 64 MB objects, five rounds, a listing of 100,000 objects: 3 minutes
    python benchmarks/storage.py --megabytes 8 --objects 2000 --json /tmp/storage.json

Client and server (OpenStack Swift, on disk) share the cores, so the ratios say more than the rates. The ways are
interleaved and the medians count; each has read or written the same bytes, which is checked before anything is timed.
`requests` are counted by a proxy in a round of its own. Rates are in MB/s = 10^6 bytes of the object per second.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import machine
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tables import markdown
from timing import interleave, seconds, summarise

sys.path.insert(0, str(checkout.ROOT / "tests" / "servers"))

from fault_proxy import FaultProxy
from listings import listings
from object_store import S3
from swift_server import SwiftServer, unusable

from tamis.pipeline.inputs.columnar import ColumnarFile, read_rows
from tamis.pipeline.inputs.text_files import TextFile
from tamis.pipeline.storage.store import Store

RESULTS = checkout.ROOT / "benchmarks" / "results" / "storage.json"
BUCKET = "bench"
CPU = torch.device("cpu")
CHUNK = 8 << 20
Way = Callable[[], int]
"""Does it once; bytes or rows that went, for the check."""


def main() -> None:
    arguments = parse()
    results = machine.facts(also=("fsspec", "s3fs", "boto3", "pyarrow", "swift", "moto"))
    results |= {"megabytes": arguments.megabytes, "rounds": arguments.rounds}
    with tempfile.TemporaryDirectory(prefix="tamis-storage-") as name:
        if reason := unusable(Path(name)):
            sys.exit(f"{reason}; set TMPDIR to another folder")
        server = SwiftServer(Path(name))
        try:
            s3 = server.start()
            os.environ.update(s3.environment)
            s3.make_bucket(BUCKET)
            results["transfers"] = transfers(s3, arguments.megabytes * 10**6, arguments.rounds)
        finally:
            server.kill()
    if arguments.objects:
        results["listing"] = listings(arguments.objects)
    show(results)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


def transfers(s3: S3, size: int, rounds: int) -> dict[str, Any]:
    """Task -> way -> seconds, MB/s, requests, and times as slow as the fastest boto3 way."""
    put_data(s3, size)
    results: dict[str, Any] = {}
    for task, ways in tasks(s3, size).items():
        went = {name: way() for name, way in ways.items()}
        if len(set(went.values())) != 1:
            sys.exit(f"{task}: the ways disagree: {went}")
        print(f"{task}: {next(iter(went.values())):,} each", file=sys.stderr)
        taken = interleave({name: partial(seconds, way, CPU) for name, way in ways.items()}, rounds)
        with FaultProxy(s3.endpoint) as proxy:
            through = S3(proxy.endpoint, s3.access_key, s3.secret_key, s3.region)
            requests = {}
            for name, way in tasks(through, size)[task].items():
                first = len(proxy.requests)
                way()
                requests[name] = len(proxy.requests) - first
        best = min(summarise(values).median for name, values in taken.items() if name.startswith("boto3"))
        results[task] = {
            name: {
                "seconds": (summary := summarise(values)).as_json(),
                "mb_per_second": size / 1e6 / summary.median,
                "requests": requests[name],
                "times_boto3": summary.median / best,
            }
            for name, values in taken.items()
        }
    return results


def tasks(s3: S3, size: int) -> dict[str, dict[str, Way]]:
    """All ways of every task, through the endpoint of `s3`."""
    client, store, body = s3.client(), Store(f"s3://{BUCKET}", s3.storage_options), os.urandom(size)
    parquet = ColumnarFile(f"s3://{BUCKET}/data.parquet", "parquet", s3.storage_options)
    text = TextFile(f"s3://{BUCKET}/data.jsonl", "jsonl", None, s3.storage_options)
    rows = pq.ParquetFile(io.BytesIO(get(client, "data.parquet"))).metadata.num_rows
    quarter = rows // 4

    def put_object() -> int:
        client.put_object(Bucket=BUCKET, Key="written", Body=body)
        return size

    def upload() -> int:
        client.upload_fileobj(io.BytesIO(body), BUCKET, "written")
        return size

    def stream(file: Any) -> int:
        done = 0
        with file:
            while data := file.read(CHUNK):
                done += len(data)
        return done

    return {
        "write an object": {
            "boto3 put_object": put_object,
            "boto3 upload_fileobj": upload,
            "tamis Store.write": lambda: store.write("written", body).bytes,
        },
        "read an object": {
            "boto3 get_object": lambda: len(get(client, "object")),
            "boto3 download_fileobj": lambda: len(download(client, "object")),
            "tamis Store.read": lambda: len(store.read("object")),
        },
        "read Parquet rows": {
            "boto3 get_object, pyarrow": lambda: pq.read_table(io.BytesIO(get(client, "data.parquet"))).num_rows,
            "boto3 download_fileobj, pyarrow": lambda: (
                pq.read_table(io.BytesIO(download(client, "data.parquet"))).num_rows
            ),
            "tamis ColumnarFile": lambda: read_rows(parquet, 0, rows).num_rows,
        },
        "read a quarter of the Parquet rows": {
            "boto3 get_object, pyarrow": lambda: (
                pq.read_table(io.BytesIO(get(client, "data.parquet"))).slice(quarter, quarter).num_rows
            ),
            "tamis ColumnarFile": lambda: read_rows(parquet, quarter, 2 * quarter).num_rows,
        },
        "stream JSON lines": {
            "boto3 get_object": lambda: stream(client.get_object(Bucket=BUCKET, Key="data.jsonl")["Body"]),
            "tamis TextFile": lambda: stream(text.open()),
        },
    }


def get(client: Any, key: str) -> bytes:
    return bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def download(client: Any, key: str) -> bytes:
    sink = io.BytesIO()
    client.download_fileobj(BUCKET, key, sink)
    return sink.getvalue()


def put_data(s3: S3, size: int) -> None:
    """An object, a Parquet file and a JSONL file of about `size` bytes each."""
    client = s3.client()
    client.put_object(Bucket=BUCKET, Key="object", Body=os.urandom(size))
    # base64 packs to three quarters.
    texts = [base64.b64encode(os.urandom(1500)).decode() for _ in range(size // 1500)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": texts}), sink, compression="zstd", row_group_size=max(len(texts) // 16, 1))
    client.put_object(Bucket=BUCKET, Key="data.parquet", Body=sink.getvalue())
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in texts[: size // 2015]).encode()
    client.put_object(Bucket=BUCKET, Key="data.jsonl", Body=lines)


def show(results: Mapping[str, Any]) -> None:
    print(machine.line(results["machine"]))
    header = ["", "seconds", "min-max", "MB/s", "requests", "times boto3"]
    for task, ways in results["transfers"].items():
        rows = [
            [
                name,
                f"{found['seconds']['median']:.2f}",
                f"{found['seconds']['min']:.2f}-{found['seconds']['max']:.2f}",
                f"{found['mb_per_second']:,.0f}",
                f"{found['requests']}",
                f"{found['times_boto3']:.2f}",
            ]
            for name, found in ways.items()
        ]
        print(f"\n{task}, {results['megabytes']} MB, {results['rounds']} rounds\n")
        print(markdown(header, rows))
    if "listing" in results:
        print(f"\nlist {results['listing']['objects']:,} objects of one prefix\n")
        rows = [
            [way, f"{found['names']:,}", f"{found['pages']}", f"{found['seconds']:.1f}", f"{found['peak_mb']:.0f}"]
            for way, found in results["listing"].items()
            if way != "objects"
        ]
        print(markdown(["", "names", "pages", "seconds", "MB of memory"], rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64, help="size of the objects (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is taken (default 5)")
    parser.add_argument("--objects", type=int, default=100_000, help="objects to list; 0 leaves it out")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"the results (default {RESULTS.name})")
    return parser.parse_args()


if __name__ == "__main__":
    main()

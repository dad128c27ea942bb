"""Listing one prefix with very many objects: pages, seconds, and the memory it takes in a process of its own."""

from __future__ import annotations

import multiprocessing
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checkout

sys.path.insert(0, str(checkout.ROOT / "tests" / "servers"))

from fault_proxy import FaultProxy
from object_store import S3
from server_process import LOOPBACK, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET, FOLDER = "many", "folder"
_PROCESSES = multiprocessing.get_context("spawn")


def listings(objects: int) -> dict[str, Any]:
    """Way -> names found, pages, seconds, and MB of peak memory beyond what the process held before it listed."""
    with many_objects(objects) as s3:
        return {"objects": objects} | {way: _apart(way, s3) for way in ("boto3", "tamis")}


@contextmanager
def many_objects(count: int) -> Iterator[S3]:
    """moto with `count` objects: it holds them in memory, so that they need not all be sent to it."""
    [port] = free_ports(1)
    parent, child = _PROCESSES.Pipe()
    server = _PROCESSES.Process(target=_serve, args=(port, count, child))
    server.start()
    try:
        parent.recv()
        yield S3(f"http://{LOOPBACK}:{port}", "testing", "testing")
    finally:
        server.kill()
        server.join()


def _serve(port: int, count: int, pipe: Any) -> None:
    import logging

    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(LOOPBACK, port, verbose=False)
    server.start()
    store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    store.create_bucket(BUCKET, "us-east-1")
    for number in range(count):
        store.put_object(BUCKET, f"{FOLDER}/{number:08d}.json", b"{}")
    pipe.send("ready")
    pipe.recv()  # until it is killed


def _apart(way: str, s3: S3) -> dict[str, Any]:
    with FaultProxy(s3.endpoint) as proxy:
        parent, child = _PROCESSES.Pipe()
        client = S3(proxy.endpoint, s3.access_key, s3.secret_key)
        lister = _PROCESSES.Process(target=_list, args=(way, client, child))
        lister.start()
        child.close()
        try:
            found: dict[str, Any] = parent.recv()
        finally:
            lister.join()
        return found | {"pages": proxy.count("GET", query="list-type=2")}


def _list(way: str, s3: S3, pipe: Any) -> None:
    import os

    os.environ.update(s3.environment)
    if way == "boto3":
        client = s3.client()
        client.head_bucket(Bucket=BUCKET)

        def names() -> list[str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{FOLDER}/")
            return [entry["Key"] for page in pages for entry in page["Contents"]]

    else:
        from tamis.pipeline.storage.store import Store

        store = Store(f"s3://{BUCKET}", s3.storage_options)
        store.exists("absent")  # what opening it costs is not asked here

        def names() -> list[str]:
            return store.list(FOLDER)

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _peak_mb(), time.perf_counter()
    found = names()
    seconds = time.perf_counter() - began
    pipe.send({"names": len(found), "seconds": seconds, "peak_mb": _peak_mb() - before})


def _peak_mb() -> float:
    """Of this process alone; getrusage would count what its parent held when it was forked."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024

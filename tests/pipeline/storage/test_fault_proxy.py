"""The proxy that spoils requests: a client without retries sees each fault, and without faults no byte is changed."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, ReadTimeoutError
from fault_proxy import FaultProxy
from faults import Fault, Faults
from object_store import S3
from urllib3.exceptions import ProtocolError

BUCKET = "proxied"
BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="module")
def store(swift: S3) -> S3:
    swift.make_bucket(BUCKET)
    swift.client().put_object(Bucket=BUCKET, Key="given", Body=BODY)
    return swift


@pytest.fixture
def proxy(store: S3) -> Iterator[FaultProxy]:
    with FaultProxy(store.endpoint) as running:
        yield running


@pytest.fixture
def client(store: S3, proxy: FaultProxy) -> Any:
    return store.client(endpoint=proxy.endpoint, attempts=1, read_timeout=2)


def always(kind: Fault, **more: Any) -> Faults:
    return Faults(rate=1, kinds=[kind], **more)


def test_without_faults_it_is_the_store(client: Any, proxy: FaultProxy, store: S3) -> None:
    data = os.urandom(3_000_001)
    for key in ("plain", "späße und 100%/ a+b"):
        client.put_object(Bucket=BUCKET, Key=key, Body=data, Metadata={"note": "kept"})
        got = client.get_object(Bucket=BUCKET, Key=key)
        assert got["Body"].read() == data
        assert got["Metadata"] == {"note": "kept"}
        assert client.get_object(Bucket=BUCKET, Key=key, Range="bytes=7-1000006")["Body"].read() == data[7:1_000_007]
        assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(data)
        assert store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() == data
        client.delete_object(Bucket=BUCKET, Key=key)
    client.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert client.get_object(Bucket=BUCKET, Key="empty")["Body"].read() == b""
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=BUCKET, Key="absent")
    assert not proxy.injected


def test_uploads_in_parts_and_in_chunks_go_through(client: Any, proxy: FaultProxy) -> None:
    data = os.urandom(17 << 20)
    client.upload_fileobj(io.BytesIO(data), BUCKET, "parts")
    assert proxy.count("PUT", query="uploadId") >= 3
    # A checksum that follows the body makes botocore send it in chunks.
    client.put_object(Bucket=BUCKET, Key="chunks", Body=io.BytesIO(data), ChecksumAlgorithm="CRC32")
    for key in ("parts", "chunks"):
        sink = io.BytesIO()
        client.download_fileobj(BUCKET, key, sink)
        assert hashlib.sha256(sink.getvalue()).digest() == hashlib.sha256(data).digest()


def test_it_remembers_every_request(client: Any, proxy: FaultProxy) -> None:
    client.get_object(Bucket=BUCKET, Key="given", Range="bytes=0-9")["Body"].read()
    client.put_object(Bucket=BUCKET, Key="noted", Body=b"x" * 77)
    client.list_objects_v2(Bucket=BUCKET, Prefix="giv", MaxKeys=1)
    got, put, listed = proxy.requests
    assert (got.method, got.path, got.range, got.status, got.bytes_down) == (
        "GET", f"/{BUCKET}/given", "bytes=0-9", 206, 10,
    )  # fmt: skip
    assert (put.method, put.path, put.range, put.status, put.bytes_up) == ("PUT", f"/{BUCKET}/noted", None, 200, 77)
    assert "prefix=giv" in listed.query
    assert (proxy.count("GET"), proxy.count("GET", ranged=True), proxy.count("GET", query="list-type=2")) == (2, 1, 1)


@pytest.mark.parametrize(
    ("kind", "status", "code"), [(Fault.SLOW_DOWN, 503, "SlowDown"), (Fault.SERVER_ERROR, 500, "InternalError")]
)
def test_an_error_of_the_store(client: Any, proxy: FaultProxy, kind: Fault, status: int, code: str) -> None:
    proxy.faults = always(kind)
    for call in (
        lambda: client.get_object(Bucket=BUCKET, Key="given"),
        lambda: client.put_object(Bucket=BUCKET, Key="refused", Body=BODY),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert caught.value.response["Error"]["Code"] == code
    with pytest.raises(ClientError) as caught:
        client.head_object(Bucket=BUCKET, Key="given")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert proxy.injected == {kind: 3}
    proxy.faults = Faults()
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=BUCKET, Key="refused")


def test_403_to_a_head_and_to_nothing_else(client: Any, proxy: FaultProxy) -> None:
    proxy.faults = always(Fault.FORBIDDEN_HEAD)
    assert client.get_object(Bucket=BUCKET, Key="given")["Body"].read() == BODY
    with pytest.raises(ClientError) as caught:
        client.head_object(Bucket=BUCKET, Key="given")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert proxy.injected == {Fault.FORBIDDEN_HEAD: 1}


def test_a_reset_before_the_answer(client: Any, proxy: FaultProxy, store: S3) -> None:
    proxy.faults = always(Fault.RESET_BEFORE)
    with pytest.raises((ConnectionClosedError, HTTPClientError), match=r"reset by peer|Connection was closed"):
        client.get_object(Bucket=BUCKET, Key="given")
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        client.put_object(Bucket=BUCKET, Key="unsent", Body=BODY)
    assert proxy.injected == {Fault.RESET_BEFORE: 2}
    assert not exists(store, "unsent")


def test_a_reset_in_the_middle_of_the_body(client: Any, proxy: FaultProxy, store: S3) -> None:
    proxy.faults = always(Fault.RESET_MIDWAY)
    with pytest.raises((ProtocolError, HTTPClientError)):
        client.get_object(Bucket=BUCKET, Key="given")["Body"].read()
    assert proxy.requests[-1].bytes_down == len(BODY) // 2
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        client.put_object(Bucket=BUCKET, Key="half", Body=BODY)
    assert proxy.requests[-1].bytes_up == len(BODY) // 2
    assert proxy.injected == {Fault.RESET_MIDWAY: 2}
    assert not exists(store, "half")


def test_what_was_done_although_its_answer_is_lost(client: Any, proxy: FaultProxy, store: S3) -> None:
    proxy.faults = always(Fault.LOST_ANSWER)
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        client.put_object(Bucket=BUCKET, Key="done", Body=b"whole")
    assert store.client().get_object(Bucket=BUCKET, Key="done")["Body"].read() == b"whole"


def test_a_stall_outlasts_the_clients_patience(client: Any, proxy: FaultProxy) -> None:
    proxy.faults = always(Fault.STALL, stall=30)
    began = time.monotonic()
    with pytest.raises(ReadTimeoutError):
        client.get_object(Bucket=BUCKET, Key="given")["Body"].read()
    with pytest.raises(ReadTimeoutError):
        client.head_object(Bucket=BUCKET, Key="given")
    assert 4 <= time.monotonic() - began < 25
    assert proxy.injected == {Fault.STALL: 2}


def test_after_a_short_stall_the_rest_comes(client: Any, proxy: FaultProxy) -> None:
    proxy.faults = always(Fault.STALL, stall=0.3)
    began = time.monotonic()
    assert client.get_object(Bucket=BUCKET, Key="given")["Body"].read() == BODY
    assert time.monotonic() - began >= 0.3


def test_a_truncated_body_under_its_full_length(client: Any, proxy: FaultProxy) -> None:
    proxy.faults = always(Fault.TRUNCATED)
    answer = client.get_object(Bucket=BUCKET, Key="given")
    assert answer["ContentLength"] == len(BODY)
    with pytest.raises((ProtocolError, HTTPClientError), match=r"IncompleteRead|incomplete"):
        answer["Body"].read()
    assert proxy.injected == {Fault.TRUNCATED: 1}


def test_the_schedule_depends_on_the_seed_alone(client: Any, proxy: FaultProxy) -> None:
    def met(seed: int) -> list[Fault | None]:
        proxy.faults = Faults(seed=seed, rate=0.5, kinds=[Fault.SLOW_DOWN, Fault.SERVER_ERROR], limit=12)
        del proxy.requests[:]
        for _ in range(40):
            try:
                client.head_object(Bucket=BUCKET, Key="given")
            except ClientError:
                continue
        return [request.fault for request in proxy.requests]

    first = met(3)
    assert len(first) == 40
    assert sum(fault is not None for fault in first) == 12
    assert met(3) == first
    assert met(4) != first


def test_only_the_requests_that_are_meant(client: Any, proxy: FaultProxy) -> None:
    proxy.faults = always(Fault.SLOW_DOWN, where=lambda request: request.path.endswith("/chosen"))
    client.put_object(Bucket=BUCKET, Key="other", Body=b"x")
    with pytest.raises(ClientError, match="SlowDown"):
        client.put_object(Bucket=BUCKET, Key="chosen", Body=b"x")


def test_a_client_that_retries_gets_everything_whole(store: S3, proxy: FaultProxy) -> None:
    kinds = [Fault.SLOW_DOWN, Fault.SERVER_ERROR, Fault.RESET_BEFORE, Fault.LOST_ANSWER]
    proxy.faults = Faults(seed=5, rate=0.2, kinds=kinds)
    client = store.client(endpoint=proxy.endpoint, attempts=10)

    def there_and_back(number: int) -> bytes:
        body = f"{number}".encode() * 1000
        client.put_object(Bucket=BUCKET, Key=f"many/{number}", Body=body)
        return bytes(client.get_object(Bucket=BUCKET, Key=f"many/{number}")["Body"].read())

    with ThreadPoolExecutor(8) as pool:
        for number, body in enumerate(pool.map(there_and_back, range(40))):
            assert body == f"{number}".encode() * 1000
    assert set(proxy.injected) == set(kinds)


def test_a_large_object_streams(client: Any, proxy: FaultProxy, tmp_path: Any) -> None:
    size = 64 << 20
    block = os.urandom(1 << 20)
    (tmp_path / "large").write_bytes(block * (size >> 20))
    process = psutil.Process()
    client.put_object(Bucket=BUCKET, Key="warm", Body=block)
    before, most = process.memory_info().rss, 0
    with (tmp_path / "large").open("rb") as file:
        client.put_object(Bucket=BUCKET, Key="large", Body=file)
    most = max(most, process.memory_info().rss)
    digest = hashlib.sha256()
    for piece in client.get_object(Bucket=BUCKET, Key="large")["Body"].iter_chunks(1 << 20):
        digest.update(piece)
        most = max(most, process.memory_info().rss)
    assert digest.digest() == hashlib.sha256(block * (size >> 20)).digest()
    assert proxy.requests[-1].bytes_down == proxy.requests[-2].bytes_up == size
    assert most - before < 48 << 20


def exists(store: S3, key: str) -> bool:
    found = store.client().list_objects_v2(Bucket=BUCKET, Prefix=key)
    return bool(found["KeyCount"])

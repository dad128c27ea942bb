"""What the other tests rely on in the object stores that they start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from object_store import S3
from swift_server import SwiftServer, unusable


def test_what_swift_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    if reason := unusable(tmp_path):
        pytest.skip(reason)
    server = SwiftServer(tmp_path)
    try:
        s3 = server.start()
        s3.make_bucket("durable")
        for number in range(20):
            s3.client().put_object(Bucket="durable", Key=f"folder/{number}", Body=bytes([number]) * 1000)
        server.kill()
        assert server.start() == s3
        for number in range(20):
            body = s3.client().get_object(Bucket="durable", Key=f"folder/{number}")["Body"].read()
            assert body == bytes([number]) * 1000
    finally:
        server.kill()


def test_swift_refuses_a_wrong_secret_and_a_wrong_checksum(swift: S3) -> None:
    swift.make_bucket("guarded")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        replace(swift, secret_key="wrong").client().list_objects_v2(Bucket="guarded")
    with pytest.raises(ClientError, match="BadDigest"):
        swift.client().put_object(Bucket="guarded", Key="x", Body=b"x", ContentMD5="rL0Y20zC+Fzt72VPzMSk2A==")


def test_moto_writes_only_what_is_absent_when_asked_to(moto: S3) -> None:
    moto.make_bucket("conditions")
    moto.client().put_object(Bucket="conditions", Key="x", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        moto.client().put_object(Bucket="conditions", Key="x", Body=b"second", IfNoneMatch="*")
    assert moto.client().get_object(Bucket="conditions", Key="x")["Body"].read() == b"first"

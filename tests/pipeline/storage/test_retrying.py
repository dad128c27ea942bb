"""What is asked again, what is not, for how long, and what is said in the end."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import aiohttp
import botocore.exceptions
import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from s3fs.errors import translate_boto_error

from tamis.pipeline.cluster.session import WORKER_ENVIRONMENT
from tamis.pipeline.errors import ConfigError, InputError, StorageError
from tamis.pipeline.storage import retrying as module
from tamis.pipeline.storage.retrying import ShortRead, is_full, is_transient, retrying


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes by sleeping alone: how long each time."""
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(module, "_reached", {"s3"})
    return pauses


def client_error(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code, "Message": "said so"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(botocore.exceptions.ClientError(response, "GetObject"))  # type: ignore[no-any-return]


def azure_error(status: int) -> Exception:
    error = HttpResponseError("said so")
    error.status_code = status
    return error


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def operation() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return operation


TRANSIENT = [
    client_error("SlowDown", 503),
    client_error("ServiceUnavailable", 503),
    client_error("InternalError", 500),
    client_error("RequestTimeout", 400),
    client_error("BadDigest", 400),
    client_error("TooManyRequests", 429),
    client_error("503", 503),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:1"),
    aiohttp.ClientPayloadError("cut off"),
    aiohttp.ServerDisconnectedError(),
    TimeoutError(),
    TimeoutError("slow"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    OSError(errno.ESTALE, "stale handle"),
    ShortRead("3 bytes came of 5"),
    azure_error(503),
    azure_error(429),
    ServiceRequestError("no route"),
]
FINAL = [
    client_error("AccessDenied", 403),
    client_error("NoSuchKey", 404),
    client_error("NoSuchBucket", 404),
    client_error("InvalidRange", 416),
    client_error("PermanentRedirect", 301),
    azure_error(400),
    PermissionError("no"),
    FileNotFoundError("gone"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EROFS, "Read-only file system"),
    ValueError("wrong"),
    InputError("bad input"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: f"{type(error).__name__}-{error}"[:60])
def test_passing_trouble_is_asked_again(error: Exception, pauses: list[float]) -> None:
    assert is_transient(error)
    assert retrying(failing(error, error, error), "s3://b/k") == "done"
    assert len(pauses) == 3


@pytest.mark.parametrize("error", FINAL, ids=lambda error: f"{type(error).__name__}-{error}"[:60])
def test_what_will_not_pass_fails_at_once(error: Exception, pauses: list[float]) -> None:
    assert not is_transient(error)
    with pytest.raises((OSError, ValueError, InputError)):
        retrying(failing(error), "s3://b/k")
    assert not pauses


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    client_error("QuotaExceeded", 403),
    client_error("XMinioStorageFull", 507),
    client_error("507", 507),
    azure_error(507),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: f"{type(error).__name__}-{error}"[:60])
def test_a_full_storage_is_known_and_not_asked_again(error: Exception, pauses: list[float]) -> None:
    assert is_full(error)
    with pytest.raises(OSError) as caught:
        retrying(failing(error), "s3://b/k")
    assert is_full(caught.value)
    assert not pauses


@pytest.mark.parametrize("error", [client_error("AccessDenied", 403), OSError(errno.EROFS, "Read-only file system")])
def test_what_may_not_be_written_is_not_full(error: Exception) -> None:
    assert not is_full(error)


def test_the_pauses_grow_and_are_never_the_same(pauses: list[float]) -> None:
    retrying(failing(*[client_error("SlowDown", 503)] * 12), "s3://b/k")
    assert len(set(pauses)) == 12
    assert all(pause <= min(20.0, 0.1 * 2**number) for number, pause in enumerate(pauses))
    assert sum(pauses[6:]) > sum(pauses[:6])


def test_patience_ends_with_what_to_do(pauses: list[float]) -> None:
    with pytest.raises(StorageError, match=r"s3://b/k: the storage did not answer in \d+ s and \d+ tries .*again"):
        retrying(failing(*[client_error("SlowDown", 503)] * 1000), "s3://b/k")
    assert module.PATIENCE_SECONDS - 20 <= sum(pauses) <= module.PATIENCE_SECONDS


def test_an_address_that_never_answered_is_given_up_sooner(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_reached", set())
    refused = botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StorageError, match="check its address"):
        retrying(failing(*[refused] * 1000), "gs://b/k")
    assert sum(pauses) <= module.FIRST_PATIENCE_SECONDS
    # A refusal with a status is an answer.
    pauses.clear()
    assert retrying(failing(*[azure_error(503)] * 15), "abfs://c/k") == "done"


def test_a_worker_has_patience_from_the_start(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that starts in an outage: its driver has reached the storage before."""
    monkeypatch.setattr(module, "_reached", set())
    monkeypatch.setenv(module.WORKER, WORKER_ENVIRONMENT[module.WORKER])
    refused = botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StorageError):
        retrying(failing(*[refused] * 1000), "gs://b/k")
    assert sum(pauses) >= module.PATIENCE_SECONDS - 20


def test_no_credentials_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigError, match=r"no credentials were found .*environment"):
        retrying(failing(botocore.exceptions.NoCredentialsError()), "s3://b/k")


def test_no_secret_is_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "planted-secret-1")
    error = aiohttp.ClientPayloadError("https://a/c?sig=planted2&x=1 with planted-secret-1 cut off")
    with pytest.raises(StorageError) as caught:
        retrying(failing(*[error] * 1000), "abfs://c/k")
    assert "planted" not in str(caught.value)
    assert "sig=***" in str(caught.value)


def test_the_reasons_of_a_local_disk_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        retrying(lambda: (tmp_path / "none").read_text(), "file:///none")

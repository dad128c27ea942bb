"""Retries of storage requests: which errors are transient, and how long to wait.

Drivers retry by themselves, each in its own way and for some seconds. This layer above them is the same for every
store, long enough for an outage of minutes, and has jitter, so that a thousand workers do not come back at once.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tamis.pipeline.errors import ConfigError, StorageError, TamisError, error_text

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
FIRST_PATIENCE_SECONDS = 20.0
"""Used for a storage that this process has never reached: a misspelt address is more likely than an outage."""

WORKER = "TAMIS_WORKER"
"""Set in the environment of workers: their driver reached the storage before they started."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 20.0
_SAID_AFTER = 5.0

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "TooManyRequests",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "ServerBusy",
        "OperationTimedOut",
        "OperationAborted",
        "BadDigest",
        "IncompleteBody",
        "XAmzContentSHA256Mismatch",
    }
)
_TRANSIENT_ERRNO = frozenset(
    {errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.ECONNRESET, errno.EPIPE, errno.EINTR}
    | {getattr(errno, "EREMOTEIO", errno.ETIMEDOUT)}
)
_FULL_ERRNO = (errno.ENOSPC, errno.EDQUOT)
_FULL_CODES = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_INSUFFICIENT_STORAGE = 507
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, TamisError)
# By name, because the drivers that define them may not be installed: aiohttp, botocore, urllib3, requests, azure-core.
_TRANSIENT_NAMES = frozenset(
    {
        "ClientConnectionError",
        "ClientConnectorError",
        "ClientOSError",
        "ClientPayloadError",
        "ServerDisconnectedError",
        "ServerTimeoutError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ProtocolError",
        "ReadTimeoutError",
        "ResponseParserError",
        "ResponseStreamingError",
        "ServiceRequestError",
        "ServiceResponseError",
        "TransportError",
        "ChunkedEncodingError",
        "FSTimeoutError",
    }
)
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"})

_log = logging.getLogger("tamis.storage")
_reached: set[str] = set()
_lock = threading.Lock()


class ShortRead(OSError):
    """The answer has fewer bytes than the range."""


def retrying(operation: Callable[[], T], where: str) -> T:
    """The result of `operation`, which must be safe to repeat. where: the address, for messages.

    Raises StorageError when the storage has refused for PATIENCE_SECONDS, ConfigError when there are no credentials.
    Other errors that are not transient are raised at once, as an OSError.
    """
    store = where.partition("://")[0]
    began = time.monotonic()
    said = False
    for tries in _numbers():
        try:
            result = operation()
        except _FINAL:
            _arrived(store)
            raise
        except Exception as error:
            if _named(error, _NO_CREDENTIALS):
                raise ConfigError(
                    f"{where}: no credentials were found ({error_text(error)}); put them in the environment or the "
                    "provider's own config file"
                ) from None
            if not is_transient(error):
                if isinstance(error, OSError | ValueError):
                    raise
                raise OSError(errno.EIO, error_text(error)) from error
            if any(_status_of(seen) is not None for seen in _chain(error)):
                _arrived(store)
            waited = time.monotonic() - began
            pause = random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**tries))
            known = store in _reached or WORKER in os.environ
            patience = PATIENCE_SECONDS if known else FIRST_PATIENCE_SECONDS
            if waited + pause > patience:
                raise StorageError(
                    f"{where}: the storage did not answer in {waited:.0f} s and {tries + 1} tries "
                    f"({error_text(error)}); check its address and its state. What is done stays done: run the same "
                    "command again to go on"
                ) from None
            if waited > _SAID_AFTER and not said:
                _log.warning("%s: the storage does not answer (%s); trying again", where, error_text(error))
                said = True
            time.sleep(pause)
        else:
            _arrived(store)
            return result
    raise AssertionError("unreachable")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, _FINAL):
        return False
    for seen in _chain(error):
        status = _status_of(seen)
        if status is not None:
            return status in _TRANSIENT_STATUS or _code_of(seen) in _TRANSIENT_CODES
        if isinstance(seen, TimeoutError | ConnectionError | ShortRead):
            return True
        if isinstance(seen, OSError) and seen.errno in _TRANSIENT_ERRNO:
            return True
        if _named(seen, _TRANSIENT_NAMES):
            return True
    return False


def is_full(error: BaseException) -> bool:
    """Whether the storage is full, or our quota is used up."""
    return any(
        (isinstance(seen, OSError) and seen.errno in _FULL_ERRNO)
        or _status_of(seen) == _INSUFFICIENT_STORAGE
        or _code_of(seen) in _FULL_CODES
        for seen in _chain(error)
    )


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number = min(number + 1, 30)


def _arrived(store: str) -> None:
    with _lock:
        _reached.add(store)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and the errors that caused it."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__


def _named(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status_of(error: BaseException) -> int | None:
    """The HTTP status of an error of any driver: botocore, aiohttp, gcsfs, azure, requests, huggingface_hub."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = next(
            (
                value
                for holder in (error, response)
                for name in ("status", "status_code", "code")
                if isinstance(value := getattr(holder, name, None), int)
            ),
            None,
        )
    return found if isinstance(found, int) and 100 <= found < 600 else None


def _code_of(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "error_code", ""))

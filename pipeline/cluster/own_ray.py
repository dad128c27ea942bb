"""The Ray that tamis starts on this machine is for one run of one user.

Whoever may speak to Ray may run code, and on a machine with several users Ray by itself listens on all interfaces,
leaves its token in the home folder and lets everyone into its folder. So it gets loopback addresses, a token of its
own, and a folder that nobody else may enter, which is removed at the end; what a killed run left, by the next one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tamis.pipeline.errors import ClusterError, error_text

_PREFIX, _NEW, _LOG = "tamis.", "tamis-new-", "tamis-ray-"
_LOCK = "lock"
_RAYS = "r"
"""In the folder: Ray lets everyone into the one that it is given."""

_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""Bytes in the path of a Unix socket."""
_IN_FOLDER = len(f"/{_PREFIX}12345678/{_RAYS}/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")

_LEAST_BYTES = 64 << 20
"""Free space below which Ray does not come far."""

_DEFAULTS = {
    # Ray gives way to everything else on a machine, and on a busy one its workers then get next to nothing.
    "RAY_worker_niceness": "0",
    # Threads that spin while they wait take the cores from those that have something to do.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Ray tries a task that was killed for want of memory again for ever.
    "RAY_task_oom_retries": "3",
}
"""Of its environment, unless the user has set them."""


@contextmanager
def own_ray() -> Iterator[dict[str, Any]]:
    """Options of `ray.init` for a Ray of our own; its environment lasts as long as the context, and so does its folder.

    Raises ClusterError where there is no place for the folder.
    """
    from ray._private import ray_constants

    defaults = {name: value for name, value in _DEFAULTS.items() if name not in os.environ}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _folder() as folder, _read_anew(), environment(defaults | token), _read_anew():
        # Where Ray may form clusters, it takes the machine's outer address for 127.0.0.1, whatever it is told.
        clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
        try:
            yield {"_node_ip_address": "127.0.0.1", "_temp_dir": str(folder / _RAYS), "include_dashboard": False}
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = clusters


@contextmanager
def _read_anew() -> Iterator[None]:
    """Ray reads its environment once, and its token once. Here both change, before and after."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined, unused-ignore]

    def read() -> None:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    read()
    try:
        yield
    finally:
        read()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """`values` in the environment, until the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for one run, 0700."""
    base = _base()
    for place in {base, Path(tempfile.gettempdir())}:
        sweep(place)
    new = tempfile.mkdtemp(prefix=_NEW, dir=base)
    lock = os.open(os.path.join(new, _LOCK), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Only now may others look for its lock, and take it for dead without.
    folder = base / f"{_PREFIX}{new.rpartition(_NEW)[2]}"
    os.rename(new, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _base() -> Path:
    """Where the folder may lie: in RAY_TMPDIR if that is set, else in the temporary folder or in /tmp."""
    asked = os.environ.get("RAY_TMPDIR")
    places = [asked] if asked else [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    reasons = []
    for place in dict.fromkeys(os.path.abspath(place) for place in places):
        reason = _unfit(place)
        if reason is None:
            return Path(place)
        reasons.append(f"{place} {reason}")
    raise ClusterError(
        f"Ray finds no folder for its files: {'; '.join(reasons)}; free space there, or set RAY_TMPDIR to a folder "
        "with a short path that you may write to"
    )


def _unfit(place: str) -> str | None:
    """Why Ray cannot have its files there."""
    if len(os.fsencode(place)) + _IN_FOLDER > _LONGEST_SOCKET:
        return f"has too long a path (more than {_LONGEST_SOCKET - _IN_FOLDER} bytes)"
    if any(character.isspace() for character in place):
        return "has a space in its path"
    if not os.path.isdir(place):
        return "is no folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return f"cannot be written to ({error_text(error)})"
    return None if free >= _LEAST_BYTES else f"is full ({free >> 20} MB are free)"


def sweep(base: Path) -> None:
    """Remove what runs of this user that were killed have left in `base`: their folders, and their empty logs."""
    for path in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink() and _dead(path / _LOCK):
                shutil.rmtree(path, ignore_errors=True)
    for path in base.glob(f"{_LOG}*.log"):
        with suppress(OSError):
            found = path.lstat()
            if found.st_uid == os.getuid() and found.st_size == 0 and _dead(path):
                path.unlink()


def _dead(lock: Path) -> bool:
    """Whether nobody holds the lock: the system gives it up with the process, however that ends."""
    try:
        found = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # killed while it removed the folder
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(found)
    return True


def native_log() -> Any:
    """A file in the temporary folder for what Ray's C++ side writes; it is there until somebody removes it."""
    log = tempfile.NamedTemporaryFile(prefix=_LOG, suffix=".log", delete=False)  # noqa: SIM115
    fcntl.flock(log, fcntl.LOCK_EX)
    return log

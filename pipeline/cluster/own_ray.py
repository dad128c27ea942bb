"""The Ray that tamis starts on this machine, for one run of one user.

Anyone who can connect to Ray can run code. By default, Ray listens on all interfaces, leaves its token in the home
folder and lets every user of the machine into its folder. So here it gets loopback addresses, a token of its own, and
a folder that nobody else may enter. The folder is removed at the end; the next run removes what a killed run left.
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
"""Ray's folder inside ours: Ray makes the folder that it is given accessible to everyone."""

_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""The most bytes in the path of a Unix socket."""
_IN_FOLDER = len(f"/{_PREFIX}12345678/{_RAYS}/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")

LEAST_BYTES = 64 << 20
"""Ray fails early with less free space than this, in bytes."""

_in_use: Path | None = None
"""The folder of the run in this process; a process has only one Ray."""

_DEFAULTS = {
    # By default Ray's workers have a low priority, and on a busy machine they get almost no CPU time.
    "RAY_worker_niceness": "0",
    # Threads that spin while they wait take the cores from threads that have work.
    "OMP_WAIT_POLICY": "PASSIVE",
    # By default Ray retries a task that was killed because of missing memory for ever.
    "RAY_task_oom_retries": "3",
}
"""Environment variables for Ray, unless the user has set them."""


@contextmanager
def own_ray() -> Iterator[dict[str, Any]]:
    """Options of `ray.init` for a Ray of our own. Its environment and its folder exist until the end of the context.

    Raises ClusterError where there is no place for the folder.
    """
    from ray._private import ray_constants

    defaults = {name: value for name, value in _DEFAULTS.items() if name not in os.environ}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _folder() as folder, _read_anew(), environment(defaults | token), _read_anew(), _bare():
        # Where Ray may form clusters, it replaces 127.0.0.1 by the machine's external address.
        clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
        try:
            yield {"_node_ip_address": "127.0.0.1", "_temp_dir": str(folder / _RAYS), "include_dashboard": False}
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = clusters


@contextmanager
def _bare() -> Iterator[None]:
    """Make Ray start as if its dashboard were not installed: with ray[default], each node would have a job server and
    an exporter of metrics besides, which nobody could find here, and which take ports, memory and time to start."""
    from ray._private import utils

    before = utils.get_dashboard_dependency_error
    utils.get_dashboard_dependency_error = lambda: ImportError("not here")
    try:
        yield
    finally:
        utils.get_dashboard_dependency_error = before


@contextmanager
def _read_anew() -> Iterator[None]:
    """Make Ray read its environment and its token again, before and after: it reads both only once, and both change
    here."""
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
    """Set `values` in the environment until the end of the context."""
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
    """A folder for one run, with mode 0700."""
    global _in_use
    base = _base()
    for place in {base, Path(tempfile.gettempdir())}:
        sweep(place)
    new = tempfile.mkdtemp(prefix=_NEW, dir=base)
    lock = os.open(os.path.join(new, _LOCK), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Rename it only now: other runs take a folder of this name without a held lock for dead.
    folder = base / f"{_PREFIX}{new.rpartition(_NEW)[2]}"
    os.rename(new, folder)
    _in_use = folder
    try:
        yield folder
    finally:
        _in_use = None
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def folder_in_use() -> Path | None:
    """The folder of the Ray that this process has started; None if it has started none, or that has ended."""
    return _in_use


def _base() -> Path:
    """The place for the folder: RAY_TMPDIR if that is set, else the temporary folder or /tmp."""
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
    """Why Ray cannot have its files there; None if it can."""
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
    return None if free >= LEAST_BYTES else f"is full ({free >> 20} MB are free)"


def sweep(base: Path) -> None:
    """Remove what killed runs of this user have left in `base`: their folders, and their empty logs."""
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
    """Whether nobody holds the lock: the system releases it when the process ends, however that happens."""
    try:
        found = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # the run was killed while it removed the folder
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(found)
    return True


def native_log() -> Any:
    """A file in the temporary folder for the output of Ray's C++ side; it stays until somebody removes it."""
    log = tempfile.NamedTemporaryFile(prefix=_LOG, suffix=".log", delete=False)  # noqa: SIM115
    fcntl.flock(log, fcntl.LOCK_EX)
    return log

"""Files of one folder, on a local disk or in an object store, through fsspec.

Writes are atomic and, once they have returned, durable: local files are written to a temporary file, synced to the disk
and renamed; object stores publish an object when its upload ends. An object store needs nothing else: no rename, no
append, no conditional write. Requests that fail with a transient error are retried (retrying.py).
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import has_magic

from tamis.pipeline.errors import ConfigError, DamagedError, StorageError, error_text
from tamis.pipeline.storage.addresses import is_local, open_filesystem, refuse_credentials
from tamis.pipeline.storage.ranged import ObjectFile, info_of, read_whole
from tamis.pipeline.storage.retrying import is_full, retrying
from tamis.pipeline.storage.seals import opened, sealed

_LARGEST_PIECE = 5 << 30
_HALF_WRITTEN = re.compile(r".+\.[0-9a-f]{8}\.tmp")


class Sealed(NamedTuple):
    """A file, and the sha256 of its content when it was written."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Written:
    """One published file: name under the store's root, size in bytes, sha256 of its content. md5: only for an object,
    because most stores report it in their listings."""

    name: str
    bytes: int
    sha256: str
    md5: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The file's entry in a manifest."""
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}

    def to_receipt(self) -> dict[str, Any]:
        return self.to_dict() | ({} if self.md5 is None else {"md5": self.md5})

    @property
    def sealed(self) -> Sealed:
        return Sealed(self.name, self.sha256)


@dataclass(frozen=True)
class Store:
    """The folder at `url`. Small and picklable: workers receive it by value and open their own connection."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_credentials(self.url)
        if "://" not in self.url:
            # Absolute, because workers run in other folders than the driver.
            object.__setattr__(self, "url", os.path.abspath(os.path.expanduser(self.url)))

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": dict(self.options)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return open_filesystem(self.url, self.options)

    @property
    def is_local(self) -> bool:
        return is_local(self._opened[0])

    def path(self, name: str = "") -> str:
        """The path or address of `name`, for a person to read and open."""
        root = self._opened[1] if self.is_local else self.url
        return f"{root.rstrip('/')}/{name}" if name else root

    def _full(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}" if name else self._opened[1]

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder exists. ConfigError if the storage denies access."""
        with self._looking():
            try:
                info_of(self._opened[0], self._full(name))
            except FileNotFoundError:
                return False
        return True

    def read(self, file: str | Sealed) -> bytes:
        """The bytes of a file. FileNotFoundError if there is none; DamagedError if a sealed file is not as it was
        written."""
        if isinstance(file, str):
            return read_whole(self._opened[0], self._full(file))
        try:
            data = self.read(file.name)
        except FileNotFoundError:
            raise DamagedError(f"{file.name}: is missing") from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise DamagedError(f"{file.name}: is not as it was written")
        return data

    def read_json(self, name: str) -> Any:
        """The value of a JSON file. ValueError if it is not JSON."""
        try:
            return json.loads(self.read(name))
        except RecursionError:
            raise ValueError(f"{name}: nested too deeply") from None

    def write(self, name: str, data: bytes) -> Written:
        """Write a file. Errors of the storage contain the file's name."""
        with _named(self.path(name)):
            md5 = self._put(name, data)
        return Written(name, len(data), hashlib.sha256(data).hexdigest(), md5)

    def _put(self, name: str, data: bytes) -> str | None:
        """Write a whole file; returns the md5 of an object, None for a local file."""
        filesystem, full = self._opened[0], self._full(name)
        if not self.is_local:
            whole = _in_one_piece(filesystem, len(data))
            retrying(lambda: filesystem.pipe_file(full, data, **whole), self.path(name))
            return hashlib.md5(data, usedforsecurity=False).hexdigest()
        with _published(full) as file:
            file.write(data)
        return None

    def write_json(self, name: str, value: Any) -> Written:
        return self.write(name, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def write_facts(self, name: str, facts: Mapping[str, Any]) -> Written:
        """Write JSON with a seal."""
        return self.write_json(name, sealed(facts))

    def read_facts(self, name: str) -> dict[str, Any]:
        """The facts that `write_facts` wrote. ValueError if they are not as they were written, FileNotFoundError if
        there is no file."""
        return opened(self.read_json(name))

    def write_table(self, name: str, table: pa.Table) -> Written:
        """Write a table as Parquet, with its schema metadata."""
        sink = io.BytesIO()
        with _parquet(sink, table.schema) as writer:
            # A row group without rows is valid Parquet, but `datasets` fails to read it.
            if table.num_rows:
                writer.write_table(table)
        return self.write(name, sink.getvalue())

    @contextmanager
    def writing_table(self, name: str, schema: pa.Schema) -> Iterator[TableWriter]:
        """Write tables of one schema as one Parquet file, which is there when the block ends without an error: then
        `written` says what it is. On a local disk the tables are not held; for an object store, the file is."""
        if self.is_local:
            with _published(self._full(name)) as file:
                sink = _Hashed(file, self.path(name))
                with _parquet(sink, schema) as parquet:
                    yield (writer := TableWriter(parquet))
            writer.written = Written(name, sink.size, sink.sha256.hexdigest())
            return
        held = io.BytesIO()
        with _parquet(held, schema) as parquet:
            yield (writer := TableWriter(parquet))
        writer.written = self.write(name, held.getvalue())

    @contextmanager
    def parquet_file(self, name: str, size: int) -> Iterator[pq.ParquetFile]:
        """A Parquet file of `size` bytes, of which only what is asked for is read. FileNotFoundError if there is none.
        Errors in a page are found by its checksum."""
        filesystem, full = self._opened[0], self._full(name)
        with filesystem.open(full, "rb") if self.is_local else ObjectFile(filesystem, full, size) as source:
            yield pq.ParquetFile(source, page_checksum_verification=True)

    def read_table(self, file: str | Sealed, columns: list[str] | None = None) -> pa.Table:
        """A table from a Parquet file. Raises as `read`."""
        data = io.BytesIO(self.read(file))
        return pq.ParquetFile(data, page_checksum_verification=True).read(columns=columns)

    def list(self, folder: str) -> list[str]:
        """Names of the files in `folder`, sorted; empty if it does not exist. ConfigError if access is denied."""
        filesystem = self._opened[0]
        names = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._found(filesystem, folder, False))
        return [name for name in names if name and not name.endswith(".tmp")]

    def details(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """The storage's information about each file in `folder` (size, type, ...), by name. Otherwise as `list`."""
        filesystem = self._opened[0]
        if self.is_local:  # a listing with details fails as a whole when one file is renamed meanwhile
            found = {}
            for name in self.list(folder):
                with suppress(FileNotFoundError):
                    found[name] = filesystem.info(self._full(f"{folder}/{name}"))
            return found
        return {
            name: info
            for info in self._found(filesystem, folder, True)
            if (name := str(info["name"]).rstrip("/").rsplit("/", 1)[-1])
        }

    def _found(self, filesystem: fsspec.AbstractFileSystem, folder: str, detail: bool) -> Sequence[Any]:
        try:
            with self._looking():
                return retrying(lambda: _listed(filesystem, self._full(folder), detail), self.path(folder))
        except FileNotFoundError:
            return []

    @contextmanager
    def _looking(self) -> Iterator[None]:
        try:
            yield
        except (NotADirectoryError, PermissionError) as error:
            raise ConfigError(
                f"output: {self.path()} cannot be looked into ({error_text(error)}); choose another folder, "
                "or see to it that you may read this one"
            ) from None

    def remove(self, folder: str) -> None:
        filesystem, full = self._opened[0], self._full(folder)
        if self.exists(folder):
            # Another driver may be removing it at the same time.
            with suppress(FileNotFoundError):
                retrying(lambda: _remove(filesystem, full), self.path(folder))

    def remove_leftovers(self, folder: str) -> None:
        """Remove what killed processes have half written. Nobody else may be writing there."""
        if not self.is_local:
            return  # an object is whole, or not there
        full = self._full(folder)
        for name in os.listdir(full) if os.path.isdir(full) else ():
            if _HALF_WRITTEN.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.unlink(f"{full}/{name}")

    def check_writable(self, folder: str) -> None:
        """ConfigError if nothing can be written in this folder of the store; StorageError if the storage is full."""
        probe = f"{folder}/.probe-{uuid.uuid4().hex[:8]}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except OSError as error:
            if is_full(error):
                raise StorageError(
                    f"output: {self.path()} has no room ({error_text(error)}); make some and run the same command again"
                ) from None
            raise ConfigError(f"output: {self.path()} cannot be written ({error_text(error)})") from None


class TableWriter:
    """Writes the row groups of one file; see `Store.writing_table`."""

    written: Written

    def __init__(self, parquet: pq.ParquetWriter) -> None:
        self._parquet = parquet

    def add(self, table: pa.Table) -> None:
        """Write the table as one row group; one without rows is left out."""
        if table.num_rows:
            self._parquet.write_table(table, row_group_size=table.num_rows)


class _Hashed(io.RawIOBase):
    """A file to write to that knows the sha256 and the size of what was written. Its errors contain the path."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        super().__init__()
        self._file, self._path = file, path
        self.sha256, self.size = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        with _named(self._path):
            self._file.write(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def tell(self) -> int:
        return self.size


def _parquet(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True)


@contextmanager
def _published(full: str) -> Iterator[BinaryIO]:
    """A local file to write to, which takes its name when it is whole and on the disk. Errors of the storage contain
    that name, and those of the block are left as they are."""
    folder = os.path.dirname(full)
    aside = f"{full}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with _named(full):
            _make_folder(folder)
            opened = open(aside, "wb")  # noqa: SIM115
        with opened as file:
            yield file
            with _named(full):
                file.flush()
                _sync(file.fileno())
        with _named(full):
            os.replace(aside, full)
            _sync_folder(folder)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Add the path to errors of the storage: full disks and refused objects are reported without a name, and there may
    be many disks."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def _make_folder(folder: str) -> None:
    """Make a folder and its parents; each new name is synced to the disk in the folder above it."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    with suppress(FileExistsError):
        os.mkdir(folder)
    _sync_folder(above)


def _in_one_piece(filesystem: fsspec.AbstractFileSystem, size: int) -> dict[str, int]:
    """Options for writing an object of this size. S3 tells the md5 of what was uploaded at once, by which it is checked
    without being read; s3fs uploads 100 MiB and more in parts. S3 takes no piece of more than 5 GiB."""
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    return {"chunksize": max(size, 50 << 20)} if "s3" in protocols and size < _LARGEST_PIECE else {}


def _sync_folder(folder: str) -> None:
    """Sync a folder, so that the names in it survive a crash of the machine."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(opened)
    finally:
        os.close(opened)


def _sync(opened: int) -> None:
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


_REMOVALS = 16
"""Concurrent requests."""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that do not support syncing to a disk."""


def _remove(filesystem: fsspec.AbstractFileSystem, full: str) -> None:
    """Remove everything below `full`, and nothing else: drivers would treat a path that looks like a glob as a glob."""
    if is_local(filesystem) or not has_magic(full):
        filesystem.rm(full, recursive=True)
        return
    with ThreadPoolExecutor(_REMOVALS) as pool:
        list(pool.map(filesystem.rm_file, filesystem.find(full)))


def _listed(filesystem: fsspec.AbstractFileSystem, folder: str, detail: bool) -> Sequence[Any]:
    filesystem.invalidate_cache(folder)
    found: Sequence[Any] = filesystem.ls(folder, detail=detail)
    return found

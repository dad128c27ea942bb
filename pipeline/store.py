"""Files of one folder, on a local disk or in an object store, through fsspec.

A write is whole or absent: local files are written aside and renamed, object stores publish an object when its upload
ends. Nothing else is asked of the storage: no rename, no append, no conditional write. What an object store refuses
for a moment is asked again (retrying.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.pipeline.addresses import is_local, open_filesystem, refuse_credentials
from tamis.pipeline.errors import ConfigError, error_text
from tamis.pipeline.ranged import info_of, read_whole
from tamis.pipeline.retrying import retrying


@dataclass(frozen=True)
class Written:
    """One published file: name under the store's root, size in bytes, sha256 of its content."""

    name: str
    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Store:
    """The folder at `url`. Small and picklable: workers get it by value and open their own connection."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_credentials(self.url)
        if "://" not in self.url:
            # Workers run in other folders than the driver.
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
        """What to show a person (and to open by hand) for `name`."""
        root = self._opened[1] if self.is_local else self.url
        return f"{root.rstrip('/')}/{name}" if name else root

    def _full(self, name: str) -> str:
        return f"{self._opened[1].rstrip('/')}/{name}" if name else self._opened[1]

    def exists(self, name: str = "") -> bool:
        """ConfigError if the storage does not let us look."""
        with self._looking():
            try:
                info_of(self._opened[0], self._full(name))
            except FileNotFoundError:
                return False
        return True

    def read(self, name: str) -> bytes:
        """FileNotFoundError if there is none."""
        return read_whole(self._opened[0], self._full(name))

    def read_json(self, name: str) -> Any:
        """ValueError if it is no JSON."""
        try:
            return json.loads(self.read(name))
        except RecursionError:
            raise ValueError(f"{name}: nested too deeply") from None

    def write(self, name: str, data: bytes) -> Written:
        filesystem, full = self._opened[0], self._full(name)
        if self.is_local:
            os.makedirs(os.path.dirname(full), exist_ok=True)
            aside = f"{full}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                with open(aside, "wb") as file:
                    file.write(data)
                os.replace(aside, full)
            except BaseException:
                if os.path.exists(aside):
                    os.unlink(aside)
                raise
        else:
            retrying(lambda: filesystem.pipe_file(full, data), self.path(name))
        return Written(name, len(data), hashlib.sha256(data).hexdigest())

    def write_json(self, name: str, value: Any) -> Written:
        return self.write(name, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def write_table(self, name: str, table: pa.Table) -> Written:
        """As Parquet, with the table's schema metadata."""
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
            # A row group without rows is legal Parquet, but datasets fails to read it.
            if table.num_rows:
                writer.write_table(table)
        return self.write(name, sink.getvalue())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        data = io.BytesIO(self.read(name))
        return pq.ParquetFile(data, page_checksum_verification=True).read(columns=columns)

    def list(self, folder: str) -> list[str]:
        """Names of the files in `folder`, sorted; empty if it does not exist. ConfigError if we may not look."""
        filesystem = self._opened[0]
        try:
            with self._looking():
                found = retrying(lambda: _listed(filesystem, self._full(folder)), self.path(folder))
        except FileNotFoundError:
            return []
        names = sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)
        return [name for name in names if name and not name.endswith(".tmp")]

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
            # Another driver may be removing it, too.
            with suppress(FileNotFoundError):
                retrying(lambda: filesystem.rm(full, recursive=True), self.path(folder))

    def check_writable(self) -> None:
        """ConfigError if nothing can be written here."""
        probe = f"_work/.probe-{uuid.uuid4().hex[:8]}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except (OSError, PermissionError) as error:
            raise ConfigError(f"output: {self.path()} cannot be written ({error_text(error)})") from None


def _listed(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    filesystem.invalidate_cache(folder)
    found: list[str] = filesystem.ls(folder, detail=False)
    return found

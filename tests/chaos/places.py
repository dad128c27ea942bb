"""Where a round's input and output lie: a local folder, or a bucket that only the harness sees without faults."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from object_store import S3

Files = dict[str, bytes]


class Place(Protocol):
    """A folder of files, by their paths below it."""

    @property
    def flags(self) -> list[str]:
        """What `tamis curate` needs beside the address."""
        ...

    def url(self, path: str) -> str: ...

    def put(self, files: Files) -> None: ...

    def names(self, folder: str) -> list[str]: ...

    def digests(self, folder: str) -> dict[str, str]:
        """Path below `folder` -> sha256 of its content."""
        ...


@dataclass(frozen=True)
class Local:
    """A folder of this machine, which both nodes see."""

    root: Path
    flags: tuple[str, ...] = ()

    def url(self, path: str) -> str:
        return str(self.root / path)

    def put(self, files: Files) -> None:
        for path, data in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)

    def names(self, folder: str) -> list[str]:
        found = (self.root / folder).rglob("*")
        return [str(path.relative_to(self.root / folder)) for path in found if path.suffix != ".tmp" and path.is_file()]

    def digests(self, folder: str) -> dict[str, str]:
        return {name: _digest((self.root / folder / name).read_bytes()) for name in self.names(folder)}


@dataclass(frozen=True)
class Bucket:
    """A bucket. The command goes to it through the proxy at `endpoint`; put, names and digests go straight there."""

    s3: S3
    name: str
    endpoint: str

    @property
    def flags(self) -> list[str]:
        return ["--set", f"storage_options.endpoint_url={self.endpoint}"]

    def url(self, path: str) -> str:
        return f"s3://{self.name}/{path}"

    def put(self, files: Files) -> None:
        for path, data in files.items():
            self._client.put_object(Bucket=self.name, Key=path, Body=data)

    def names(self, folder: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{folder}/")
        return [entry["Key"].removeprefix(f"{folder}/") for page in pages for entry in page.get("Contents", [])]

    def digests(self, folder: str) -> dict[str, str]:
        keys = {name: f"{folder}/{name}" for name in self.names(folder)}
        return {
            name: _digest(self._client.get_object(Bucket=self.name, Key=key)["Body"].read())
            for name, key in keys.items()
        }

    @cached_property
    def _client(self) -> Any:
        return self.s3.client()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

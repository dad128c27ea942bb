"""Which files of a listing are new, given the files that earlier nights have curated. No storage, no clock.

A file is known by its address, its size and what the storage says of it (etag or time of modification), and by the
sha256 of its bytes where only that tells. Hashing reads the whole file, so it is asked for only where the sizes agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.inputs.files import SourceFile


@dataclass(frozen=True)
class Entry:
    """A file that a night has curated, or seen to be the same as one that was. run: the night that has its rows.
    identity: as of `SourceFile`. sha256: empty where no hash was taken. own: False where the rows came from the same
    bytes at another address."""

    url: str
    bytes: int
    identity: str
    sha256: str
    run: str
    own: bool = True

    @classmethod
    def of(cls, file: SourceFile, run: str, sha256: str = "") -> Entry:
        return cls(file.url, file.bytes, file.identity, sha256 or file.sha256, run)

    def to_dict(self) -> dict[str, Any]:
        return {"url": self.url, "bytes": self.bytes, "identity": self.identity, "sha256": self.sha256}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], run: str, *, own: bool = True) -> Entry:
        """Raises KeyError, TypeError or ValueError for what is no entry."""
        return cls(str(tree["url"]), int(tree["bytes"]), str(tree["identity"]), str(tree.get("sha256", "")), run, own)

    def is_same(self, file: SourceFile) -> bool:
        """Whether this is the file as the storage shows it. Without an identity only the content could tell."""
        return (self.url, self.bytes, self.identity) == (file.url, file.bytes, file.identity) and bool(self.identity)


@dataclass(frozen=True)
class Twin:
    """A file, and the curated one (or the one to be curated tonight, of == run == "") that it was compared with."""

    file: SourceFile
    entry: Entry


@dataclass(frozen=True)
class Sorted:
    """Every file of a listing, in exactly one of new, covered, touched, duplicates and changed.

    new: to be curated. covered: as a night has curated it. touched: the same bytes at the same address, though the
    storage's identity differs. duplicates: the same bytes at another address. changed: other bytes at an address that a
    night has curated. unsure: among the new ones, those of the size of a curated file that has no hash.
    """

    new: tuple[SourceFile, ...]
    covered: tuple[Twin, ...]
    touched: tuple[Twin, ...]
    duplicates: tuple[Twin, ...]
    changed: tuple[Twin, ...]
    unsure: tuple[Twin, ...]


def sort_files(
    files: Iterable[SourceFile],
    curated: Sequence[Entry],
    sha256: Callable[[SourceFile], str],
    tonight: str,
) -> Sorted:
    """Sort the files of a listing. curated: of all finished nights, the oldest first. sha256: of a file's bytes; asked
    at most once for each. tonight: the name of the night that gets the new ones.

    Of several new files with the same bytes, the first in `files` is new and the others are its duplicates.
    """
    hashes: dict[str, str] = {}

    def content(file: SourceFile) -> str:
        if file.url not in hashes:
            hashes[file.url] = file.sha256 or sha256(file)
        return hashes[file.url]

    by_url: dict[str, list[Entry]] = defaultdict(list)
    by_size: dict[int, list[Entry]] = defaultdict(list)
    for entry in curated:
        by_url[entry.url].append(entry)
        by_size[entry.bytes].append(entry)
    waiting: dict[int, list[SourceFile]] = defaultdict(list)
    new: list[SourceFile] = []
    covered, touched, duplicates, changed, unsure = ([] for _ in range(5))  # type: ignore[var-annotated]
    for file in files:
        here = [entry for entry in reversed(by_url[file.url]) if entry.bytes == file.bytes]
        if same := next((entry for entry in here if entry.is_same(file)), None):
            covered.append(Twin(file, same))
        elif same := next((entry for entry in here if entry.sha256 and entry.sha256 == content(file)), None):
            touched.append(Twin(file, same))
        elif mine := [entry for entry in by_url[file.url] if entry.own]:
            changed.append(Twin(file, mine[-1]))
        elif same := _twin(file, by_size[file.bytes], content):
            duplicates.append(Twin(file, same))
        elif first := next((other for other in waiting[file.bytes] if content(other) == content(file)), None):
            duplicates.append(Twin(file, Entry.of(first, tonight, content(first))))
        else:
            new.append(file)
            waiting[file.bytes].append(file)
            unsure.extend(Twin(file, entry) for entry in by_size[file.bytes] if not entry.sha256)
    return Sorted(tuple(new), *map(tuple, (covered, touched, duplicates, changed, unsure)))


def worth_hashing(files: Sequence[SourceFile], curated: Sequence[Entry]) -> list[SourceFile]:
    """The files whose sha256 `sort_files` may ask for, so that they can be read side by side beforehand."""
    by_url: dict[str, list[Entry]] = defaultdict(list)
    for entry in curated:
        by_url[entry.url].append(entry)
    unknown = [file for file in files if not any(entry.is_same(file) for entry in by_url[file.url])]
    hashed = {entry.bytes for entry in curated if entry.sha256}
    sizes = Counter(file.bytes for file in unknown)
    return [
        file
        for file in unknown
        if (file.bytes in hashed or sizes[file.bytes] > 1)
        and (
            not any(entry.own for entry in by_url[file.url])
            or any(entry.bytes == file.bytes and entry.sha256 for entry in by_url[file.url])
        )
    ]


def _twin(file: SourceFile, entries: Sequence[Entry], content: Callable[[SourceFile], str]) -> Entry | None:
    """The oldest of these files of its size with its bytes."""
    return next((entry for entry in entries if entry.sha256 and entry.sha256 == content(file)), None)

"""The sha256 of input files, read once from the first byte to the last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tamis.pipeline.errors import InputError, error_text
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.planning.scan_progress import scan_progress
from tamis.pipeline.storage.addresses import is_local, open_filesystem
from tamis.pipeline.storage.ranged import ObjectStream

_AT_A_TIME = 8
_PIECE = 1 << 20


def sha256_of(file: SourceFile, options: Mapping[str, Any], tell: Callable[[int], None] | None = None) -> str:
    """The hash of a file's bytes. InputError if it cannot be read, or its size is not that of the listing.

    tell: called with the number of bytes read.
    """
    filesystem, path = open_filesystem(file.url, options)
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") if is_local(filesystem) else ObjectStream(filesystem, path, file.bytes) as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                size += len(piece)
                if tell is not None:
                    tell(len(piece))
    except OSError as error:
        raise InputError("an input file cannot be read", [f"{file.name}: {error_text(error)}"]) from None
    if size != file.bytes:
        raise InputError(f"{file.name}: changed while it was read; run again to plan it anew")
    return digest.hexdigest()


def hashed(files: Sequence[SourceFile], options: Mapping[str, Any]) -> list[SourceFile]:
    """The same files, each with its sha256; those that have one are not read. Raises as `sha256_of`."""
    unread = [file for file in files if not file.sha256]
    with scan_progress(unread, "hash") as tell, ThreadPoolExecutor(_AT_A_TIME) as pool:
        found = dict(zip(unread, pool.map(lambda file: sha256_of(file, options, tell), unread), strict=True))
    return [replace(file, sha256=found[file]) if file in found else file for file in files]

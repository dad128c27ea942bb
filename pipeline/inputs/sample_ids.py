"""Sample ids: stable names for rows, the same in every run over the same file."""

from __future__ import annotations

import hashlib


def sample_ids(source: str, start_row: int, rows: int) -> list[str]:
    """16 hex digits per row, derived from the file's path under the input root and the row's number in the file."""
    prefix = hashlib.sha256(source.encode("utf-8", "surrogatepass") + b"\n")
    ids = []
    for row in range(start_row, start_row + rows):
        digest = prefix.copy()
        digest.update(str(row).encode())
        ids.append(digest.hexdigest()[:16])
    return ids

"""Limits on the bytes of one row in memory, and on the text of one row in quarantine."""

from __future__ import annotations

from tamis.operators.problems import RowProblem

MAX_ROW_BYTES = 64 << 20
"""A longer row of a text file is quarantined unread, so that no line, however long, fills a worker's memory."""

MAX_COLUMNS = 1000
"""An object with more keys is data, not a row; otherwise its keys would become columns of every row of the output."""

RAW_TEXT_BYTES = 1 << 20
"""The most bytes of a quarantined row in raw_text."""

HEAD_BYTES = 64 << 10
"""The bytes that are read of a row that is too large."""


def too_large(size: int) -> RowProblem:
    return RowProblem("too_large", f"the row has {size:,} bytes; no row of more than {MAX_ROW_BYTES:,} is read")


def cut_text(raw: bytes, size: int | None = None) -> str:
    """The text of a row for quarantine: at most RAW_TEXT_BYTES, with a note if it is cut; invalid UTF-8 as escapes.

    size: of the whole row, where `raw` is only its beginning.
    """
    whole = len(raw) if size is None else size
    shown = raw[:RAW_TEXT_BYTES].decode("utf-8", "backslashreplace")
    if whole <= min(len(raw), RAW_TEXT_BYTES):
        return shown
    return f"{shown}\n[cut here: the row has {whole:,} bytes, {min(len(raw), RAW_TEXT_BYTES):,} of them are shown]"

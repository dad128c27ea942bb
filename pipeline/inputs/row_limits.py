"""How much of one row is ever held, and how much of it is shown in quarantine."""

from __future__ import annotations

from tamis.operators.problems import RowProblem

MAX_ROW_BYTES = 64 << 20
"""A longer row of a text file is quarantined unread, so that no line, however long, fills a worker's memory."""

MAX_COLUMNS = 1000
"""An object with more keys is data and not a row; as columns they would be those of every row of the output."""

RAW_TEXT_BYTES = 1 << 20
"""Of a quarantined row, this much stands in raw_text."""

HEAD_BYTES = 64 << 10
"""Of a row that is not read, this much is."""


def too_large(size: int) -> RowProblem:
    return RowProblem("too_large", f"the row has {size:,} bytes; no row of more than {MAX_ROW_BYTES:,} is read")


def cut_text(raw: bytes, size: int | None = None) -> str:
    """The row for quarantine: bytes that are not UTF-8 as escapes, at most RAW_TEXT_BYTES, with a note where it is cut.

    size: of the whole row, where `raw` is only its beginning.
    """
    whole = len(raw) if size is None else size
    shown = raw[:RAW_TEXT_BYTES].decode("utf-8", "backslashreplace")
    if whole <= min(len(raw), RAW_TEXT_BYTES):
        return shown
    return f"{shown}\n[cut here: the row has {whole:,} bytes, {min(len(raw), RAW_TEXT_BYTES):,} of them are shown]"

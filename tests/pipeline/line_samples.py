"""Lines of every awkward kind, and the spans of a file found the plain way."""

from __future__ import annotations

from hypothesis import strategies as st

from tamis.pipeline.inputs.line_bounds import WHITE
from tamis.pipeline.inputs.spans import Span

pieces = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\n \t\n",
        b"  \v\f\r",
        b"\xef\xbb\xbf",
        b"{}",
        b"a",
        b"\x00",
        b"x" * 30,
        b"\n" * 5,
        b" ",
    ]
)
texts = st.lists(pieces, max_size=30).map(b"".join)


def naive_spans(data: bytes, rows: int, size: int) -> list[Span]:
    """Line by line, and row by row."""
    found: list[Span] = []
    count = offset = 0
    span: Span | None = None
    for line in data.split(b"\n"):
        start, stop = offset, offset + len(line)
        offset = stop + 1
        if not line.strip(WHITE):
            continue
        if span is not None and (count - span.start_row >= rows or stop - span.start_byte > size):
            found.append(span)
            span = None
        count += 1
        span = (
            Span(count - 1, count, start, stop) if span is None else Span(span.start_row, count, span.start_byte, stop)
        )
    return found if span is None else [*found, span]

"""The cut of rows into spans, whatever rows are told at a time, against the same row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_samples import naive_spans, texts
from text_samples import anywhere

from tamis.pipeline.inputs import spans
from tamis.pipeline.inputs.line_bounds import WHITE
from tamis.pipeline.inputs.spans import Cutter, Span


def cut(data: bytes, batch: int, rows: int, size: int) -> list[Span]:
    starts, place = [], 0
    for line in data.split(b"\n"):
        if line.strip(WHITE):
            starts.append((place, place + len(line)))
        place += len(line) + 1
    cutter = Cutter(rows, size)
    for first in range(0, len(starts), batch):
        table = np.array(starts[first : first + batch], dtype=np.int64)
        cutter.add(table[:, 0], table[:, 1])
    return cutter.end()


@anywhere
@given(data=texts, batch=st.integers(1, 9), rows=st.integers(1, 6), size=st.integers(1, 60))
def test_the_spans_are_those_found_row_by_row(data: bytes, batch: int, rows: int, size: int) -> None:
    assert cut(data, batch, rows, size) == naive_spans(data, rows, size)


@anywhere
@given(data=texts, batch=st.integers(1, 9), rows=st.integers(1, 6), size=st.integers(1, 60))
def test_a_row_above_the_limit_is_a_span_by_itself(data: bytes, batch: int, rows: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "MAX_ROW_BYTES", 10)
        found = cut(data, batch, rows, size)
    assert found == naive_spans(data, rows, min(size, 10))
    assert all(span.stop_row == span.start_row + 1 for span in found if span.stop_byte - span.start_byte > 10)


def test_no_rows_are_no_spans() -> None:
    assert Cutter(5, 100).end() == []

"""Lines of pieces of a file: told in little, and put together whatever the pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_samples import texts
from text_samples import anywhere

from tamis.pipeline.inputs.line_bounds import WHITE, Joiner, lines_in


@anywhere
@given(data=texts, edges=st.lists(st.integers(0, 400), max_size=8))
def test_the_lines_of_the_pieces_are_those_of_the_file(data: bytes, edges: list[int]) -> None:
    ends = sorted({0, len(data), *(min(edge, len(data)) for edge in edges)})
    joiner = Joiner()
    told = [joiner.add(lines_in(data[start:stop])) for start, stop in pairwise(ends)]
    bounds = np.array([pair for starts, stops in [*told, joiner.end()] for pair in zip(starts, stops, strict=True)])
    lines = [data[start:stop] for start, stop in bounds]
    assert lines == [line for line in data.split(b"\n") if line.strip(WHITE)]
    assert all(not data[stop : stop + 1].strip(b"\n") for _, stop in bounds)


@pytest.mark.parametrize("length", [1, 250, 70_000])
def test_what_a_range_tells_is_small(length: int) -> None:
    lines = lines_in((b"x" * length + b"\n") * 20)
    assert lines.gaps.itemsize == 1
    assert lines.lengths.itemsize == {1: 1, 250: 1, 70_000: 4}[length]

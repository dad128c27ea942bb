"""Shares by the corpus's own column `source`: exact counts, and none where the column is no category."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.emit.own_sources import LONGEST, MOST, own_sources
from tamis.pipeline.emit.totals import EmitTotals

ROWS = st.lists(st.tuples(st.sampled_from(["web", "books", "", "<b>", None]), st.booleans()), max_size=30)


def found(rows: list[tuple[Any, bool]]) -> list[list[Any]] | None:
    table = pa.table({"source": pa.array([value for value, _ in rows], pa.string())})
    return own_sources(table, np.array([falls for _, falls in rows], bool))


@given(shards=st.lists(ROWS, max_size=4))
def test_every_row_is_counted_once(shards: list[list[tuple[str | None, bool]]]) -> None:
    totals = EmitTotals(bins=1)
    for shard in shards:
        totals._add_own(found(shard))
    rows = [row for shard in shards for row in shard]
    counted = Counter(value or "" for value, _ in rows)
    gone = Counter(value or "" for value, falls in rows if falls)
    assert totals.own_sources == {value: [counted[value], gone[value]] for value in counted}


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"text": ["a"]}),
        pa.table({"source": [1]}),
        pa.table({"source": pa.array([{"name": "a"}])}),
        pa.table({"source": ["a" * (LONGEST + 1)]}),
        pa.table({"source": [str(number) for number in range(MOST + 1)]}),
    ],
)
def test_what_is_no_category_is_not_counted(table: pa.Table) -> None:
    assert own_sources(table, np.zeros(table.num_rows, bool)) is None
    totals = EmitTotals(bins=1)
    totals._add_own(own_sources(table, np.zeros(table.num_rows, bool)))
    totals._add_own([["web", 3, 1]])
    assert totals.own_sources is None  # a part would be taken for the whole


def test_many_shards_with_other_values_are_no_categories_together() -> None:
    totals = EmitTotals(bins=1)
    for number in range(MOST + 1):
        totals._add_own([[str(number), 1, 0]])
    assert totals.own_sources is None


def test_dictionaries_and_large_strings_are_read() -> None:
    for kind in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"source": pa.array(["b", "a", "b"], pa.string()).cast(kind)})
        assert own_sources(table, np.array([True, False, False])) == [["a", 1, 0], ["b", 2, 1]]


def test_bytes_that_are_no_text_name_no_source() -> None:
    data = pa.py_buffer(b"a\xffb")
    column = pa.StringArray.from_buffers(3, pa.py_buffer(np.array([0, 1, 2, 3], np.int32).tobytes()), data)
    assert own_sources(pa.table({"source": column}), np.zeros(3, bool)) is None

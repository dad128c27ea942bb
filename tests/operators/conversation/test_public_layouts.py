"""Layouts of public corpora, from the first look at the columns to the answer that is scored: the last turn of the
assistant. Inputs are our own; docs/input.md has a row for each.
"""

from __future__ import annotations

import pytest
from public_layouts import LAYOUTS

from tamis.operators.conversation.columns import parts_of_row
from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.speakers import last_answer
from tamis.operators.conversation.values import said


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_scored_answer_of_a_public_layout(name: str) -> None:
    layout = LAYOUTS[name]
    dialect = detect(list(layout.row), [layout.row] * 3)
    assert dialect.describe() == layout.told
    parts = parts_of_row(layout.row, dialect)
    last = last_answer(parts.turns)
    assert said(last) == layout.scored
    assert last is parts.turns[-1]
    assert [turn.get(parts.content_key) for turn in parts.turns[:-1]] == layout.before
    assert (parts.system, parts.variables) == (layout.system, layout.variables)


@pytest.mark.parametrize("name", LAYOUTS)
def test_in_json_lines_the_same_answer_is_scored(name: str) -> None:
    """There any later row may have other columns, so parts that no row has are bound, too."""
    layout = LAYOUTS[name]
    parts = parts_of_row(layout.row, detect(list(layout.row), [layout.row] * 3, complete=False))
    assert said(last_answer(parts.turns)) == layout.scored
    assert (parts.system, parts.variables) == (layout.system, layout.variables)

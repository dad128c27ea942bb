"""Rows that are drawn: a set of the right size, every set as likely as any other, and the same everywhere."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.drawing import drawn_rows

PINNED = [26, 153, 383, 470, 580]


@given(rows=st.integers(0, 300), wanted=st.integers(0, 300), seed=st.integers(-5, 2**40))
def test_so_many_different_rows_in_order(rows: int, wanted: int, seed: int) -> None:
    found = drawn_rows(rows, wanted, seed)
    assert len(found) == min(rows, wanted)
    assert found == sorted({*found})
    assert all(0 <= row < rows for row in found)
    assert found == drawn_rows(rows, wanted, seed)


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_every_set_is_as_likely_as_any_other(wanted: int) -> None:
    """Also where those that stay out are drawn. 2,000 seeds over 5 or 10 sets: within five standard deviations."""
    seen = Counter(tuple(drawn_rows(5, wanted, seed)) for seed in range(2000))
    sets = list(combinations(range(5), wanted))
    share = 1 / len(sets)
    most = 5 * (2000 * share * (1 - share)) ** 0.5
    assert seen.keys() == {*sets}
    assert max(abs(seen[each] - 2000 * share) for each in sets) < most


def test_which_rows_is_the_same_in_every_version() -> None:
    """A run that goes on under another tamis must draw the rows that it began with."""
    assert drawn_rows(1000, 5, 0) == PINNED
    assert drawn_rows(1000, 5, 1) != PINNED
    assert {*drawn_rows(1000, 5, 0)} < {*drawn_rows(1000, 6, 0)}


def test_few_of_very_many_rows_are_drawn_at_once() -> None:
    found = drawn_rows(10**15, 4096, 3)
    assert len({*found}) == 4096
    # Their mean is half of the range, give or take five of its standard errors.
    assert abs(sum(found) / 4096 / 10**15 - 0.5) < 5 * (1 / 12 / 4096) ** 0.5

"""Counts of refusals -> one number per block, and the block that is chosen."""

from __future__ import annotations

import pytest

from tamis.operators.statistics.sensitivity import FACTORS, most_sensitive, sensitivity


def test_the_table_becomes_one_number_per_block() -> None:
    table = {(block, factor): 0 for block in range(3) for factor in FACTORS}
    table[1, 1.3], table[1, 0.7] = 9, 2
    table[1, 1.2], table[1, 0.8] = 5, 6
    table[1, 1.1], table[1, 0.9] = 4, 1
    table[2, 0.9] = 3
    assert sensitivity(table, 3) == (0, 9, -3)
    assert sensitivity({**table, (7, 0.7): 99}, 3) == (0, 9, -3)
    del table[1, 0.8]
    with pytest.raises(ValueError, match=r"1 of 18 cells are missing: first block 1 x 0\.8"):
        sensitivity(table, 3)


def test_the_most_sensitive_block() -> None:
    assert most_sensitive((0, 9, -3)) == 1
    assert most_sensitive((4, 4)) == 0
    assert most_sensitive((-2, -1, -1)) == 1
    with pytest.raises(ValueError):
        most_sensitive(())

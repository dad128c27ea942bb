"""From counts to a table, a block, and the warnings: against the definition, written out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.methods.larf import default_block
from tamis.operators.statistics.sensitivity import FACTORS
from tamis.pipeline.layers.result import SAME, Part, combine, fisher_part, part_of, search_part

Counts = dict[tuple[int, float], int]


def counts_of(*rows: tuple[int, ...]) -> Counts:
    """One row of six counts per block, in the order of the factors."""
    return {(block, factor): row[place] for block, row in enumerate(rows) for place, factor in enumerate(FACTORS)}


def searched(counts: Counts, *, prompts: int = 100, unscaled: int = 50, seen: list[int] | None = None) -> Part:
    facts = {"prompts": {"count": prompts}, "unscaled": unscaled, "unscaled_counts": seen or [unscaled]}
    return search_part(counts, len(counts) // len(FACTORS), facts)


def parted(*ratios: float, left_out: int = 0) -> Part:
    return fisher_part(np.array(ratios), {"left_out": left_out})


FLAT = (50, 50, 50, 50, 50, 50)
RISING = (40, 42, 48, 53, 58, 61)
"""D1 = 21, D2 = 16, D3 = 5."""


@given(st.lists(st.tuples(*[st.integers(0, 100)] * 6), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_the_table_is_the_definition(rows: list[tuple[int, ...]], data: st.DataObject) -> None:
    ratios = data.draw(st.lists(st.floats(0, 1) | st.just(np.nan), min_size=len(rows), max_size=len(rows)))
    result = combine("auto", searched(counts_of(*rows)), parted(*ratios))
    assert len(result["blocks"]) == len(rows)
    best, highest = None, 0
    for block, (row, counts) in enumerate(zip(result["blocks"], rows, strict=True)):
        at = dict(zip(FACTORS, counts, strict=True))
        assert row["block"] == block
        assert row["refusals"] == {str(factor): count for factor, count in at.items()}
        assert (row["d1"], row["d2"], row["d3"]) == (at[1.3] - at[0.7], at[1.2] - at[0.8], at[1.1] - at[0.9])
        assert row["sensitivity"] == row["d1"] + row["d2"] + row["d3"]
        assert row["fisher"] == (None if np.isnan(ratios[block]) else ratios[block])
        if row["sensitivity"] > highest:
            best, highest = block, row["sensitivity"]
    assert result["search"]["block"] == best
    known = [ratio for ratio in ratios if not np.isnan(ratio)]
    told = bool(known) and (len(known) == 1 or max(known) - min(known) >= SAME)
    assert result["fisher"]["block"] == (int(np.nanargmax(ratios)) if told else None)
    fallback = {"block": default_block(len(rows)), "how": "default_block"}
    if told:
        fallback = {"block": int(np.nanargmax(ratios)), "how": "fisher_instead"}
    assert result["chosen"] == (fallback if best is None else {"block": best, "how": "search"})
    json.dumps(result, allow_nan=False)


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 6), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_result_that_was_read_back_combines_to_itself(rows: list[tuple[int, ...]]) -> None:
    search, fisher = searched(counts_of(*rows), prompts=9, unscaled=4), parted(*np.linspace(0.1, 0.9, len(rows)))
    for layer in ("auto", "fisher", 0):
        result = combine(layer, search, fisher)
        back = json.loads(json.dumps(result))
        assert combine(layer, part_of(back, "search"), part_of(back, "fisher")) == result
    alone = combine("fisher", None, fisher)
    assert part_of(alone, "search") is None
    assert combine("fisher", None, part_of(alone, "fisher")) == alone


def test_which_way_decides() -> None:
    search, fisher = searched(counts_of(FLAT, RISING, FLAT)), parted(0.1, 0.2, 0.3)
    assert combine("auto", search, fisher)["chosen"] == {"block": 1, "how": "search"}
    assert combine("fisher", search, fisher)["chosen"] == {"block": 2, "how": "fisher"}
    assert combine("fisher", None, fisher)["chosen"] == {"block": 2, "how": "fisher"}
    assert combine(0, search, fisher)["chosen"] == {"block": 1, "how": "search"}  # what auto would read
    both = combine("auto", search, fisher)
    assert (both["search"]["block"], both["fisher"]["block"]) == (1, 2)
    assert both["warnings"] == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([FLAT] * 6, "between 50 and 50 of 100 answers are refusals, 50 unscaled; highest sensitivity 0"),
        ([RISING[::-1]] * 6, "between 40 and 61 of 100 answers are refusals, 50 unscaled; highest sensitivity -42"),
    ],
)
def test_a_search_that_finds_nothing_says_so_and_the_ratios_choose(rows: list[tuple[int, ...]], said: str) -> None:
    ratios = parted(0.1, 0.2, 0.3, 0.4, 0.6, 0.5)
    result = combine("auto", searched(counts_of(*rows)), ratios)
    assert result["chosen"] == {"block": 4, "how": "fisher_instead"}
    assert (result["search"]["block"], result["fisher"]["block"]) == (None, 4)
    [warning] = result["warnings"]
    assert said in warning
    assert "LARF reads block 4 of 6, of the highest Fisher ratio, instead" in warning
    # Where the ratios decide, nothing is read instead.
    [warning] = combine("fisher", searched(counts_of(*rows)), ratios)["warnings"]
    assert "instead" not in warning


@pytest.mark.parametrize(
    ("ratios", "said"),
    [([np.nan] * 6, "no block has a Fisher ratio"), ([0.5] * 6, "all blocks have the same Fisher ratio")],
)
def test_where_no_way_tells_the_guess_is_called_one(ratios: list[float], said: str) -> None:
    for layer, rows in (("auto", [FLAT] * 6), ("fisher", [RISING] * 6)):
        result = combine(layer, searched(counts_of(*rows)), parted(*ratios))
        assert result["chosen"] == {"block": 2, "how": "default_block"}
        [guess] = [text for text in result["warnings"] if "block 2 of 6, at 31 % of the depth, instead" in text]
        assert "may rank worse than chance; set larf.layer" in guess
        assert [text for text in result["warnings"] if text.startswith(said)]


def test_ratios_that_differ_by_rounding_alone_point_nowhere() -> None:
    assert combine("fisher", None, parted(1.0, 1.0 - 1e-16, 1.0))["fisher"]["block"] is None
    assert combine("fisher", None, parted(np.nan, 0.25))["chosen"] == {"block": 1, "how": "fisher"}


def warnings_of(*rows: tuple[int, ...], **facts: Any) -> list[str]:
    warnings: list[str] = combine("auto", searched(counts_of(*rows), **facts), None)["warnings"]
    return warnings


def test_ties_and_weak_signals_are_called_out() -> None:
    assert warnings_of(FLAT, RISING, RISING) == ["blocks 1, 2 are equally sensitive (42); the lowest is taken"]
    [weak] = warnings_of(FLAT, (50, 50, 50, 50, 50, 54))
    assert "moves refusals by 4 only, in three differences of 100 answers each" in weak
    assert warnings_of(FLAT, (50, 50, 50, 50, 50, 55)) == []


@pytest.mark.parametrize(
    ("unscaled", "amount"), [(0, "almost none"), (2, "almost none"), (3, None), (97, None), (98, "almost all")]
)
def test_a_model_that_refuses_none_or_all(unscaled: int, amount: str | None) -> None:
    warnings = warnings_of(FLAT, RISING, unscaled=unscaled)
    if amount is None:
        assert warnings == []
    else:
        assert f"refuses {unscaled} of the 100 over-rejection prompts, {amount}" in warnings[0]


def test_workers_that_disagree() -> None:
    [warning] = warnings_of(FLAT, RISING, seen=[49, 50])
    assert "counted 49 and 50 refusals of the unscaled model" in warning


def test_ratios_that_are_missing() -> None:
    result = combine("fisher", None, parted(np.nan, np.nan, np.nan, np.nan))
    assert result["chosen"] == {"block": 1, "how": "default_block"}
    [warning] = result["warnings"]
    assert warning.startswith("no block has a Fisher ratio: its states are not finite (try model.dtype float32)")
    assert "LARF reads block 1 of 4, at 31 % of the depth, instead" in warning
    lost = combine("fisher", None, parted(np.nan, 0.2, left_out=3))
    assert lost["chosen"]["block"] == 1
    assert lost["warnings"][0].startswith("3 reference rows have states that are not finite")

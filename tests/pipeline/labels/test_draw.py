"""The draw is uniform, without replacement, and the same however the corpus lies in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.statistics.selection import random_keys
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.labels.draw import Design, Smallest, design_in, keys_of
from tamis.pipeline.labels.sample import allot

IDS = sample_ids("corpus.jsonl", 0, 20_000)


def test_the_keys_are_even_and_independent_of_the_row() -> None:
    """Chi-square over 100 bins of keys, and of the row numbers of the 2,000 first drawn. The limit is exceeded by
    chance once in a million seeds; the seed is fixed."""
    limit = 182.0
    keys = keys_of(IDS, 7)
    counts = np.bincount((keys >> np.uint64(57)).astype(np.int64) * 100 // 128, minlength=100)
    share = np.bincount(np.arange(128) * 100 // 128, minlength=100) / 128
    assert float(((counts - 20_000 * share) ** 2 / (20_000 * share)).sum()) < limit
    first = np.argsort(keys)[:2_000]
    assert float(((np.bincount(first // 200, minlength=100) - 20) ** 2 / 20).sum()) < limit


def test_seeds_and_the_random_control_draw_other_rows() -> None:
    one, other = keys_of(IDS, 0), keys_of(IDS, 1)
    control = random_keys(IDS, 0)
    for keys in (other, control):
        assert abs(float(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(keys)))[0, 1])) < 0.05
    assert keys_of(IDS[:3], 0).tolist() == one[:3].tolist()


@given(
    keys=st.lists(st.integers(0, 5) | st.integers(0, 2**64 - 1), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    count=st.integers(0, 70),
)
def test_the_smallest_are_those_of_a_sort(keys: list[int], cuts: list[int], count: int) -> None:
    everything = np.array(keys, dtype=np.uint64)
    places, scores = np.arange(len(keys)), np.arange(len(keys), dtype=np.float32) * 2
    found = Smallest(count)
    for part in np.split(places, sorted(cuts)):
        found.add(everything[part], part, scores[part])
    expected = sorted(range(len(keys)), key=lambda place: (keys[place], place))[:count]
    assert found.places.tolist() == expected
    assert found.scores.tolist() == [2 * place for place in expected]


def test_many_rows_are_gathered_in_little_room() -> None:
    keys, found = keys_of(IDS, 1), Smallest(9)
    for turn in range(10):
        for start in range(0, len(IDS), 1_000):
            places = np.arange(start, start + 1_000) + turn * len(IDS)
            found.add(keys[start : start + 1_000], places, np.zeros(1_000, np.float32))
    first = np.argsort(keys)[:1].tolist()
    assert found.places.tolist() == [first[0] + turn * len(IDS) for turn in range(9)]


@given(populations=st.lists(st.integers(0, 50), min_size=1, max_size=3), count=st.integers(0, 160))
def test_allotting_is_even_and_complete(populations: list[int], count: int) -> None:
    if count > sum(populations):
        with pytest.raises(ValueError, match="to be drawn"):
            allot(count, populations)
        return
    taken = allot(count, populations)
    assert sum(taken) == count
    assert all(one <= size for one, size in zip(taken, populations, strict=True))
    free = [one for one, size in zip(taken, populations, strict=True) if one < size]
    assert max(free, default=0) - min(free, default=0) <= 1
    assert max(taken) <= min(free, default=max(taken)) + 1


# --- what a sheet says of its rows ------------------------------------------------------------------------------------


def sheet(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "sheet.jsonl"
    path.write_text("".join(json.dumps({"row": number, "harmful": 0, **row}) + "\n" for number, row in enumerate(rows)))
    return str(path)


def row(**changes: Any) -> dict[str, Any]:
    return {"stratum": "all", "population": 9, "sampled": 3, "seed": 4, **changes}


def test_the_design_is_read(tmp_path: Path) -> None:
    assert design_in(sheet(tmp_path, row(), row()), {}) == Design(4, {"all": 3}, {"all": 9})
    # As a spreadsheet may write numbers.
    assert design_in(sheet(tmp_path, row(seed="4.0", sampled=3.0)), {}) == Design(4, {"all": 3}, {"all": 9})
    by_column = sheet(tmp_path, row(stratum="asks=a=yes"), row(stratum="asks=a=no", sampled=5))
    found = design_in(by_column, {})
    assert found == Design(4, {"asks=a=yes": 3, "asks=a=no": 5}, {"asks=a=yes": 9, "asks=a=no": 9})
    assert found.column == "asks=a"


@pytest.mark.parametrize(
    "nothing",
    [{}, {"seed": 4}, {"seed": 4, "sampled": 3, "stratum": "all"}, {"seed": "x", "sampled": 3, "stratum": "all"}],
)
def test_labels_may_say_nothing_of_it(tmp_path: Path, nothing: dict[str, Any]) -> None:
    assert design_in(sheet(tmp_path, nothing), {}) is None


@pytest.mark.parametrize("other", [{"seed": 5}, {"sampled": 4}, {"population": 8}, {"stratum": "asks=yes"}])
def test_two_draws_in_one_file_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="more than one draw"):
        design_in(sheet(tmp_path, row(), row(**other)), {})


def test_rows_that_were_added_by_hand_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 rows of .* do not say how they were drawn"):
        design_in(sheet(tmp_path, row(), {}), {})

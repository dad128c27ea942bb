from __future__ import annotations

import math

import numpy as np
import pytest
from cutting import drop
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.statistics.ranking import Cut
from tamis.operators.statistics.selection import (
    Threshold,
    decide,
    drop_count_of,
    random_keys,
    threshold_for,
    tie_quotas,
)


@given(
    values=st.lists(
        st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, math.inf]) | st.floats(width=32, allow_nan=False),
        max_size=30,
    ),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_any_sharding_drops_what_a_stable_sort_drops(values: list[float], cuts: list[int], data: st.DataObject) -> None:
    scores = np.array(values, np.float32)
    count = data.draw(st.integers(0, len(scores)))
    dropped = drop(np.split(scores, sorted(min(cut, len(scores)) for cut in cuts)), count)
    naive = sorted(range(len(scores)), key=lambda row: -float(scores[row]))[:count]
    assert set(np.flatnonzero(dropped)) == set(naive)
    assert dropped.sum() == count


@given(hundredths=st.integers(0, 100), total=st.integers(0, 10**12))
def test_drop_count_is_the_exact_floor(hundredths: int, total: int) -> None:
    assert drop_count_of(hundredths / 100, total) == hundredths * total // 100


def test_drop_count_of_known_float_traps() -> None:
    assert drop_count_of(0.1, 30) == 3
    assert drop_count_of(0.29, 100) == 29
    assert drop_count_of(0.57, 100) == 57
    assert drop_count_of(1e-05, 100_000) == 1
    assert drop_count_of(1, 7) == 7
    assert drop_count_of(np.float64(0.1), 30) == 3


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_shares_outside_0_to_1(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        drop_count_of(share, 10)


def test_a_plain_threshold_keeps_what_equals_it() -> None:
    scores = np.array([0.5, 0.25, 0.75, 0.5], np.float32)
    assert decide(scores, Threshold(0.5)).tolist() == [False, False, True, False]


def test_a_threshold_is_compared_as_an_exact_number() -> None:
    score = np.array([0.1], np.float32)  # 0.100000001490116...
    assert decide(score, Threshold(0.1)).tolist() == [True]
    assert decide(score, Threshold(float(score[0]))).tolist() == [False]
    assert decide(np.array([3e38, np.inf], np.float32), Threshold(1e300)).tolist() == [False, True]


def test_zeros_of_either_sign_tie() -> None:
    scores = np.array([-0.0, 0.0, -0.0], np.float32)
    assert drop([scores], 2).tolist() == [True, True, False]


def test_refusals() -> None:
    scores = np.array([1.0, 1.0], np.float32)
    with pytest.raises(ValueError, match="NaN"):
        decide(np.array([np.nan], np.float32), Threshold(0.0))
    with pytest.raises(ValueError, match="NaN"):
        Threshold(math.nan)
    with pytest.raises(ValueError, match="at_quota"):
        decide(scores, Threshold(1.0), 1)
    with pytest.raises(ValueError, match="2 scores here"):
        decide(scores, Threshold(1.0, 5), 3)
    with pytest.raises(ValueError, match="3 rows are to be dropped at the cut, 2"):
        tie_quotas([1, 1], 3)
    with pytest.raises(ValueError, match="negative"):
        tie_quotas([1, 1], -1)
    with pytest.raises(ValueError, match="rank 4"):
        threshold_for(4, Cut(1.0, 0, 3))
    with pytest.raises(ValueError, match="rank 2"):
        threshold_for(2, None)


def test_tie_quotas_fill_shards_in_order() -> None:
    assert tie_quotas([2, 0, 3, 4], 4) == [2, 0, 2, 0]
    assert tie_quotas([], 0) == []


def test_random_keys_depend_on_id_and_seed_alone() -> None:
    ids = [f"{i:016x}" for i in range(20_000)]
    keys = random_keys(ids, 7)
    assert keys.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([random_keys(ids[:5], 7), random_keys(ids[5:], 7)]), keys)
    assert abs(np.corrcoef(keys, random_keys(ids, 8))[0, 1]) < 0.03
    assert len(random_keys([], 7)) == 0


def test_random_keys_are_uniform() -> None:
    keys = random_keys([str(i) for i in range(50_000)], -1)
    assert keys.min() >= 0
    assert keys.max() < 1
    counts, _ = np.histogram(keys, bins=20, range=(0, 1))
    assert np.sum((counts - 2500) ** 2 / 2500) < 50  # chi-squared, 19 degrees of freedom: p about 1e-4
    assert len(set(keys.tolist())) > 49_800


def test_random_keys_never_change() -> None:
    """A corpus written by an older version must be reproducible."""
    assert random_keys(["a", "b"], 0).tolist() == PINNED


PINNED = [0.31097859144210815, 0.2498244047164917]

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tamis.operators.methods.toss_statistics import (
    POSITION_BINS,
    SHARE_BINS,
    ByPosition,
    BySample,
    ByToken,
    RiskHistogram,
    position_bins,
    position_starts,
)

EDGES = np.array([-1.0, 0.0, 0.5, 2.0])
LENGTHS = [3, 0, 1, 200, 64, 65, 0, 20, 20]


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *LENGTHS], dtype=np.int64)
    total = int(offsets[-1])
    discarded = rng.random(total) < 0.2
    discarded[0:3] = True  # one emptied sample
    discarded[offsets[7] : offsets[9]] = False
    discarded[offsets[7] : offsets[7] + 3] = True  # a share of exactly 0.15
    return rng.normal(size=total).astype(np.float32), discarded, offsets, rng.integers(0, 50, total)


def test_risk_histogram() -> None:
    risk, discarded, *_ = sample()
    risk[:2] = (0.5, -0.0)  # edges belong to the bin above
    found = RiskHistogram.of(risk, discarded, EDGES)
    bounds = [-np.inf, *EDGES, np.inf]
    for j, (low, high) in enumerate(itertools.pairwise(bounds)):
        inside = [low <= float(value) < high for value in risk]
        assert found.counts[j] == sum(inside)
        assert found.discarded[j] == sum(a and b for a, b in zip(inside, discarded, strict=True))
    with pytest.raises(ValueError, match="different edges"):
        found + RiskHistogram.of(risk, discarded, EDGES[1:])


def test_by_position() -> None:
    risk, discarded, offsets, _ = sample()
    found = ByPosition.of(risk, discarded, offsets)
    counts, sums, lost = np.zeros(POSITION_BINS, int), np.zeros(POSITION_BINS), np.zeros(POSITION_BINS, int)
    for start, stop in itertools.pairwise(offsets):
        for place in range(stop - start):
            j = place if place < 64 else 64 + (int(place).bit_length() - 7)
            counts[j] += 1
            sums[j] += float(risk[start + place])
            lost[j] += discarded[start + place]
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.risk, sums, rtol=1e-12)
    np.testing.assert_array_equal(found.discarded, lost)


def test_position_bins_begin_where_they_say() -> None:
    starts = position_starts()
    np.testing.assert_array_equal(position_bins(starts), np.arange(POSITION_BINS))
    np.testing.assert_array_equal(position_bins(starts[1:] - 1), np.arange(POSITION_BINS - 1))
    assert position_bins(np.array([2**40])).tolist() == [POSITION_BINS - 1]


def test_by_sample() -> None:
    _, discarded, offsets, _ = sample()
    found = BySample.of(discarded, offsets)
    counts, emptied = np.zeros(SHARE_BINS, int), 0
    for start, stop in itertools.pairwise(offsets):
        if stop > start:
            lost = int(discarded[start:stop].sum())
            counts[min(20 * lost // int(stop - start), 19)] += 1
            emptied += lost == stop - start
    np.testing.assert_array_equal(found.counts, counts)
    assert found.emptied == emptied >= 1
    assert BySample.of(discarded[offsets[7] : offsets[8]], np.array([0, 20])).counts[3] == 1


def test_by_token() -> None:
    _, discarded, _, ids = sample()
    found = ByToken.of(ids.astype(np.int32), discarded, 60)
    assert found.counts.tolist() == [ids.tolist().count(token) for token in range(60)]
    assert found.discarded.tolist() == [ids[discarded].tolist().count(token) for token in range(60)]
    for bad in (60, -1):
        with pytest.raises(ValueError, match=r"outside 0\.\.59"):
            ByToken.of(np.array([1, bad]), np.array([True, False]), 60)


def everything(risk: np.ndarray, discarded: np.ndarray, offsets: np.ndarray, ids: np.ndarray) -> list[Any]:
    return [
        RiskHistogram.of(risk, discarded, EDGES),
        ByPosition.of(risk, discarded, offsets),
        BySample.of(discarded, offsets),
        ByToken.of(ids, discarded, 60),
    ]


@pytest.mark.parametrize("row", [0, 1, 4, len(LENGTHS)])
def test_shards_add_up(row: int) -> None:
    risk, discarded, offsets, ids = sample()
    cut = offsets[row]
    first = everything(risk[:cut], discarded[:cut], offsets[: row + 1], ids[:cut])
    second = everything(risk[cut:], discarded[cut:], offsets[row:] - cut, ids[cut:])
    for whole, a, b in zip(everything(risk, discarded, offsets, ids), first, second, strict=True):
        merged = a + b
        for name in vars(whole):
            np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12)

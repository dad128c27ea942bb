"""AUROC within folds against counting pairs, and what it says of scores that know something and nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tamis.operators.statistics import telling
from tamis.operators.statistics.telling import LENGTH_RATIO, Fold, tell


@pytest.fixture(autouse=True, scope="module")
def fewer_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telling, "RESAMPLES", 100)
        yield


SCORES = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0])
LENGTHS = st.integers(1, 40)


@st.composite
def folds(draw: st.DrawFn) -> list[Fold]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        p, n = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        found.append(
            Fold(*(draw(arrays(np.float64, k, elements=SCORES)) for k in (p, n)),
                 *(draw(arrays(np.int64, k, elements=LENGTHS)) for k in (p, n)))
        )  # fmt: skip
    return found


def naive(found: list[Fold], *, lengths: bool = False, equal: bool = False) -> float:
    """Pairs won over pairs, counted one by one."""
    won = total = 0.0
    for fold in found:
        rows = (zip(fold.positive, fold.positive_lengths, strict=True), zip(fold.negative, fold.negative_lengths,
                                                                            strict=True))  # fmt: skip
        for (a, long), (b, other) in itertools.product(*rows):
            if equal and max(long, other) > LENGTH_RATIO * min(long, other):
                continue
            x, y = (long, other) if lengths else (a, b)
            won += 1.0 if x > y else 0.5 if x == y else 0.0
            total += 1
    return won / total if total else math.nan


@settings(max_examples=60)
@given(found=folds())
def test_the_figures_are_shares_of_pairs(found: list[Fold]) -> None:
    if math.isnan(naive(found)):
        with pytest.raises(ValueError, match="both sides"):
            tell(found)
        return
    told = tell(found)
    by_length = naive(found, lengths=True)
    assert told.auroc.value == pytest.approx(naive(found), abs=1e-12)
    assert told.length.value == pytest.approx(max(by_length, 1 - by_length), abs=1e-12)
    assert told.longer == (by_length >= 0.5)
    assert told.better_by.value == pytest.approx(told.auroc.value - told.length.value, abs=1e-12)
    for figure in (told.auroc, told.length):
        assert 0 <= figure.low <= figure.high <= 1


@settings(max_examples=40)
@given(found=folds())
def test_equal_lengths_are_pairs_of_equal_length(found: list[Fold]) -> None:
    if math.isnan(naive(found)):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telling, "ENOUGH_PAIRS", 1)
        patch.setattr(telling, "ENOUGH_ROWS", 1)
        told = tell(found)
    expected = naive(found, equal=True)
    assert (told.equal_length is None) == math.isnan(expected) == (told.equal_pairs == 0)
    if told.equal_length is not None:
        assert told.equal_length.value == pytest.approx(expected, abs=1e-12)


def spearman_in_one_fold(a: Any, b: Any) -> float:
    def ranks(values: Any) -> Any:
        return np.array([np.mean([(y < x) + 0.5 * (y == x) for y in values]) for x in values])

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.floats(-3, 3), st.booleans(), st.integers(1, 9)), min_size=4, max_size=20),
)
def test_partial_spearman_is_the_correlation_of_what_a_line_in_the_length_leaves(
    rows: list[tuple[float, bool, int]],
) -> None:
    score, side, length = (np.array(column) for column in zip(*rows, strict=True))
    if side.all() or not side.any():
        return
    told = tell([Fold(score[side], score[~side], length[side], length[~side])])
    order = np.concatenate([np.flatnonzero(side), np.flatnonzero(~side)])
    if len(set(score)) == 1:
        assert told.spearman is None is told.partial_spearman
        return
    assert told.spearman == pytest.approx(spearman_in_one_fold(score[order], side[order]), abs=1e-9)
    if len(set(length)) == 1:
        assert told.partial_spearman == told.spearman
        return
    ranks = [_midranks(x[order]) for x in (score, side, length)]
    line = np.stack([np.ones(len(rows)), ranks[2]], axis=1)
    left = [x - line @ np.linalg.lstsq(line, x, rcond=None)[0] for x in ranks[:2]]
    if min(np.std(x) for x in left) < 1e-6:
        return
    assert told.partial_spearman == pytest.approx(float(np.corrcoef(*left)[0, 1]), abs=1e-6)


def _midranks(values: Any) -> Any:
    return np.array([np.sum(values < x) + (np.sum(values == x) + 1) / 2 for x in values], dtype=np.float64)


def drawn(rng: np.random.Generator, shift: float, per_length: float = 0.0, *, more: int = 0) -> list[Fold]:
    """Five folds of 20 positive and 80 negative rows; the score is noise, a shift for the positive, and the length."""
    found = []
    for _ in range(5):
        lengths = [rng.integers(10, 200, 20) + more, rng.integers(10, 200, 80)]
        noise = [rng.normal(size=20) + shift, rng.normal(size=80)]
        found.append(Fold(*(x + per_length * y for x, y in zip(noise, lengths, strict=True)), *lengths))
    return found


def test_a_bootstrap_interval_covers_what_a_random_score_has() -> None:
    rng = np.random.default_rng(3)
    inside = [told.auroc.low <= 0.5 <= told.auroc.high for told in (tell(drawn(rng, 0.0)) for _ in range(60))]
    assert sum(inside) >= 52


def test_a_score_of_its_own_is_better_than_length_and_a_length_is_not() -> None:
    rng = np.random.default_rng(4)
    own = tell(drawn(rng, 2.0, more=40))
    assert own.better_by.low > 0
    assert own.equal_length is not None
    assert own.equal_length.low > 0.8
    assert own.partial_spearman is not None
    assert own.partial_spearman > 0.4
    length = tell(drawn(rng, 0.0, per_length=10.0, more=150))
    assert length.auroc.low > 0.8
    assert length.better_by.low <= 0 <= length.better_by.high + 0.01
    assert length.equal_length is not None
    assert length.equal_length.value < 0.75
    assert length.partial_spearman is not None
    assert abs(length.partial_spearman) < 0.2


def test_shorter_rows_count_as_well_told_by_length() -> None:
    found = [Fold(np.zeros(9), np.zeros(9), np.arange(1, 10), np.arange(100, 109))]
    told = tell(found)
    assert (told.length.value, told.longer) == (1.0, False)
    assert told.auroc.value == 0.5
    assert told.equal_length is None
    assert told.equal_pairs == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        tell([Fold(np.array([bad]), np.array([0.0]), np.array([1]), np.array([1]))])


def test_the_same_folds_give_the_same_interval() -> None:
    found = drawn(np.random.default_rng(5), 0.5)
    assert tell(found) == tell(found)
    assert tell(found, seed=1).auroc.low != tell(found).auroc.low

"""Certified cuts against their definition in exact fractions, and the guarantee against simulated pools."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.statistics.certify import (
    LOOSEST,
    MOST_LABELS,
    KeepSet,
    Walk,
    chance,
    fewest_labels,
    grid,
    place_of,
    safe_share,
    walk,
)


def exact_chance(found: int, size: int, harmful: int, drawn: int) -> Fraction:
    """The definition, summed over all ways to draw."""
    ways = [math.comb(harmful, k) * math.comb(size - harmful, drawn - k) for k in range(min(found, drawn) + 1)]
    return Fraction(sum(ways), math.comb(size, drawn))


def quantile(scores: np.ndarray, share: Fraction) -> Fraction:
    """By linear interpolation, in exact fractions."""
    ordered = sorted(Fraction(float(score)) for score in scores)
    place = share * (len(ordered) - 1)
    below = ordered[math.floor(place)]
    return below + (place - math.floor(place)) * (ordered[math.ceil(place)] - below)


def naive(pool: np.ndarray, harmful: np.ndarray, drawn: np.ndarray, alpha: str, delta: float) -> list[tuple]:
    """Section by section as the method is written, on the whole pool. drawn: places of the labelled rows."""
    steps = []
    for share in (Fraction(p, 100) for p in range(15, 75, 5)):
        cut = quantile(pool, share)
        inside = [i for i in range(len(pool)) if Fraction(float(pool[i])) <= cut]
        labelled = [i for i in drawn if i in inside]
        found = sum(bool(harmful[i]) for i in labelled)
        beyond = math.floor(Fraction(alpha) * len(inside)) + 1
        p_value = exact_chance(found, len(inside), beyond, len(labelled)) if beyond <= len(inside) else Fraction(0)
        steps.append((len(inside), len(labelled), found, p_value))
        if p_value > delta:
            break
    return steps


def sets_of(pool: np.ndarray, loosest: Fraction = LOOSEST) -> list[KeepSet]:
    ordered = np.sort(pool)
    cuts = [(share, float(ordered[place_of(share, len(pool))])) for share in grid(loosest)]
    return [KeepSet(share, cut, int((pool <= cut).sum())) for share, cut in cuts]


def walked(pool: np.ndarray, harmful: np.ndarray, drawn: np.ndarray, alpha: float, delta: float) -> Walk:
    return walk(sets_of(pool), pool[drawn], harmful[drawn], alpha, delta)


# --- against the definition -------------------------------------------------------------------------------------------


@given(data=st.data(), size=st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_the_chance_is_the_sum_over_all_draws(data: st.DataObject, size: int) -> None:
    harmful, drawn = data.draw(st.integers(0, size)), data.draw(st.integers(0, size))
    found = data.draw(st.integers(0, drawn))
    expected = float(exact_chance(found, size, harmful, drawn))
    assert chance(found, size, harmful, drawn) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("found", "size", "harmful", "drawn"),
    [
        (12, 10**9, 10**8 + 1, 400),
        (0, 10**9, 10**8 + 1, 20_000),
        (90, 3_000, 301, 1_000),
        (1_400, 15_000, 1_501, 14_500),
    ],
)
def test_large_numbers_lose_nothing(found: int, size: int, harmful: int, drawn: int) -> None:
    """The second is far below the smallest float."""
    exact = exact_chance(found, size, harmful, drawn)
    assert chance(found, size, harmful, drawn) == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


@given(
    scores=st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -3.0, 1e-45]) | st.floats(width=32, allow_nan=False),
                    min_size=1, max_size=40),
    data=st.data(),
    alpha=st.sampled_from(["0", "0.05", "0.1", "0.29", "0.3", "1"]),
    delta=st.sampled_from([0.05, 0.1, 0.5]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_walk_is_the_naive_one(scores: list[float], data: st.DataObject, alpha: str, delta: float) -> None:
    pool = np.array([score for score in scores if math.isfinite(score)] or [0.0], np.float32)
    flags = st.lists(st.booleans(), min_size=len(pool), max_size=len(pool))
    harmful, chosen = np.array(data.draw(flags)), np.array(data.draw(flags))
    drawn = np.flatnonzero(chosen)
    found = walked(pool, harmful, drawn, float(alpha), delta)
    expected = naive(pool, harmful, drawn, alpha, delta)
    assert [(s.kept.size, s.labelled, s.harmful) for s in found.steps] == [step[:3] for step in expected]
    assert [s.p_value for s in found.steps] == pytest.approx([float(step[3]) for step in expected], rel=1e-12)
    assert all(s.passed for s in found.steps[:-1])


@given(total=st.integers(1, 5_000), share=st.sampled_from(grid(Fraction(1))))
@settings(max_examples=200, deadline=None)
def test_the_place_is_that_of_the_quantile(total: int, share: Fraction) -> None:
    pool = np.arange(total, dtype=np.float64)
    assert place_of(share, total) == math.floor(quantile(pool[:200], share)) if total <= 200 else True
    assert place_of(share, total) == math.floor(Fraction(share) * (total - 1))
    # numpy's own quantile rounds share * (total - 1) in float64, which may fall just below a whole number.
    assert np.quantile(pool, float(share)) == pytest.approx(float(share * (total - 1)))


@given(labelled=st.integers(0, 120), data=st.data(), delta=st.sampled_from([0.01, 0.05, 0.1, 0.5]))
@settings(max_examples=150, deadline=None)
def test_the_safe_share_solves_its_equation(labelled: int, data: st.DataObject, delta: float) -> None:
    safe = data.draw(st.integers(0, labelled))
    bound = safe_share(safe, labelled, delta)
    if safe == 0:
        assert bound == 0.0
        return
    share = Fraction(bound)
    tail = sum(math.comb(labelled, k) * share**k * (1 - share) ** (labelled - k) for k in range(safe, labelled + 1))
    assert float(tail) == pytest.approx(delta, rel=1e-9)


# --- the ends ---------------------------------------------------------------------------------------------------------

POOL = np.arange(1_000, dtype=np.float32)


def test_without_labels_nothing_is_certified() -> None:
    found = walked(POOL, np.zeros(1_000, bool), np.array([], int), 0.1, 0.1)
    assert (found.best, len(found.steps), found.steps[0].p_value) == (None, 1, 1.0)


def test_where_all_is_harmful_nothing_is_certified() -> None:
    found = walked(POOL, np.ones(1_000, bool), np.arange(0, 1_000, 2), 0.1, 0.1)
    assert (found.best, len(found.steps)) == (None, 1)


def test_where_nothing_is_harmful_the_loosest_set_is_kept() -> None:
    best = walked(POOL, np.zeros(1_000, bool), np.arange(0, 1_000, 2), 0.1, 0.1).best
    assert best is not None
    assert (best.kept.share, best.kept.size, best.kept.threshold) == (Fraction(7, 10), 700, 699.0)


def test_alpha_one_allows_everything_even_without_labels() -> None:
    best = walked(POOL, np.ones(1_000, bool), np.array([], int), 1.0, 0.1).best
    assert best is not None
    assert best.kept.share == LOOSEST


@pytest.mark.parametrize(("labelled", "passes"), [(134, False), (135, True)])
def test_alpha_zero_needs_nearly_every_row_labelled(labelled: int, passes: bool) -> None:
    """With one harmful row in 150, it is missed with probability 1 - labelled / 150."""
    found = walked(POOL, np.zeros(1_000, bool), np.arange(labelled), 0.0, 0.1)
    assert found.steps[0].p_value == pytest.approx(1 - labelled / 150)
    assert found.steps[0].passed == passes


def test_ties_make_a_set_larger_than_its_share() -> None:
    tied = np.zeros(100, np.float32)
    best = walked(tied, np.zeros(100, bool), np.arange(50), 0.1, 0.1).best
    assert best is not None
    assert (best.kept.size, best.kept.threshold) == (100, 0.0)


def test_the_walk_never_goes_past_a_set_that_fails() -> None:
    harmful = np.zeros(1_000, bool)
    harmful[:30] = True  # the safest rows are the harmful ones: every later set would pass
    found = walked(POOL, harmful, np.arange(0, 1_000, 2), 0.1, 0.1)
    assert found.best is None
    assert len(found.steps) == 1
    late = walk(sets_of(POOL)[5:], POOL[::2], harmful[::2], 0.1, 0.1)
    assert late.best is not None


def test_alpha_times_size_is_taken_as_written() -> None:
    """0.29 * 100 is 28.999... in floating point; 29 harmful rows are allowed, and 30 are not."""
    kept = [KeepSet(Fraction(15, 100), 99.0, 100)]
    scores, harmful = np.arange(100, dtype=np.float32), np.zeros(100, bool)
    harmful[:29] = True
    assert walk(kept, scores, harmful, 0.29, 0.1).best is not None
    harmful[29] = True
    assert walk(kept, scores, harmful, 0.29, 0.1).best is None


def test_a_looser_walk_begins_as_the_shorter_one() -> None:
    rng = np.random.default_rng(3)
    harmful, drawn = rng.random(1_000) < 0.02, rng.permutation(1_000)[:400]
    short = walk(sets_of(POOL), POOL[drawn], harmful[drawn], 0.1, 0.1)
    long = walk(sets_of(POOL, Fraction(1)), POOL[drawn], harmful[drawn], 0.1, 0.1)
    assert long.steps[: len(short.steps)] == short.steps
    assert long.best is not None
    assert long.best.kept.size == 1_000


@pytest.mark.parametrize(
    ("alpha", "delta", "said"),
    [(-0.1, 0.1, "alpha"), (1.1, 0.1, "alpha"), (math.nan, 0.1, "alpha"), (0.1, 0.0, "delta"), (0.1, 1.0, "delta"),
     (0.1, math.nan, "delta")],
)  # fmt: skip
def test_rates_outside_their_ranges_are_refused(alpha: float, delta: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        walked(POOL, np.zeros(1_000, bool), np.arange(9), alpha, delta)
    with pytest.raises(ValueError, match=said):
        fewest_labels(100, alpha, delta)


def test_what_no_pool_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        walk(sets_of(POOL), np.array([np.nan]), np.array([False]), 0.1, 0.1)
    with pytest.raises(ValueError, match="one of each"):
        walk(sets_of(POOL), np.zeros(2), np.array([False]), 0.1, 0.1)
    with pytest.raises(ValueError, match="not nested"):
        walk(sets_of(POOL)[::-1], np.zeros(1), np.array([False]), 0.1, 0.1)
    with pytest.raises(ValueError, match="not possible"):
        walk([KeepSet(Fraction(1), 1.0, 1)], np.zeros(2), np.array([False, False]), 0.1, 0.1)
    with pytest.raises(ValueError, match="nothing to keep"):
        place_of(Fraction(1, 2), 0)
    with pytest.raises(ValueError, match="not possible"):
        safe_share(3, 2, 0.1)


@pytest.mark.parametrize("loosest", [Fraction(1, 10), Fraction(72, 100), Fraction(105, 100), Fraction(0)])
def test_shares_that_are_not_tried_are_refused(loosest: Fraction) -> None:
    with pytest.raises(ValueError, match=r"0\.15, 0\.2"):
        grid(loosest)


def test_the_shares_that_are_tried() -> None:
    assert [float(share) for share in grid()] == [0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    assert len(grid(Fraction(1))) == 18


# --- how many labels it takes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "labels"), [(0.1, 22), (0.05, 45)])
def test_the_fewest_labels_without_a_harmful_row(alpha: float, labels: int) -> None:
    assert fewest_labels(10**9, alpha, 0.1) == labels


@given(size=st.integers(1, 400), alpha=st.sampled_from([0.0, 0.05, 0.1, 0.5]), delta=st.sampled_from([0.05, 0.3]))
@settings(max_examples=100, deadline=None)
def test_one_label_less_is_not_enough(size: int, alpha: float, delta: float) -> None:
    labels = fewest_labels(size, alpha, delta)
    assert labels is not None
    beyond = math.floor(Fraction(str(alpha)) * size) + 1
    assert exact_chance(0, size, beyond, labels) <= Fraction(str(delta))
    assert labels == 0 or exact_chance(0, size, beyond, labels - 1) > Fraction(str(delta))


def test_harmful_rows_among_the_labels_take_more_of_them() -> None:
    few, more = fewest_labels(10**6, 0.1, 0.1), fewest_labels(10**6, 0.1, 0.1, rate=0.05)
    assert few is not None
    assert more is not None
    assert few < more
    assert chance(math.ceil(0.05 * more), 10**6, 10**5 + 1, more) <= 0.1
    assert fewest_labels(10**6, 0.1, 0.1, rate=0.1) == 10**6  # then all of them are known
    assert fewest_labels(10**6, 0.1, 0.1, rate=0.11) is None
    assert fewest_labels(10**9, 0.1, 0.1, rate=0.0999) is None
    assert fewest_labels(10**9, 1e-8, 0.1) is None
    assert MOST_LABELS < 10**9


# --- the guarantee ----------------------------------------------------------------------------------------------------


def violations(rng: np.random.Generator, pools: int, *, alpha: float, delta: float) -> tuple[int, int]:
    """(pools in which the answer held more than alpha harmful, pools with an answer). The scores say nothing, and one
    row more than is allowed is harmful in every set: the hardest case."""
    size, drawn, wrong, answered = 400, 150, 0, 0
    pool = np.arange(size, dtype=np.float32)
    sets = sets_of(pool)
    for _ in range(pools):
        harmful, start = np.zeros(size, bool), 0
        for kept in sets:  # each set gets just as many as make it one too many
            short = math.floor(Fraction(str(alpha)) * kept.size) + 1 - int(harmful[: kept.size].sum())
            harmful[start + rng.permutation(kept.size - start)[:short]] = True
            start = kept.size
        chosen = rng.permutation(size)[:drawn]
        best = walk(sets, pool[chosen], harmful[chosen], alpha, delta).best
        if best is not None:
            answered += 1
            wrong += int(harmful[: best.kept.size].sum()) > alpha * best.kept.size
    return wrong, answered


@pytest.mark.parametrize(("alpha", "delta"), [(0.1, 0.1), (0.2, 0.05)])
def test_the_guarantee_holds_in_the_hardest_pools(alpha: float, delta: float) -> None:
    pools = 800
    wrong, _ = violations(np.random.default_rng(17), pools, alpha=alpha, delta=delta)
    assert wrong <= delta * pools + 3 * math.sqrt(delta * (1 - delta) * pools)
    # And it is used up: a rule that lets pass what this one does not would be found out here.
    assert wrong >= delta * pools / 4


@pytest.mark.parametrize(("apart", "certified"), [(0.2, (0.0, 0.05)), (2.2, (0.9, 1.0))])
def test_what_is_certified_depends_on_the_scores(apart: float, certified: tuple[float, float]) -> None:
    """A quarter is harmful. Scores near chance certify nothing, good ones nearly always something."""
    rng, size, pools, answers = np.random.default_rng(5), 1_000, 500, 0
    wrong = 0
    for _ in range(pools):
        harmful = np.arange(size) < size // 4
        pool = (rng.normal(size=size) + apart * harmful).astype(np.float32)
        chosen = rng.permutation(size)[:400]
        best = walk(sets_of(pool), pool[chosen], harmful[chosen], 0.1, 0.1).best
        if best is not None:
            answers += 1
            wrong += bool(harmful[pool <= best.kept.threshold].mean() > 0.1)
    assert certified[0] <= answers / pools <= certified[1]
    assert wrong <= 0.1 * pools + 3 * math.sqrt(0.09 * pools)

"""Figures of scores against labels, each against one written out in float64 over all pairs or all cuts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tamis.operators.statistics.labelled import Ranking, Within, interval, resamples, share_interval

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
rows = st.lists(st.tuples(st.sampled_from([-1.5, 0.0, 0.25, 2.0, 3.5]), st.booleans(), st.integers(0, 3)), max_size=30)
quick = settings(max_examples=150, deadline=None)


def split(drawn: list[tuple[float, bool, int]]) -> tuple[Floats, Bools, npt.NDArray[np.int64]]:
    scores, harmful, weights = (list(each) for each in zip(*drawn, strict=True)) if drawn else ([], [], [])
    return np.array(scores, float), np.array(harmful, bool), np.array(weights, np.int64)


def repeated(scores: Floats, harmful: Bools, weights: npt.NDArray[np.int64]) -> tuple[list[float], list[bool]]:
    return np.repeat(scores, weights).tolist(), np.repeat(harmful, weights).tolist()


def naive_auroc(scores: list[float], harmful: list[bool]) -> float:
    bad = [score for score, label in zip(scores, harmful, strict=True) if label]
    good = [score for score, label in zip(scores, harmful, strict=True) if not label]
    if not bad or not good:
        return math.nan
    return math.fsum((b > g) + 0.5 * (b == g) for b in bad for g in good) / (len(bad) * len(good))


def cuts(scores: list[float], harmful: list[bool]) -> list[tuple[int, int]]:
    """(harmful, harmless) at or above each distinct score, from the highest down."""
    pairs = list(zip(scores, harmful, strict=True))
    return [
        (sum(1 for s, bad in pairs if bad and s >= cut), sum(1 for s, bad in pairs if not bad and s >= cut))
        for cut in sorted(set(scores), reverse=True)
    ]


def naive_average_precision(scores: list[float], harmful: list[bool]) -> float:
    if not any(harmful):
        return math.nan
    total, before = 0.0, 0
    for found, alarms in cuts(scores, harmful):
        total += (found - before) / sum(harmful) * found / (found + alarms)
        before = found
    return total


def naive_false_alarms(scores: list[float], harmful: list[bool], recall_in_hundredths: int) -> float:
    bad, good = sum(harmful), len(harmful) - sum(harmful)
    if not bad or not good:
        return math.nan
    return min(alarms / good for found, alarms in cuts(scores, harmful) if 100 * found >= recall_in_hundredths * bad)


def naive_risk(scores: list[float], harmful: list[bool], coverage: float) -> float:
    """Rows of equal score stay in like parts."""
    if not scores:
        return math.nan
    left = coverage * len(scores)
    bad, kept = 0.0, left
    for score in sorted(set(scores)):
        here = [label for each, label in zip(scores, harmful, strict=True) if each == score]
        part = min(1.0, left / len(here))
        bad, left = bad + part * sum(here), left - part * len(here)
        if left <= 1e-12:
            break
    return bad / kept


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


@quick
@given(rows)
def test_every_figure_equals_its_naive_twin(drawn: list[tuple[float, bool, int]]) -> None:
    scores, harmful, weights = split(drawn)
    ranking = Ranking.of(scores, harmful)
    for counted in (None, weights):
        curve = ranking.curve(counted)
        plain = repeated(scores, harmful, np.ones(len(scores), np.int64) if counted is None else counted)
        assert same(curve.auroc, naive_auroc(*plain))
        assert same(curve.average_precision, naive_average_precision(*plain))
        for recall in (50, 95, 100):
            assert same(curve.false_alarms_at(recall / 100), naive_false_alarms(*plain, recall))
        for coverage in (0.1, 0.5, 0.95, 1.0):
            assert same(curve.risk_at(coverage), naive_risk(*plain, coverage))


@quick
@given(rows, st.integers(0, 2**32 - 1))
def test_scikit_learn_agrees(drawn: list[tuple[float, bool, int]], seed: int) -> None:
    scores, harmful, _ = split(drawn)
    scores = np.concatenate([scores, np.random.default_rng(seed).normal(size=20)])
    harmful = np.concatenate([harmful, np.arange(20) % 3 == 0])
    curve = Ranking.of(scores, harmful).curve()
    assert curve.auroc == pytest.approx(roc_auc_score(harmful, scores), abs=1e-12)
    assert curve.average_precision == pytest.approx(average_precision_score(harmful, scores), abs=1e-12)


@quick
@given(st.lists(rows, max_size=4), st.booleans())
def test_within_strata_counts_pairs_of_one_stratum(drawn: list[list[tuple[float, bool, int]]], weighted: bool) -> None:
    """The rows of the last part are of no stratum."""
    scores, harmful, weights = split([row for part in drawn for row in part])
    strata = np.array([code for code, part in enumerate(drawn) for _ in part], np.int64)
    strata[strata == 3] = -1
    found, apart = Within.of(scores, harmful, strata, 3).auroc(weights if weighted else None)
    in_order, pairs = 0.0, 0
    for code in range(3):
        here = strata == code
        times = weights[here] if weighted else np.ones(here.sum(), np.int64)
        plain = repeated(scores[here], harmful[here], times)
        assert same(apart[code], naive_auroc(*plain))
        count = sum(plain[1]) * (len(plain[1]) - sum(plain[1]))
        in_order += naive_auroc(*plain) * count if count else 0.0
        pairs += count
    assert same(found, in_order / pairs if pairs else math.nan)


def test_a_score_that_is_the_stratum_is_worth_nothing_within_it() -> None:
    strata = np.repeat([0, 1], 50)
    harmful = np.concatenate([np.arange(50) < 5, np.arange(50) < 45])
    assert Ranking.of(strata.astype(float), harmful).curve().auroc == pytest.approx(0.9)
    found, apart = Within.of(strata.astype(float), harmful, strata, 2).auroc()
    assert (found, apart.tolist()) == (0.5, [0.5, 0.5])


def test_one_stratum_is_the_whole_and_no_row_is_nothing() -> None:
    rng = np.random.default_rng(5)
    scores, harmful = np.round(rng.normal(size=200), 1), rng.random(200) < 0.3
    whole = Ranking.of(scores, harmful).curve().auroc
    assert Within.of(scores, harmful, np.zeros(200, np.int64), 1).auroc()[0] == pytest.approx(whole, rel=1e-12)
    found, apart = Within.of(scores[:0], harmful[:0], np.zeros(0, np.int64), 2).auroc()
    assert math.isnan(found)
    assert np.isnan(apart).all()


def test_false_alarms_at_a_share_that_is_a_whole_number_of_rows() -> None:
    """0.95 * 20 is 19, but 0.95 * 20 in floats must not ask for the twentieth."""
    for count in (20, 40, 60, 100, 1000):
        scores = np.arange(2 * count, dtype=float)[::-1]
        harmful = np.arange(2 * count) < count
        order = np.concatenate([np.arange(count * 95 // 100), [count], np.arange(count * 95 // 100, count)])
        ranks = scores[np.arange(len(order))]
        assert Ranking.of(ranks, harmful[order]).curve().false_alarms_at(0.95) == 0.0


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 1.0]])
def test_one_class_only_has_no_auroc(scores: list[float]) -> None:
    curve = Ranking.of(np.array(scores), np.ones(len(scores), bool)).curve()
    assert math.isnan(curve.auroc)
    assert math.isnan(curve.false_alarms_at(0.95))
    assert math.isnan(curve.average_precision) == (not scores)


def test_what_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Ranking.of(np.array([1.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="NaN"):
        Within.of(np.array([1.0, np.nan]), np.array([True, False]), np.zeros(2, np.int64), 1)
    with pytest.raises(ValueError, match="a label and a stratum for each score"):
        Within.of(np.zeros(2), np.array([True, False]), np.zeros(3, np.int64), 1)
    with pytest.raises(ValueError, match="one label for each score"):
        Ranking.of(np.array([1.0, 2.0]), np.array([True]))


def test_infinite_scores_are_scores() -> None:
    scores = np.array([np.inf, np.inf, 0.0, -np.inf])
    assert Ranking.of(scores, np.array([True, False, True, False])).curve().auroc == 2.5 / 4


# --- intervals ----------------------------------------------------------------------------------------------------


def test_resamples_keep_the_classes_and_the_seed() -> None:
    harmful = np.array([True, False, True, False, False])
    drawn = list(resamples(harmful, 20, seed=3))
    assert all(weights[harmful].sum() == 2 and weights[~harmful].sum() == 3 for weights in drawn)
    assert [w.tolist() for w in drawn] == [w.tolist() for w in resamples(harmful, 20, seed=3)]
    assert [w.tolist() for w in drawn] != [w.tolist() for w in resamples(harmful, 20, seed=4)]
    assert next(iter(resamples(np.zeros(3, bool), 1, 0))).sum() == 3


def test_the_bootstrap_covers_the_true_auroc() -> None:
    """Of normal scores one standard deviation apart, AUROC is Phi(1/sqrt 2); 95 % intervals hold it about so often."""
    truth = 0.5 * (1 + math.erf(0.5))
    rng = np.random.default_rng(0)
    harmful = np.arange(160) < 40
    held = 0
    for trial in range(120):
        ranking = Ranking.of(rng.normal(size=160) + harmful, harmful)
        found = interval([ranking.curve(weights).auroc for weights in resamples(harmful, 200, trial)])
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert 0.88 <= held / 120 <= 0.995


def test_interval_of_values() -> None:
    assert interval([math.nan, 1.0]) == (1.0, 1.0)
    assert interval([math.nan]) is None
    assert interval(list(range(1001))) == pytest.approx((25.0, 975.0))


@pytest.mark.parametrize(("hits", "total"), [(0, 1), (0, 20), (3, 20), (20, 20), (95, 100)])
def test_wilsons_interval_solves_its_equation(hits: int, total: int) -> None:
    """Its ends are the shares p with (share - p)^2 = z^2 p (1 - p) / n, cut at 0 and 1."""
    found = share_interval(hits, total)
    assert found is not None
    z = 1.959963984540054
    for end in found:
        if 1e-9 < end < 1 - 1e-9:
            assert (hits / total - end) ** 2 == pytest.approx(z * z * end * (1 - end) / total, rel=1e-9)
    assert found[0] <= hits / total <= found[1]
    assert found[0] < found[1]


def test_no_share() -> None:
    assert share_interval(0, 0) is None
    with pytest.raises(ValueError, match="no share"):
        share_interval(3, 2)

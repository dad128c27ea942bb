from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.methods.protocol import Artifact, Features, reduce_in_process
from tamis.operators.methods.saft import Saft

COLUMN = "block_04.last_token"


def shards(rows: np.ndarray, cuts: list[int] | None = None) -> list[Features]:
    return [{COLUMN: part} for part in np.split(rows, sorted(cuts or []))]


def fit(rows: np.ndarray, cuts: list[int] | None = None, **options) -> Artifact:
    return Saft(layer=4, **options).fit(reduce_in_process({"corpus": shards(rows, cuts)}), 8)


def corpus(seed: int, n: int, d: int, k: int, offset: float) -> np.ndarray:
    """Rows whose first k singular values stand clear of each other and of the rest."""
    rng = np.random.default_rng(seed)
    scales = np.where(np.arange(d) < k, 12.0 * 0.6 ** np.arange(d), 1.0 / (1.0 + 0.1 * np.arange(d)))
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return ((rng.normal(size=(n, d)) * scales) @ rotation + offset).astype(np.float32)


def full_svd_scores(rows: np.ndarray, k: int, weighted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The whole matrix in float64: scores (n,), right singular vectors (k, d), all singular values."""
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
    scores = np.zeros(len(rows))
    for j in range(k):
        scores += (centred @ vectors[j]) ** 2 * (singular[j] if weighted else 1.0)
    return scores / k, vectors[:k], singular


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(60, 150),
    d=st.integers(4, 16),
    k=st.integers(1, 3),
    weighted=st.booleans(),
    offset=st.sampled_from([0.0, 100.0]),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_basis_and_scores_are_the_full_svds_for_any_sharding(
    seed: int, n: int, d: int, k: int, weighted: bool, offset: float, cuts: list[int]
) -> None:
    rows = corpus(seed, n, d, k, offset)
    artifact = fit(rows, cuts, k=k, weighted=weighted)
    expected, vectors, singular = full_svd_scores(rows, k, weighted)

    basis = artifact.arrays["basis"]
    signs = np.sign(np.sum(basis * vectors, axis=1, keepdims=True))
    assert np.linalg.norm(basis * signs - vectors) <= 1e-6 * np.linalg.norm(vectors)
    np.testing.assert_allclose(artifact.arrays["singular_values"], singular[:k], rtol=1e-6)

    method = Saft(layer=4, k=k, weighted=weighted)
    scores = np.concatenate([method.score(artifact, features) for features in shards(rows, cuts)])
    assert scores.dtype == np.float32
    # A score near zero is a square of a difference of large numbers: bounded against the largest score.
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-9 * expected.max())


def test_facts_are_json_and_right() -> None:
    rows = corpus(1, 300, 24, 2, 5.0)
    artifact = fit(rows, [100, 200], k=2)
    _, _, singular = full_svd_scores(rows, 2, False)
    facts = json.loads(json.dumps(artifact.facts))
    np.testing.assert_allclose(facts["explained_variance_ratio"], (singular**2 / np.sum(singular**2))[:10], rtol=1e-9)
    np.testing.assert_allclose(facts["singular_values"], singular[:10], rtol=1e-9)
    assert facts["mean_norm"] == pytest.approx(np.linalg.norm(rows.astype(np.float64).mean(axis=0)))
    assert (facts["count"], facts["layer"], facts["k"]) == (300, 4, 2)
    assert (facts["layer_chosen"], facts["columns"]) == ("job", [COLUMN])
    assert len(fit(corpus(1, 30, 4, 1, 0.0)).facts["explained_variance_ratio"]) == 4


def test_more_directions_than_are_reported() -> None:
    rows = corpus(2, 200, 20, 3, 0.0)
    artifact = fit(rows, k=12)
    assert artifact.arrays["basis"].shape == (12, 20)
    assert len(artifact.facts["explained_variance_ratio"]) == 10
    expected, _, _ = full_svd_scores(rows, 12, False)
    np.testing.assert_allclose(Saft(layer=4, k=12).score(artifact, {COLUMN: rows}), expected, rtol=1e-5)


def test_the_minority_cluster_scores_higher_by_the_squared_odds() -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 6)).astype(np.float32) * 0.01
    rows[:100, 0] += 10
    scores = Saft(layer=4).score(fit(rows), {COLUMN: rows})
    assert scores[:100].min() > scores[100:].max()
    assert scores[:100].mean() / scores[100:].mean() == pytest.approx(81, rel=0.01)


def test_a_frozen_artifact_scores_new_rows_with_the_old_mean() -> None:
    rows = corpus(3, 100, 6, 1, 2.0)
    artifact = fit(rows)
    new = rows[:7] + np.float32(1.0)
    centred = new.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    expected = (centred @ artifact.arrays["basis"][0]) ** 2
    np.testing.assert_allclose(Saft(layer=4).score(artifact, {COLUMN: new}), expected, rtol=1e-6)


def test_scores_beyond_float32_are_infinite() -> None:
    artifact = fit(corpus(4, 50, 4, 1, 0.0))
    assert Saft(layer=4).score(artifact, {COLUMN: np.full((1, 4), 1e30, np.float32)}).tolist() == [np.inf]


def test_empty_shards_are_fine() -> None:
    rows = corpus(5, 40, 5, 1, 0.0)
    artifact = fit(rows, [0, 0, 40])
    np.testing.assert_allclose(artifact.arrays["mean"], rows.astype(np.float64).mean(axis=0))
    assert Saft(layer=4).score(artifact, {COLUMN: rows[:0]}).shape == (0,)


def test_data_that_cannot_support_the_method_is_refused() -> None:
    with pytest.raises(ValueError, match="1 usable rows"):
        fit(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="0 usable rows"):
        fit(np.ones((0, 3), np.float32))
    with pytest.raises(ValueError, match="same representation"):
        fit(np.full((1000, 3), 0.1, np.float32), [7, 300])
    with pytest.raises(ValueError, match=r"k=3: the 3 rows vary in only 2 directions"):
        fit(np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32), k=3)
    with pytest.raises(ValueError, match="3 dimensions"):
        fit(np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32), k=4)
    with pytest.raises(ValueError, match="NaN"):
        fit(np.array([[1.0, np.nan], [1.0, 2.0]], np.float32))


def test_the_smallest_real_variation_is_not_called_constant() -> None:
    rows = np.ones((10_000, 4), np.float32)
    rows[17, 2] = np.nextafter(np.float32(1), np.float32(2))
    scores = Saft(layer=4).score(fit(rows, [5000]), {COLUMN: rows})
    assert scores.argmax() == 17


def test_artifact_of_another_model_is_refused() -> None:
    artifact = fit(corpus(6, 40, 5, 1, 0.0))
    with pytest.raises(ValueError, match="another model"):
        Saft(layer=4).score(artifact, {COLUMN: np.ones((2, 4), np.float32)})
    with pytest.raises(ValueError, match=COLUMN):
        Saft(layer=4).score(artifact, {})


def test_warnings_bear_numbers() -> None:
    method = Saft(layer=4)
    clear = fit(corpus(7, 400, 8, 1, 0.0))
    assert method.warnings(clear, 0.1) == []
    assert "5.4 times" in method.warnings(clear, 0.3)[0]
    assert "none" in method.warnings(clear, 0.5)[0]
    assert "inverted" in method.warnings(clear, 0.6)[0]
    round_cloud = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    (warning,) = method.warnings(fit(round_cloud), 0.1)
    assert "interchangeable" in warning


@pytest.mark.parametrize(("blocks", "block"), [(1, 0), (2, 1), (7, 3), (32, 16)])
def test_auto_is_the_middle_block(blocks: int, block: int) -> None:
    assert Saft().requests(blocks)[0].block == block
    assert Saft.sources() == ()


@pytest.mark.parametrize("k", [0, -1, 1.0, True])
def test_k_is_checked(k: object) -> None:
    with pytest.raises(ValueError, match="k="):
        Saft(k=k)  # type: ignore[arg-type]

"""Matching against a naive loop in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.methods import matching
from tamis.operators.methods.matching import Matching
from tamis.operators.methods.protocol import Artifact, Features, reduce_in_process

COLUMN = "block_03.last_token"


def shards(rows: np.ndarray, cuts: list[int] | None = None) -> list[Features]:
    return [{COLUMN: part} for part in np.split(rows, sorted(cuts or []))]


def fit(unsafe: np.ndarray, cuts: list[int] | None = None, nearest: int = 1) -> Artifact:
    return Matching(layer=3, nearest=nearest).fit(reduce_in_process({"unsafe": shards(unsafe, cuts)}), 8)


def naive(rows: np.ndarray, unsafe: np.ndarray, nearest: int) -> list[float]:
    scores = []
    for row in rows.astype(np.float64):
        cosines = []
        for reference in unsafe.astype(np.float64):
            lengths = np.linalg.norm(row) * np.linalg.norm(reference)
            cosines.append(row @ reference / lengths if lengths else 0.0)
        scores.append(sum(sorted(cosines)[-nearest:]) / nearest)
    return scores


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 30),
    references=st.integers(1, 12),
    d=st.integers(1, 16),
    nearest=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    ties=st.booleans(),
    at_once=st.sampled_from([1, 7, 1 << 22]),
)
def test_scores_are_the_naive_ones(
    seed: int, n: int, references: int, d: int, nearest: int, cuts: list[int], ties: bool, at_once: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, unsafe = (rng.normal(size=(size, d)).astype(np.float32) for size in (n, references))
    if ties:
        unsafe[:] = unsafe[0]
        rows[: n // 2] = 0
    nearest = min(nearest, references)
    artifact = fit(unsafe, [cut for cut in cuts if cut <= references], nearest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_AT_ONCE", at_once)
        scores = Matching(layer=3).score(artifact, {COLUMN: rows})
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, naive(rows, unsafe, nearest), atol=1e-7, rtol=1e-6)


def test_a_reference_matches_itself() -> None:
    unsafe = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    np.testing.assert_allclose(Matching(layer=3).score(fit(unsafe), {COLUMN: 7 * unsafe}), 1, rtol=1e-6)


def test_the_block_by_itself_is_the_last_one() -> None:
    assert [request.column for request in Matching().requests(9)] == ["block_08.last_token"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matching\.nearest=6: there are 5 usable unsafe references"):
        fit(np.ones((5, 2), np.float32), nearest=6)
    with pytest.raises(ValueError, match=r"matching\.nearest=0"):
        Matching(nearest=0)


def test_facts_are_json_and_zero_references_are_told() -> None:
    artifact = fit(np.vstack([np.ones((3, 2)), np.zeros((1, 2))]).astype(np.float32), nearest=2)
    facts = json.loads(json.dumps(artifact.facts))
    assert (facts["references"], facts["nearest"]) == ({"unsafe": 4}, 2)
    assert "2 nearest unsafe references" in Matching.explain(facts)
    [said] = Matching(layer=3).warnings(artifact, 0.1)
    assert said.startswith("1 unsafe references")

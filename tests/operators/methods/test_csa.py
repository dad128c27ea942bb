"""CSA against the formula of the paper, written out in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.methods.csa import Csa
from tamis.operators.methods.protocol import Artifact, Features, reduce_in_process

LAYERS = [1, 3, 4]
COLUMNS = [f"block_{layer:02d}.last_token" for layer in LAYERS]


def drawn(rng: np.random.Generator, n: int, d: int) -> Features:
    return {
        column: ((block + 1) * (rng.normal(size=(n, d)) + 1)).astype(np.float32) for block, column in enumerate(COLUMNS)
    }


def cut(features: Features, at: list[int]) -> list[Features]:
    parts = {column: np.split(rows, sorted(at)) for column, rows in features.items()}
    return [{column: part[i] for column, part in parts.items()} for i in range(len(at) + 1)]


def fit(unsafe: list[Features], safe: list[Features], rank: int = 16) -> Artifact:
    return Csa(layers=LAYERS, rank=rank).fit(reduce_in_process({"unsafe": unsafe, "safe": safe}), 8)


def joined(features: Features, i: int) -> np.ndarray:
    parts = []
    for column in COLUMNS:
        row = features[column][i].astype(np.float64)
        parts.append(row / np.linalg.norm(row))
    whole = np.concatenate(parts)
    return whole / np.linalg.norm(whole)


def naive(corpus: Features, unsafe: Features, safe: Features, rank: int) -> list[float]:
    rows = {
        name: np.stack([joined(side, i) for i in range(len(side[COLUMNS[0]]))])
        for name, side in (("unsafe", unsafe), ("safe", safe))
    }
    rank = min(rank, *(np.linalg.matrix_rank(side, tol=1e-6) for side in rows.values()))
    bases = {name: np.linalg.eigh(side.T @ side)[1][:, ::-1][:, :rank] for name, side in rows.items()}
    scores = []
    for i in range(len(corpus[COLUMNS[0]])):
        c = joined(corpus, i)
        scores.append(np.linalg.norm(bases["unsafe"].T @ c) ** 2 - np.linalg.norm(bases["safe"].T @ c) ** 2)
    return scores


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 20),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    d=st.integers(6, 12),
    rank=st.integers(1, 16),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_scores_are_the_naive_ones_for_any_sharding(
    seed: int, n: int, sizes: tuple[int, int], d: int, rank: int, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    unsafe, safe, corpus = (drawn(rng, size, d) for size in (*sizes, n))
    artifact = fit(cut(unsafe, cuts), [safe], rank)
    scores = Csa(layers=LAYERS).score(artifact, corpus)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, naive(corpus, unsafe, safe, rank), atol=1e-7, rtol=1e-5)
    assert len(artifact.arrays["unsafe"]) == len(artifact.arrays["safe"]) <= min(rank, *sizes)


def test_subspaces_are_not_centred_and_references_lie_in_their_own() -> None:
    rng = np.random.default_rng(3)
    unsafe, safe = drawn(rng, 16, 32), drawn(rng, 16, 32)
    artifact = fit([unsafe], [safe])
    method = Csa(layers=LAYERS)
    assert (method.score(artifact, unsafe) > 0).all()
    assert (method.score(artifact, safe) < 0).all()


def test_equal_references_have_one_direction() -> None:
    rng = np.random.default_rng(4)
    one = {column: np.tile(rows, (5, 1)) for column, rows in drawn(rng, 1, 8).items()}
    artifact = fit([one], [drawn(rng, 5, 8)])
    assert artifact.facts["rank"] == 1
    [said] = Csa(layers=LAYERS).warnings(artifact, 0.1)
    assert "have 1 directions instead of 16" in said


@pytest.mark.parametrize(("blocks", "layers"), [(32, [12, 15, 18]), (8, [3, 4]), (1, [0]), (2, [1]), (10, [4, 5, 6])])
def test_the_blocks_by_themselves(blocks: int, layers: list[int]) -> None:
    assert [request.block for request in Csa().requests(blocks)] == layers


def test_facts_are_json() -> None:
    rng = np.random.default_rng(5)
    facts = json.loads(json.dumps(fit([drawn(rng, 20, 16)], [drawn(rng, 18, 16)]).facts))
    assert (facts["layers"], facts["columns"], facts["rank"]) == (LAYERS, COLUMNS, 16)
    assert facts["references"] == {"unsafe": 20, "safe": 18}


def test_what_cannot_be_is_refused() -> None:
    rng = np.random.default_rng(6)
    some = drawn(rng, 4, 8)
    with pytest.raises(ValueError, match="no usable safe reference"):
        fit([some], [drawn(rng, 0, 8)])
    with pytest.raises(ValueError, match="no usable unsafe reference"):
        fit([{column: 0 * rows for column, rows in some.items()}], [some])
    for layers in ([], [1, 1], [-1], [True], "middle"):
        with pytest.raises(ValueError, match=r"csa\.layers="):
            Csa(layers=layers)
    with pytest.raises(ValueError, match="the model has blocks 0 to 3"):
        Csa(layers=[4]).requests(4)
    with pytest.raises(ValueError, match=r"csa\.rank=0"):
        Csa(rank=0)

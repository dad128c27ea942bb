"""Contrast against a naive loop in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.methods.contrast import Contrast
from tamis.operators.methods.protocol import Artifact, Features, reduce_in_process

COLUMN = "block_03.last_token"


def shards(rows: np.ndarray, cuts: list[int] | None = None) -> list[Features]:
    return [{COLUMN: part} for part in np.split(rows, sorted(cuts or []))]


def drawn(seed: int, n: int, references: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common = 5 * rng.normal(size=d)
    corpus = common + rng.normal(size=(n, d)) * rng.uniform(0.1, 5, size=(n, 1))
    unsafe = common + rng.normal(size=d) + rng.normal(size=(references, d))
    return corpus.astype(np.float32), unsafe.astype(np.float32)


def fit(corpus: np.ndarray, unsafe: np.ndarray, cuts: list[int] | None = None) -> Artifact:
    return Contrast(layer=3).fit(reduce_in_process({"corpus": shards(corpus, cuts), "unsafe": shards(unsafe)}), 8)


def naive(corpus: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
    """One row and one reference at a time: the mean cosine to the references minus the mean cosine to the corpus."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / lengths if lengths else 0.0

    corpus, unsafe = corpus.astype(np.float64), unsafe.astype(np.float64)
    return np.array(
        [
            sum(cosine(row, u) for u in unsafe) / len(unsafe) - sum(cosine(row, z) for z in corpus) / len(corpus)
            for row in corpus
        ]
    )


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 60),
    references=st.integers(1, 20),
    d=st.integers(2, 24),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    zero=st.booleans(),
)
def test_scores_are_the_naive_ones_for_any_sharding(
    seed: int, n: int, references: int, d: int, cuts: list[int], zero: bool
) -> None:
    corpus, unsafe = drawn(seed, n, references, d)
    if zero:
        corpus[0] = 0
    expected = naive(corpus, unsafe)
    artifact = fit(corpus, unsafe, [cut for cut in cuts if cut <= n])
    scores = Contrast(layer=3).score(artifact, {COLUMN: corpus})
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-7, rtol=1e-6)
    np.testing.assert_allclose(
        artifact.arrays["direction"], artifact.arrays["unsafe_mean"] - artifact.arrays["corpus_mean"]
    )


def test_a_harmful_share_of_the_corpus_shortens_the_direction_and_keeps_its_course() -> None:
    """The limits that the docstring and the warning state."""
    rng = np.random.default_rng(0)
    harmless, harmful = np.eye(4)[:2]

    def corpus(share: float) -> np.ndarray:
        rows = np.where((np.arange(1000) < share * 1000)[:, None], harmful, harmless)
        return (rows + 1e-4 * rng.normal(size=rows.shape)).astype(np.float32)

    unsafe = np.tile(harmful, (20, 1)).astype(np.float32)
    clean, third = fit(corpus(0), unsafe), fit(corpus(0.3), unsafe)
    lengths = [artifact.facts["direction_length"] for artifact in (clean, third)]
    assert lengths[1] / lengths[0] == pytest.approx(0.7, abs=1e-3)
    a, b = (artifact.arrays["direction"] / length for artifact, length in zip((clean, third), lengths, strict=True))
    assert a @ b == pytest.approx(1, abs=1e-3)


def test_facts_are_json_and_right() -> None:
    corpus, unsafe = drawn(3, 30, 9, 8)
    corpus[4] = 0
    facts = json.loads(json.dumps(fit(corpus, unsafe, [10]).facts))
    assert (facts["layer"], facts["layer_chosen"], facts["columns"]) == (3, "job", [COLUMN])
    assert (facts["references"], facts["count"], facts["zero_rows"]) == ({"unsafe": 9}, 30, 1)
    assert "whole corpus" in Contrast.explain(facts)


def test_the_block_by_itself_is_the_middle_one() -> None:
    assert [request.column for request in Contrast().requests(9)] == ["block_04.last_token"]
    with pytest.raises(ValueError, match=r"contrast\.layer=9: the model has blocks 0 to 8"):
        Contrast(layer=9).requests(9)


def test_data_that_cannot_support_the_method_is_refused() -> None:
    corpus, unsafe = drawn(4, 10, 5, 6)
    with pytest.raises(ValueError, match="no usable unsafe reference"):
        fit(corpus, unsafe[:0])
    with pytest.raises(ValueError, match="no usable row"):
        fit(corpus[:0], unsafe)
    with pytest.raises(ValueError, match="do not differ from the corpus"):
        fit(unsafe, unsafe)
    with pytest.raises(ValueError, match="fitted on another model"):
        Contrast(layer=3).score(fit(corpus, unsafe), {COLUMN: corpus[:, :3]})


def test_warnings() -> None:
    corpus, unsafe = drawn(5, 40, 20, 6)
    method = Contrast(layer=3)
    assert method.warnings(fit(corpus, unsafe), 0.2) == []
    [mostly] = method.warnings(fit(corpus, unsafe), 0.6)
    assert "if 60.0% of it is harmful, the direction is 0.4 times as long" in mostly
    few = method.warnings(fit(corpus, np.vstack([unsafe[:4], 0 * unsafe[:1]])), 0.1)
    assert ["5 unsafe reference(s)" in few[0], "1 unsafe references have" in few[1]] == [True, True]

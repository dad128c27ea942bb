"""Contrast against a naive loop in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.methods.contrast import SAMPLE_ROWS, Contrast, sampling_error
from tamis.operators.methods.protocol import Artifact, CorpusSample, Features, reduce_in_process
from tamis.operators.statistics.drawing import drawn_rows

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


def naive(corpus: np.ndarray, unsafe: np.ndarray, sample: np.ndarray | None = None) -> np.ndarray:
    """One row and one reference at a time: the mean cosine to the references minus the mean cosine to the corpus, or to
    the rows that stand for it."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / lengths if lengths else 0.0

    corpus, unsafe = corpus.astype(np.float64), unsafe.astype(np.float64)
    side = corpus if sample is None else sample.astype(np.float64)
    return np.array(
        [
            sum(cosine(row, u) for u in unsafe) / len(unsafe) - sum(cosine(row, z) for z in side) / len(side)
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


# --- rows that stand for the corpus -------------------------------------------------------------------------------


def sampled(corpus: np.ndarray, unsafe: np.ndarray, rows: list[int], of: int | None = None) -> Artifact:
    """Fitted to these rows of the corpus, with the facts that a run adds."""
    artifact = fit(corpus[rows], unsafe)
    drawn = {"drawn": len(rows), "usable": len(rows), "of": of or len(corpus), "seed": 7, "sha256": "", "set_aside": 0}
    return replace(artifact, facts={**artifact.facts, "corpus_sample": drawn})


@given(seed=st.integers(0, 2**16), n=st.integers(2, 60), d=st.integers(2, 24), data=st.data())
def test_scores_against_a_sample_are_the_naive_ones(seed: int, n: int, d: int, data: st.DataObject) -> None:
    corpus, unsafe = drawn(seed, n, 5, d)
    rows = drawn_rows(n, data.draw(st.integers(1, n)), seed)
    scores = Contrast(layer=3).score(sampled(corpus, unsafe, rows), {COLUMN: corpus})
    half = naive(corpus, unsafe, corpus[rows])
    np.testing.assert_allclose(scores, half, atol=1e-7, rtol=1e-6)


def length_of(artifact: Artifact) -> float:
    return float(artifact.facts["direction_length"])


def test_the_error_of_a_direction_is_what_many_draws_show() -> None:
    """Each draw's direction, compared with that to the whole corpus: the root of the mean squared distance."""
    corpus, unsafe = drawn(11, 300, 20, 8)
    corpus[:3] = 0  # a row of zeros has no direction, and is counted
    whole = fit(corpus, unsafe)
    assert sampling_error(whole) == 0
    for count in (2, 20, 150, 299):
        many = [sampled(corpus, unsafe, drawn_rows(300, count, seed)) for seed in range(300)]
        far = [np.linalg.norm(one.arrays["direction"] - whole.arrays["direction"]) for one in many]
        measured = float(np.sqrt(np.mean(np.square(far)))) / length_of(whole)
        expected = float(np.sqrt(np.mean([(sampling_error(one) * length_of(one)) ** 2 for one in many])))
        assert expected / length_of(whole) == pytest.approx(measured, rel=0.12)
    assert sampling_error(sampled(corpus, unsafe, list(range(300)))) == 0


def test_a_rough_direction_is_said() -> None:
    corpus, unsafe = drawn(5, 400, 20, 6)
    [rough] = Contrast().warnings(sampled(corpus, unsafe, [3, 8, 40], of=10**6), 0.1)
    assert "% of its length, as 3 row(s) stand for the 1,000,000 of the corpus" in rough
    # One row tells nothing of how much rows differ.
    [one] = Contrast().warnings(sampled(corpus, unsafe, [3], of=10**6), 0.1)
    assert "as 1 row(s) stand for" in one
    assert Contrast().warnings(sampled(corpus, unsafe, list(range(390))), 0.1) == []


def test_the_reading_says_which_rows_stand_for_the_corpus() -> None:
    corpus, unsafe = drawn(5, 40, 20, 6)
    said = Contrast.explain(sampled(corpus, unsafe, [1, 2, 3], of=12345).facts)
    assert "minus that of 3 of the 12,345 rows of the corpus, drawn at random (seed 7). Between" in said
    assert "whole corpus" not in said
    assert "whole corpus" in Contrast.explain({"sample": 4096})  # a setting says nothing of what was done


@pytest.mark.parametrize(
    ("sample", "rows", "always"),
    [("auto", SAMPLE_ROWS, False), ("all", 0, True), (0, 0, True), (400, 400, True)],
)
def test_how_many_rows(sample: Literal["auto", "all"] | int, rows: int, always: bool) -> None:
    assert Contrast(sample=sample).corpus_sample() == CorpusSample(rows, always)


@pytest.mark.parametrize("sample", [-1, 1, "some", True, 2.5, None])
def test_a_sample_that_is_none_is_refused(sample: Any) -> None:
    with pytest.raises(ValueError, match=r"contrast\.sample=.*: write auto, all or a number of rows from 2 on"):
        Contrast(sample=sample)

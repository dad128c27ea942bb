"""Compliance against a naive loop in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.methods.compliance import Compliance
from tamis.operators.methods.protocol import Artifact, Features, reduce_in_process

ANSWER, PROMPT = "block_03.response_mean", "block_03.last_prompt_token"


def drawn(rng: np.random.Generator, n: int, d: int, shift: float = 0.0) -> Features:
    return {column: (rng.normal(size=(n, d)) + shift).astype(np.float32) for column in (ANSWER, PROMPT)}


def fit(unsafe: list[Features], safe: list[Features]) -> Artifact:
    return Compliance(layer=3).fit(reduce_in_process({"unsafe": unsafe, "safe": safe}), 8)


def cut(features: Features, at: list[int]) -> list[Features]:
    parts = {column: np.split(rows, sorted(at)) for column, rows in features.items()}
    return [{column: part[i] for column, part in parts.items()} for i in range(len(at) + 1)]


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 20),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    d=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_scores_are_the_naive_ones_for_any_sharding(
    seed: int, n: int, sizes: tuple[int, int], d: int, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    unsafe, safe, corpus = drawn(rng, sizes[0], d, 0.5), drawn(rng, sizes[1], d), drawn(rng, n, d)
    scores = Compliance(layer=3).score(fit(cut(unsafe, cuts), [safe]), corpus)
    means = [sum(row.astype(np.float64) for row in side[ANSWER]) / len(side[ANSWER]) for side in (unsafe, safe)]
    direction = (means[0] - means[1]) / np.sqrt(((means[0] - means[1]) ** 2).sum())
    expected = [
        float(direction @ answer.astype(np.float64)) - float(direction @ prompt.astype(np.float64))
        for answer, prompt in zip(corpus[ANSWER], corpus[PROMPT], strict=True)
    ]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6, rtol=1e-6)


def test_a_refused_request_scores_below_an_answered_one() -> None:
    """Both have the same harmful request; only the answers move apart."""
    harm, comply = np.eye(3, dtype=np.float32)[:2]
    answered, refused = {ANSWER: (harm + comply)[None], PROMPT: harm[None]}, {ANSWER: harm[None], PROMPT: harm[None]}
    artifact = fit([answered], [refused])
    method = Compliance(layer=3)
    assert (method.score(artifact, answered).item(), method.score(artifact, refused).item()) == (1.0, 0.0)


def test_facts_are_json_and_the_block_by_itself_is_the_middle_one() -> None:
    rng = np.random.default_rng(0)
    facts = json.loads(json.dumps(fit([drawn(rng, 4, 5)], [drawn(rng, 3, 5)]).facts))
    assert (facts["columns"], facts["references"]) == ([ANSWER, PROMPT], {"unsafe": 4, "safe": 3})
    columns = [request.column for request in Compliance().requests(9)]
    assert columns == ["block_04.response_mean", "block_04.last_prompt_token"]


def test_data_that_cannot_support_the_method_is_refused() -> None:
    rng = np.random.default_rng(0)
    some = drawn(rng, 4, 5)
    with pytest.raises(ValueError, match="no usable safe reference"):
        fit([some], [drawn(rng, 0, 5)])
    with pytest.raises(ValueError, match="do not differ"):
        fit([some], [some])
    with pytest.raises(ValueError, match="fitted on another model"):
        Compliance(layer=3).score(fit([some], [drawn(rng, 2, 5)]), drawn(rng, 2, 4))
    with pytest.raises(ValueError, match="the artifact needs"):
        Compliance(layer=3).score(fit([some], [drawn(rng, 2, 5)]), {ANSWER: some[ANSWER]})

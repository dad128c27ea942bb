"""What all methods give for one shard is checked; and what a method says of the corpus is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tamis.operators.methods import METHODS, Artifact, Features, Method
from tamis.operators.methods.protocol import CORPUS, reduce_in_process
from tamis.operators.methods.scoring import scores_of

SCORING = {name: kind for name, kind in METHODS.items() if issubclass(kind, Method)}
BLOCKS, WIDTH = 4, 6


def shard(method: Method, rows: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    chance = np.random.default_rng(seed)
    return {
        request.column: chance.normal(seed, 1, (rows, WIDTH)).astype(np.float32) for request in method.requests(BLOCKS)
    }


@pytest.mark.parametrize("name", SCORING)
def test_a_method_reads_the_corpus_if_it_says_so(name: str) -> None:
    method = SCORING[name]()
    references = {source: [shard(method, 5, number)] for number, source in enumerate(method.sources(), start=1)}
    whole = method.fit(reduce_in_process({**references, CORPUS: [shard(method, 30, 9)]}), BLOCKS)
    if method.reads_corpus:
        with pytest.raises(ValueError, match="source 'corpus' has no shards"):
            method.fit(reduce_in_process(references), BLOCKS)
        return
    alone = method.fit(reduce_in_process(references), BLOCKS)
    assert alone.facts == whole.facts
    for key, value in whole.arrays.items():
        np.testing.assert_array_equal(alone.arrays[key], value)
    rows = shard(method, 7, 3)
    np.testing.assert_array_equal(scores_of({name: method}, {name: alone}, rows, 7)[name], method.score(whole, rows))


@pytest.mark.parametrize("name", SCORING)
def test_no_row_is_no_score(name: str) -> None:
    method = SCORING[name]()
    sources = {source: [shard(method, 5, number)] for number, source in enumerate([*method.sources(), CORPUS])}
    artifact = method.fit(reduce_in_process(sources), BLOCKS)
    assert scores_of({name: method}, {name: artifact}, shard(method, 0, 1), 0)[name].shape == (0,)


def test_another_model_is_named() -> None:
    method = SCORING["larf"]()
    assert isinstance(method, Method)
    sources = {source: [shard(method, 5, number)] for number, source in enumerate(method.sources())}
    artifact = method.fit(reduce_in_process(sources), BLOCKS)
    wider: Features = {column: np.ones((2, WIDTH + 1), np.float32) for column in shard(method, 1, 1)}
    with pytest.raises(ValueError, match=r"larf: .* it was fitted on another model"):
        scores_of({"larf": method}, {"larf": artifact}, wider, 2)
    with pytest.raises(ValueError, match="larf: the artifact needs"):
        scores_of({"larf": method}, {"larf": Artifact(artifact.arrays, artifact.facts)}, {}, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SCORING)
def test_a_vector_that_is_not_finite_never_gets_a_score(name: str, bad: float) -> None:
    """Such rows are in quarantine before they get here. If one got through, 0 would be a score like any other."""
    method = SCORING[name]()
    sources = {source: [shard(method, 5, number)] for number, source in enumerate((*method.sources(), CORPUS), start=1)}
    artifact = method.fit(reduce_in_process(sources), BLOCKS)
    for column in shard(method, 1, 3):
        rows = shard(method, 4, 3)
        rows[column][2, 1] = bad
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=f"{name}: "):
            scores_of({name: method}, {name: artifact}, rows, 4)

"""The cut between requests that look harmful and those of the corpus, against a naive float64 twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.methods import Compliance, Contrast, Csa, Larf, Saft
from tamis.operators.methods.request_side import ENOUGH, read_of, request_cut
from tamis.operators.requests import Request


def drawn(seed: int, rows: int, shift: float, width: int = 12) -> np.ndarray[Any, Any]:
    found = np.random.default_rng(seed).normal(size=(rows, width)) + 1.0
    found[:, 0] += shift
    return found.astype(np.float32)


def naive(unsafe: np.ndarray[Any, Any], corpus: np.ndarray[Any, Any]) -> tuple[list[float], list[float]]:
    """The scores of all rows, each by the direction without itself."""

    def mean(rows: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        return sum((row / np.sqrt((row * row).sum()) for row in rows), np.zeros(len(rows[0]))) / len(rows)

    u, z = ([row.astype(np.float64) for row in rows] for rows in (unsafe, corpus))
    own = [
        float(row / np.sqrt((row * row).sum()) @ (mean(u[:place] + u[place + 1 :]) - mean(z)))
        for place, row in enumerate(u)
    ]
    others = [
        float(row / np.sqrt((row * row).sum()) @ (mean(u) - mean(z[:place] + z[place + 1 :])))
        for place, row in enumerate(z)
    ]
    return own, others


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(ENOUGH, 40), st.integers(ENOUGH, 40), st.floats(4.0, 9.0))
def test_it_is_the_naive_computation(seed: int, references: int, rows: int, shift: float) -> None:
    unsafe, corpus = drawn(seed, references, shift), drawn(seed + 1, rows, 0.0)
    own, others = naive(unsafe, corpus)
    found = request_cut(unsafe, corpus)
    assert found.threshold == pytest.approx(sorted(own)[int(0.05 * (references - 1))], abs=1e-12)
    pairs = [(a > b) + 0.5 * (a == b) for a in own for b in others]
    assert found.auroc == pytest.approx(np.mean(pairs), abs=1e-9)
    assert found.above == pytest.approx(np.mean([score > found.threshold for score in others]), abs=1e-9)
    assert (found.unsafe, found.corpus) == (references, rows)
    new = drawn(seed + 2, 30, 3.0)
    units = new.astype(np.float64) / np.linalg.norm(new.astype(np.float64), axis=1, keepdims=True)
    u, z = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (unsafe, corpus))
    scores = units @ (u.mean(axis=0) - z.mean(axis=0))
    sure = np.abs(scores - found.threshold) > 1e-9
    assert (found.harmful(new) == (scores > found.threshold))[sure].all()
    assert found.harmful(new[:0]).shape == (0,)


def test_most_references_and_few_of_the_corpus_are_above() -> None:
    found = request_cut(drawn(1, 200, 6.0), drawn(2, 500, 0.0))
    assert found.auroc > 0.99
    assert found.above < 0.05
    assert found.harmful(drawn(3, 400, 6.0)).mean() > 0.9
    assert found.harmful(drawn(4, 400, 0.0)).mean() < 0.05


def test_sides_that_cannot_be_told_apart_have_no_cut() -> None:
    with pytest.raises(ValueError, match=r"AUROC 0\.\d\d; 0.75 is needed"):
        request_cut(drawn(1, 100, 0.0), drawn(2, 100, 0.0))
    with pytest.raises(ValueError, match="AUROC"):
        request_cut(np.zeros((20, 3), np.float32), np.ones((20, 3), np.float32) * 0)


@pytest.mark.parametrize(("unsafe", "corpus", "side"), [(15, 40, "unsafe references"), (40, 0, "rows of the corpus")])
def test_few_requests_have_no_cut(unsafe: int, corpus: int, side: str) -> None:
    with pytest.raises(ValueError, match=f"{side} have a request"):
        request_cut(drawn(1, unsafe, 5.0), drawn(2, corpus, 0.0))


def test_the_first_method_with_unsafe_references_says_what_is_read() -> None:
    saft = Saft()
    assert read_of({"saft": saft}, 8) is None
    found = read_of({"saft": saft, "contrast": Contrast(layer=5), "larf": Larf(layer=2)}, 8)
    assert found == ("contrast", Request(5, "last_prompt_token"))
    for method in (Larf(layer=2, position="response_mean"), Compliance(layer=2), Csa(blocks=[2, 3, 5])):
        assert read_of({method.name: method}, 8) == (method.name, Request(2, "last_prompt_token"))

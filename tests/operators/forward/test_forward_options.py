"""The forward pass: `exact`, `compile`, and how far a row's numbers depend on its batch in each dtype."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_representations import CONFIGS, EVERYTHING, one_at_a_time, save, usable_samples

from tamis.operators.forward.representations import Representer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest, llama: Path) -> Representer:
    return Representer.load(llama, EVERYTHING, device="cpu", dtype=request.param)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(1, 900))
def test_exact_gives_a_row_the_same_bits_in_any_company(loaded: Representer, seed: int, budget: int) -> None:
    ids, finals = usable_samples(9, seed)
    order = np.random.default_rng(seed).permutation(len(ids))
    together, _ = loaded.represent(ids, finals, exact=True)
    shuffled, _ = loaded.represent([ids[row] for row in order], finals[order], token_budget=budget, exact=True)
    alone, _ = loaded.represent(ids[:1], finals[:1], token_budget=1, exact=True)
    for request in EVERYTHING:
        np.testing.assert_array_equal(shuffled[request], together[request][order])
        np.testing.assert_array_equal(alone[request], together[request][:1])


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 4e-2), ("float16", 8e-3)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "mixtral"])
def test_without_exact_company_matters_no_more_than_stated(
    name: str, dtype: str, tolerance: float, tmp_path: Path
) -> None:
    representer = Representer.load(save(CONFIGS[name], tmp_path), EVERYTHING, device="cpu", dtype=dtype)
    ids, finals = usable_samples(20, seed=5)
    together, _ = representer.represent(ids, finals, token_budget=2000)
    alone, _ = representer.represent(ids, finals, exact=True)
    for request in EVERYTHING:
        error = np.linalg.norm(together[request] - alone[request], axis=1)
        assert (error <= tolerance * np.linalg.norm(alone[request], axis=1)).all()


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_blocks_equal_the_full_model(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    representer = Representer.load(llama, EVERYTHING, device="cpu", compile=True)
    ids, finals = usable_samples(30)
    vectors, problems = representer.represent(ids, finals, token_budget=200)  # batches of many shapes
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    again, _ = representer.represent(ids, finals, token_budget=333)
    assert not problems
    assert 0 < graphs <= 12
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12
    expected = one_at_a_time(llama, ids, finals)
    for request in EVERYTHING:
        np.testing.assert_allclose(vectors[request], expected[request], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(again[request], expected[request], rtol=1e-4, atol=1e-4)

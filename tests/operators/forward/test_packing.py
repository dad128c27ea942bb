"""operators/forward/packing.py: rows packed into one sequence come out as each of them does alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_representations import CONFIGS, EVERYTHING, one_at_a_time, save, usable_samples

from tamis.operators.forward.representations import Representer

pytestmark = pytest.mark.usefixtures("one_thread")

PACKABLE = ("llama", "mistral", "qwen2", "phi3", "gemma3", "mixtral", "gpt2", "gpt_neox")


@pytest.mark.parametrize("name", [name for name in PACKABLE if name in CONFIGS])
def test_packed_rows_equal_the_full_unpadded_model(name: str, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    ids, finals = usable_samples(16, seed=2)
    expected = one_at_a_time(folder, ids, finals)
    representer = Representer.load(folder, EVERYTHING, device="cpu", attention="packed")
    vectors, problems = representer.represent(ids, finals, token_budget=400)
    assert not problems
    for request in EVERYTHING:
        np.testing.assert_allclose(vectors[request], expected[request], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_architecture_either_runs_packed_and_right_or_is_refused(name: str, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    ids, finals = usable_samples(6, seed=4)
    try:
        representer = Representer.load(folder, EVERYTHING, device="cpu", attention="packed")
    except ValueError as error:
        if "set attention to padded" not in str(error):
            raise
        assert name not in PACKABLE
        return
    vectors, _ = representer.represent(ids, finals)
    expected = one_at_a_time(folder, ids, finals)
    for request in EVERYTHING:
        np.testing.assert_allclose(vectors[request], expected[request], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_flash_attention_agrees_with_the_cpu(name: str, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    ids, finals = usable_samples(24)
    expected = one_at_a_time(folder, ids, finals)
    representer = Representer.load(folder, EVERYTHING, attention="packed")
    vectors, problems = representer.represent(ids, finals, token_budget=300)
    assert not problems
    for request in EVERYTHING:
        error = np.linalg.norm(vectors[request] - expected[request], axis=1)
        assert (error <= 0.1 * np.linalg.norm(expected[request], axis=1)).all()


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose padded or packed"):
        Representer.load(save(CONFIGS["llama"], tmp_path), EVERYTHING, device="cpu", attention="flash")

"""auto means what it says, and other names are checked before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from tamis.operators.model.placement import choose_device, choose_dtype


def test_auto_takes_the_accelerator_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_has_its_own_name(name: str) -> None:
    assert choose_dtype(name, torch.device("cpu")) == getattr(torch, name)


def test_other_names_are_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device='tpu9'"):
        choose_device("tpu9")
    with pytest.raises(ValueError, match="dtype='float64': choose auto, float32, bfloat16, float16"):
        choose_dtype("float64", torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="no CUDA device here"):
        choose_device("cuda:0")

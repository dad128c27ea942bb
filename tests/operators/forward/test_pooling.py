"""operators/forward/pooling.py: tokens' states -> one vector per row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.forward.pooling import Spots, pool
from tamis.operators.requests import POSITIONS


def spots_of(lengths: list[int], finals: list[tuple[int, int]], padded_to: int | None = None) -> Spots:
    sizes = np.array(lengths)
    firsts = np.cumsum(sizes) - sizes if padded_to is None else np.arange(len(sizes)) * padded_to
    return Spots.of(firsts, sizes, np.array(finals))


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_each_row_is_pooled_as_if_it_were_alone(data: st.DataObject, lengths: list[int], packed: bool) -> None:
    random = np.random.default_rng(0)
    rows = [random.standard_normal((length, 4)).astype(np.float32) for length in lengths]
    finals = []
    for length in lengths:
        start = data.draw(st.integers(0, length))
        finals.append((start, data.draw(st.integers(start, length))))
    if packed:
        flat, spots = np.concatenate(rows), spots_of(lengths, finals)
    else:
        width = max(lengths)
        flat = np.concatenate([np.pad(row, ((0, width - len(row)), (0, 0)), constant_values=np.nan) for row in rows])
        spots = spots_of(lengths, finals, padded_to=width)
    for position in POSITIONS:
        pooled = pool(torch.from_numpy(flat), position, spots).numpy()
        for row, (start, stop), vector in zip(rows, finals, pooled, strict=True):
            if position == "last_token":
                expected = row[-1].astype(np.float64)
            elif position == "last_prompt_token":
                expected = row[max(start - 1, 0)].astype(np.float64)
            else:
                expected = row[start:stop].astype(np.float64).sum(axis=0) / max(stop - start, 1)
            np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)


def test_what_stands_outside_the_answer_does_not_enter_its_mean() -> None:
    states = torch.full((2, 5, 3), float("inf"))
    states[0, 1:3] = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    states[1, 0:1] = 7.0
    pooled = pool(states.to(torch.bfloat16).reshape(-1, 3), "response_mean", spots_of([5, 1], [(1, 3), (0, 1)], 5))
    assert pooled.dtype == torch.float32
    np.testing.assert_array_equal(pooled.numpy(), [[2.0, 3.0, 4.0], [7.0, 7.0, 7.0]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_accelerator_pools_alike() -> None:
    states = torch.randn(40, 8)
    spots = spots_of([10, 30], [(2, 9), (5, 30)])
    away = Spots(*(tensor.cuda() for tensor in spots.tensors()))
    for position in POSITIONS:
        torch.testing.assert_close(pool(states.cuda(), position, away).cpu(), pool(states, position, spots))

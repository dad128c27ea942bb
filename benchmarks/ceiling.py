"""The machine's ceiling: the best rate of plain matrix products at a model's own shapes.

Every kernel at hand takes part: torch's linear, mm into a buffer that exists already, and on CPUs oneDNN's and MKL's
linear with weights laid out beforehand; the block's matrices one by one, and those of one input side by side; at the
batch's own number of tokens and at others. The best of all of them is the ceiling, so that it is not a low one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timing import synchronise

TOKENS = (1024, 2048, 4096, 8192, 16384)
LEAST_SECONDS = 0.06
FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}

Kernel = Callable[[], object]


@dataclass(frozen=True)
class Product:
    """One thing to time. name: kernel, matrices and tokens. run: all its products once. plain: torch's linear."""

    name: str
    tokens: int
    flops: float
    run: Kernel
    plain: bool


def products(
    shapes: dict[str, tuple[int, int]], *, tokens: int, dtype: torch.dtype, device: torch.device
) -> list[Product]:
    """All products to try. shapes: (inputs, outputs) of each matrix of a block. tokens: of the engine's batch."""
    largest = max(shapes.values(), key=lambda shape: shape[0] * shape[1])
    mixes = {
        f"{largest[0]}x{largest[1]}": [largest],
        "block": list(shapes.values()),
        "block, fused": _fused(shapes),
    }
    made = []
    for count in sorted({*TOKENS, tokens}):
        for mix, matrices in mixes.items():
            flops = sum(2.0 * count * inputs * outputs for inputs, outputs in matrices)
            for kernel, run in _kernels(matrices, count, dtype, device):
                name = f"{kernel}, {mix}, {count:,} tokens"
                made.append(Product(name, count, flops, run, plain=kernel == "linear"))
    return made


@torch.inference_mode()
def rate(product: Product, device: torch.device) -> float:
    """FLOP/s over at least LEAST_SECONDS."""
    product.run()
    synchronise(device)
    runs, began = 0, time.perf_counter()
    while True:
        batch = max(runs, 1)
        for _ in range(batch):
            product.run()
        synchronise(device)
        runs += batch
        elapsed = time.perf_counter() - began
        if elapsed >= LEAST_SECONDS:
            return product.flops * runs / elapsed


def finalists(candidates: list[Product], tokens: int, device: torch.device, best: int = 4) -> list[Product]:
    """The fastest by one scouting measurement, and all of torch's linear at the batch's own number of tokens."""
    scouted = sorted(candidates, key=lambda product: -rate(product, device))
    plain = [product for product in scouted if product.plain and product.tokens == tokens]
    return scouted[:best] + [product for product in plain if product not in scouted[:best]]


def _fused(shapes: dict[str, tuple[int, int]]) -> list[tuple[int, int]]:
    """Matrices that read the same input as one: q, k, v; and gate, up."""
    groups: dict[str, tuple[int, int]] = {}
    for name, (inputs, outputs) in shapes.items():
        group = FUSED.get(name, name)
        groups[group] = (inputs, groups.get(group, (0, 0))[1] + outputs)
    return list(groups.values())


def _kernels(
    matrices: list[tuple[int, int]], tokens: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Kernel]]:
    random = torch.Generator(device).manual_seed(0)
    inputs = {
        width: torch.randn(tokens, width, dtype=dtype, device=device, generator=random)
        for width in {shape[0] for shape in matrices}
    }
    weights = [
        torch.randn(outputs, width, dtype=dtype, device=device, generator=random) / width**0.5
        for width, outputs in matrices
    ]
    pairs = [(inputs[weight.shape[1]], weight) for weight in weights]
    yield "linear", lambda: [F.linear(x, weight) for x, weight in pairs]

    buffers = {
        outputs: torch.empty(tokens, outputs, dtype=dtype, device=device) for outputs in {s[1] for s in matrices}
    }
    placed = [(x, weight.t(), buffers[weight.shape[0]]) for x, weight in pairs]
    yield "mm into a buffer", lambda: [torch.mm(x, weight, out=out) for x, weight, out in placed]
    turned = [(x, weight.contiguous(), out) for x, weight, out in placed]
    yield "mm of a transposed copy", lambda: [torch.mm(x, weight, out=out) for x, weight, out in turned]
    if device.type != "cpu":
        return
    if torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn
        packed = [(x, onednn._reorder_linear_weight(weight, tokens)) for x, weight in pairs]
        yield "oneDNN prepacked", lambda: [onednn._linear_pointwise(x, w, None, "none", [], "") for x, w in packed]
    if torch.backends.mkl.is_available() and dtype == torch.float32:
        mkl = torch.ops.mkl
        laid = [(x, mkl._mkl_reorder_linear_weight(weight, tokens), weight) for x, weight in pairs]
        yield "MKL prepacked", lambda: [mkl._mkl_linear(x, packed, weight, None, tokens) for x, packed, weight in laid]

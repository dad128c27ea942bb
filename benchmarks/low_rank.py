"""What a LoRA adapter on a linear layer costs beside the layer's own product: as peft computes it, and fused.

    python benchmarks/low_rank.py                    layers of 512 and 2,048, bfloat16 and float32, one thread
    python benchmarks/low_rank.py --widths 4096

Processor time of one thread, the best of --repeats in turns: least disturbed by whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import machine
import models
import peft
import torch
from tables import markdown
from timing import cpu_seconds, interleave
from torch import nn

from tamis.operators.forward.low_rank import fuse_low_rank

RESULTS = checkout.ROOT / "benchmarks" / "results" / "low_rank.json"
TOKENS, RANK = 2048, 16


def adapted(width: int, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width, bias=False))
    config = peft.LoraConfig(r=RANK, target_modules=["0"], init_lora_weights=False, inference_mode=True)
    peft.inject_adapter_in_model(config, model)
    return model.to(dtype).eval()


@torch.inference_mode()
def measure(width: int, dtype: str, repeats: int) -> dict[str, Any]:
    """Microseconds a token of the base's product, and what the adapter adds in both ways."""
    usual, fused = (adapted(width, models.DTYPES[dtype]) for _ in range(2))
    fuse_low_rank(fused)
    base: Any = usual[0].base_layer
    x = torch.randn(16, TOKENS // 16, width).to(models.DTYPES[dtype])
    expected, found = usual(x).float(), fused(x).float()
    difference = float((found - expected).norm() / expected.norm())
    runs: dict[str, Callable[[], float]] = {
        name: partial(_under_inference, module, x)
        for name, module in (("base", base), ("peft", usual), ("fused", fused))
    }
    for run in runs.values():
        run()
    best = {name: min(values) / TOKENS * 1e6 for name, values in interleave(runs, repeats).items()}
    return {"width": width, "dtype": dtype, "microseconds_a_token": best, "relative_difference": difference}


def _under_inference(module: nn.Module, x: torch.Tensor) -> float:
    with torch.inference_mode():
        return cpu_seconds(partial(module, x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--dtypes", nargs="+", choices=list(models.DTYPES), default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = machine.facts(torch.device("cpu"))
    found = [measure(width, dtype, arguments.repeats) for width in arguments.widths for dtype in arguments.dtypes]
    cells = []
    for entry in found:
        took = entry["microseconds_a_token"]
        added = [f"{took[name] - took['base']:.2f}" for name in ("peft", "fused")]
        cells.append([f"{entry['width']}, {entry['dtype']}", f"{took['base']:.2f}", *added,
                      f"{entry['relative_difference']:.0e}"])  # fmt: skip
    print(machine.line(results["machine"]))
    print(markdown(["us a token", "the layer", "peft adds", "fused adds", "differ by"], cells))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results | {"layers": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()

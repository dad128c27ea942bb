"""LARF's search for the safety-sensitive block: the published way and tamis, side by side in one process.

    python benchmarks/layers.py                  a random 16-block model of 50M block weights, and aligned-8m if at hand
    python benchmarks/layers.py --model FOLDER   a chat model

Published: for every cell (block x factor) a deep copy of the model, its block scaled, and each of the 120 prompts
answered by itself with generate(), 32 new tokens. That takes hours, so it is timed on some cells, all prompts each,
and the grid's time is extrapolated from their mean; tamis runs the whole grid. In the cells that both ran the number
of refusals must be the same. Loading the model is part of neither.

Needs torch, transformers, pyarrow and numpy; neither Ray nor an installed tamis.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkout
import corpora
import machine
import models
import numpy as np
import torch
from chat_tokenizers import save_tokenizer
from tables import markdown
from timing import synchronise
from transformers import AutoTokenizer

from tamis.operators.generation.refusals import is_refusal
from tamis.operators.generation.scaled_answers import ScaledAnswers
from tamis.operators.references import over_rejection_path
from tamis.operators.statistics.sensitivity import FACTORS, NEW_TOKENS, most_sensitive, sensitivity

RESULTS = checkout.ROOT / "benchmarks" / "results" / "layers.json"
REFUSING = 0.02
TARGET = 10.0

Cell = tuple[int, float]


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    results = machine.facts(device)
    print(machine.line(results["machine"]))
    prompts = shipped_prompts()[: arguments.prompts]
    results |= {"prompts": len(prompts), "new_tokens": NEW_TOKENS, "target": TARGET, "models": []}
    with tempfile.TemporaryDirectory(prefix="tamis-layers-") as folder:
        for name, path in chosen_models(arguments.model, Path(folder), prompts):
            found = compare(path, prompts, cells=arguments.cells, dtype=arguments.dtype, device=device)
            results["models"].append({"model": name} | found)
            show(name, found, len(prompts))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


def shipped_prompts() -> list[str]:
    with over_rejection_path().open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


def chosen_models(model: Path | None, folder: Path, prompts: Sequence[str]) -> list[tuple[str, Path]]:
    if model is not None:
        return [(model.name, model)]
    chosen = [("small16, random", random_chat_model(folder, prompts))]
    real = corpora.shared_file("models/aligned-8m")
    return chosen + ([("aligned-8m", real)] if real is not None else [])


def random_chat_model(folder: Path, prompts: Sequence[str]) -> Path:
    """16 blocks of width 512 with a tokenizer in which 2 % of the tokens read "sorry"."""
    config = models.SHAPES["small16"].config()
    save_tokenizer(folder, prompts, config.vocab_size, refusing=REFUSING)
    config.pad_token_id, config.eos_token_id = 0, 1
    model = models.make_random(config, dtype=torch.float32, device=torch.device("cpu"))
    model.save_pretrained(folder)
    return folder


def compare(path: Path, prompts: Sequence[str], *, cells: int, dtype: str, device: torch.device) -> dict[str, Any]:
    """tamis' whole grid, with the published way's cells in between; exits if they count differently."""
    model = models.load_full(path, dtype=models.DTYPES[dtype], device=device)
    tokenizer = AutoTokenizer.from_pretrained(path)
    ours = ScaledAnswers.load(path, dtype=dtype, device=str(device))
    grid = [(block, factor) for block in range(ours.info.blocks) for factor in FACTORS]
    # from all over the grid, and the two ends of the scale among the first of them
    sampled = [grid[place] for place in np.linspace(0, len(grid) - 1, cells).round().astype(int)]

    began = time.perf_counter()
    unscaled = ours.prepare(prompts)
    prepare_seconds = _since(began, device)
    counts: dict[Cell, int] = {}
    our_seconds: dict[Cell, float] = {}
    published_seconds: dict[Cell, float] = {}
    for cell in grid:
        began = time.perf_counter()
        counts[cell] = ours.refusals(*cell)
        our_seconds[cell] = _since(began, device)
        if cell not in sampled:
            continue
        began = time.perf_counter()
        theirs = published(model, tokenizer, cell, prompts)
        published_seconds[cell] = _since(began, device)
        print(f"block {cell[0]} x {cell[1]}: {theirs} refusals, tamis {counts[cell]}", file=sys.stderr)
        if theirs != counts[cell]:
            sys.exit(f"block {cell[0]} x {cell[1]}: {theirs} refusals the published way, {counts[cell]} with tamis")
    per_cell = sum(published_seconds.values()) / len(published_seconds)
    whole = per_cell * (len(grid) + 1)
    total = prepare_seconds + sum(our_seconds.values())
    values = sensitivity(counts, ours.info.blocks)
    return {
        "dtype": dtype,
        "blocks": ours.info.blocks,
        "cells": len(grid) + 1,
        "refusals": {"unscaled": unscaled, "min": min(counts.values()), "max": max(counts.values())},
        "sensitivity": list(values),
        "most_sensitive_block": most_sensitive(values),
        "tamis": {
            "measured": "the whole grid and the unscaled run",
            "seconds": total,
            "prepare_seconds": prepare_seconds,
            "cell_seconds": {"min": min(our_seconds.values()), "max": max(our_seconds.values())},
        },
        "published": {
            "measured": f"{len(sampled)} cells of {len(grid)}, all prompts each",
            "cell_seconds": {f"block {b} x {f}": took for (b, f), took in published_seconds.items()},
            "refusals": {f"block {b} x {f}": counts[b, f] for b, f in published_seconds},
            "extrapolated": f"{len(grid) + 1} runs times the mean of the measured cells",
            "seconds": whole,
        },
        "tamis_is_faster_by": whole / total,
    }


@torch.inference_mode()
def published(model: Any, tokenizer: Any, cell: Cell, prompts: Sequence[str]) -> int:
    """Refusals of one cell as LARF's release counts them: a copy of the model, one prompt at a time."""
    block, factor = cell
    copied = copy.deepcopy(model)
    for module in models.blocks_of(copied)[block].modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.mul_(factor)
    refusals = 0
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        output = copied.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        refusals += is_refusal(answer)
    return refusals


def show(name: str, found: dict[str, Any], prompts: int) -> None:
    theirs, ours = found["published"], found["tamis"]
    cells = found["cells"]
    print(f"\n{name}, {found['blocks']} blocks, {found['dtype']}; {prompts} prompts, {NEW_TOKENS} new tokens\n")
    rows = [
        ["published", f"{theirs['seconds'] / cells:.2f}", f"{theirs['seconds']:,.0f} (extrapolated)",
         f"{found['tamis_is_faster_by']:.1f}x"],
        ["tamis", f"{ours['seconds'] / cells:.2f}", f"{ours['seconds']:,.0f}", "1.0x"],
    ]  # fmt: skip
    print(markdown(["layers", "seconds a cell", f"seconds for {cells} runs", "tamis is faster by"], rows))
    refusals = found["refusals"]
    print(
        f"\npublished: measured on {theirs['measured']}, their refusals equal: {theirs['refusals']}; the rest is "
        f"extrapolated. tamis: measured on {ours['measured']}.\n"
        f"Refusals of {prompts}: {refusals['unscaled']} unscaled, {refusals['min']} to {refusals['max']} in the grid; "
        f"most sensitive block {found['most_sensitive_block']}"
    )


def _since(began: float, device: torch.device) -> float:
    synchronise(device)
    return time.perf_counter() - began


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a chat model's folder")
    parser.add_argument("--prompts", type=int, help="the first so many prompts only")
    parser.add_argument("--cells", type=int, default=3, help="cells that the published way is timed on (default 3)")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="float32")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()

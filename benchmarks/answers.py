"""Greedy answers to the layer search's prompts: tamis' generator beside transformers' batched `generate`.

    python benchmarks/answers.py                 a random 16-block model of 50M block weights, and aligned-8m if at hand
    python benchmarks/answers.py --model FOLDER  a chat model

The same prompts, padded on the left in the same batches, 32 new tokens each; interleaved, medians. generate runs with
its growing cache and with its StaticCache. Processor time stands beside wall time: on a busy machine it says more, and
with --threads 1 it is what one would wait for on an idle one. "Equal" counts which of the first answers are those of
generate on one prompt at a time. The layer search also keeps what lies below the scaled block and ends an answer that
has refused; neither is part of this.

Needs torch, transformers, pyarrow and numpy; neither Ray nor an installed tamis.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import machine
import models
import numpy as np
import numpy.typing as npt
import torch
from layers import chosen_models, shipped_prompts
from tables import markdown
from timing import cpu_seconds, interleave, seconds, summarise
from transformers import AutoTokenizer

from tamis.operators.generation.answers import Generator, batches_of, make_batch
from tamis.operators.statistics.sensitivity import NEW_TOKENS
from tamis.operators.tokens.questions import QuestionTokenizer

RESULTS = checkout.ROOT / "benchmarks" / "results" / "answers.json"
ROWS = 256
ALONE = 12
"""Prompts that generate also answers one at a time."""

Ids = list[npt.NDArray[np.int64]]


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    results = machine.facts(device)
    print(machine.line(results["machine"]))
    prompts = shipped_prompts()[: arguments.prompts]
    results |= {"prompts": len(prompts), "new_tokens": NEW_TOKENS, "models": []}
    with tempfile.TemporaryDirectory(prefix="tamis-answers-") as folder:
        for name, path in chosen_models(arguments.model, Path(folder), prompts):
            found = compare(path, prompts, arguments.repeats, arguments.dtype, device)
            results["models"].append({"model": name} | found)
            rows = [
                [way, f"{took['median']:.2f}", f"{took['min']:.2f} to {took['max']:.2f}", f"{cpu['median']:.2f}",
                 f"{cpu['median'] / found['cpu']['tamis']['median']:.2f}x", f"{found['equal'][way]} of {ALONE}"]
                for (way, took), cpu in zip(found["ways"].items(), found["cpu"].values(), strict=True)
            ]  # fmt: skip
            print(f"\n{name}, {found['dtype']}; {len(prompts)} prompts, {NEW_TOKENS} new tokens\n")
            print(markdown(["answers", "seconds, median", "min to max", "CPU seconds", "of tamis'", "equal"], rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


@torch.inference_mode()
def compare(path: Path, prompts: Sequence[str], repeats: int, dtype: str, device: torch.device) -> dict[str, Any]:
    model = models.load_full(path, dtype=models.DTYPES[dtype], device=device)
    tokenizer = AutoTokenizer.from_pretrained(path)
    stops = frozenset([tokenizer.eos_token_id])
    ids = QuestionTokenizer(tokenizer).questions(prompts)
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    batches = batches_of(lengths, NEW_TOKENS, ROWS, ())
    generate = partial(_theirs, model, ids, batches, stops, device)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "tamis": partial(_ours, Generator(model, stops), ids, batches, device),
        "generate, growing cache": partial(generate, cache=None),
        "generate, static cache": partial(generate, cache="static"),
    }
    alone = _theirs(model, ids, [np.array([row]) for row in range(ALONE)], stops, device, cache=None)[:ALONE]
    equal = {name: sum(a == b for a, b in zip(run(), alone, strict=False)) for name, run in ways.items()}
    cpu: dict[str, list[float]] = {name: [] for name in ways}

    def both(name: str) -> float:
        walls: list[float] = []
        cpu[name].append(cpu_seconds(lambda: walls.append(seconds(ways[name], device))))
        return walls[0]

    taken = interleave({name: partial(both, name) for name in ways}, repeats)
    return {
        "dtype": dtype,
        "equal": equal,
        "load_average": round(os.getloadavg()[0], 1),
        "ways": {name: summarise(values).as_json() for name, values in taken.items()},
        "cpu": {name: summarise(values).as_json() for name, values in cpu.items()},
    }


def _ours(generator: Generator, ids: Ids, batches: Sequence[Any], device: torch.device) -> list[list[int]]:
    answers: list[list[int]] = [[]] * len(ids)
    for rows in batches:
        batch = make_batch([ids[row] for row in rows], NEW_TOKENS, device)
        for row, answer in zip(rows, generator.answers(batch, *generator.prefill(batch)), strict=True):
            answers[row] = answer
    return answers


def _theirs(
    model: Any, ids: Ids, batches: Sequence[Any], stops: frozenset[int], device: torch.device, cache: str | None
) -> list[list[int]]:
    answers: list[list[int]] = [[]] * len(ids)
    how = {} if cache is None else {"cache_implementation": cache}
    for rows in batches:
        width = max(len(ids[row]) for row in rows)
        tokens = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(tokens)
        for place, row in enumerate(rows):
            tokens[place, width - len(ids[row]) :] = ids[row]
            mask[place, width - len(ids[row]) :] = 1
        output = model.generate(
            torch.from_numpy(tokens).to(device), attention_mask=torch.from_numpy(mask).to(device), do_sample=False,
            max_new_tokens=NEW_TOKENS, eos_token_id=sorted(stops), pad_token_id=0, **how,
        )  # fmt: skip
        for row, answer in zip(rows, output[:, width:].tolist(), strict=True):
            ends = [place for place, token in enumerate(answer) if token in stops]
            answers[row] = answer[: ends[0] + 1] if ends else answer
    return answers


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a chat model's folder")
    parser.add_argument("--prompts", type=int, help="the first so many prompts only")
    parser.add_argument("--repeats", type=int, default=5, help="of every way (default 5)")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="float32")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""How much of what the forward pass computes is padding, by rows and shard size; nothing of that depends on a clock.

    python benchmarks/padding.py                Alpaca's lengths under aligned-8m's tokenizer
    python benchmarks/padding.py --timed        and the processor time of 96 and 640 rows, filled and cheapest in turns
    python benchmarks/padding.py --overhead     and what a batch costs beside its tokens: BATCH_OVERHEADS["cpu"]

"Filled" takes the rows by length and fills each batch up to the budget, as tamis did before; "cheapest" is
token_budget_batches. A job's batches stay within a shard, of 2,048 rows unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import corpora
import machine
import models
import numpy as np
import numpy.typing as npt
import torch
from tables import markdown
from timing import cpu_seconds, interleave, summarise
from ways import last_token, ours

from tamis.operators.forward import rows as operators_rows
from tamis.operators.forward.batching import token_budget_batches
from tamis.operators.forward.representations import Representer
from tamis.operators.forward.rows import BATCH_OVERHEADS, COMPILED_TOKEN_BUDGETS, TOKEN_BUDGETS

RESULTS = checkout.ROOT / "benchmarks" / "results" / "padding.json"
ROWS = (96, 200, 500, 640, 1000, 3000)
SHARDS = (256, 2048, 100_000)
TARGET = 0.03
TIMED_ROWS = (96, 640)
TRIAL_TOKENS, TRIAL_ROWS = 64, (1, 2, 4, 8, 16, 32)

Lengths = npt.NDArray[np.int64]
Batches = list[npt.NDArray[np.int64]]
Split = Callable[[Lengths, int, int], Batches]


def filled(lengths: npt.ArrayLike, budget: int, overhead: int, max_rows: int = 512) -> Batches:
    """Rows by length, each batch filled up to the budget. overhead: not looked at."""
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = min(max(budget // int(sizes[order[start]]), 1), max_rows)
        batches.append(order[start : start + count])
        start += count
    return batches


SPLITS: dict[str, Split] = {"filled": filled, "cheapest": token_budget_batches}


def counted(lengths: Lengths, shard: int, budget: int, overhead: int) -> dict[str, dict[str, float]]:
    """By split: the share of the computed tokens that is padding, and the batches."""
    found = {}
    for name, split in SPLITS.items():
        computed = batches = 0
        for start in range(0, len(lengths), shard):
            part = lengths[start : start + shard]
            parts = split(part, budget, overhead)
            computed += sum(len(rows) * int(part[rows].max()) for rows in parts)
            batches += len(parts)
        found[name] = {"padding": 1 - int(lengths.sum()) / computed, "batches": batches}
    return found


def main() -> None:
    arguments = parse()
    corpus = corpora.find_corpus(max(ROWS), file=arguments.corpus, tokenizer=arguments.tokenizer)
    results = machine.facts(torch.device("cpu")) | {"corpus": {"source": corpus.source} | corpus.quantiles()}
    print(machine.line(results["machine"]))
    results["padding"] = tables(corpus.lengths)
    worst = max(
        entry["cheapest"]["padding"]
        for entry in results["padding"]
        if entry["rows"] == max(ROWS) and entry["shard_rows"] >= 2048 and entry["way"] == "cpu"
    )
    print(f"\n{max(ROWS):,} rows on a CPU, shards of 2,048 and more: at most {worst:.1%} (target {TARGET:.0%})")
    torch.set_num_threads(1)  # processor time of one thread: the least that a busy machine disturbs
    if arguments.timed or arguments.overhead:
        with tempfile.TemporaryDirectory(prefix="tamis-padding-") as name:
            representer = load(Path(name), arguments.shape, arguments.dtype)
        results["model"] = f"{arguments.shape}, random, {arguments.dtype}"
        vocabulary = models.SHAPES[arguments.shape].vocabulary
        if arguments.overhead:
            results["overhead_tokens"] = overhead(representer, vocabulary, arguments.repeats)
        if arguments.timed:
            results["timed"] = timed(representer, corpora.with_random_ids(corpus, vocabulary), arguments.repeats)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


def tables(lengths: Lengths) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    compiled = {f"{device}, compiled": budget for device, budget in COMPILED_TOKEN_BUDGETS.items() if device == "cpu"}
    for way, budget in (TOKEN_BUDGETS | compiled).items():
        device = way.partition(",")[0]
        cells = []
        for rows in ROWS:
            for shard in SHARDS:
                if shard > rows and shard != SHARDS[-1]:
                    continue
                found = counted(lengths[:rows], shard, budget, BATCH_OVERHEADS[device])
                entries.append({"way": way, "token_budget": budget, "rows": rows, "shard_rows": shard} | found)
                one = [f"{found[name]['padding']:.1%}, {found[name]['batches']}" for name in SPLITS]
                cells.append([f"{rows:,} rows, {'one shard' if shard >= rows else f'shards of {shard:,}'}", *one])
        print(f"\n{way}, {budget:,} tokens a batch, overhead {BATCH_OVERHEADS[device]} tokens\n")
        print(markdown(["padding, batches", *SPLITS], cells))
    return entries


def load(folder: Path, shape: str, dtype: str) -> Representer:
    block = models.SHAPES[shape].block
    device = torch.device("cpu")
    model = models.make_random(models.SHAPES[shape].config(), dtype=models.DTYPES[dtype], device=device)
    models.save_up_to(model, folder / "model", block)
    return Representer.load(folder / "model", last_token(block), dtype=dtype, device="cpu")


def overhead(representer: Representer, vocabulary: int, repeats: int) -> float:
    """Tokens that cost as much as an empty batch would: the best times of batches of equal rows, and a line through."""
    random = np.random.default_rng(0)
    runs = {}
    for rows in TRIAL_ROWS:
        ids = list(random.integers(0, vocabulary, (rows, TRIAL_TOKENS)))
        finals = np.tile([TRIAL_TOKENS // 2, TRIAL_TOKENS], (rows, 1))
        run = partial(ours, representer, ids, finals, token_budget=TRIAL_TOKENS * TRIAL_ROWS[-1])
        run()
        runs[str(rows)] = partial(cpu_seconds, run)
    best = [min(values) for values in interleave(runs, repeats).values()]
    tokens = np.array(TRIAL_ROWS) * TRIAL_TOKENS
    per_token, per_batch = np.polyfit(tokens, best, 1, w=1 / np.array(best))
    found = float(per_batch / per_token)
    print(
        f"\na batch: {per_batch * 1e3:.1f} ms and {per_token * 1e6:.0f} us a token: as much as {found:.0f} tokens "
        f"(BATCH_OVERHEADS has {BATCH_OVERHEADS['cpu']})"
    )
    return found


def timed(representer: Representer, corpus: corpora.Corpus, repeats: int) -> list[dict[str, Any]]:
    """Processor seconds of both splits in turns."""
    entries, cells = [], []
    for rows in TIMED_ROWS:
        ids, finals = corpus.input_ids[:rows], corpus.finals[:rows]

        def run(split: Split, ids: Any = ids, finals: Any = finals) -> float:
            with splitting(split):
                return cpu_seconds(partial(ours, representer, ids, finals))

        runs = {name: partial(run, split) for name, split in SPLITS.items()}
        for warm in runs.values():
            warm()
        taken = {name: summarise(values) for name, values in interleave(runs, repeats).items()}
        faster = taken["filled"].median / taken["cheapest"].median
        entries.append({"rows": rows, "faster_by": faster} | {name: found.as_json() for name, found in taken.items()})
        spreads = [f"{found.median:.2f} ({found.min:.2f}-{found.max:.2f})" for found in taken.values()]
        cells.append([f"{rows} rows", *spreads, f"{faster:.2f}x"])
    print("\n" + markdown(["processor seconds (min-max)", *SPLITS, "faster by"], cells))
    return entries


@contextmanager
def splitting(split: Split) -> Iterator[None]:
    """The forward pass makes its batches with `split`."""
    before = operators_rows.token_budget_batches
    operators_rows.token_budget_batches = split  # type: ignore[assignment]
    try:
        yield
    finally:
        operators_rows.token_budget_batches = before


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="JSONL (default: Alpaca, if it is at hand)")
    parser.add_argument("--tokenizer", type=Path, help="a model's folder (default: aligned-8m, if it is at hand)")
    parser.add_argument("--timed", action="store_true", help="time both splits, too")
    parser.add_argument("--overhead", action="store_true", help="measure what a batch costs beside its tokens")
    parser.add_argument("--shape", choices=models.SHAPES, default="small16", help="of the random model that is timed")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()

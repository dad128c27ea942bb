"""Which way of running the model, and how many tokens a batch, is the fastest: what decides tamis' defaults on a GPU.

    python benchmarks/budgets.py --shape 8b                    for a GPU: 1,200 rows, block 10 of 32
    python benchmarks/budgets.py --ways padded --budgets 2048 4096

Each way (padded, packed, compiled, both) runs the same rows with each token budget once to warm up, and must give the
vectors that the first one gave, and is timed once; then all are timed in turns, as often as --seconds allows, and
medians count. The result is written again after each way and each round: what is stopped has what it had. Useful FLOPs
are those of the blocks up to the requested one on the real tokens (models.Work); MFU is their share of the best that
the vendor says the GPU does (PEAKS), "of the ceiling" that of the best matrix product measured here. The best padded
budget becomes TOKEN_BUDGETS["cuda"] of operators/forward/rows.py, the best compiled one COMPILED_TOKEN_BUDGETS["cuda"].
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ceiling
import checkout
import corpora
import machine
import models
import torch
import ways
from agreement import TOLERANCES, agreement
from tables import markdown
from timing import seconds, summarise

from tamis.operators.forward.representations import Representer

RESULTS = checkout.ROOT / "benchmarks" / "results" / "budgets.json"
WAYS: dict[str, dict[str, Any]] = {
    "padded": {},
    "packed": {"attention": "packed"},
    "compiled": {"compile": True},
    "packed+compiled": {"attention": "packed", "compile": True},
}
BUDGETS = (4096, 8192, 16384, 32768, 65536)
PEAKS = {"H200": 989.4e12, "H100": 989.4e12, "A100": 312e12}  # dense bfloat16 FLOP/s of the SXM cards' datasheets
WARMING = 0.7  # of the time at most, before the timed rounds begin

Combination = tuple[str, int]


class Sweep:
    """The rows, the model of each way, and the seconds of every combination so far."""

    def __init__(self, model: Path, block: int, corpus: corpora.Corpus, dtype: str, device: torch.device) -> None:
        self.model, self.block, self.corpus, self.dtype, self.device = model, block, corpus, dtype, device
        self.taken: dict[Combination, list[float]] = {}
        self.warmup: dict[Combination, float] = {}
        self.failed: dict[str, str] = {}
        self.agreements: dict[str, dict[str, float]] = {}
        self._runs: dict[Combination, partial[ways.Vectors]] = {}
        self._reference: ways.Vectors | None = None

    def prepare(self, way: str, budgets: list[int]) -> None:
        """Load the model of `way` and warm every budget up. What fails is noted, and the others go on."""
        try:
            representer = Representer.load(
                self.model, ways.last_token(self.block), dtype=self.dtype, device=str(self.device), **WAYS[way]
            )
            for budget in budgets:
                run = partial(ways.ours, representer, self.corpus.input_ids, self.corpus.finals, token_budget=budget)
                self.warmup[way, budget] = self._checked(way, budget, run)
                self._runs[way, budget] = run
                self.taken[way, budget] = [seconds(run, self.device)]
        except Exception as error:  # a kernel that is missing, a compiler that fails: to be read in the result
            self.failed[way] = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            print(f"{way} failed: {self.failed[way]}", file=sys.stderr)

    def _checked(self, way: str, budget: int, run: partial[ways.Vectors]) -> float:
        began = time.perf_counter()
        vectors = run()
        took = time.perf_counter() - began
        if self._reference is None:
            self._reference = vectors
        found = agreement(self._reference, vectors)
        if not found.max <= TOLERANCES[self.dtype]:
            raise ValueError(f"not the same vectors with budget {budget}: {found.line()}")
        self.agreements[f"{way}, {budget}"] = found.as_json()
        print(f"{way}, {budget:,} tokens a batch: warm after {took:.1f} s", file=sys.stderr)
        return took

    def rounds(self, until: float, most: int, save: Callable[[], None]) -> None:
        """Rounds of all combinations, and none that would not end before `until`."""
        names = list(self._runs)
        took = sum(values[0] for values in self.taken.values())
        for number in range(most if names else 0):
            began, first = time.perf_counter(), number % len(names)
            if began + took > until:
                return
            for name in names[first:] + names[:first]:
                self.taken[name].append(seconds(self._runs[name], self.device))
            took = time.perf_counter() - began
            print(f"round {number + 1}: {took:.1f} s", file=sys.stderr)
            save()


def main() -> None:
    arguments = parse()
    began = time.perf_counter()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    results: dict[str, Any] = machine.facts(device)
    print(machine.line(results["machine"]))
    shape = models.SHAPES[arguments.shape]
    block = shape.block if arguments.block is None else arguments.block
    corpus = corpora.with_random_ids(
        corpora.find_corpus(arguments.rows, file=None, tokenizer=None), vocabulary=shape.vocabulary
    )
    with tempfile.TemporaryDirectory(prefix="tamis-budgets-") as name:
        folder = models.make_folder(
            arguments.model or Path(name) / "model", arguments.shape, block, dtype=arguments.dtype, device=device,
            texts=["How do I boil an egg?"],
        )  # fmt: skip
        top = peak(shape, models.DTYPES[arguments.dtype], device)
        sweep = Sweep(folder, block, corpus, arguments.dtype, device)
        results |= {"model": f"{arguments.shape}, random, block {block}, {arguments.dtype}"}
        without_weights = models.make_random(shape.config(), dtype=torch.bfloat16, device=torch.device("meta"))
        work = models.work(without_weights, corpus.lengths, block)

        def save() -> None:
            if arguments.json is not None:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(results | found(sweep, work, top), indent=2) + "\n")

        longest = 0.0
        for way in arguments.ways:
            now = time.perf_counter()
            # what is compiled anew takes about as long as what was compiled before it
            late = now - began > WARMING * arguments.seconds or now + 1.5 * longest > began + arguments.seconds
            if late and sweep.warmup:
                sweep.failed[way] = "left out: no time"
            else:
                sweep.prepare(way, arguments.budgets)
                longest = max(longest, time.perf_counter() - now)
                save()
        sweep.rounds(began + arguments.seconds, arguments.repeats, save)
    save()
    show(found(sweep, work, top))
    if not sweep.taken:
        sys.exit("no way could be measured")


@torch.inference_mode()
def peak(shape: models.Shape, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the best product of the widest matrix of a block."""
    candidates = ceiling.products({"up_proj": (shape.width, shape.mlp)}, tokens=8192, dtype=dtype, device=device)
    return max(ceiling.rate(product, device) for product in candidates)


def found(sweep: Sweep, work: models.Work, top: float) -> dict[str, Any]:
    """All of it for JSON: every combination, the best of all, and the best budget of each way."""
    name = torch.cuda.get_device_name(sweep.device) if sweep.device.type == "cuda" else ""
    vendor = next((flops for card, flops in PEAKS.items() if card in name and sweep.dtype == "bfloat16"), None)
    entries: list[dict[str, Any]] = []
    for (way, budget), values in sweep.taken.items():
        summary = summarise(values)
        flops = work.standard / summary.median
        entries.append(
            {
                "way": way,
                "token_budget": budget,
                "seconds": summary.as_json(),
                "warmup_seconds": sweep.warmup[way, budget],
                "tokens_per_second": sweep.corpus.tokens / summary.median,
                "useful_gflop_per_second": flops / 1e9,
                "mfu": None if vendor is None else flops / vendor,
                "of_the_ceiling": flops / top,
            }
        )
    by_speed = sorted(entries, key=lambda entry: -entry["tokens_per_second"])
    best_of = {way: next((entry for entry in by_speed if entry["way"] == way), None) for way in WAYS}
    return {
        "corpus": {"source": sweep.corpus.source} | sweep.corpus.quantiles(),
        "dtype": sweep.dtype,
        "ceiling_tflop_per_second": top / 1e12,
        "vendor_tflop_per_second": None if vendor is None else vendor / 1e12,
        "combinations": entries,
        "agreement_with_the_first": sweep.agreements,
        "failed": sweep.failed,
        "best": by_speed[0] if by_speed else None,
        "best_budget_of_each_way": {way: entry["token_budget"] for way, entry in best_of.items() if entry},
    }


def show(results: dict[str, Any]) -> None:
    rows = [
        [
            f"{entry['way']}, {entry['token_budget']:,}",
            "{median:.2f} ({min:.2f}-{max:.2f})".format(**entry["seconds"]),
            f"{entry['tokens_per_second']:,.0f}",
            "?" if entry["mfu"] is None else f"{entry['mfu']:.2f}",
            f"{entry['of_the_ceiling']:.2f}",
            f"{entry['warmup_seconds']:.1f}",
        ]
        for entry in results["combinations"]
    ]
    corpus, best = results["corpus"], results["best"]
    print(f"\n{corpus['source']}: {corpus['rows']:,} rows, {corpus['tokens']:,} tokens\n")
    print(markdown(["way, tokens a batch", "seconds (min-max)", "tokens/s", "MFU", "of the ceiling", "warm-up"], rows))
    vendor = results["vendor_tflop_per_second"]
    said = "" if vendor is None else f"; the vendor's: {vendor:,.0f}"
    print(f"\nceiling, {results['dtype']}: {results['ceiling_tflop_per_second']:,.2f} TFLOP/s{said}")
    for way, reason in results["failed"].items():
        print(f"not measured: {way}: {reason}")
    if best is not None:
        rate = best["tokens_per_second"]
        print(f"best: {best['way']}, {best['token_budget']:,} tokens a batch, {rate:,.0f} tokens/s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=models.SHAPES, default="small16", help="of the random model")
    parser.add_argument("--model", type=Path, help="its folder, made if it is not there yet (default: a temporary one)")
    parser.add_argument("--block", type=int, help="the block whose output is taken (default 5 of 16, 10 of 32)")
    parser.add_argument("--dtype", choices=list(models.DTYPES), default="bfloat16")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS), help="tokens a batch")
    parser.add_argument("--repeats", type=int, default=5, help="at most (default 5)")
    parser.add_argument("--seconds", type=float, default=120.0, help="for all of it, about (default 120)")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()

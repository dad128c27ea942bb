"""How fast representations come out of a model: three ways that are in use, and tamis, side by side in one process.

    python benchmarks/forward.py                          320 Alpaca rows, 16 blocks x 512, bfloat16, block 5
    python benchmarks/forward.py --rows 0 --dtype both    all 3,000 rows
    python benchmarks/forward.py --shape 8b               an 8B-shaped random model, for a GPU
    python benchmarks/forward.py --profile                where the time of (d) goes
    python benchmarks/forward.py --losses                 per-token losses and their memory, too
    python benchmarks/forward.py --only-losses            these alone
    python benchmarks/forward.py --set attention=packed   an option of Representer.load or .represent

(a) the published way, (b) batches in file order, (c) sorted batches, (d) tamis, (e) tamis with compile=true, as
ways.py describes them, and the machine's ceiling (ceiling.py) are measured in turns and repeated; medians count.
Nothing is timed before all of them have given the same vectors. What tamis sets for its process (how freed memory is
kept) the other ways have as well, and their times are the better for it; on a CPU they are therefore measured a second
time, in the same turns, in a process of their own (apart.py), as their users run them. Rates count real tokens. Useful
FLOPs are those of the blocks up to the requested one on the real tokens (models.Work); the utilisation is useful FLOPs
per second over the ceiling.

Needs torch, transformers, pyarrow and numpy; neither Ray nor an installed tamis.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import apart
import ceiling
import checkout
import corpora
import machine
import models
import numpy as np
import token_losses
import torch
import ways
from agreement import Agreement, agreement, require_agreement
from counting import count_tokens
from profiling import profiled, show_profile
from tables import markdown
from timing import Summary, interleave, seconds, summarise

from tamis.operators.forward.representations import Representer
from tamis.operators.forward.rows import COMPILED_TOKEN_BUDGETS, TOKEN_BUDGETS

RESULTS = checkout.ROOT / "benchmarks" / "results" / "forward.json"


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    results: dict[str, Any] = machine.facts(device, also=("pyarrow",))
    print(machine.line(results["machine"]))
    dtypes = ["float32", "bfloat16"] if arguments.dtype == "both" else [arguments.dtype]
    results["representations"] = []
    reference = None
    for dtype in [] if arguments.only_losses else dtypes:
        with tempfile.TemporaryDirectory(prefix="tamis-forward-") as folder:
            measured = Measurement(arguments, dtype, device, Path(folder))
            reference = measured.check(reference)
            results["representations"].append(measured.run())
            if arguments.profile:
                results["representations"][-1]["profile"] = measured.profile()
            del measured
    if arguments.losses or arguments.only_losses:
        results["losses"] = token_losses.measure(
            device=device, dtype=dtypes[-1], rows=arguments.loss_rows, repeats=arguments.repeats, shape=arguments.shape,
            long_rows=arguments.loss_long_rows,
        )  # fmt: skip
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")


class Measurement:
    """One model in one dtype: made or loaded, the corpus for it, and the four ways ready to run."""

    def __init__(self, arguments: argparse.Namespace, dtype: str, device: torch.device, folder: Path) -> None:
        self.arguments, self.dtype, self.device, self.folder = arguments, dtype, device, folder
        number = models.DTYPES[dtype]
        corpus = corpora.find_corpus(arguments.rows, file=arguments.corpus, tokenizer=arguments.model)
        if arguments.model is not None:
            self.name, path = str(arguments.model), arguments.model
            self.full = models.load_full(path, dtype=number, device=device)
            self.block = arguments.block if arguments.block is not None else self.full.config.num_hidden_layers // 3
        else:
            shape = models.SHAPES[arguments.shape]
            self.name, path = f"{arguments.shape}, random", folder
            self.full = models.make_random(shape.config(), dtype=number, device=device)
            self.block = arguments.block if arguments.block is not None else shape.block
            models.save_up_to(self.full, path, self.block)
        if self.block >= self.full.config.num_hidden_layers - 1:
            sys.exit("transformers returns the last block's states after the final norm only: choose a lower --block")
        if arguments.model is None or not corpus.has_ids:
            corpus = corpora.with_random_ids(corpus, self.full.config.vocab_size)
        self.corpus = corpus
        load, represent = split_options(arguments.set, arguments.token_budget)
        self.tokens: int = represent.get("token_budget") or TOKEN_BUDGETS[device.type]
        self.representer = Representer.load(path, ways.last_token(self.block), dtype=dtype, device=str(device), **load)
        self.compiled: Representer | None = None
        if arguments.compiled:
            options = {**load, "compile": True}
            self.compiled = Representer.load(
                path, ways.last_token(self.block), dtype=dtype, device=str(device), **options
            )
        self.options = represent
        decoder, ids, block = self.full.base_model, corpus.input_ids, self.block
        self.ways = {
            "a": partial(ways.one_by_one, self.full, ids, block),
            "b": partial(ways.in_file_order, decoder, ids, block),
            "c": partial(ways.sorted_by_length, decoder, ids, block),
            "d": partial(ways.ours, self.representer, ids, corpus.finals, **represent),
        }
        if self.compiled is not None:
            self.ways["e"] = partial(ways.ours, self.compiled, ids, corpus.finals, **represent)
        self.computed: dict[str, int | None] = {}
        self.agreements: dict[str, Agreement] = {}
        self.apart: dict[str, Summary] = {}
        quantiles = corpus.quantiles()
        print(f"\n{self.name}: block {self.block} of {self.full.config.num_hidden_layers}, {dtype}, {corpus.source}")
        print(
            f"{quantiles['rows']:,} rows, {quantiles['tokens']:,} tokens: median {quantiles['median']:.0f}, "
            f"mean {quantiles['mean']:.0f}, 95 % {quantiles['p95']:.0f}, longest {quantiles['longest']}"
        )

    def check(self, reference: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
        """Run every way once: count the tokens it computes, and exit unless all of them give the same vectors.

        reference: the vectors of (a) in float32, if they are known, to say how far each way is from them. Returns
        those of (a).
        """
        vectors = {}
        for name, way in self.ways.items():
            if name == "e":
                # What watches the tokens keeps torch.compile from compiling: they are counted on its batches by (d).
                vectors[name] = way()
                budget = self.options.get("token_budget") or COMPILED_TOKEN_BUDGETS[self.device.type]
                twin = partial(ways.ours, self.representer, self.corpus.input_ids, self.corpus.finals,
                               **{**self.options, "token_budget": budget})  # fmt: skip
                _, self.computed[name] = count_tokens(twin, self.full.config.vocab_size)
            else:
                vectors[name], self.computed[name] = count_tokens(way, self.full.config.vocab_size)
        neighbour = ways.one_by_one(self.full, self.corpus.input_ids[:32], self.block - 1) if self.block else None
        for name in [name for name in self.ways if name != "a"]:
            self.agreements[name] = agreement(vectors["a"], vectors[name])
        print(f"agreement with (a) on all rows, before timing:\n{require_agreement(self.agreements, self.dtype)}")
        if neighbour is not None:
            other = agreement(vectors["a"][:32], neighbour)
            print(f"for scale, block {self.block - 1} instead: {other.line()}")
        if reference is not None:
            far = {name: agreement(reference, vectors[name]) for name in self.ways}
            print("distance from float32 (a), median: " + ", ".join(f"({n}) {f.median:.1e}" for n, f in far.items()))
        return vectors["a"]

    def run(self) -> dict[str, Any]:
        """All ways and the ceiling in turns."""
        with torch.inference_mode():
            candidates = ceiling.products(
                models.linear_shapes(models.blocks_of(self.full)[0]),
                tokens=self.tokens,
                dtype=models.DTYPES[self.dtype],
                device=self.device,
            )
            products = ceiling.finalists(candidates, self.tokens, self.device)
            del candidates
        for name, way in self.ways.items():
            if name == "d" or self.device.type == "cuda":  # while tokens are counted nothing is compiled
                way()
        turns = {f"way {name}": partial(seconds, way, self.device) for name, way in self.ways.items()}
        others = None
        if self.device.type == "cpu":
            others = apart.Apart(self.full, self.dtype, self.corpus.input_ids, self.block, self.folder / "apart")
            for name in "abc":
                others.seconds(name)
                turns[f"apart {name}"] = partial(others.seconds, name)
        turns |= {f"product {p.name}": partial(ceiling.rate, p, self.device) for p in products}
        taken = interleave(turns, self.arguments.repeats, tell=lambda line: print(line, file=sys.stderr))
        if others is not None:
            others.close()
        times = {name: summarise(taken[f"way {name}"]) for name in self.ways}
        self.apart = {name: summarise(taken[f"apart {name}"]) for name in "abc" if others is not None}
        rates = {product: summarise(taken[f"product {product.name}"]) for product in products}
        return self._results(times, rates)

    def _results(self, times: dict[str, Summary], rates: dict[ceiling.Product, Summary]) -> dict[str, Any]:
        work = models.work(self.full, self.corpus.lengths, self.block)
        best = max(rates, key=lambda product: rates[product].median)
        at_batch = [product for product in rates if product.plain and product.tokens == self.tokens]
        plain = max(at_batch, key=lambda product: rates[product].median)
        top, usual = rates[best].median, rates[plain].median
        real = self.corpus.tokens
        rows, found = [], {}
        for name, summary in times.items():
            took, computed = summary.median, self.computed[name]
            padding = None if not computed else 1 - real / computed
            found[name] = {
                "label": ways.LABELS[name],
                "seconds": summary.as_json(),
                "tokens_per_second": real / took,
                "rows_per_second": len(self.corpus.input_ids) / took,
                "padding": padding,
                "tamis_is_faster_by": took / times["d"].median,
                "tamis_compiled_is_faster_by": took / times["e"].median if "e" in times else None,
                "useful_gflop_per_second": work.standard / took / 1e9,
                "utilisation": work.standard / took / top,
                "utilisation_least_work": work.least / took / top,
                "utilisation_of_plain_linear": work.standard / took / usual,
            }
            rows.append(
                [
                    f"({name}) {ways.LABELS[name]}",
                    f"{took:.2f} ({summary.min:.2f}-{summary.max:.2f})",
                    f"{real / took:,.0f}",
                    f"{len(self.corpus.input_ids) / took:,.0f}",
                    "?" if padding is None else f"{padding:.1%}",
                    f"{took / times['d'].median:.2f}x",
                    f"{took / times['e'].median:.2f}x" if "e" in times else "",
                    f"{work.standard / took / 1e9:,.0f}",
                    f"{work.standard / took / top:.2f}",
                    f"{work.standard / took / usual:.2f}",
                ]
            )
        header = [
            "way",
            "seconds (min-max)",
            "tokens/s",
            "rows/s",
            "padding",
            "(d) is faster by",
            "(e) by",
            "useful GFLOP/s",
        ]
        print()
        print(markdown([*header, "of the ceiling", "of plain linear"], rows))
        for name, summary in self.apart.items():
            faster = summary.median / times["d"].median
            compiled = summary.median / times["e"].median if "e" in times else None
            print(
                f"({name}) in a process of its own: {summary.median:.2f} s ({summary.min:.2f}-{summary.max:.2f}), "
                f"{real / summary.median:,.0f} tokens/s; (d) is faster by {faster:.2f}x"
                + (f", (e) by {compiled:.2f}x" if compiled is not None else "")
            )
            found[name]["in_a_process_of_its_own"] = {
                "seconds": summary.as_json(),
                "tokens_per_second": real / summary.median,
                "tamis_is_faster_by": faster,
                "tamis_compiled_is_faster_by": compiled,
            }
        print(f"\nceiling, {self.dtype}: {top / 1e9:,.0f} GFLOP/s ({best.name}); best of plain torch linear at the "
              f"batch's tokens: {usual / 1e9:,.0f} ({plain.name})")  # fmt: skip
        print(
            f"(d) counting in the last block only what the last token needs: {found['d']['utilisation_least_work']:.2f}"
        )
        return {
            "model": self.name,
            "dtype": self.dtype,
            "block": self.block,
            "blocks": self.full.config.num_hidden_layers,
            "options": self.arguments.set,
            "token_budget": self.tokens,
            "corpus": {"source": self.corpus.source} | self.corpus.quantiles(),
            "agreement_with_a": {name: found_.as_json() for name, found_ in self.agreements.items()},
            "ways": found,
            "ceiling": {
                "best": {"gflop_per_second": top / 1e9, "product": best.name},
                "plain_linear": {"gflop_per_second": usual / 1e9, "product": plain.name},
                "all": {p.name: {k: v / 1e9 if k != "repeats" else v for k, v in r.as_json().items()}
                        for p, r in rates.items()},
            },
        }  # fmt: skip

    def profile(self) -> dict[str, Any]:
        shares = profiled(self.ways["d"], self.device)
        show_profile(shares)
        return shares


def split_options(settings: list[str], token_budget: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """KEY=VALUE settings as keyword options of Representer.load and of .represent, whichever has the key."""
    load: dict[str, Any] = {}
    represent: dict[str, Any] = {} if token_budget is None else {"token_budget": token_budget}
    known = inspect.signature(Representer.represent).parameters
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            sys.exit(f"--set {setting}: give KEY=VALUE")
        try:
            value = ast.literal_eval(text.capitalize() if text in ("true", "false", "none") else text)
        except (ValueError, SyntaxError):
            value = text
        (represent if key in known else load)[key] = value
    return load, represent


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=models.SHAPES, default="small16", help="a random model (default small16)")
    parser.add_argument("--model", type=Path, help="a model folder instead")
    parser.add_argument("--dtype", choices=[*models.DTYPES, "both"], default="bfloat16")
    parser.add_argument("--block", type=int, help="the block whose output is taken (default: 5 of 16, 10 of 32)")
    parser.add_argument("--rows", type=int, default=320, help="rows of the corpus; 0: all (default 320)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--corpus", type=Path, help="JSONL (default: shared/data/alpaca_3k.jsonl, else drawn)")
    parser.add_argument("--token-budget", type=int, help="of (d) (default: Representer's own)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of Representer")
    parser.add_argument("--profile", action="store_true", help="where the time of (d) goes")
    parser.add_argument(
        "--no-compiled", dest="compiled", action="store_false", help="leave (e) out: it needs a C++ compiler on a CPU"
    )
    parser.add_argument("--losses", action="store_true", help="per-token losses, too")
    parser.add_argument("--only-losses", action="store_true", help="per-token losses, and nothing else")
    parser.add_argument("--loss-rows", type=int, default=64, help="rows of --losses (default 64)")
    parser.add_argument("--loss-long-rows", type=int, default=8, help="of 2,048 tokens, for the losses' memory")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where results go (default {RESULTS.name})")
    parser.add_argument("--no-json", dest="json", action="store_const", const=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What runs of 1 million to 1 billion samples would cost, on paper.

    python benchmarks/cost_model.py                          the tables, as Markdown
    python benchmarks/cost_model.py --write docs/scale.md    into the document, between its marks
    python benchmarks/cost_model.py --gpu-dollars 2 --tokens 800 --shard-rows 16384

What tamis does for each shard and each row is taken from benchmarks/results/scale.json, which `benchmarks/scale.py`
measures, or counted in the code where that is said. What no machine here can measure is in Assumed, each with its
reason. The GPU time is arithmetic: floating-point operations of the blocks that are read, at a stated share of the
card's peak.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import checkout
from tables import markdown

from tamis.operators.methods.larf import default_block

RESULTS = checkout.ROOT / "benchmarks" / "results" / "scale.json"
BEGIN, END = "<!-- benchmarks/cost_model.py begins -->", "<!-- benchmarks/cost_model.py ends -->"

SIZES = (1_000_000, 100_000_000, 1_000_000_000)


@dataclass(frozen=True)
class Shape:
    """A Llama, as in models.py, which needs torch."""

    width: int
    mlp: int
    heads: int
    kv_heads: int
    blocks: int
    vocabulary: int


MODELS = {
    "8B": Shape(width=4096, mlp=14336, heads=32, kv_heads=8, blocks=32, vocabulary=128_256),
    "70B": Shape(width=8192, mlp=28672, heads=64, kv_heads=8, blocks=80, vocabulary=128_256),
}
METHODS = ("larf", "larf and saft", "toss")
CHARGED_AS_WRITES = ("PUT", "POST", "LIST", "COPY")
CHARGED_AS_READS = ("GET", "HEAD")
"""Other methods (DELETE) cost nothing."""


@dataclass(frozen=True)
class Assumed:
    """What is not measured here. Prices are assumptions of 2026-11-29 in US dollars, not read from a price list: put in
    what you pay."""

    tokens: float = 400.0
    """Of a sample."""
    answer_share: float = 0.5
    """Of the tokens, those of answers: TOSS computes a loss for each."""
    text_bytes: float = 4.0
    """Of the input, a token."""
    stored_share: float = 0.4
    """Bytes of kept/ and dropped/ (Parquet, zstd) to a byte of JSON Lines input."""
    peak_flops: float = 989.4e12
    """Dense bfloat16 of an H100 or H200 SXM, by its data sheet (PEAKS of budgets.py)."""
    utilisation: float = 0.4
    """Share of the peak that useful operations reach. No result of a GPU is in the repository yet."""
    gpu_bytes: float = 141e9
    """Of an H200."""
    gpu_dollars: float = 3.0
    """For a GPU and hour."""
    write_dollars: float = 0.005 / 1000
    """For a PUT, POST or LIST request."""
    read_dollars: float = 0.0004 / 1000
    """For a GET or HEAD request."""
    shard_rows: int = 2048
    """The job's default."""


@dataclass(frozen=True)
class Measured:
    """From scale.json. Of bytes: `row` is a sample, `token` one of its tokens, `shard` a shard of any size."""

    base_mb: float
    driver_kb: float
    driver_cpu_ms: float
    manifest_bytes: float
    receipt_bytes: float
    capture_row: float
    score_row: float
    losses_token: float
    training_token: float
    requests: Mapping[str, Mapping[str, float]]
    counted: frozenset[str] = frozenset()
    """Which of these are counted in the code instead."""


LOSSES_TOKEN, TRAINING_TOKEN = 12.0, 17.0
"""Bytes before compression, by their types: an id (int32) and two losses (float32), if every token is an answer's; and
input_ids (int32), attention_mask (int8), labels (int64), token_risk (float32)."""

_SAMPLES = {
    "PUT tables": 5.0,  # _work/capture, _work/scores, kept, dropped, scores
    "PUT receipts": 2.0 + 2 / 256,
    "GET input": 2.0,  # by capture and by emit
    "HEAD input": 2.0,  # has it changed?
    "GET _work/capture": 3.0,  # by fit, by scoring, by emit
    "GET _work/scores": 4.0,  # the bin of the cut, its ties, the ranks, emit
    "DELETE _work": 4.0,
}
COUNTED_REQUESTS: Mapping[str, Mapping[str, float]] = {
    "saft": _SAMPLES,
    # No _work/scores; the losses are read for the histogram, the bin, the ties, the statistics and by emit.
    "toss": {**_SAMPLES, "PUT tables": 4.0, "GET _work/scores": 0.0, "GET _work/capture": 5.0, "DELETE _work": 3.0},
}
"""Of one shard whose parts are all there, counted in the code; `scale.py --requests` counts them at a server."""

COUNTED = frozenset({"requests", "losses_token", "training_token"})


@dataclass(frozen=True)
class Cost:
    """gpus: of one worker. gpu_hours: of all GPUs. Bytes: captured lie in _work until the run ends; output stays.
    driver_mb: at its peak. requests: to the object store, without the lease."""

    samples: int
    model: str
    method: str
    gpus: int
    gpu_hours: float
    gpu_dollars: float
    shards: int
    requests: float
    request_dollars: float
    captured: float
    output: float
    receipts: int
    manifest: float
    driver_mb: float
    driver_hours: float


def measured(results: Mapping[str, Any]) -> Measured:
    """Raises KeyError for --rows and --driver, if they have not been run. What the other modes of scale.py have not
    measured yet is counted instead."""
    run, each = results["rows"]["runs"][-1], results["driver"]["each_shard"]
    written = run["written"]
    null_width = 16  # of null_model.py
    found = Measured(
        base_mb=run["peaks_mb"]["driver"],
        driver_kb=each["driver_kb"],
        driver_cpu_ms=each["cpu_ms"],
        manifest_bytes=each["manifest_bytes"],
        receipt_bytes=sum(entry["bytes"] for name, entry in written.items() if "/receipts/" in name) / run["shards"],
        capture_row=written["_work/capture"]["bytes"] / run["rows"] - 4 * null_width,
        score_row=(written["scores"]["bytes"] + written["_work/scores"]["bytes"]) / run["rows"],
        losses_token=LOSSES_TOKEN,
        training_token=TRAINING_TOKEN,
        requests=COUNTED_REQUESTS,
        counted=COUNTED,
    )
    if set(COUNTED_REQUESTS) <= set(results.get("requests", {})):
        requests = {method: results["requests"][method]["curate"]["each_shard"] for method in COUNTED_REQUESTS}
        found = replace(found, requests=requests, counted=found.counted - {"requests"})
    return found


def cost(samples: int, model: str, method: str, found: Measured, assumed: Assumed) -> Cost:
    """One row of the tables."""
    shape, masks = MODELS[model], method == "toss"
    shards = math.ceil(samples / assumed.shard_rows)
    gpus = 1 if not masks else math.ceil(2 * parameters(shape) / (0.85 * assumed.gpu_bytes))
    # Blocks that lie on several GPUs run one after the other: the other GPUs of the worker wait.
    hours = samples * flops(shape, method, assumed) / (assumed.peak_flops * assumed.utilisation) / 3600 * gpus
    requests = found.requests["toss" if masks else "saft"]
    writes, reads, others = (
        shards * sum(number for kind, number in requests.items() if (kind.split()[0] in charged))
        for charged in (CHARGED_AS_WRITES, CHARGED_AS_READS, ("DELETE",))
    )
    text = samples * assumed.tokens * assumed.text_bytes
    vectors = (method.count("and") + 1) * 4 * shape.width
    captured = samples * (found.losses_token * assumed.tokens if masks else vectors + found.capture_row)
    output = text * assumed.stored_share + samples * found.score_row
    output += samples * assumed.tokens * found.training_token * masks
    return Cost(
        samples=samples,
        model=model,
        method=method,
        gpus=gpus,
        gpu_hours=hours,
        gpu_dollars=hours * assumed.gpu_dollars,
        shards=shards,
        requests=writes + reads + others,
        request_dollars=writes * assumed.write_dollars + reads * assumed.read_dollars,
        captured=captured + shards * found.receipt_bytes,
        output=output + shards * found.manifest_bytes,
        receipts=2 * shards,
        manifest=shards * found.manifest_bytes,
        driver_mb=found.base_mb + shards * found.driver_kb / 1000,
        driver_hours=shards * found.driver_cpu_ms / 1000 / 3600,
    )


def flops(shape: Shape, method: str, assumed: Assumed) -> float:
    """Useful floating-point operations for one sample: 2 for each weight and token, and causal attention."""
    tokens = assumed.tokens
    a_block = 2 * block_parameters(shape) * tokens + 2 * shape.width * tokens * (tokens + 1)
    if method == "toss":  # two models, all blocks, and the head for the tokens of answers
        return 2 * (shape.blocks * a_block + 2 * shape.width * shape.vocabulary * assumed.answer_share * tokens)
    return blocks_read(shape, method) * a_block


def blocks_read(shape: Shape, method: str) -> int:
    """LARF reads its default block without a search, SAFT the middle one; both together are one pass to the higher."""
    highest = default_block(shape.blocks)
    return (max(highest, shape.blocks // 2) if "saft" in method else highest) + 1


def block_parameters(shape: Shape) -> int:
    """Of the matrices of one block."""
    keys = shape.width // shape.heads * shape.kv_heads
    return 2 * shape.width * shape.width + 2 * shape.width * keys + 3 * shape.width * shape.mlp


def parameters(shape: Shape) -> int:
    return shape.blocks * block_parameters(shape) + 2 * shape.width * shape.vocabulary


def table(costs: Sequence[Cost]) -> str:
    header = ["samples", "GPU-hours", "days on 8 GPUs", "GPU $", "requests", "request $", "in _work", "output",
              "receipts", "manifest.json", "driver's memory", "driver's own CPU"]  # fmt: skip
    rows = [
        [
            f"{amount(each.samples)}, {each.model}, {each.method}",
            number(each.gpu_hours) + (f" ({each.gpus} GPUs a worker)" if each.gpus > 1 else ""),
            number(each.gpu_hours / 8 / 24),
            number(each.gpu_dollars),
            amount(each.requests),
            number(each.request_dollars),
            size(each.captured),
            size(each.output),
            amount(each.receipts),
            size(each.manifest),
            size(each.driver_mb * 1e6),
            f"{number(each.driver_hours)} h",
        ]
        for each in costs
    ]
    return markdown(header, rows)


def amount(value: float) -> str:
    """A count in thousands to trillions, e.g. 2.44 M."""
    for unit, over in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= over:
            return f"{value / over:.3g} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    for unit, over in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= over:
            return f"{value / over:.3g} {unit}"
    return f"{value:.0f} B"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def inputs(found: Measured, assumed: Assumed) -> str:
    """What the table was made from."""
    said = {
        "driver's memory": f"{found.base_mb:,.0f} MB and {found.driver_kb:.2f} kB a shard",
        "driver's own CPU, without Ray's": f"{found.driver_cpu_ms:.2f} ms a shard",
        "manifest.json": f"{found.manifest_bytes:,.0f} bytes a shard",
        "receipts and their compact files": f"{found.receipt_bytes:,.0f} bytes a shard of both stages",
        "a captured row, besides its vectors": f"{found.capture_row:.1f} bytes",
        "scores of a row, before and after the cut": f"{found.score_row:.1f} bytes",
        "losses and ids of a token (toss)": f"{found.losses_token:.3g} bytes",
        "training columns of a token (toss)": f"{found.training_token:.3g} bytes",
        **{
            f"requests a shard ({'toss' if method == 'toss' else 'larf, saft'})": f"{sum(kinds.values()):.1f}"
            for method, kinds in found.requests.items()
        },
    }
    by_code = {
        "requests": "requests a shard",
        "losses_token": "losses and ids of a token",
        "training_token": "training columns of a token",
    }
    counted = tuple(text for name, text in by_code.items() if name in found.counted)
    measured_rows = [
        [name, text, "counted in the code" if counted and name.startswith(counted) else "measured"]
        for name, text in said.items()
    ]
    assumed_rows = [[f"`{item.name}`", f"{getattr(assumed, item.name):.6g}", "assumed"] for item in fields(assumed)]
    return markdown(["what", "value", "from"], [*measured_rows, *assumed_rows])


def page(found: Measured, assumed: Assumed) -> str:
    """Both tables: the costs, and what they were made from."""
    rows = product(SIZES, MODELS, METHODS)
    costs = [cost(samples, model, method, found, assumed) for samples, model, method in rows]
    return f"{table(costs)}\n\n{inputs(found, assumed)}"


def written_into(text: str, tables: str) -> str:
    """The document with the tables between its marks. ValueError if it has no marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document has no {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for item in fields(Assumed):
        kind = int if item.name == "shard_rows" else float
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=kind, default=item.default)
    parser.add_argument("--results", type=Path, default=RESULTS, help="what scale.py has written")
    parser.add_argument("--write", type=Path, help="a document to put the tables into")
    arguments = parser.parse_args()
    assumed = replace(Assumed(), **{item.name: getattr(arguments, item.name) for item in fields(Assumed)})
    tables = page(measured(json.loads(arguments.results.read_text())), assumed)
    if arguments.write is None:
        print(tables)
    else:
        arguments.write.write_text(written_into(arguments.write.read_text(), tables))


if __name__ == "__main__":
    main()

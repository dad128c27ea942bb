"""How many tokens a second one reader makes: reading a shard, understanding its rows, rendering, tokenising, packing.

    python benchmarks/reading.py                              the model of the lab, 3,000 rows
    python benchmarks/reading.py --model path/to/model --rows 10000

CPU seconds of one process on one core, so that what else runs on the machine hardly counts. docs/cluster.md compares
the rate with what a GPU takes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import checkout
import machine
import pyarrow as pa
from capture import write_corpus

from tamis.pipeline.capture.parcels import unpack
from tamis.pipeline.capture.spec import capture_spec
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_shard
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import make_plan
from tamis.pipeline.storage.store import Store

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=checkout.ROOT / "benchmarks" / "lab" / "model")
    parser.add_argument("--rows", type=int, default=3000)
    arguments = parser.parse_args()
    # As in a worker, where every reader has one core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(machine.line(machine.facts()["machine"]))
    with tempfile.TemporaryDirectory(prefix="tamis-reading-") as name:
        folder = Path(name)
        write_corpus(folder / "corpus.jsonl", arguments.rows)
        keys = {"input": str(folder / "corpus.jsonl"), "output": str(folder / "out"), "model": str(arguments.model)}
        plan = make_plan(load_job(None, {**keys, "method": "saft"}, ["max_quarantined=0.5"]))
        pool, store = Pool(1, 1.0, 0.0, 1, 1.0), Store(str(folder / "out"))
        spec = capture_spec(plan.job, plan.model, store, "key", pool, plan.max_tokens, plan.requests)
        tokenizer, shards = PackedTokenizer.pack(plan.tokenizer), [shard.to_json() for shard in plan.shards]
        tokens = sum(_tokens(tokenise_shard(shard, spec, tokenizer)) for shard in shards)  # which opens the tokenizer
        began = time.process_time()
        for _ in range(ROUNDS):
            for shard in shards:
                tokenise_shard(shard, spec, tokenizer)
        seconds = (time.process_time() - began) / ROUNDS
    print(f"{plan.rows:,} rows, {tokens:,} tokens: {tokens / seconds:,.0f} tokens/s, {plan.rows / seconds:,.0f} rows/s")


def _tokens(parcel: pa.Table) -> int:
    _, rows = unpack(parcel)
    return 0 if rows is None else len(rows["input_ids"].combine_chunks().flatten())


if __name__ == "__main__":
    main()

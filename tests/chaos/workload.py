"""The job that the rounds disturb: small, in many shards, and with every kind of output."""

from __future__ import annotations

import json
import random
from pathlib import Path

from outputs import alpaca_rows, pair, sentence
from places import Files, Place
from tiny_models import save_model

ROWS, SHARD_ROWS, BAD_ROWS = 38, 4, 2
SHARDS = (ROWS + BAD_ROWS + SHARD_ROWS - 1) // SHARD_ROWS
RECEIPTS = {"capture": SHARDS + 2, "emit": SHARDS}
"""Stage -> receipts that it leaves; those of the capture also for the two reference sets."""
PARTS = ("kept", "dropped", "quarantine", "scores", "artifact")
"""What is the same after any disturbance, byte for byte."""


def build_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return save_model(folder, blocks=4, width=128)


def inputs() -> Files:
    chance = random.Random(31)
    rows = [json.dumps({**row, "output": f"{row['output']} " * 3}).encode() for row in alpaca_rows(ROWS, seed=32)]
    for number in range(BAD_ROWS):
        rows.insert(chance.randrange(len(rows)), b'{"instruction": %d, "output": ' % number)
    files = {"input/data.jsonl": b"\n".join(rows) + b"\n"}
    for role in ("unsafe", "safe"):
        turns = [json.dumps({"messages": pair(sentence(chance), sentence(chance))}).encode() for _ in range(4)]
        files[f"references/{role}.jsonl"] = b"\n".join(turns) + b"\n"
    return files


def arguments(place: Place, model: Path, out: str, address: str) -> list[str]:
    """Of `tamis`."""
    settings = {
        "larf.layer": "3",
        "larf.unsafe_references": place.url("references/unsafe.jsonl"),
        "larf.safe_references": place.url("references/safe.jsonl"),
        "shard_rows": str(SHARD_ROWS),
        "file_size": "2 kB",  # some shards in each file
        "max_quarantined": "0.2",
    }
    flags = ["curate", "--input", place.url("input/data.jsonl"), "--output", place.url(out), "--model", str(model)]
    flags += ["--method", "larf", "--method", "saft", "--drop", "0.2", "--address", address, *place.flags]
    return flags + [f"--set={key}={value}" for key, value in settings.items()]


def receipts(place: Place, out: str) -> dict[str, int]:
    """Stage -> receipts that lie in the output folder now."""
    names = place.names(f"{out}/_work/receipts")
    return {stage: sum(name.startswith(f"{stage}/") and name.endswith(".json") for name in names) for stage in RECEIPTS}


def results(place: Place, out: str) -> dict[str, str]:
    """Path -> sha256 of all that must not depend on what happened on the way."""
    found = place.digests(out)
    return {name: digest for name, digest in found.items() if name.partition("/")[0] in PARTS}

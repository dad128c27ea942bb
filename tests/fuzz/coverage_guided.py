"""Fuzz one target with atheris, which finds its way by the code that an input reaches.

    python tests/fuzz/coverage_guided.py --target reader --seconds 600

Ends with exit code 0 and the number of inputs, or with a traceback and the input (crash-...) that broke a promise.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

with atheris.instrument_imports(include=["tamis.operators", "tamis.pipeline"]):
    from hostile import LINES, TEXTS, chat, pair
    from targets import TARGETS


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with: hostile rows in the form that the target reads."""
    chance = random.Random(0)
    rows = [make(chance, text) for make in (pair, chat) for text in TEXTS.values()]
    if target == "dialect":
        return [json.dumps([row]).encode() for row in rows]
    if target == "spans":
        return ["|".join(map(str, pair(chance, text).values())).encode("utf-8", "ignore") for text in TEXTS.values()]
    if target == "manifest":
        facts = {"fingerprint": {"a": 1}, "files": [{"name": "../x"}], "key": "key", "cell": "000000-x"}
        shown = {"shard": "../../x", "row": 0, "dialect": {"name": "pair", "columns": {}}}
        layers = {"blocks": [], "chosen": {"block": 0}, "search": None, "fisher": None}
        return [json.dumps(tree).encode() for tree in (facts, {**facts, "riskiest": [shown]}, layers)] + [b"[" * 9000]
    lines = [line(chance, rows[0]) for line in LINES.values()]
    table = b'prompt,response\n1,"2\n""3"\n'
    return [
        bytes([0, 3, 200, 40]) + b"\n".join(lines),
        bytes([1, 1, 9, 9]) + b'[{"a": 1}, 2]',
        bytes([2, 1, 9, 9]) + table,
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--target", choices=[*TARGETS], required=True)
    options.add_argument("--seconds", type=int, default=60)
    chosen = options.parse_args()
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{chosen.target}-"))
    for number, data in enumerate(seeds(chosen.target)):
        (corpus / str(number)).write_bytes(data)
    flags = [f"-max_total_time={chosen.seconds}", "-max_len=4096", "-timeout=60", "-rss_limit_mb=4096"]
    flags.append("-print_final_stats=1")
    flags.append(f"-artifact_prefix={corpus}/crash-")
    atheris.Setup([sys.argv[0], *flags, str(corpus)], TARGETS[chosen.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

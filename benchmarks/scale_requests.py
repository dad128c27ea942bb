"""How many requests a run makes to its object store: by method and by what is read or written.

Input and output lie on an S3 server of this machine (moto); a proxy between counts. Two runs that differ only in the
number of their shards tell what one shard costs and what every run costs. Requests for the lease grow with time
instead, and are counted apart.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import checkout
from null_model import write_corpus
from tables import markdown
from whole_runs import Setting, make_models, run

sys.path.insert(0, str(checkout.ROOT / "tests" / "servers"))

from fault_proxy import FaultProxy
from faults import Request
from moto_server import MotoServer
from object_store import S3

SHARDS, ROWS = (10, 60), 20
BUCKET = "scale"
METHODS = ("saft", "toss")
LEASE = "the lease"


def measure_requests(folder: Path, methods: Sequence[str], save: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Method -> command -> what it asks for. Each method is saved when it is there."""
    model = make_models(folder)
    found: dict[str, Any] = {}
    server = MotoServer(folder)
    try:
        s3 = server.start()
        s3.make_bucket(BUCKET)
        with FaultProxy(s3.endpoint) as proxy:
            for method in methods:
                found[method] = _of_method(folder, model, s3, proxy, method)
                save(found)
        return found
    finally:
        server.kill()


def _of_method(folder: Path, model: Path, s3: S3, proxy: FaultProxy, method: str) -> dict[str, Any]:
    found = {}
    for shards in SHARDS:
        corpus = folder / f"corpus-{shards}.jsonl"
        write_corpus(corpus, shards * ROWS)
        s3.client().put_object(Bucket=BUCKET, Key=f"in/{shards}.jsonl", Body=corpus.read_bytes())
        endpoint, output = f"endpoint_url={proxy.endpoint}", f"s3://{BUCKET}/{method}-{shards}"
        sets = (f"shard_rows={ROWS}", f"storage_options.{endpoint}")
        before = len(proxy.requests)
        run(
            folder,
            model,
            Setting(shards * ROWS, method, sets, output, f"s3://{BUCKET}/in/{shards}.jsonl", s3.environment),
        )
        curated = proxy.requests[before:]
        before = len(proxy.requests)
        command = [sys.executable, "-m", "tamis.pipeline.cli", "verify", output, "--storage-options", endpoint]
        subprocess.run(command, env={**os.environ, **s3.environment}, check=True, capture_output=True)
        found[shards] = {"curate": _kinds(curated), "verify": _kinds(proxy.requests[before:])}
        print(f"{method}, {shards} shards: {len(curated):,} requests", file=sys.stderr)
    return {command: _fitted(*(found[shards][command] for shards in SHARDS)) for command in ("curate", "verify")}


def _kinds(requests: Sequence[Request]) -> Counter[str]:
    """Requests by method and kind. Those that failed with an error of the proxy would count, too; it injects none."""
    return Counter(kind_of(request) for request in requests)


def kind_of(request: Request) -> str:
    """The method, LIST for a listing, and the folder or, at the top of the output, the file that it is about."""
    path, method = request.path.strip("/").removeprefix(BUCKET).strip("/"), request.method
    if method == "POST" and request.query.startswith("delete"):
        return "DELETE several"
    if method == "GET" and not path:
        prefix = re.search(r"(?:^|&)prefix=([^&]*)", request.query)
        method, path = "LIST", unquote(prefix[1]).rstrip("/") + "/" if prefix else ""
    if path.endswith("driver.json"):
        return f"{method} {LEASE}"
    top, *inside = path.split("/")
    if top == "in" or not inside:
        return f"{method} {'input' if top == 'in' else 'the output itself'}"
    folder = "/".join(inside[:-1])
    return f"{method} {folder or inside[-1] or 'the output itself'}"


def _fitted(small: Counter[str], large: Counter[str]) -> dict[str, Any]:
    """What each shard costs, and what every run does, by kind; the lease apart."""
    more = SHARDS[1] - SHARDS[0]
    each = {kind: (large[kind] - small[kind]) / more for kind in sorted(small | large) if LEASE not in kind}
    fixed = {kind: small[kind] - each[kind] * SHARDS[0] for kind in each}
    lease = {kind: large[kind] for kind in large if LEASE in kind}
    return {"each_shard": _nonzero(each), "each_run": _nonzero(fixed), "lease_of_the_larger": lease}


def _nonzero(found: Mapping[str, float]) -> dict[str, float]:
    return {kind: round(number, 3) for kind, number in found.items() if abs(number) > 1e-9}


def show_requests(found: Mapping[str, Any]) -> None:
    rows = [
        [f"{method} {command}, {what.replace('_', ' ')}: {kind}", f"{number:.2f}"]
        for method, commands in found.items()
        for command, fitted in commands.items()
        for what in ("each_shard", "each_run")
        for kind, number in fitted[what].items()
    ]
    print(markdown(["requests", "number"], rows))

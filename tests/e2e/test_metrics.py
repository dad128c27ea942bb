"""What a scraper of a Ray node sees of a run, and what lineage events say of it, against the run's own manifest."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from command import tamis
from lineage_rules import checked
from outputs import alpaca_rows, manifest_of, pair, tables, write_jsonl
from prometheus_client.parser import text_string_to_metric_families
from ray_cluster import DEADLINE, RayCluster

pytestmark = pytest.mark.long

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_metrics_report_interval_ms": "500"}
"""Otherwise Ray replaces 127.0.0.1 by the machine's own address, and listens there; and a worker passes on its numbers
every ten seconds, which is longer than it lives here."""

Samples = dict[str, list[tuple[dict[str, str], float]]]


def free_port() -> int:
    """Not among those that Ray gives to its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port > 20_000:
            return port


def scraped(port: int) -> Samples:
    """Series -> (labels, value) of each."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_tamis_"):
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def totals(found: Samples, series: str, *labels: str) -> Counter[tuple[str, ...]]:
    """The values of a series, added up over all other labels, by these."""
    added: Counter[tuple[str, ...]] = Counter()
    for own, value in found[series]:
        added[tuple(own[label] for label in labels)] += int(value)
    return added


@contextmanager
def watching(port: int, series: str) -> Iterator[list[float]]:
    """The values of a series as they come and go: Ray forgets a gauge soon after its worker has ended."""
    seen: list[float] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.25):
            with suppress(OSError):  # a busy node may not answer in time; the next try will do
                seen.extend(value for _, value in scraped(port).get(series, ()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def settled(port: int, stage: str, rows: int) -> Samples:
    """What a scraper sees once Ray has passed on all rows of this stage, which takes it some seconds; whatever there is
    if that does not happen."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        with suppress(OSError):
            found = scraped(port)
            by_stage = totals(found, "ray_tamis_rows_total", "stage") if "ray_tamis_rows_total" in found else Counter()
            if by_stage[(stage,)] >= rows:
                return found
        time.sleep(0.25)
    return scraped(port)


def test_a_scraper_and_the_lineage_agree_with_the_manifest(tmp_path: Path, tiny_model: Path) -> None:
    untrained = [{"messages": [dict(turn, weight=0) for turn in pair("A question", "An answer")]} for _ in range(7)]
    broken: list[Any] = [{"messages": []}] * 3 + ["{ no json"] * 2
    fine = [{"messages": pair(row["instruction"], row["output"])} for row in alpaca_rows(80, 1)]
    write_jsonl(tmp_path / "in" / "rows.jsonl", [*fine[:40], *untrained, *broken, *fine[40:]])
    words = ["curate", "--input", "in", "--output", "out", "--model", str(tiny_model), "--method", "saft"]
    words += ["--threshold", "-1e9", "--set", "shard_rows=23", "--set", "max_quarantined=0.5"]
    words += ["--lineage", "events.jsonl"]
    port = free_port()
    head = ["--node-ip-address=127.0.0.1", f"--metrics-export-port={port}"]
    with RayCluster([(2, 0)], env=LOOPBACK, flags=head) as cluster:
        # The cut would drop more than half of the rows, which the run sees when all of them are captured.
        with watching(port, "ray_tamis_forward_busy_ratio") as busy:
            failed = tamis(*words, "--address", cluster.address, cwd=tmp_path, env=LOOPBACK)
        assert failed.rc == 2, failed.output
        first = settled(port, "capture", 92)
        words += ["--set", "selection.allow_majority=true"]
        done = tamis(*words, "--address", cluster.address, cwd=tmp_path, env=LOOPBACK)
        assert done.rc == 0, done.output
        found = settled(port, "emit", 92)
    manifest = manifest_of(tmp_path / "out")

    counts, codes = manifest["counts"], manifest["quarantine_codes"]
    unscored = manifest["unscored"]
    assert (counts["kept"], counts["quarantined"], unscored) == (7, 5, 7)
    [[(run,)]] = {tuple(totals(found, series, "run")) for series in found}
    rows = totals(found, "ray_tamis_rows_total", "stage", "decision")
    scored = counts["rows_in"] - counts["quarantined"] - unscored
    assert rows == {
        ("capture", "scored"): scored,
        ("capture", "unscored"): unscored,
        ("capture", "quarantined"): counts["quarantined"],
        **{("emit", decision): counts[decision] for decision in ("kept", "dropped", "quarantined")},
    }
    # Of the captured rows, the first command has counted each, and the second, which found their receipts, none.
    captured = {label: value for label, value in rows.items() if label[0] == "capture"}
    assert totals(first, "ray_tamis_rows_total", "stage", "decision") == captured
    tokens = sum(pc.sum(table.column("n_tokens")).as_py() for table in tables(tmp_path / "out", "scores"))
    assert totals(found, "ray_tamis_tokens_total", "stage") == {("capture",): tokens}
    assert totals(found, "ray_tamis_quarantined_total", "code") == {
        (code,): said["rows"] for code, said in codes.items()
    }
    shards = len(list((tmp_path / "out" / "scores").glob("*.parquet")))
    seconds = totals(found, "ray_tamis_shard_seconds_count", "stage")
    assert seconds == {(stage,): shards for stage in ("read", "capture", "emit")}
    # A worker counts its batches when they are done; each has tokens of some rows.
    assert shards <= totals(found, "ray_tamis_batch_tokens_count", "stage")[("capture",)] <= scored
    assert busy
    assert all(0 < value <= 1 for value in busy)

    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert checked(events) == ["START", "FAIL", "START", "COMPLETE"]
    assert {event["run"]["runId"] for event in events} == {run}
    assert "allow_majority" in events[1]["run"]["facets"]["errorMessage"]["message"]
    outputs = {item["name"].rpartition("/")[2]: item for item in events[3]["outputs"]}
    rows_of = {part: item["outputFacets"]["outputStatistics"].get("rowCount") for part, item in outputs.items()}
    assert rows_of == {
        "kept": counts["kept"], "dropped": counts["dropped"], "quarantine": counts["quarantined"],
        "scores": counts["rows_in"], "artifact": None,
    }  # fmt: skip
    for part, item in outputs.items():
        files = [path for path in (tmp_path / "out" / part).rglob("*") if path.is_file()]
        statistics = item["outputFacets"]["outputStatistics"]
        assert (statistics["fileCount"], statistics["size"]) == (len(files), sum(p.stat().st_size for p in files))
        assert (item["namespace"], item["name"]) == ("file", str(tmp_path / "out" / part))
    [corpus, model] = events[3]["inputs"]
    assert (corpus["name"], model["name"]) == (str(tmp_path / "in"), str(tiny_model))
    quality = corpus["inputFacets"]["dataQualityMetrics"]
    size = (tmp_path / "in" / "rows.jsonl").stat().st_size
    assert (quality["rowCount"], quality["bytes"], quality["fileCount"]) == (counts["rows_in"], size, 1)
    columns = [column["name"] for column in outputs["kept"]["facets"]["schema"]["fields"]]
    assert columns == tables(tmp_path / "out", "kept")[0].schema.names
    text = (tmp_path / "events.jsonl").read_text()
    assert not any(row["output"] in text or row["instruction"] in text for row in alpaca_rows(80, 1))

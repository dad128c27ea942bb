"""Prometheus metrics through Ray: what a scraper of the cluster's nodes sees of a run.

Rows, tokens and seconds are counted by the driver, from receipts, so that each shard counts once however often its
worker died. What only a worker knows, the sizes of its batches and how busy it is, the worker records itself. Ray
collects all of it on each node; where nothing collects, a number costs microseconds and goes nowhere.

A metric is never worth a run: the first one that cannot be recorded is named in a warning, and the rest are left out.
No label holds a path, a setting or a sample's text, and each has few values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tamis.operators.problems import UNSCORED
from tamis.pipeline.errors import error_text
from tamis.pipeline.inputs.shards import CORPUS
from tamis.pipeline.terminal.voice import warn_once

PREFIX = "ray_"
"""What Ray puts before the name of every metric that a scraper sees."""

REFERENCES = "references"
"""The stage of reference rows, which are captured beside the corpus."""


@dataclass(frozen=True)
class Metric:
    """name: as Ray is told, so without PREFIX. labels: those that Ray adds (node, worker, ...) apart. buckets: upper
    bounds, of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a scraper sees."""
        ends = ("_bucket", "_count", "_sum") if self.kind == "histogram" else ("",)
        return tuple(f"{PREFIX}{self.name}{end}" for end in ends)


# The names of counters end in _total: some versions of Ray add that where it is missing, others do not.
ROWS = Metric("tamis_rows_total", "counter", "Rows done, by what became of them.", ("run", "stage", "decision"))
TOKENS = Metric("tamis_tokens_total", "counter", "Tokens of the rows that the model has read.", ("run", "stage"))
QUARANTINED = Metric("tamis_quarantined_total", "counter", "Rows of the corpus set aside, by reason.", ("run", "code"))
SHARD_SECONDS = Metric(
    "tamis_shard_seconds",
    "histogram",
    "Seconds of work on one shard.",
    ("run", "stage"),
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
)
BATCH_TOKENS = Metric(
    "tamis_batch_tokens",
    "histogram",
    "Tokens in one batch of the forward pass, without padding.",
    ("run", "stage"),
    tuple(float(1 << power) for power in range(6, 18)),
)
BUSY = Metric(
    "tamis_forward_busy_ratio",
    "gauge",
    "Share of a worker's time in the forward pass, from the end of one shard to the end of the next (0 to 1).",
    ("run", "stage"),
)
CELLS = Metric("tamis_layer_cells_total", "counter", "Cells of the layer search that are done.", ("run",))
STEPS = Metric("tamis_training_steps_total", "counter", "Steps of the training of a reference model.", ("run", "model"))
METRICS = (ROWS, TOKENS, QUARANTINED, SHARD_SECONDS, BATCH_TOKENS, BUSY, CELLS, STEPS)

_made: dict[str, Any] = {}
_broken = False


def record(metric: Metric, value: float, **labels: str) -> None:
    """Add `value` to a counter or histogram, or set a gauge to it. Never raises."""
    global _broken
    if _broken or (metric.kind == "counter" and value <= 0):  # Ray refuses to add nothing
        return
    try:
        if metric.name not in _made:
            _made[metric.name] = _recorder(metric)
        _made[metric.name](value, labels)
    except Exception as error:
        _broken = True
        warn_once(f"metrics are not recorded ({type(error).__name__}: {error_text(error)}); the run goes on")


def _recorder(metric: Metric) -> Callable[[float, dict[str, str]], None]:
    from ray.util import metrics

    if metric.kind == "counter":
        return metrics.Counter(metric.name, metric.help, metric.labels).inc  # type: ignore[no-any-return]
    if metric.kind == "gauge":
        return metrics.Gauge(metric.name, metric.help, metric.labels).set  # type: ignore[no-any-return]
    return metrics.Histogram(metric.name, metric.help, list(metric.buckets), metric.labels).observe  # type: ignore[no-any-return]


# --- the driver ---------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What this command has counted. A shard that is done again in the same command, because its file was damaged or
    the cut changed, has counted already. done: by stage, a byte per shard's index."""

    run: str
    done: dict[str, bytearray] = field(default_factory=dict)

    def captured(self, receipt: Mapping[str, Any], stage: str, *, names_codes: bool) -> None:
        """Count a shard that the model has read. names_codes: its quarantined rows are those of the output."""
        if not self._first(f"{stage} {receipt['role']}", receipt["index"]):
            return
        codes, corpus = receipt["quarantined"], receipt["role"] == CORPUS
        stage = stage if corpus else REFERENCES
        unscored = sum(rows for code, rows in codes.items() if code in UNSCORED)
        quarantined = sum(codes.values()) - unscored
        decisions = {"unscored": unscored, "quarantined": quarantined}
        self._rows(stage, {"scored": receipt["rows"] - unscored - quarantined, **decisions})
        record(TOKENS, receipt["tokens"], run=self.run, stage=stage)
        record(SHARD_SECONDS, receipt["seconds"]["read_seconds"], run=self.run, stage="read")
        record(SHARD_SECONDS, receipt["seconds"]["forward_seconds"], run=self.run, stage=stage)
        if names_codes and corpus:
            self._codes({code: rows for code, rows in codes.items() if code not in UNSCORED})

    def emitted(self, receipt: Mapping[str, Any], stage: str) -> None:
        """Count a shard of the output."""
        if not self._first(stage, receipt["index"]):
            return
        self._rows(stage, receipt["counts"])
        record(SHARD_SECONDS, receipt["seconds"], run=self.run, stage=stage)
        # Where tokens are masked, the rows that the output lacks are known only here.
        self._codes(receipt.get("quarantined", {}))

    def searched(self) -> None:
        """Count a cell of the layer search."""
        record(CELLS, 1, run=self.run)

    def trained(self, model: str, steps: int) -> None:
        """Count steps of the training of a reference model. model: its name in the output."""
        record(STEPS, steps, run=self.run, model=model)

    def _first(self, stage: str, index: int) -> bool:
        done = self.done.setdefault(stage, bytearray())
        done.extend(bytes(max(0, index + 1 - len(done))))
        known, done[index] = done[index], 1
        return not known

    def _rows(self, stage: str, decisions: Mapping[str, int]) -> None:
        for decision, rows in decisions.items():
            record(ROWS, rows, run=self.run, stage=stage, decision=decision)

    def _codes(self, codes: Mapping[str, int]) -> None:
        for code, rows in codes.items():
            record(QUARANTINED, rows, run=self.run, code=code)


_ledger: Ledger | None = None
"""A process runs one job at a time."""


@contextmanager
def counting(run: str) -> Iterator[None]:
    """Until the end of the context, the shards that this process learns of count for `run`, the id of a run."""
    global _ledger
    _ledger = Ledger(run)
    try:
        yield
    finally:
        _ledger = None


def ledger() -> Ledger:
    """Of the run in progress; outside of one, a ledger of no run."""
    return _ledger or Ledger("")


# --- a worker -----------------------------------------------------------------------------------------------------


class Meter:
    """One worker that runs a model, from when it has loaded it."""

    def __init__(self, run: str, stage: str) -> None:
        self._labels = {"run": run, "stage": stage}
        self._since = time.perf_counter()

    def batches(self, on_batch: Callable[[int], None] | None) -> Callable[[int], None]:
        """`on_batch`, which is told the tokens of each batch, and their metric."""

        def told(tokens: int) -> None:
            record(BATCH_TOKENS, tokens, **self._labels)
            if on_batch is not None:
                on_batch(tokens)

        return told

    def shard(self, forward_seconds: float) -> None:
        """A shard is done; its forward passes took this long."""
        now = time.perf_counter()
        record(BUSY, min(forward_seconds / max(now - self._since, 1e-9), 1.0), **self._labels)
        self._since = now

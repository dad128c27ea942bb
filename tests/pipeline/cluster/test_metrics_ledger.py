"""What is counted of a run, by a ledger that notes instead of Ray what it is told."""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.problems import UNSCORED
from tamis.pipeline.cluster import metrics
from tamis.pipeline.references.training import _Shown

Noted = Counter[tuple[str, ...]]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    metrics._made.clear()
    metrics._broken = False
    yield
    metrics._made.clear()
    metrics._broken = False


def noting() -> tuple[Noted, Counter[str]]:
    """Sums and numbers of what is recorded from now on, by metric and labels."""
    sums: Noted = Counter()
    observed: Counter[str] = Counter()
    for metric in metrics.METRICS:

        def note(value: float, labels: dict[str, str], metric: metrics.Metric = metric) -> None:
            assert tuple(labels) == metric.labels
            assert all(type(label) is str for label in labels.values())
            sums[metric.name, *labels.values()] += value  # type: ignore[assignment]
            observed[metric.name] += 1

        metrics._made[metric.name] = note
    return sums, observed


CODES = ["bad_content", "overlong", next(iter(UNSCORED))]


@st.composite
def captured(draw: st.DrawFn, index: int = 0, role: str = "corpus") -> dict[str, Any]:
    codes = draw(st.dictionaries(st.sampled_from(CODES), st.integers(1, 9)))
    return {
        "index": index,
        "role": role,
        "rows": sum(codes.values()) + draw(st.integers(0, 99)),
        "quarantined": codes,
        "tokens": draw(st.integers(0, 9999)),
        "seconds": {"read_seconds": 0.5, "forward_seconds": 2.0},
    }


@given(st.data(), st.integers(1, 6), st.randoms())
def test_each_captured_shard_counts_once_however_often_it_comes(
    data: st.DataObject, shards: int, chance: random.Random
) -> None:
    sums, observed = noting()
    receipts = [data.draw(captured(index)) for index in range(shards)]
    again = [*receipts, *chance.choices(receipts, k=4)]
    chance.shuffle(again)
    ledger = metrics.Ledger("r")
    for receipt in again:
        ledger.captured(receipt, "capture", names_codes=True)
    codes: Counter[str] = sum((Counter(receipt["quarantined"]) for receipt in receipts), Counter())
    rows = sum(receipt["rows"] for receipt in receipts)
    bad = sum(count for code, count in codes.items() if code not in UNSCORED)
    unscored = codes.total() - bad
    assert sums["tamis_rows_total", "r", "capture", "scored"] == rows - bad - unscored
    assert sums["tamis_rows_total", "r", "capture", "quarantined"] == bad
    assert sums["tamis_rows_total", "r", "capture", "unscored"] == unscored
    assert sums["tamis_tokens_total", "r", "capture"] == sum(receipt["tokens"] for receipt in receipts)
    assert {code: sums["tamis_quarantined_total", "r", code] for code in codes if code not in UNSCORED} == {
        code: count for code, count in codes.items() if code not in UNSCORED
    }
    assert not any(key[0] == "tamis_quarantined_total" and key[2] in UNSCORED for key in sums)
    assert observed["tamis_shard_seconds"] == 2 * shards


def test_references_are_a_stage_of_their_own_and_no_quarantine_of_the_output() -> None:
    sums, _ = noting()
    receipt = {"index": 3, "role": "larf.unsafe", "rows": 9, "quarantined": {"overlong": 2}, "tokens": 70}
    receipt["seconds"] = {"read_seconds": 0.5, "forward_seconds": 2.0}
    metrics.Ledger("r").captured(receipt, "capture", names_codes=True)
    assert sums["tamis_rows_total", "r", "references", "scored"] == 7
    assert sums["tamis_tokens_total", "r", "references"] == 70
    assert not any(key[0] == "tamis_quarantined_total" for key in sums)


def test_the_output_counts_by_decision_and_names_codes_where_tokens_are_masked() -> None:
    sums, observed = noting()
    ledger = metrics.Ledger("r")
    counts = {"kept": 5, "dropped": 3, "quarantined": 2}
    for _ in range(2):
        ledger.emitted({"index": 0, "counts": counts, "seconds": 1.5}, "emit")
    ledger.emitted({"index": 1, "counts": counts, "seconds": 0.5, "quarantined": {"overlong": 2}}, "emit")
    assert {key[3]: value for key, value in sums.items() if key[0] == "tamis_rows_total"} == {
        "kept": 10, "dropped": 6, "quarantined": 4,
    }  # fmt: skip
    assert sums["tamis_quarantined_total", "r", "overlong"] == 2
    assert sums["tamis_shard_seconds", "r", "emit"] == 2.0
    assert observed["tamis_shard_seconds"] == 2


def test_a_shard_counts_in_each_round_of_losses() -> None:
    sums, _ = noting()
    ledger = metrics.Ledger("r")
    receipt = {"index": 0, "role": "corpus", "rows": 4, "quarantined": {"overlong": 1}, "tokens": 10}
    receipt["seconds"] = {"read_seconds": 0.1, "forward_seconds": 0.1}
    for stage in ("losses", "losses-1", "losses-1"):
        ledger.captured(receipt, stage, names_codes=False)
    tokens = {key[2]: value for key, value in sums.items() if key[0] == "tamis_tokens_total"}
    assert tokens == {"losses": 10, "losses-1": 10}
    assert not any(key[0] == "tamis_quarantined_total" for key in sums)


@given(st.lists(st.integers(0, 30), min_size=1))
def test_a_step_that_a_restarted_training_repeats_counts_once(reported: list[int]) -> None:
    """reported: the last step done, as the trainings report it; one that starts anew begins further back."""
    sums, _ = noting()
    with metrics.counting("r"), closing(_Shown("benign")) as shown:
        shown.take({"begins": 0, "steps": 30})
        for step in reported:
            shown.take({"begins": step // 2})
            shown.take({"point": {"step": step, "tokens": 10, "loss": 1.0}})
    assert sums["tamis_training_steps_total", "r", "benign"] == max(reported)


def test_a_cell_of_the_layer_search_counts() -> None:
    sums, _ = noting()
    ledger = metrics.Ledger("r")
    ledger.searched()
    ledger.searched()
    assert sums["tamis_layer_cells_total", "r"] == 2


def test_a_worker_tells_its_batches_and_how_busy_it_is() -> None:
    sums, observed = noting()
    meter, heard = metrics.Meter("r", "capture"), []
    for on_batch in (heard.append, None):
        told = meter.batches(on_batch)
        told(100)
        told(28)
    meter.shard(1e9)  # clocks differ: more than the time that went by
    assert heard == [100, 28]
    assert sums["tamis_batch_tokens", "r", "capture"] == 256
    assert observed["tamis_batch_tokens"] == 4
    assert sums["tamis_forward_busy_ratio", "r", "capture"] == 1.0
    meter.shard(0.0)
    assert sums["tamis_forward_busy_ratio", "r", "capture"] == 1.0  # 1 + 0


def test_a_metric_that_cannot_be_recorded_ends_no_run_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, observed = noting()

    def refuse(value: float, labels: dict[str, str]) -> None:
        raise RuntimeError("".join(random.Random(0).choices(string.ascii_letters, k=8)))

    metrics._made["tamis_tokens_total"] = refuse
    for _ in range(3):
        metrics.record(metrics.TOKENS, 5, run="r", stage="capture")
        metrics.record(metrics.BUSY, 0.5, run="r", stage="capture")
    assert capsys.readouterr().err.count("warning: metrics are not recorded (RuntimeError") == 1
    assert not observed


def test_the_ledger_is_of_the_run_in_progress() -> None:
    assert metrics.ledger().run == ""
    with metrics.counting("r"):
        assert metrics.ledger().run == "r"
        assert metrics.ledger() is metrics.ledger()
    assert metrics.ledger().run == ""


def test_names_and_labels_are_those_that_prometheus_allows() -> None:
    for metric in metrics.METRICS:
        assert metric.name.startswith("tamis_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert not {"path", "file", "source", "user"} & set(metric.labels)

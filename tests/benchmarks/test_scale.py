"""What benchmarks/scale.py counts with, and that docs/scale.md shows what benchmarks/cost_model.py computes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests" / "servers"))

import cost_model  # noqa: E402
import scale  # noqa: E402
import scale_requests  # noqa: E402
from cost_model import Assumed, Measured, cost  # noqa: E402
from family import DRIVER, RAY, WORKERS, Family  # noqa: E402
from faults import Request  # noqa: E402
from whole_runs import _ENDED, inventory  # noqa: E402

from tamis.pipeline.terminal.progress import Progress  # noqa: E402
from tamis.pipeline.terminal.voice import Voice  # noqa: E402

BURN = "import time\nwhile time.process_time() < {}: pass\n"


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_cpu_seconds_are_told_apart_by_who_took_them() -> None:
    """Each burns a known amount of CPU time, however long that takes, and lives until its output is read."""
    wait = "\nprint('burnt', flush=True)\ninput()\n"
    code = BURN.format(0.6) + wait
    child = f"subprocess.Popen([NAME, '-c', {code!r}], executable=sys.executable, stdin=-1, stdout=-1)"
    parent = "import subprocess, sys\n"
    parent += f"a = {child.replace('NAME', repr('ray::MapWorker'))}\nb = {child.replace('NAME', repr('gcs_server'))}\n"
    parent += "[each.stdout.readline() for each in (a, b)]\n" + BURN.format(0.9) + wait
    parent += "[each.communicate(b'\\n') for each in (a, b)]\n"
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with Family(process.pid) as family:
        process.stdout.readline()
        taken, peaks = family.cpu(), family.peaks()
        process.communicate("\n")
    assert set(taken) == {DRIVER, WORKERS, RAY}
    assert taken[DRIVER] == pytest.approx(0.9, abs=0.3)
    assert taken[WORKERS] == pytest.approx(0.6, abs=0.3)
    assert taken[RAY] == pytest.approx(0.6, abs=0.3)
    assert min(peaks.values()) > 1e6
    assert set(peaks) == {DRIVER, WORKERS, "gcs_server"}


# --- files and stages ---------------------------------------------------------------------------------------------


def test_files_are_counted_by_their_folder(tmp_path: Path) -> None:
    receipts = ("_work/receipts/emit/a.json", "_work/receipts/emit/compact-k-1.jsonl")
    for name in ("kept/a", "kept/b", *receipts, "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    assert inventory(tmp_path) == {
        "README.md": {"files": 1, "bytes": 5},
        "_work/receipts/emit": {"files": 1, "bytes": 5},
        "_work/receipts/emit (compact)": {"files": 1, "bytes": 5},
        "kept": {"files": 2, "bytes": 10},
    }


@pytest.mark.parametrize("stage", ["capture", "losses", "fit", "emit"])
def test_the_line_that_ends_a_stage_is_known(stage: str) -> None:
    stream = io.StringIO()
    progress = Progress(stage, 10, voice=Voice(stream))
    progress.advance(10, 50)
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert [bool(_ENDED.match(line)) for line in lines] == [False] * (len(lines) - 1) + [True]


def run_of(rows: int, seconds: float, cpu: float, memory: float) -> dict[str, Any]:
    stage = {"seconds": seconds, "cpu": {DRIVER: cpu, WORKERS: 2 * cpu}}
    stages = dict.fromkeys(("start", *scale.WORK), stage)
    return {"rows": rows, "seconds": 5 * seconds, "stages": stages, "peaks_mb": {DRIVER: memory},
            "worker_start_seconds": 1.0, "verify": {"seconds": seconds}}  # fmt: skip


def test_growth_leaves_out_what_every_run_has() -> None:
    small, large = run_of(10, 2.0, 1.0, 100.0), run_of(100, 20.0, 11.0, 110.0)
    large["stages"] = {**large["stages"], "start": small["stages"]["start"]}
    found = scale.growth(small, large)
    assert found["work"] == pytest.approx(80 / 8)
    assert found["work_without_worker_start"] == pytest.approx(79 / 7)
    assert found["cpu_of_driver"] == pytest.approx((4 * 11 + 1) / 5)
    assert found["cpu_of_all"] == found["cpu_of_driver"]
    assert found["driver_memory"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("sizes", "method", "section"),
    [
        ([100_000, 1_000_000], "saft", "rows"),
        ([5_000_000], "saft", "rows, 5,000,000"),
        ([1000, 2000], "saft", "rows, 1,000 and 2,000"),
        ([4000], "toss", "rows, toss"),
    ],
)
def test_other_sizes_leave_the_figures_of_the_cost_model_alone(sizes: list[int], method: str, section: str) -> None:
    assert scale.section_of(sizes, method) == section


# --- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("PUT", "/scale/saft-10/kept/000001-ab.parquet", "", "PUT kept"),
        ("HEAD", "/scale/saft-10/manifest.json", "", "HEAD manifest.json"),
        ("GET", "/scale/saft-10/_work/receipts/emit/000001-ab.json", "", "GET _work/receipts/emit"),
        ("GET", "/scale/in/10.jsonl", "", "GET input"),
        ("PUT", "/scale/saft-10/_work/driver.json", "", "PUT the lease"),
        ("GET", "/scale", "list-type=2&prefix=saft-10%2F_work%2Freceipts%2Femit%2F", "LIST _work/receipts/emit"),
        ("POST", "/scale", "delete=", "DELETE several"),
    ],
)
def test_what_a_request_is_about(method: str, path: str, query: str, kind: str) -> None:
    assert scale_requests.kind_of(Request(method, path, query, None)) == kind


COUNTS = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(st.dictionaries(st.sampled_from(["PUT kept", "GET input", "LIST x"]), COUNTS))
def test_what_a_shard_and_a_run_cost_is_told_from_two_runs(kinds: dict[str, tuple[int, int]]) -> None:
    lease = Counter({"PUT the lease": 7})
    small, large = (Counter({kind: a * n + b for kind, (a, b) in kinds.items()}) + lease for n in scale_requests.SHARDS)
    found = scale_requests._fitted(small, large)
    assert found["each_shard"] == {kind: a for kind, (a, _) in sorted(kinds.items()) if a}
    assert found["each_run"] == pytest.approx({kind: b for kind, (_, b) in kinds.items() if b})
    assert found["lease_of_the_larger"] == {"PUT the lease": 7}


# --- costs --------------------------------------------------------------------------------------------------------

FOUND = Measured(
    base_mb=600.0, driver_kb=10.0, driver_cpu_ms=20.0, manifest_bytes=500.0, receipt_bytes=3000.0, capture_row=20.0,
    score_row=25.0, losses_token=6.0, training_token=4.0,
    requests={"saft": {"PUT kept": 5.0, "GET input": 2.0, "DELETE x": 1.0, "HEAD x": 3.0}, "toss": {"LIST x": 1.0}},
)  # fmt: skip


def test_a_row_of_the_table_by_hand() -> None:
    """8B, LARF, a million samples of 400 tokens in shards of 2,048: block 10 of 32, so 11 blocks of 218,103,808
    weights."""
    found = cost(1_000_000, "8B", "larf", FOUND, Assumed())
    a_token = 11 * (2 * 218_103_808 + 2 * 4096 * 401)
    assert found.gpu_hours == pytest.approx(1_000_000 * 400 * a_token / (0.4 * 989.4e12) / 3600)
    assert found.gpu_dollars == pytest.approx(3 * found.gpu_hours)
    assert found.shards == 489
    assert found.requests == pytest.approx(489 * 11)
    assert found.request_dollars == pytest.approx(489 * (5 * 0.005 + 5 * 0.0004) / 1000)
    assert found.captured == pytest.approx(1_000_000 * (4 * 4096 + 20) + 489 * 3000)
    assert found.output == pytest.approx(1_000_000 * (400 * 4 * 0.4 + 25) + 489 * 500)
    assert found.receipts == 978
    assert found.driver_mb == pytest.approx(600 + 4.89)
    assert found.driver_hours == pytest.approx(489 * 0.02 / 3600)
    assert found.gpus == 1


def test_toss_runs_two_whole_models_with_a_head_for_the_answers() -> None:
    shape = cost_model.MODELS["8B"]
    found = cost(1_000_000, "8B", "toss", FOUND, Assumed(answer_share=0.5))
    a_token = 32 * (2 * 218_103_808 + 2 * 4096 * 401) + 0.5 * 2 * 4096 * 128_256
    assert found.gpu_hours == pytest.approx(2 * 1_000_000 * 400 * a_token / (0.4 * 989.4e12) / 3600)
    assert found.captured == pytest.approx(1_000_000 * 400 * 6 + 489 * 3000)
    assert cost_model.parameters(shape) == pytest.approx(8.03e9, rel=0.01)
    assert cost_model.parameters(cost_model.MODELS["70B"]) == pytest.approx(70.55e9, rel=0.01)
    assert cost(10, "70B", "toss", FOUND, Assumed()).gpus == 2, "141 GB, and a worker may fill 85 % of each GPU"


@pytest.mark.parametrize("method", cost_model.METHODS)
@pytest.mark.parametrize("model", cost_model.MODELS)
def test_more_samples_cost_more(model: str, method: str) -> None:
    costs = [cost(samples, model, method, FOUND, Assumed()) for samples in cost_model.SIZES]
    for name in ("gpu_hours", "gpu_dollars", "requests", "request_dollars", "captured", "output", "receipts",
                 "manifest", "driver_mb", "driver_hours"):  # fmt: skip
        values = [getattr(each, name) for each in costs]
        assert values == sorted(set(values)), name


@given(factor=st.floats(1.1, 20), name=st.sampled_from(["tokens", "gpu_dollars", "text_bytes", "write_dollars"]))
def test_more_tokens_and_higher_prices_cost_more(factor: float, name: str) -> None:
    less, more = Assumed(), replace(Assumed(), **{name: getattr(Assumed(), name) * factor})
    before, after = (cost(10**6, "8B", "toss", FOUND, assumed) for assumed in (less, more))
    assert before != after
    assert all(getattr(before, key) <= getattr(after, key) for key in ("gpu_dollars", "request_dollars", "output"))


def test_larger_shards_cost_the_driver_less() -> None:
    small, large = (cost(10**9, "8B", "larf", FOUND, Assumed(shard_rows=rows)) for rows in (2048, 16_384))
    assert large.driver_mb < small.driver_mb
    assert large.receipts * 8 == pytest.approx(small.receipts, rel=1e-4)
    assert large.gpu_hours == small.gpu_hours


@pytest.mark.parametrize(
    ("value", "amount", "size"),
    [
        (0, "0", "0 B"),
        (999, "999", "999 B"),
        (2_441, "2.44 k", "2.44 kB"),
        (1e6, "1 M", "1 MB"),
        (1.6e13, "16 T", "16 TB"),
    ],
)
def test_numbers_have_units(value: float, amount: str, size: str) -> None:
    assert cost_model.amount(value) == amount
    assert cost_model.size(value) == size


def test_the_document_shows_what_the_script_computes() -> None:
    found = cost_model.measured(json.loads(cost_model.RESULTS.read_text()))
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert cost_model.written_into(text, cost_model.page(found, Assumed())) == text


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the document has no"):
        cost_model.written_into("# Scale\n", "| a |")

"""Workers that die, hang or raise on single shards of a real run: the rest is done, and those are tried again."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from outputs import alpaca_rows, write_jsonl

from tamis.operators.problems import RowProblem
from tamis.pipeline.capture import driver as capture_module
from tamis.pipeline.capture import graph as generation
from tamis.pipeline.capture.driver import Forward
from tamis.pipeline.capture.worker import TokenRows
from tamis.pipeline.commands.verify import verify
from tamis.pipeline.curate import curate
from tamis.pipeline.emit import shard as emit_module
from tamis.pipeline.errors import ClusterError, ConfigError, IncompleteError, InputError
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.run.lease import _own as own_lease
from tamis.pipeline.run.lease import _write as write_lease
from tamis.pipeline.run.paths import INCOMPLETE, MANIFEST
from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.long


class Faulty(Forward):
    """A real worker that a shard can harm, by its number of rows: `harms` is written beside the output."""

    def run(
        self, rows: TokenRows, on_batch: Callable[[int], None] | None
    ) -> tuple[dict[str, pa.Array], dict[int, RowProblem]]:
        harms: dict[str, str] = json.loads(Path(self.spec.store.path()).with_suffix(".harms").read_text())
        match harms.get(str(len(rows.input_ids))):
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hangs once":
                marker = Path(self.spec.store.path()).with_suffix(".hung")
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGSTOP)
            case "finds the input changed":
                raise InputError("the input cannot be read any more", ["a.jsonl: gone"])
            case "finds the disk full":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "raises":
                raise RuntimeError("shapes cannot be multiplied")
        return super().run(rows, on_batch)


@pytest.fixture(autouse=True)
def _faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # `capture`'s default worker.
    monkeypatch.setitem(capture_module.capture.__kwdefaults__ or {}, "worker", Faulty)
    monkeypatch.setattr(capture_module.capture, "__defaults__", (Faulty,))
    monkeypatch.setattr(generation, "GRACE_SECONDS", 2.0)
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Bench:
    """A job of shards of different sizes, so that a worker can tell them apart."""

    def __init__(self, folder: Path, model: Path, address: str) -> None:
        self.folder, self.address = folder, address
        for rows in range(5, 11):
            write_jsonl(folder / f"data/{rows:02d}.jsonl", alpaca_rows(rows, seed=rows))
        self.model = model

    def harm(self, **harms: str) -> None:
        (self.folder / "out.harms").write_text(
            json.dumps({name.removeprefix("rows"): how for name, how in harms.items()})
        )

    def job(self, output: str = "out", **changes: Any) -> Job:
        overlay = {
            "input.path": [str(self.folder / "data")],
            "output": str(self.folder / output),
            "model.name": str(self.model),
            "method": ["saft"],
            "selection.drop": 0.2,
            "workers": 1,
            **changes,
        }
        return load_job(None, overlay)

    def run(self, output: str = "out", **changes: Any) -> dict[str, Any]:
        if not (self.folder / f"{output}.harms").exists():
            (self.folder / f"{output}.harms").write_text("{}")
        return dict(curate(self.job(output, **changes), self.address).manifest)

    def files(self, output: str) -> dict[str, bytes]:
        root = self.folder / output
        return {
            str(path.relative_to(root)): path.read_bytes()
            for part in ("kept", "dropped", "quarantine", "scores", "artifact")
            for path in sorted((root / part).rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, ray_address: str) -> Bench:
    return Bench(tmp_path, tiny_model, ray_address)


def test_shards_that_harm_their_workers_are_set_aside_and_tried_again(bench: Bench) -> None:
    bench.harm(rows6="dies", rows8="raises", rows10="hangs once")
    manifest = bench.run(worker_timeout=20)
    assert not manifest["complete"]
    assert (bench.folder / "out.hung").exists()
    assert not (bench.folder / "out" / MANIFEST).exists()
    written = json.loads((bench.folder / "out" / INCOMPLETE).read_text())
    assert {item["source"]: item["reason"] for item in written["failed"]} == {
        "06.jsonl": "each of 3 workers died while it was at work on it",
        "08.jsonl": "RuntimeError: shapes cannot be multiplied",
    }
    counts = manifest["counts"]
    assert counts["failed"] == 6 + 8
    assert counts["rows_in"] == 45 == sum(counts[name] for name in ("kept", "dropped", "quarantined", "failed"))
    page, card = ((bench.folder / "out" / name).read_text() for name in ("report.html", "README.md"))
    assert "INCOMPLETE" in page
    assert "The result is incomplete" in page
    assert "| set aside, in no output: run again | 14 |" in card

    bench.harm()
    manifest = bench.run()
    assert manifest["complete"]
    assert not (bench.folder / "out" / INCOMPLETE).exists()
    assert not (bench.folder / "out/_work").exists()
    assert bench.run("calm")["counts"] == manifest["counts"]
    assert bench.files("out") == bench.files("calm")


def test_only_what_was_set_aside_is_captured_again(bench: Bench) -> None:
    bench.harm(rows6="dies")
    bench.run()
    work = bench.folder / "out/_work/capture"
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(before) == 5
    bench.harm()
    bench.run(keep_captures=True)
    after = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def test_a_worker_that_hangs_while_it_writes_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def emit_group(group: Any, spec: Any) -> Any:
        from tamis.pipeline.emit.shard import write_group

        marker = Path(spec.store.path()).with_suffix(".hung")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return write_group(group, spec)

    calm = bench.run("calm")
    monkeypatch.setattr(emit_module, "write_group", emit_group)
    assert bench.run(worker_timeout=10)["counts"] == calm["counts"]
    assert (bench.folder / "out.hung").exists()
    assert bench.files("out") == bench.files("calm")


def test_one_shard_that_kills_the_workers_of_its_group_is_set_aside_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other shards that were to share its file are written apart; once it is mended, all of them together."""

    def emit_group(group: Any, spec: Any) -> Any:
        from tamis.pipeline.emit.shard import write_group

        if Path(spec.store.path()).with_suffix(".dying").exists() and any(shard.rows == 6 for shard, _, _ in group):
            os.kill(os.getpid(), signal.SIGKILL)
        return write_group(group, spec)

    monkeypatch.setattr(emit_module, "write_group", emit_group)
    dying, store = bench.folder / "out.dying", Store(str(bench.folder / "out"))
    dying.touch()
    manifest = bench.run()
    assert not manifest["complete"]
    assert [item["source"] for item in manifest["failed"]] == ["06.jsonl"]
    assert manifest["counts"]["kept"] + manifest["counts"]["dropped"] == 45 - 6
    assert len(store.list("kept")) == 5
    assert verify(store).problems == []
    dying.unlink()
    assert bench.run()["complete"]
    assert len(store.list("kept")) == len(store.list("dropped")) == 1
    assert verify(store).problems == []
    bench.run("calm", workers=2)
    assert bench.files("out") == bench.files("calm")


def test_beside_another_driver_nothing_incomplete_is_published(bench: Bench) -> None:
    """The other one may lack nothing."""
    bench.harm(rows6="raises")
    store = Store(str(bench.folder / "out"))
    write_lease(store, replace(own_lease(), broken=True))
    with pytest.raises(IncompleteError, match="another tamis is at work"):
        curate(bench.job(), bench.address)
    assert not (bench.folder / "out" / INCOMPLETE).exists()
    assert not (bench.folder / "out/kept").exists()


def test_where_every_shard_fails_the_fault_is_not_theirs(bench: Bench) -> None:
    bench.harm(**{f"rows{rows}": "raises" for rows in range(5, 11)})
    with pytest.raises(ClusterError, match="the fault does not seem to be theirs"):
        bench.run()


def test_errors_of_workers_say_what_to_do(bench: Bench) -> None:
    bench.harm(rows7="finds the input changed")
    with pytest.raises(InputError, match="the input cannot be read any more") as caught:
        bench.run()
    assert caught.value.exit_code == 3
    bench.harm(rows7="finds the disk full")
    with pytest.raises(
        ClusterError, match=r"worker stopped: OSError: No space left on device.*run the same command again"
    ):
        bench.run()
    bench.harm()
    assert bench.run()["complete"]


def test_a_model_that_breaks_after_the_plan_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Faulty, path: str) -> None:
        raise ConfigError("the reference models cannot be used")

    monkeypatch.setattr(Faulty, "load", broken)
    with pytest.raises(ConfigError, match="the reference models cannot be used"):
        bench.run()


def test_a_corpus_of_which_nothing_is_left(bench: Bench) -> None:
    for rows in range(6, 11):
        (bench.folder / f"data/{rows:02d}.jsonl").unlink()
    bench.harm(rows5="raises")
    with pytest.raises(IncompleteError, match="5 rows in 1 shards were set aside"):
        bench.run()

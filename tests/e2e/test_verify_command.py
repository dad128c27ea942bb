"""`tamis verify` on the output of a real run, intact and damaged, and on an unfinished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import Ran, curate, tamis
from outputs import alpaca_rows, manifest_of, snapshot, write_jsonl

from tamis.pipeline.storage.store import Store


@pytest.fixture(scope="module")
def finished(tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    rows = [*alpaca_rows(60, seed=31), b"{broken"]
    write_jsonl(folder / "data.jsonl", rows)
    flags = ["--input", folder / "data.jsonl", "--model", tiny_model, "--method", "saft", "--output", folder / "out"]
    flags += ["--set", "shard_rows=10", "--set", "max_quarantined=0.1", "--drop", "0.2"]
    curate(*flags, cwd=folder, address=ray_address)
    return folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "out"
    shutil.copytree(finished / "out", copy)
    return copy


def verify(out: Path) -> Ran:
    return tamis("verify", out, cwd=out.parent)


def test_a_whole_output(finished: Path) -> None:
    before = snapshot(finished / "out")
    ran = tamis("verify", "out", cwd=finished)
    assert ran.rc == 0, ran.output
    files = len(manifest_of(finished / "out")["files"])
    assert ran.stdout.startswith(f"{files} files (")
    assert "61 rows = 48 kept + 12 dropped + 1 quarantined; 61 rows of scores" in ran.stdout
    [progress] = ran.stderr.splitlines()
    assert progress.startswith(f"verify   {files} / {files} files 100%")
    assert snapshot(finished / "out") == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "add", "manifest"])
def test_damage(out: Path, damage: str) -> None:
    path = sorted((out / "kept").glob("*.parquet"))[-1]
    data = path.read_bytes()
    name = f"kept/{path.name}"
    if damage == "flip":
        path.write_bytes(data[:40] + bytes([data[40] ^ 4]) + data[41:])
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "delete":
        path.unlink()
    elif damage == "add":
        name = "kept/000099-stray.parquet"
        shutil.copy(path, out / name)
    else:
        name = "the manifest's counts do not add up"
        manifest = manifest_of(out)
        manifest["counts"]["rows_in"] += 1
        Store(str(out)).write_facts("manifest.json", manifest)
    ran = verify(out)
    assert ran.rc == 3, ran.output
    assert f"error: 1 things are wrong in {out}:" in ran.stderr
    assert f"\n  - {name}: " in ran.stderr


def test_a_manifest_that_was_edited(out: Path) -> None:
    manifest = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(manifest.replace('"rows_in": 61', '"rows_in": 62'))
    ran = verify(out)
    assert ran.rc == 3, ran.output
    assert "manifest.json is damaged, or was not written by tamis; put it back from a copy" in ran.stderr


def test_damage_in_several_places(out: Path) -> None:
    for path in (out / "scores").glob("*.parquet"):
        path.unlink()
    (out / "report.html").write_text("mine")
    ran = verify(out)
    assert ran.rc == 3
    assert ran.stderr.count("\n  - ") == 8


def test_a_run_that_has_not_ended(out: Path) -> None:
    (out / "manifest.json").unlink()
    (out / "_work").mkdir()
    (out / "_work/run.json").write_text('{"fingerprint": {}}')
    ran = verify(out)
    assert ran.rc == 3
    assert "has not ended" in ran.stderr
    assert "run the same `tamis curate` command again" in ran.stderr


def test_an_incomplete_run(out: Path) -> None:
    (out / "manifest.json").rename(out / "incomplete.json")
    ran = verify(out)
    assert ran.rc == 4, ran.output
    assert "61 rows = " in ran.stdout
    assert "the run is incomplete" in ran.stderr


def test_nothing_there(tmp_path: Path) -> None:
    ran = tamis("verify", "nowhere", cwd=tmp_path)
    assert ran.rc == 2
    assert "no run of tamis has been here" in ran.stderr

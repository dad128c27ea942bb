"""`tamis verify` finds every kind of damage, and nothing in an output that is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tamis.pipeline.commands.verify import verify
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.run.paths import INCOMPLETE, LAYERS, MANIFEST, RUN
from tamis.pipeline.storage.store import Store

SHARDS = {"000000-aa": (3, 1, 1), "000001-bb": (2, 0, 0)}
"""Of each shard, the rows kept, dropped and quarantined."""


def table(rows: int) -> pa.Table:
    return pa.table({"text": [f"row {i}" for i in range(rows)]})


def write_output(store: Store, name: str = MANIFEST, **changes: Any) -> dict[str, Any]:
    """A whole output and its manifest."""
    files = [store.write("report.html", b"<p>" * 100), store.write("artifact/artifact.json", b"{}")]
    for shard, numbers in SHARDS.items():
        for part, rows in zip(("kept", "dropped", "quarantine"), numbers, strict=True):
            if rows:
                files.append(store.write_table(f"{part}/{shard}.parquet", table(rows)))
        files.append(store.write_table(f"scores/{shard}.parquet", table(sum(numbers))))
    manifest = {
        "complete": name == MANIFEST,
        "fingerprint": {},
        "counts": {"rows_in": 7, "kept": 5, "dropped": 1, "quarantined": 1},
        "files": [file.to_dict() for file in files],
        **changes,
    }
    store.write_facts(name, manifest)
    return manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "out"))
    write_output(made)
    return made


def edit(store: Store, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = store.read_facts(MANIFEST)
    change(manifest)
    store.write_facts(MANIFEST, manifest)


def relist(manifest: dict[str, Any], written: Any) -> None:
    """The manifest as if the run itself had written this file."""
    manifest["files"] = [file for file in manifest["files"] if file["name"] != written.name] + [written.to_dict()]


def test_a_whole_output(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(store)
    assert found.problems == []
    assert found.complete
    assert (found.files, dict(found.rows)) == (8, {"kept": 5, "dropped": 1, "quarantine": 1, "scores": 7})
    assert "8 files" in str(found)
    assert "7 rows = 5 kept + 1 dropped + 1 quarantined; 7 rows of scores" in str(found)
    err = capsys.readouterr().err
    assert err.startswith("verify   8 / 8 files 100%")


@pytest.mark.parametrize("name", ["report.html", "kept/000000-aa.parquet", "scores/000001-bb.parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "delete", "folder"])
def test_one_damaged_file_is_one_problem(store: Store, name: str, damage: str) -> None:
    path = Path(store.path(name))
    data = path.read_bytes()
    if damage == "flip":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "grow":
        path.write_bytes(data + b"\n")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    words = {"flip": "content has changed", "cut": "bytes, the manifest says", "grow": "bytes, the manifest says",
             "delete": "is missing", "folder": "is no file"}  # fmt: skip
    [problem] = verify(store).problems
    assert problem.startswith(f"{name}: ")
    assert words[damage] in problem


def test_every_problem_is_told(store: Store) -> None:
    for name in ("report.html", "kept/000000-aa.parquet", "dropped/000000-aa.parquet"):
        store.remove(name)
    assert len(verify(store).problems) == 3


@pytest.mark.parametrize(
    "name", ["kept/000002-cc.parquet", "scores/more/x.parquet", "dropped/a.txt", "kept/.a.parquet"]
)
def test_a_stranger_among_the_output(store: Store, name: str) -> None:
    store.write_table(name, table(1))
    [problem] = verify(store).problems
    assert problem.startswith(f"{name}: is not in the manifest")


def test_leftovers_of_killed_writes_are_told_but_no_problem(store: Store) -> None:
    store.write("kept/000000-aa.parquet.1234abcd.tmp", b"half")
    store.write("kept/.DS_Store", b"")
    store.write("notes.txt", b"mine")
    found = verify(store)
    assert found.problems == []
    assert "1 leftovers of killed writes" in str(found)


# --- a manifest that was edited -----------------------------------------------------------------------------------


def test_counts_that_were_edited(store: Store) -> None:
    edit(store, lambda m: m["counts"].update(kept=6))
    assert verify(store).problems == [
        "kept/ holds 5 rows, the manifest says 6",
        "scores/ holds 7 rows for 8 rows of input",
        "the manifest's counts do not add up: 7 rows read, 6 kept + 1 dropped + 1 quarantined",
    ]


def test_a_file_that_was_struck_out(store: Store) -> None:
    edit(store, lambda m: m.update(files=[f for f in m["files"] if f["name"] != "kept/000001-bb.parquet"]))
    said = "\n".join(verify(store).problems)
    assert "kept/000001-bb.parquet: is not in the manifest" in said
    assert "kept/ holds 3 rows, the manifest says 5" in said
    assert "scores/000001-bb.parquet: has 2 rows, the other folders 0 of its shard" in said


@pytest.mark.parametrize(("field", "value"), [("sha256", "0" * 64), ("bytes", 1)])
def test_an_entry_that_was_edited(store: Store, field: str, value: Any) -> None:
    edit(store, lambda m: m["files"][3].update({field: value}))
    assert len(verify(store).problems) == 1


def test_an_entry_twice(store: Store) -> None:
    edit(store, lambda m: m["files"].append(m["files"][0]))
    assert verify(store).problems == ["report.html: listed twice"]


@pytest.mark.parametrize("entry", [5, None, {}, {"name": "report.html"}, {"name": 5, "bytes": 1, "sha256": ""}])
def test_an_entry_that_is_none(store: Store, entry: Any) -> None:
    edit(store, lambda m: m["files"].append(entry))
    assert verify(store).problems == ["entry 8 of the manifest's files has not the form of one"]


OUTSIDE = ["../secret", "/etc/passwd", "kept/../../secret", "", ".", "kept//a", "a\\..\\b", "C:/x", "s3://b/x", "a\n"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_not_opened(store: Store, tmp_path: Path, name: str) -> None:
    data = b"secret"
    (tmp_path / "secret").write_bytes(data)
    entry = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(store, lambda m: m["files"].append(entry))
    [problem] = verify(store).problems
    assert problem.startswith("entry 8 of the manifest's files: ")


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{}", '{"counts": {}, "files": []}', '{"counts": 5, "files": 5}']
)
def test_a_manifest_that_is_none(store: Store, content: str) -> None:
    store.write(MANIFEST, content.encode())
    with pytest.raises(InputError, match="is damaged, or was not written by tamis"):
        verify(store)


# --- what the run itself may have done wrong ----------------------------------------------------------------------


def test_rows_that_are_not_scored(store: Store) -> None:
    written = store.write_table("scores/000001-bb.parquet", table(1))
    edit(store, lambda m: relist(m, written))
    assert verify(store).problems == [
        "scores/ holds 6 rows for 7 rows of input",
        "scores/000001-bb.parquet: has 1 rows, the other folders 2 of its shard",
    ]


def test_no_parquet(store: Store) -> None:
    written = store.write("kept/000001-bb.parquet", b"PAR1 and no footer PAR1")
    edit(store, lambda m: relist(m, written))
    [problem] = verify(store).problems
    assert problem.startswith("kept/000001-bb.parquet: is no Parquet file")


# --- runs that have not ended, or not well ------------------------------------------------------------------------


def test_no_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no run of tamis has been here"):
        verify(store)
    store.write_facts(LAYERS, {})
    with pytest.raises(InputError, match="holds a layer search alone"):
        verify(store)
    store.write_facts(RUN, {"fingerprint": {}})
    with pytest.raises(InputError, match=r"has not ended.*run the same `tamis curate` command again"):
        verify(store)


def test_an_incomplete_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    counts = {"rows_in": 17, "kept": 5, "dropped": 1, "quarantined": 1, "failed": 10}
    write_output(store, INCOMPLETE, counts=counts, failed=[{"shard": "000002-cc", "rows": 10}])
    found = verify(store)
    assert (found.problems, found.complete, found.name) == ([], False, INCOMPLETE)
    store.write_facts(INCOMPLETE, store.read_facts(INCOMPLETE) | {"counts": {**counts, "failed": 9}})
    [problem] = verify(store).problems
    assert problem.endswith("17 rows read, 5 kept + 1 dropped + 1 quarantined + 9 failed")


def test_in_memory_and_in_an_object_store_s_manner() -> None:
    import fsspec

    store = Store("memory://verify-test/out")
    try:
        write_output(store)
        assert verify(store).problems == []
        store.write("kept/stray.parquet", b"x")
        store.remove("report.html")
        assert [problem.partition(":")[0] for problem in verify(store).problems] == [
            "kept/stray.parquet",
            "report.html",
        ]
        assert json.loads(store.read(MANIFEST))["complete"]
    finally:
        fsspec.filesystem("memory").rm("/verify-test", recursive=True)


@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_a_part_that_is_a_link_is_looked_into(store: Store, tmp_path: Path, target: str) -> None:
    """As of an output whose rows lie on another disk."""
    kept = Path(store.path("kept"))
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere" if target == "absolute" else "../elsewhere")
    assert verify(store).problems == []
    store.write_table("kept/000002-cc.parquet", table(1))
    [problem] = verify(store).problems
    assert problem.startswith("kept/000002-cc.parquet: is not in the manifest")


def test_a_link_within_a_part_is_one_stranger(store: Store) -> None:
    """`ln -s elsewhere out/kept` puts it there where kept/ is a folder."""
    Path(store.path("kept/kept")).symlink_to(".")
    [problem] = verify(store).problems
    assert problem.startswith("kept/kept: is not in the manifest")

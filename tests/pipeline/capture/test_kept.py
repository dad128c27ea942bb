"""The captures that a run has kept: all of them, of this run, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.requests import Request
from tamis.pipeline.capture.kept import kept_by
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import CORPUS, Shard
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import receipts
from tamis.pipeline.run.frozen import Frozen, FrozenCut, FrozenFacts
from tamis.pipeline.run.parent import Parent
from tamis.pipeline.run.paths import VECTORS_STAGE, stage_folder, table_of
from tamis.pipeline.storage.store import Sealed, Store

FINGERPRINT: dict[str, Any] = {"format": 4, "input": "abc"}
COLUMNS = ["block_01.last_token", "block_03.response_mean"]
KEY = run_folder.captures_key(FINGERPRINT, COLUMNS)
SHARDS = [(CORPUS, 3), (CORPUS, 2), ("larf.unsafe", 4), ("larf.unsafe", 1), ("larf.safe", 5)]


def capture(store: Store, index: int, role: str, rows: int, key: str = KEY, **facts: Any) -> tuple[str, Sealed]:
    """A captured shard; its name, and its table."""
    file = SourceFile("/in/a.jsonl", "a.jsonl", "jsonl", None, 1, "1")
    shard = Shard(index, role, file, (), Span(0, rows, 0, 0), {}, f"{index:016x}")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 2, np.float32)), 2)
    table = pa.table({"code": pa.nulls(rows, pa.string()), **dict.fromkeys(COLUMNS, vectors)})
    written = store.write_table(table_of(stage_folder(VECTORS_STAGE), shard.name), table)
    found = {
        "role": role,
        "quarantined": {},
        "messages": {},
        "examples": {},
        "tokens": 7,
        "truncated": 1,
        "precision": "float32 on cpu",
        "schema": None,
        "input": f"rows of {index}",
        "file": written.to_receipt(),
    }
    receipts.write(store, VECTORS_STAGE, shard, key, {**found, **facts})
    return shard.name, written.sealed


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    store = Store(str(tmp_path / "out"))
    named = [capture(store, index, role, rows)[0] for index, (role, rows) in enumerate(SHARDS)]
    run_folder.begin(store, {"fingerprint": FINGERPRINT, "reference_shards": 3})
    facts = FrozenFacts(("larf",), "larf", "", FrozenCut(0.5, None), {}, "float32", "cpu", {}, None, {})
    manifest = {"fingerprint": FINGERPRINT, "counts": {"rows_in": 5}}
    files = {f"scores/{name}.parquet": {"name": name, "bytes": 1, "sha256": "s"} for name in named[:2]}
    return Parent(store, manifest, "m", Frozen("out", facts, {}, {}, "d"), files, "--from")


def refusal(parent: Parent) -> str:
    with pytest.raises(ConfigError) as caught:
        kept_by(parent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_of_it_in_the_order_of_the_corpus(parent: Parent) -> None:
    kept = kept_by(parent)
    rows = {role: [table.rows for table in tables] for role, tables in kept.tables.items()}
    assert rows == {CORPUS: [3, 2], "larf.unsafe": [4, 1], "larf.safe": [5]}
    assert kept.requests == (Request(1, "last_token"), Request(3, "response_mean"))
    assert [file.name[-21:] for file in kept.files("larf.unsafe")] == [f"{index:013x}.parquet" for index in (2, 3)]
    assert (kept.precision, kept.totals.rows, kept.totals.truncated) == ("float32 on cpu", 5, 2)
    assert [found.input for name, found in sorted(kept.totals.captured.items())][:2] == ["rows of 0", "rows of 1"]
    assert len(kept.entries) == len(SHARDS)
    assert kept.without == {role: {} for role in rows}
    before = kept.digest
    capture(parent.store, 1, CORPUS, 2, truncated=0)
    assert kept_by(parent).digest == before


@pytest.mark.parametrize("index", [0, 1])
def test_a_corpus_shard_is_missing(parent: Parent, index: int) -> None:
    receipts.forget(parent.store, VECTORS_STAGE, [f"{index:06d}-{index:016x}"])
    said = refusal(parent)
    assert "has kept the vectors of 1 of its 2 shards; run its job again, in another folder, with keep_captures" in said


def test_there_are_none_at_all(parent: Parent) -> None:
    parent.store.remove("_work")
    assert "0 of its 2 shards" in refusal(parent)
    parent.manifest["parent"] = {"path": "/runs/first"}  # type: ignore[index]
    assert "it was made of /runs/first: name that one" in refusal(parent)


def test_a_reference_shard_is_missing(parent: Parent) -> None:
    """Its other shards alone would be another reference set, and give other scores without a word."""
    receipts.forget(parent.store, VECTORS_STAGE, [f"{3:06d}-{3:016x}"])
    assert "there are 2 shards of references, of 3" in refusal(parent)


def test_a_receipt_is_not_as_it_was_written(parent: Parent) -> None:
    [file] = (Path(parent.store.url) / "_work/receipts/capture").glob("000003-*.json")
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "rows": 2}))
    assert "there are 2 shards of references, of 3" in refusal(parent)


def test_nothing_says_how_many_references_there_were(parent: Parent) -> None:
    for file in (Path(parent.store.url) / "_work").glob("run*.json"):
        file.unlink()
    assert "shards of references" in refusal(parent)


def test_a_capture_is_of_other_settings(parent: Parent) -> None:
    capture(parent.store, 4, "larf.safe", 5, key="another")
    assert "000004-0000000000000004 was captured with other settings" in refusal(parent)


def test_a_receipt_is_of_another_version(parent: Parent) -> None:
    capture(parent.store, 1, CORPUS, 2, quarantined=None)
    assert "its receipt is of another version of tamis" in refusal(parent)


def test_captures_differ_in_precision(parent: Parent) -> None:
    capture(parent.store, 1, CORPUS, 2, precision="bfloat16 on cuda")
    assert "captured in bfloat16 on cuda and float32 on cpu" in refusal(parent)


def test_captures_are_of_other_rows(parent: Parent) -> None:
    parent.manifest["counts"]["rows_in"] = 6
    assert "they are of 5 rows, of 6" in refusal(parent)


def test_the_first_table_is_damaged(parent: Parent) -> None:
    [file] = (Path(parent.store.url) / "_work/capture").glob("000000-*.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "is damaged: _work/capture/000000-0000000000000000.parquet" in refusal(parent)

"""Safety demonstrations of captured shards, and where they fall, against the whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.methods.request_side import request_cut
from tamis.operators.requests import Request
from tamis.pipeline.capture.chosen_rows import among_column, only, refused_column
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.fit import demonstrations
from tamis.pipeline.fit import exact_cut as module
from tamis.pipeline.fit.demonstrations import (
    NOT_CAPTURED,
    counted,
    sealed_in,
    tables_of,
    write_demonstrations,
)
from tamis.pipeline.storage.store import Sealed, Store

READ = ("larf", Request(3, "last_prompt_token"))
ROWS, SHARDS, WIDTH = 60, 5, 8


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GROUP", 2)  # so that several tasks have something to add up
        yield


def captured(store: Store, name: str, vectors: Any, refused: Any, among: Any) -> Sealed:
    columns = {"code": pa.nulls(len(vectors), pa.string())}
    columns[refused_column(READ[1].column)] = only(vectors, np.flatnonzero(refused))
    columns[among_column(READ[1].column)] = only(vectors, np.flatnonzero(among))
    return store.write_table(f"{name}.parquet", pa.table(columns)).sealed


def test_they_are_those_of_the_whole(tmp_path: Path) -> None:
    store, rng = Store(str(tmp_path)), np.random.default_rng(4)
    unsafe = (rng.normal(size=(30, WIDTH)) + 5 + np.eye(WIDTH)[0] * 6).astype(np.float32)
    vectors = (rng.normal(size=(ROWS, WIDTH)) + 5).astype(np.float32)
    harmful = rng.random(ROWS) < 0.3
    vectors[harmful, 0] += 6
    refused, among, falls = (rng.random(ROWS) < share for share in (0.5, 0.6, 0.4))
    refused[:12] = False  # a shard without any
    references = [captured(store, f"unsafe-{half}", part, np.ones(15), np.zeros(15)) for half, part in
                  enumerate(np.split(unsafe, 2))]  # fmt: skip
    corpus, scores = [], []
    for number, places in enumerate(np.split(np.arange(ROWS), SHARDS)):
        name = f"{number:03d}"
        corpus.append((name, captured(store, name, vectors[places], refused[places], among[places])))
        decisions = np.where(falls[places], "dropped", "kept").tolist()
        decisions[3] = "quarantined"
        table = pa.table({"decision": pa.array(decisions, pa.string())})
        scores.append(store.write_table(f"scores/{name}.parquet", table).to_receipt())
    written = write_demonstrations(store, store, READ, references, corpus)
    cut = request_cut(unsafe, vectors[among])
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    found = refused & (units @ cut.direction > cut.threshold)
    table = store.read_table(written.sealed)
    places = [int(shard) * (ROWS // SHARDS) + row for shard, row in zip(*table.to_pydict().values(), strict=True)]
    assert places == np.flatnonzero(found).tolist()
    assert 0 < len(places) < refused.sum()
    facts = counted(store, sealed_in([written.to_receipt()]), tables_of(scores), "")
    in_neither = np.arange(ROWS) % (ROWS // SHARDS) == 3
    assert facts == {
        "method": "larf",
        "block": 3,
        "unsafe": 30,
        "corpus": among.sum(),
        "auroc": cut.auroc,
        "threshold": cut.threshold,
        "above": cut.above,
        "refusing": refused.sum(),
        "kept": (found & ~falls & ~in_neither).sum(),
        "dropped": (found & falls & ~in_neither).sum(),
    }


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, none = Store(str(tmp_path)), np.zeros((20, WIDTH), np.float32)
    old = store.write_table("old.parquet", pa.table({"code": pa.nulls(20, pa.string())})).sealed
    new = captured(store, "new", none, np.ones(20), np.ones(20))
    found = write_demonstrations(store, store, READ, [new], [("a", new), ("b", old)])
    assert counted(store, found.sealed, {}, "") == {"missing": NOT_CAPTURED}
    # A shard of an earlier tamis that no request is drawn from.
    monkeypatch.setattr(demonstrations, "DRAWN_SHARDS", 1)
    rng = np.random.default_rng(5)
    unsafe, others = (
        captured(store, name, (rng.normal(size=(20, WIDTH)) + shift).astype(np.float32), np.ones(20), np.ones(20))
        for name, shift in (("unsafe", 5), ("others", -5))
    )
    found = write_demonstrations(store, store, READ, [unsafe], [("a", others), ("b", old)])
    assert counted(store, found.sealed, {}, "") == {"missing": NOT_CAPTURED}
    found = write_demonstrations(store, store, READ, [new], [("a", new)])
    assert "AUROC 0.50" in counted(store, found.sealed, {}, "")["missing"]
    assert counted(store, None, {}, "why") == {"missing": "why"}
    assert sealed_in([{"name": "artifact/frozen.json", "sha256": ""}]) is None

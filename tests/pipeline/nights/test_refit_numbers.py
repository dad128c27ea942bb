"""A fit over several nights against one written out in float64 over all of their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

from tamis.operators.methods import Artifact
from tamis.operators.methods.protocol import CORPUS
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.scores import save_artifacts
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.nights.refit import refit, runs_at
from tamis.pipeline.run import receipts
from tamis.pipeline.run.frozen import FrozenCut, FrozenFacts, freeze, read_frozen
from tamis.pipeline.run.paths import MANIFEST, WORK, table_of
from tamis.pipeline.storage.store import Store

WIDTH, K = 6, 2
LARF, SAFT = "block_01.last_token", "block_02.last_token"
SETTINGS = {
    "format": 4,
    "max_tokens": 50,
    "larf.layer": "auto",
    "larf.position": "last_token",
    "larf.form": "paired",
    "saft.layer": "auto",
    "saft.position": "last_token",
    "saft.k": K,
    "saft.weighted": False,
    "selection.by": "saft",
    "selection.drop": 0.25,
}
Vectors = Mapping[str, np.ndarray[Any, Any]]


def vectors(seed: int, rows: int) -> Vectors:
    random = np.random.default_rng(seed)
    scale = np.linspace(3.0, 0.5, WIDTH)
    return {
        LARF: random.normal(size=(rows, WIDTH)).astype(np.float32),
        SAFT: (random.normal(size=(rows, WIDTH)) * scale + 5).astype(np.float32),
    }


def capture(store: Store, role: str, index: int, source: str, start: int, shown: Vectors, bad: Sequence[int]) -> str:
    """A captured shard and its receipt; the name of the shard. bad: rows that are quarantined, with other numbers."""
    rows = len(shown[SAFT])
    file = SourceFile(f"/in/{source}", source, "jsonl", None, 1, "1")
    shard = Shard(
        index, role, file, (), Span(start, start + rows, 0, 0), {}, f"{role}{source}{start}".replace("/", "-")
    )
    columns: dict[str, Any] = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.where(_is_in(bad, rows), 99, values).ravel()), WIDTH)
        for name, values in shown.items()
    }
    columns["code"] = pa.array(["empty" if row in bad else None for row in range(rows)], pa.string())
    columns["n_response_tokens"] = pa.array([row % 7 + 1 for row in range(rows)], pa.int32())
    written = store.write_table(table_of(f"{WORK}/capture", shard.name), pa.table(columns))
    facts = {"role": role, "quarantined": {"empty": len(bad)} if bad else {}, "precision": "float32 on cpu"}
    receipts.write(store, "capture", shard, "k", {**facts, "file": written.to_receipt()})
    return shard.name


def _is_in(bad: Sequence[int], rows: int) -> Any:
    return np.isin(np.arange(rows), list(bad))[:, None]


def night(
    folder: Path,
    shards: Sequence[tuple[str, int, Vectors, Sequence[int]]],
    references: Mapping[str, Vectors] | None = None,
    **settings: Any,
) -> Store:
    """A finished run that kept its captures. shards: file, first row, vectors, and which are quarantined."""
    store = Store(str(folder))
    names = [
        capture(store, CORPUS, index, source, start, shown, bad)
        for index, (source, start, shown, bad) in enumerate(shards)
    ]
    for number, (role, shown) in enumerate((references or {}).items()):
        capture(store, role, 100 + number, role, 0, shown, ())
    artifacts = {
        "larf": Artifact({"direction": np.ones(WIDTH, np.float32)}, {"layer": 1, "layer_chosen": "search"}),
        "saft": Artifact({"mean": np.zeros(WIDTH)}, {"layer": 2}),
    }
    files = save_artifacts(store, artifacts, {"key": "k", "fingerprint": {}, "blocks": 4})
    facts = FrozenFacts(
        methods=("larf", "saft"),
        selected_by="saft",
        how="drop 0.25",
        cut=FrozenCut(1.0, None),
        settings={**SETTINGS, **settings},
        dtype="float32",
        device="cpu",
        model={"name": "m", "revision": "local"},
        template=None,
        statistics={},
        tests=({"method": "larf", "untested": "of this night"},),
    )
    files.append(freeze(store, facts, files))
    files += [{"name": f"scores/{name}.parquet", "bytes": 1, "sha256": "0"} for name in names]
    rows: dict[str, int] = {}
    for source, _, shown, _ in shards:
        rows[source] = rows.get(source, 0) + len(shown[SAFT])
    manifest = {"complete": True, "fingerprint": {}, "created": folder.name, "job": {}, "model": {"blocks": 4}}
    listed = [{"path": name, "rows": n, "url": f"/in/{name}", "bytes": 1, "identity": "1"} for name, n in rows.items()]
    store.write_facts(MANIFEST, {**manifest, "input": {"files": listed}, "files": files})
    return store


def unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_fit_over_nights_is_that_over_all_of_their_rows(tmp_path: Path, ray_address: str) -> None:
    unsafe, safe = vectors(8, 5), vectors(9, 5)
    a, b, late, c = vectors(1, 9), vectors(2, 4), vectors(3, 6), vectors(4, 13)
    night(
        tmp_path / "root/1",
        [("27/a", 0, a, [2]), ("27/a", 9, b, ())],
        {"larf.unsafe": unsafe, "larf.safe": safe},
    )
    night(tmp_path / "root/2", [("26/late", 0, late, ()), ("28/c", 0, c, [0, 12])])
    out = Store(str(tmp_path / "out"))
    nights = runs_at([Store(str(tmp_path / "root"))])
    assert [store.path() for store in nights] == [str(tmp_path / "root/1"), str(tmp_path / "root/2")]
    made = refit(nights, [], out, ray_address)

    good = [(late, range(6)), (a, [0, 1, *range(3, 9)]), (b, range(4)), (c, range(1, 12))]
    rows = np.concatenate([shown[SAFT][list(kept)] for shown, kept in good]).astype(np.float64)
    mean = rows.mean(axis=0)
    _, values, basis = np.linalg.svd(rows - mean, full_matrices=False)
    scores = (((rows - mean) @ basis[:K].T) ** 2).mean(axis=1).astype(np.float32)
    found = safetensors.numpy.load((tmp_path / "out/artifact/saft.safetensors").read_bytes())
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(np.abs((found["basis"] * basis[:K]).sum(axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(found["singular_values"], values[:K], rtol=1e-9)
    direction = unit(unsafe[LARF].astype(np.float64)).mean(axis=0) - unit(safe[LARF].astype(np.float64)).mean(axis=0)
    larf = safetensors.numpy.load((tmp_path / "out/artifact/larf.safetensors").read_bytes())
    np.testing.assert_allclose(larf["direction"], direction, rtol=1e-5, atol=1e-6)

    fell = len(rows) // 4
    frozen = read_frozen(out.url, {})
    np.testing.assert_allclose(frozen.facts.cut.score, np.sort(scores)[-fell], rtol=1e-5)
    assert (made["rows"], made["scored"], made["fell"]) == (32, len(rows), fell)
    statistics = frozen.facts.statistics
    assert (statistics["rows"], statistics["scored"], statistics["fell"]) == (32, len(rows), fell)
    assert statistics["quarantine"] == {"empty": 3}
    assert sum(statistics["scores"]["saft"]["counts"]) == len(rows)
    assert frozen.artifacts["larf"].facts["layer_chosen"] == "search"
    assert dict(frozen.facts.settings) == SETTINGS
    assert not frozen.facts.tests  # those of the first night are of another fit
    assert not out.exists(WORK)

    # Where a capture is damaged, another try does not help; a night of other settings is named.
    [capture, *_] = sorted((tmp_path / "root/2/_work/capture").iterdir())
    capture.write_bytes(capture.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"root.*capture.*; leave that night out"):
        refit(nights, [], Store(str(tmp_path / "other")), ray_address)
    night(tmp_path / "root/3", [("29/d", 0, a, ())], **{"saft.k": 3})
    with pytest.raises(ConfigError, match=r"root/3: saft\.k"):
        refit([*nights, Store(str(tmp_path / "root/3"))], [], Store(str(tmp_path / "other")), ray_address)


def test_a_fit_without_the_captures_of_references_is_refused(tmp_path: Path) -> None:
    """Nights with an artifact capture none. Those of another night with the same settings do."""
    alone = night(tmp_path / "2", [("28/c", 0, vectors(4, 8), ())])
    with pytest.raises(ConfigError, match=r"no night has kept the captures of the references larf\.unsafe"):
        refit([alone], [], Store(str(tmp_path / "out")))
    other = night(
        tmp_path / "1",
        [("27/a", 0, vectors(1, 8), ())],
        {"larf.unsafe": vectors(8, 5)},
        **{"larf.form": "mean_representation"},
    )
    with pytest.raises(ConfigError, match=r"no night has kept the captures of the references larf\.unsafe"):
        refit([alone], [other], Store(str(tmp_path / "out")))


def test_captures_that_are_gone_in_part_are_not_taken_for_all(tmp_path: Path) -> None:
    store = night(tmp_path / "1", [("27/a", 0, vectors(1, 8), ()), ("27/b", 0, vectors(2, 8), ())])
    [receipt, _] = sorted((tmp_path / "1/_work/receipts/capture").glob("*.json"))
    assert json.loads(receipt.read_text())["role"] == CORPUS
    receipt.unlink()
    with pytest.raises(ConfigError, match=r"has kept the captures of 1 of its 2 shards"):
        refit([store], [], Store(str(tmp_path / "out")))

"""Whole runs of Contrast against rows that are drawn from the corpus: in both orders, gone on with, applied."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outputs import alpaca_rows, pair, rows_of, sentence, write_jsonl

from tamis.operators.statistics.drawing import drawn_rows
from tamis.pipeline.curate import curate
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.scores import read_features
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.nights.refit import gather
from tamis.pipeline.run import receipts
from tamis.pipeline.storage.store import Sealed, Store

ROWS, SAMPLE, BAD = 120, 40, 30
COLUMN = "block_02.last_token"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files with 120 rows, one of which cannot be used and is among those drawn."""
    made = tmp_path_factory.mktemp("sampled")
    rows: list[Any] = [*alpaca_rows(ROWS, seed=5)]
    assert BAD in drawn_rows(ROWS, SAMPLE, 0)
    rows[BAD] = '{"instruction": "half a'
    write_jsonl(made / "data/a.jsonl", rows[:50])
    write_jsonl(made / "data/b.jsonl", rows[50:])
    chance = random.Random(9)
    unsafe = [{"messages": pair(sentence(chance), sentence(chance, 20, 40))} for _ in range(20)]
    write_jsonl(made / "unsafe.jsonl", unsafe)
    write_jsonl(made / "new/c.jsonl", alpaca_rows(30, seed=6))
    return made


@pytest.mark.long
@pytest.mark.usefixtures("driver")
def test_a_sample_in_the_place_of_the_corpus(folder: Path, tiny_model: Path, ray_address: str) -> None:
    def run(name: str, data: str = "data", **more: Any) -> dict[str, Any]:
        settings = {
            "input": str(folder / data), "model": str(tiny_model), "output": str(folder / name), "workers": 1,
            "method": "contrast", "contrast.unsafe_references": str(folder / "unsafe.jsonl"), "contrast.layer": 2,
            "max_quarantined": 0.1, "shard_rows": 16, **more,
        }  # fmt: skip
        return dict(curate(load_job(None, settings), ray_address).manifest)

    def scores(name: str) -> np.ndarray[Any, Any]:
        found = [row["contrast"] for row in rows_of(folder / name, "scores")]
        return np.array([value for value in found if value is not None])

    some = {"contrast.sample": SAMPLE}
    # The corpus pass writes scores, and those are the naive ones of the vectors that the other order keeps.
    first = run("scores", **some, keep_captures="scores")
    other = run("vectors", **some, shard_rows=45, keep_captures="vectors")
    drawn = drawn_rows(ROWS, SAMPLE, 0)
    np.testing.assert_allclose(scores("scores"), naive(folder / "vectors", drawn), atol=1e-6)
    np.testing.assert_allclose(scores("vectors"), scores("scores"), atol=1e-6)
    assert not list((folder / "scores/_work").glob("capture/*"))
    facts = [manifest["methods"][0]["facts"]["corpus_sample"] for manifest in (first, other)]
    assert facts[0] == facts[1] == {**facts[0], "drawn": SAMPLE, "usable": SAMPLE - 1, "of": ROWS, "set_aside": 0}
    for name in ("scores", "vectors"):
        beside = json.loads((folder / name / "artifact/corpus_sample.json").read_text())["methods"]["contrast"]
        rows = [row + (50 if file["path"] == "b.jsonl" else 0) for file in beside["files"] for row in file["rows"]]
        assert rows == drawn
        assert beside["sha256"] == facts[0]["sha256"]
    assert f"minus that of {SAMPLE - 1} of the {ROWS} rows of the corpus" in first["methods"][0]["reading"]
    assert first["trust"]["tests"][0]["against"] == "corpus"

    # A run that was interrupted goes on to the same bytes, though the vectors of the drawn rows are gone.
    shutil.copytree(folder / "scores", folder / "again")
    (folder / "again/manifest.json").unlink()
    for receipt in sorted((folder / "again/_work/receipts/scored").glob("[0-9]*.json"))[::2]:
        receipt.unlink()
    run("again", **some, keep_captures="scores")
    for name in ("artifact/contrast.safetensors", "artifact/corpus_sample.json", "artifact/frozen.json"):
        assert (folder / "again" / name).read_bytes() == (folder / "scores" / name).read_bytes()
    for table in (folder / "scores/scores").iterdir():
        assert (folder / "again/scores" / table.name).read_bytes() == table.read_bytes()

    # New data is scored against the same rows.
    applied = run("applied", "new", artifact=str(folder / "scores"), drift_limit=None)
    assert applied["methods"][0]["facts"] == first["methods"][0]["facts"]
    kept, came = (Store(str(folder / name)).read("artifact/corpus_sample.json") for name in ("scores", "applied"))
    assert kept == came

    # A refit of these vectors would read all rows, and the artifact says otherwise.
    with pytest.raises(ConfigError, match=r"fitted to rows drawn .*contrast\.sample: all"):
        gather([Store(str(folder / "vectors"))])


def naive(output: Path, drawn: list[int]) -> np.ndarray[Any, Any]:
    """By loops in float64, from the vectors that a run has kept. drawn: rows of the corpus, by number."""
    store = Store(str(output))
    kept = sorted(receipts.whole(store, "capture"), key=lambda receipt: int(receipt["index"]))

    def vectors(role: str) -> list[np.ndarray[Any, Any]]:
        files = [Sealed(each["file"]["name"], each["file"]["sha256"]) for each in kept if each["role"] == role]
        rows = [row.astype(np.float64) for file in files for row in read_features(store, file)[COLUMN]]
        return [row / np.linalg.norm(row) for row in rows]

    corpus, unsafe = vectors("corpus"), vectors("contrast.unsafe")
    usable = [row for row in range(ROWS) if row != BAD]
    side = [corpus[usable.index(row)] for row in drawn if row != BAD]
    return np.array(
        [
            sum(float(row @ u) for u in unsafe) / len(unsafe) - sum(float(row @ z) for z in side) / len(side)
            for row in corpus
        ]
    )

"""Agreement of methods over files of scores, against the whole in memory: any sharding, ties, rows without a score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.statistics.lengths import length_histogram
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.fit import exact_cut as module
from tamis.pipeline.fit.score_agreement import score_agreement
from tamis.pipeline.storage.store import Sealed, Store

NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GROUP", 2)  # so that several tasks have something to add up
        yield


def written(store: Store, scores: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], shards: int) -> list[Sealed]:
    """Tables of scores/ as emit leaves them, each with a row that has no score at its start."""
    files = []
    for number, part in enumerate(np.array_split(np.arange(len(lengths)), shards)):
        columns: dict[str, Any] = {
            name: pa.array([None, *scores[at, part].tolist()], pa.float32()) for at, name in enumerate(NAMES)
        }
        columns["n_response_tokens"] = pa.array([0, *lengths[part].tolist()], pa.int32())
        files.append(store.write_table(f"scores/{number:03d}.parquet", pa.table(columns)).sealed)
    return files


def spearman(a: Any, b: Any) -> float:
    def ranks(x: Any) -> Any:
        return np.array([np.sum(x < v) + (np.sum(x == v) + 1) / 2 for v in x])

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


@pytest.mark.parametrize(("seed", "ties"), [(0, False), (1, True)])
def test_the_figures_are_those_of_the_whole_whatever_the_shards(tmp_path: Path, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, 90)
    base = rng.normal(size=90)
    scores = np.stack([base, base + rng.normal(size=90), lengths + rng.normal(size=90)]).astype(np.float32)
    if ties:
        scores = np.round(scores)
    found = []
    for shards in (1, 7):
        store = Store(str(tmp_path / str(shards)))
        files = written(store, scores, lengths, shards)
        found.append(score_agreement(store, NAMES, files, 20, length_histogram(lengths, 40), None))
    one, many = found
    assert [pair["both"] for pair in one["pairs"]] == [pair["both"] for pair in many["pairs"]]
    dropped = [set(np.lexsort((np.arange(90), -row))[:20].tolist()) for row in scores]
    for pair, other in zip(one["pairs"], many["pairs"], strict=True):
        a, b = (NAMES.index(name) for name in pair["methods"])
        assert pair["spearman"] == pytest.approx(spearman(scores[a], scores[b]), abs=1e-6)
        assert other["spearman"] == pytest.approx(pair["spearman"], abs=1e-12)
        ab, ac, bc = pair["spearman"], spearman(scores[a], lengths), spearman(scores[b], lengths)
        partial = (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))
        assert pair["partial_spearman"] == pytest.approx(partial, abs=1e-5)
        both = len(dropped[a] & dropped[b])
        assert (pair["both"], pair["dropped"]) == (both, 20)
        assert pair["jaccard"] == pytest.approx(both / (40 - both))
        assert pair["by_chance"] == pytest.approx(20 / 90)
    for at, row in enumerate(one["lengths"]):
        rho = spearman(scores[at], lengths)
        assert row == {"method": NAMES[at], "spearman": pytest.approx(rho, abs=1e-6),
                       "left": pytest.approx(1 - rho**2, abs=1e-6)}  # fmt: skip


def test_constant_scores_and_nothing_dropped(tmp_path: Path) -> None:
    scores = np.stack([np.arange(6), np.zeros(6), -np.arange(6)]).astype(np.float32)
    lengths = np.full(6, 3)
    store = Store(str(tmp_path))
    found = score_agreement(store, NAMES, written(store, scores, lengths, 2), 0, length_histogram(lengths, 3), None)
    assert found["lengths"] == [{"method": name, "spearman": None, "left": None} for name in NAMES]
    by_name = {tuple(pair["methods"]): pair for pair in found["pairs"]}
    assert by_name["a", "b"]["spearman"] is None
    assert by_name["a", "c"]["spearman"] == pytest.approx(-1.0)
    assert by_name["a", "c"]["partial_spearman"] == by_name["a", "c"]["spearman"]
    assert all((pair["both"], pair["jaccard"]) == (0, None) for pair in found["pairs"])


def test_one_method_reads_nothing(tmp_path: Path) -> None:
    missing = [Sealed("scores/none.parquet", "")]
    found = score_agreement(Store(str(tmp_path)), ["a"], missing, 3, np.array([0, 9]), 0.6)
    assert found == {"lengths": [{"method": "a", "spearman": 0.6, "left": pytest.approx(0.64)}], "pairs": []}

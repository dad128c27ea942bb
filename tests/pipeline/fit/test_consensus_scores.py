"""The mean over several models, over tables on a disk: the naive one whatever the sharding; a row without a score in
one model has none; chance goes on deciding."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tamis.operators.statistics.ranking import coarse_histogram
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit.consensus import Consensus, ConsensusSpec, Tables, mean_over_models
from tamis.pipeline.fit.scores import DECIDING, LENGTHS, read_scores
from tamis.pipeline.storage.store import Sealed, Store

ROWS = 300
CHANCE = np.random.default_rng(7)
SHARED = CHANCE.standard_t(3, size=ROWS)
G = [(scale * (SHARED + CHANCE.normal(size=ROWS))).astype(np.float32) for scale in (0.1, 0.01, 1.0)]
LARF = CHANCE.normal(size=ROWS).astype(np.float32)
LENGTH = CHANCE.integers(1, 50, ROWS)
# Of each model, the code of what it cannot score.
CODES = [np.full(ROWS, None, dtype=object) for _ in G]
CODES[0][[5, 40, 41]] = "bad_row"
CODES[1][[5, 80, 81, 299]] = "overlong"
CODES[2][[80, 200]] = "non_finite"
CODES[2][[201]] = "no_trained_turn"
VALID = np.array([all(codes[row] is None for codes in CODES) for row in range(ROWS)])


def tables(store: Store, sizes: list[int], scores: list[np.ndarray] = G) -> list[Tables]:
    ends = np.cumsum([0, *sizes]).tolist()
    assert ends[-1] == ROWS
    found = []
    for number, (first, last) in enumerate(pairwise(ends)):
        rows = slice(first, last)
        files = []
        for model, (g, codes) in enumerate(zip(scores, CODES, strict=True)):
            gone = np.array([code is not None for code in codes[rows]], dtype=bool)
            said = [None if code is None else f"model {model} cannot" for code in codes[rows]]
            columns = {
                "csa" if model == 0 else "score.csa": pa.array(g[rows], mask=gone),
                "code": pa.array(codes[rows].tolist(), pa.string()),
                "message": pa.array(said, pa.string()),
            }
            if model == 0:
                columns["larf"] = pa.array(LARF[rows], mask=gone)
                columns[DECIDING] = columns["csa"]
                columns[LENGTHS] = pa.array(LENGTH[rows])
            files.append(store.write_table(f"tables/{model}-{number}.parquet", pa.table(columns)).sealed)
        found.append(Tables(f"{number:06d}", "data.jsonl", first, files[0], tuple(files[1:])))
    return found


def spec(store: Store, decided_by: str = "csa", *, by_chance: bool = False) -> ConsensusSpec:
    return ConsensusSpec(store, "csa", ("csa", "larf"), decided_by, by_chance, ("a", "b", "c"), 64)


def all_of(store: Store, found: Consensus, column: str) -> list[float]:
    return np.concatenate([read_scores(store, file, column) for file in found.sums.files]).tolist()


def naive(*, scaled: bool = True) -> np.ndarray:
    """Of the rows that all models have scored, at most one of which no model leaves unclipped."""
    plain, clipped, ends = [], [], []
    for g in (own[VALID].astype(np.float64) for own in G):
        low, high = np.percentile(g, [1, 99]) if scaled else (-np.inf, np.inf)
        inside = np.clip(g, low, high)
        spread = np.std(inside) if scaled else 1.0
        plain.append(g / spread)
        clipped.append(inside / spread)
        ends.append((g >= high).astype(int) - (g <= low))
    same = np.all(np.array(ends) == ends[0], axis=0) & (ends[0] != 0)
    assert same.any() == scaled
    return np.asarray(np.where(same, np.mean(plain, axis=0), np.mean(clipped, axis=0)))


@pytest.mark.parametrize("sizes", [[300], [1, 40, 0, 159, 100]])
@pytest.mark.usefixtures("driver")
def test_any_sharding(tmp_path: Path, sizes: list[int]) -> None:
    store = Store(str(tmp_path))
    found = mean_over_models(spec(store), tables(store, sizes), scaled=True)
    np.testing.assert_allclose(all_of(store, found, "csa"), naive(), rtol=1e-5, atol=1e-6)
    assert all_of(store, found, DECIDING) == all_of(store, found, "csa")
    assert all_of(store, found, "larf") == LARF[VALID].tolist()
    scores = np.array(all_of(store, found, "csa"), np.float32)
    assert (found.sums.low, found.sums.high, found.sums.count) == (scores.min(), scores.max(), VALID.sum())
    assert found.sums.coarse.tolist() == coarse_histogram(scores).tolist()
    assert found.sums.lengths.sum() == VALID.sum()
    for facts, g in zip(found.models, G, strict=True):
        own = g[VALID].astype(np.float64)
        inside = np.clip(own, *np.percentile(own, [1, 99]))
        assert (facts["rows"], facts["lowest"], facts["highest"]) == (VALID.sum(), own.min(), own.max())
        assert [facts[name] for name in ("p1", "p99", "std", "mean")] == pytest.approx(
            [*np.percentile(own, [1, 99]), np.std(inside), own.mean()], rel=1e-9
        )
    # A row that a model could not score: the first reason counts, and what the job's own model says is not told again.
    read = [store.read_table(file) for file in found.sums.files]
    codes = [code for table in read for code in table.column("code").to_pylist()]
    firsts = [next((codes[row] for codes in CODES if codes[row] is not None), None) for row in range(ROWS)]
    assert codes == firsts
    messages = [message for table in read for message in table.column("message").to_pylist()]
    assert (messages[5], messages[80], messages[200]) == ("model 0 cannot", "b: model 1 cannot", "c: model 2 cannot")
    assert dict(found.gone.codes) == {"overlong": 3, "non_finite": 1, "no_trained_turn": 1}
    assert found.gone.messages["overlong"] == "b: model 1 cannot"
    assert len(found.gone.examples["overlong"]) == 3
    nulls = [null for table in read for null in table.column("csa").is_null().to_pylist()]
    assert nulls == (~VALID).tolist()


@pytest.mark.usefixtures("driver")
def test_the_plain_mean_and_another_who_decides(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    found = mean_over_models(spec(store, "larf"), tables(store, [200, 100]), scaled=False)
    np.testing.assert_allclose(all_of(store, found, "csa"), naive(scaled=False), rtol=1e-5, atol=1e-6)
    assert all_of(store, found, DECIDING) == LARF[VALID].tolist()
    assert found.sums.high == LARF[VALID].max()
    by_chance = mean_over_models(spec(store, by_chance=True), tables(store, [200, 100]), scaled=True)
    assert all_of(store, by_chance, DECIDING) == G[0][VALID].tolist()


@pytest.mark.usefixtures("driver")
def test_what_has_no_mean_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    alike = [G[0], np.full(ROWS, 0.5, np.float32), G[2]]
    with pytest.raises(ConfigError, match=r"csa\.models: b scores all 292 rows alike"):
        mean_over_models(spec(store), tables(store, [ROWS], alike), scaled=True)
    assert mean_over_models(spec(store), tables(store, [ROWS], alike), scaled=False).sums.count == VALID.sum()
    nothing = [Tables("000000", "data.jsonl", 0, *own) for own in [_without_scores(store)]]
    with pytest.raises(ConfigError, match="no row has a score in each of the 3 models"):
        mean_over_models(spec(store), nothing, scaled=True)


def _without_scores(store: Store) -> tuple[Sealed, tuple[Sealed, ...]]:
    none = pa.nulls(2, pa.float32())
    words = {"code": pa.array(["bad_row"] * 2), "message": pa.array(["why"] * 2)}
    own = {"csa": none, "larf": none, DECIDING: none, LENGTHS: pa.array([1, 2]), **words}
    theirs = {"score.csa": none, **words}
    files = [store.write_table(f"none/{n}.parquet", pa.table(c)).sealed for n, c in enumerate((own, theirs, theirs))]
    return files[0], tuple(files[1:])

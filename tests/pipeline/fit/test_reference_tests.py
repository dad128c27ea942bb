"""The test of a run's methods on captured files: a random score fails it and may not cut, real methods pass."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from report_samples import summary

from tamis.operators.methods import Artifact, Contrast, Features, Larf, Method, Reduce, Saft
from tamis.operators.methods.protocol import CORPUS, reduce_in_process
from tamis.operators.requests import Request
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.fit import exact_cut
from tamis.pipeline.fit import reference_tests as module
from tamis.pipeline.fit.reference_tests import FROZEN, Capture, reference_tests
from tamis.pipeline.fit.scores import read_features
from tamis.pipeline.report.verdict import NO, verdict
from tamis.pipeline.storage.store import Store

BLOCKS, WIDTH = 4, 8
COLUMN = Request(2, "last_token").column


@dataclass(frozen=True)
class Guess(Method):
    """A random score: a digest of the vector and the salt. It takes references, as any method may."""

    name: ClassVar[str] = "guess"
    title: ClassVar[str] = "Guess"
    about: ClassVar[str] = "nothing."
    references: ClassVar[Mapping[str, str]] = {"unsafe": "none"}

    salt: int = 0

    def requests(self, blocks: int) -> tuple[Request, ...]:
        return (Request(2, "last_token"),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        return Artifact({})

    def score(self, artifact: Artifact, features: Features) -> Any:
        rows = [hashlib.blake2b(row.tobytes() + bytes([self.salt]), digest_size=4).digest() for row in features[COLUMN]]
        return np.frombuffer(b"".join(rows), "<u4").astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_cut, "GROUP", 2)
        yield
    unregister_pickle_by_value(sys.modules[__name__])


def captures(store: Store, seed: int = 0, rows: int = 240) -> dict[str, list[Capture]]:
    """Captured shards of a corpus and of references: unsafe ones lie to one side of it, safe ones to the other. Every
    seventh row is quarantined."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Capture]] = {}
    sets = {CORPUS: (rows, 0.0, 4)}
    for method in ("larf", "contrast", "guess"):
        sets |= {f"{method}.unsafe": (70, 1.2, 2), f"{method}.safe": (70, -1.2, 1)}
    for role, (count, shift, shards) in sets.items():
        for number, places in enumerate(np.array_split(np.arange(count), shards)):
            vectors = rng.normal(scale=0.4, size=(len(places), WIDTH)) + 1
            vectors[:, 0] += shift
            table = pa.table(
                {
                    "code": pa.array([None if place % 7 else "empty" for place in places], pa.string()),
                    "n_response_tokens": pa.array(rng.integers(5, 90, len(places)), pa.int32()),
                    COLUMN: pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), WIDTH),
                }
            )
            file = store.write_table(f"{role}-{number}.parquet", table).sealed
            found.setdefault(role, []).append(Capture(file, len(places)))
    return found


def artifacts(store: Store, methods: Mapping[str, Method], known: Mapping[str, list[Capture]]) -> dict[str, Artifact]:
    def read(role: str) -> list[Features]:
        return [read_features(store, capture.file) for capture in known[role]]

    return {
        name: method.fit(
            reduce_in_process(
                {CORPUS: read(CORPUS), **{source: read(f"{name}.{source}") for source in method.sources()}}
            ),
            BLOCKS,
        )
        for name, method in methods.items()
    }


def run(store: Store, *methods: Method, known: dict[str, list[Capture]] | None = None, seed: int = 0) -> Any:
    known = known or captures(store)
    named = {method.name: method for method in methods}
    return reference_tests(store, named, BLOCKS, artifacts(store, named, known), known, seed)


@pytest.mark.parametrize("salt", range(4))
def test_a_random_score_must_not_cut_and_a_real_one_may(tmp_path: Path, salt: int) -> None:
    tests = run(Store(str(tmp_path)), Larf(layer=2), Contrast(layer=2), Guess(salt))
    for name, forbidden in (("larf", False), ("contrast", False), ("guess", True)):
        found = verdict(summary(trust={"tests": tests}, selected_by=name))
        assert (found.verdict == NO) == forbidden, (name, found)


def test_rows_quarantined_ones_and_sides(tmp_path: Path) -> None:
    larf_safe, larf, contrast, saft = run(Store(str(tmp_path)), Larf(layer=2), Contrast(layer=2), Saft(layer=2))
    assert [test["against"] for test in (larf_safe, larf, contrast, saft)] == ["safe", *["corpus"] * 3]
    assert (larf_safe["unsafe"], larf_safe["others"]) == (60, 60)
    assert (contrast["unsafe"], contrast["others"]) == (60, 205)
    assert (saft["borrowed"], larf["borrowed"]) == ("larf", None)
    assert all(test["folds"] == 5 for test in (larf, contrast, saft))
    assert contrast["auroc"]["low"] > 0.9
    assert 0 <= saft["auroc"]["value"] <= 1


def test_a_method_without_references_alone_is_untested(tmp_path: Path) -> None:
    [test] = run(Store(str(tmp_path)), Saft(layer=2))
    assert test["method"] == "saft"
    assert "takes no references" in test["untested"]
    assert "add contrast" in test["untested"]


def test_a_run_with_an_artifact_says_where_the_test_is(tmp_path: Path) -> None:
    store, method = Store(str(tmp_path)), Larf(layer=2)
    known = captures(store)
    made = artifacts(store, {"larf": method}, known)
    assert reference_tests(store, {"larf": method}, BLOCKS, made, {CORPUS: known[CORPUS]}, 0) == [
        {"method": "larf", "untested": FROZEN}
    ]


def test_captures_that_hold_scores_instead_of_vectors(tmp_path: Path) -> None:
    store, method = Store(str(tmp_path)), Larf(layer=2)
    known = captures(store)
    made = artifacts(store, {"larf": method}, known)
    bare = store.read_table(known[CORPUS][0].file).drop_columns([COLUMN])
    known[CORPUS][0] = Capture(store.write_table("bare.parquet", bare).sealed, bare.num_rows)
    [test] = reference_tests(store, {"larf": method}, BLOCKS, made, known, 0)
    assert (test["against"], test["unsafe"]) == ("safe", 60)


def test_the_sample_of_a_large_corpus_is_seeded_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CORPUS_ROWS", 100)
    monkeypatch.setattr(module, "CORPUS_SHARDS", 3)
    store = Store(str(tmp_path))
    known = captures(store, rows=2000)
    first, again, other = (run(store, Contrast(layer=2), known=known, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert 75 <= first[0]["others"] <= 95  # a seventh of 100 is quarantined
    sample = module._sample(known[CORPUS], 0)
    assert len(sample) == 3
    assert sum(len(places) for _, places in sample) == 100
    assert all(0 <= place < 500 for _, places in sample for place in places)
    assert all(len(set(places)) == len(places) for _, places in sample)


def test_large_reference_sets_are_thinned_and_keep_their_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REFERENCES", 24)
    store = Store(str(tmp_path))
    known = captures(store)
    rows = [module._set(store, known[f"larf.{source}"], [COLUMN], 3) for source in ("unsafe", "safe")]
    for each in rows:
        # Places 0, 3, 6, ... of the file, without every seventh of it.
        assert (each.places * 3).tolist() == [place for place in range(0, 70, 3) if place % 7]
    [safe, _] = run(store, Larf(layer=2), known=known)
    assert safe["unsafe"] == safe["others"] == len(rows[0])

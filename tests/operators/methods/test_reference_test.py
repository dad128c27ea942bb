"""Methods tested on references that their fit has not seen: real ones find a planted difference, a random one does
not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from tamis.operators.methods import Compliance, Contrast, Larf, Matching, Saft
from tamis.operators.methods.protocol import CORPUS, Artifact, Features, Method, Reduce, reduce_in_process
from tamis.operators.methods.reference_test import FOLDS, SAFE, UNSAFE, Rows, Untested, held_out
from tamis.operators.requests import Request
from tamis.operators.statistics.telling import tell

BLOCKS, WIDTH = 4, 16
POSITIONS = ("last_token", "last_prompt_token", "response_mean")


@dataclass(frozen=True)
class Chance(Method):
    """A score that knows nothing: a digest of the vector. It takes references as LARF does."""

    name: ClassVar[str] = "chance"
    title: ClassVar[str] = "Chance"
    about: ClassVar[str] = "nothing."
    references: ClassVar[Mapping[str, str]] = {"unsafe": "none", "safe": "none"}

    salt: int = 0

    def requests(self, blocks: int) -> tuple[Request, ...]:
        return (Request(2, "last_token"),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        return Artifact({}, {"columns": ["block_02.last_token"]})

    def score(self, artifact: Artifact, features: Features) -> Any:
        rows = features["block_02.last_token"]
        digests = [hashlib.blake2b(row.tobytes() + bytes([self.salt]), digest_size=4).digest() for row in rows]
        return np.frombuffer(b"".join(digests), "<u4").astype(np.float32)


def rows(rng: np.random.Generator, count: int, shift: float, length: int = 0) -> Rows:
    """Vectors around a common mean, `shift` along one direction away from it, in every block and position."""
    means = np.linspace(1, 2, WIDTH)
    features = {}
    for block in range(BLOCKS):
        for position in POSITIONS:
            noise = rng.normal(scale=0.3, size=(count, WIDTH))
            noise[:, 0] += shift
            features[Request(block, position).column] = (means + noise).astype(np.float32)
    return Rows(features, rng.integers(20, 200, count) + length, np.arange(count))


def sets(rng: np.random.Generator, shift: float = 1.5, count: int = 60) -> tuple[dict[str, Rows], Rows]:
    return {UNSAFE: rows(rng, count, shift), SAFE: rows(rng, count, -shift)}, rows(rng, 300, 0.0)


def artifact_of(method: Method, known: Mapping[str, Rows], corpus: Rows) -> Artifact:
    features = {**{name: [each.features] for name, each in known.items()}, CORPUS: [corpus.features]}
    return method.fit(reduce_in_process(features), BLOCKS)


@pytest.mark.parametrize("method", [Larf(layer=2), Contrast(layer=2), Matching(layer=2)], ids=lambda m: m.name)
def test_methods_that_find_the_difference(method: Method) -> None:
    known, corpus = sets(np.random.default_rng(1))
    found = held_out(method, BLOCKS, artifact_of(method, known, corpus), known, corpus)
    assert list(found) == ([SAFE, CORPUS] if "safe" in method.sources() else [CORPUS])
    for folds in found.values():
        told = tell(folds)
        assert told.positive == 60
        assert told.auroc.low > 0.85
        assert told.better_by.low > 0.2
    assert tell(found[CORPUS]).negative == 300


@pytest.mark.parametrize("salt", range(12))
def test_a_random_score_has_an_interval_around_a_half(salt: int) -> None:
    known, corpus = sets(np.random.default_rng(salt))
    found = held_out(Chance(salt), BLOCKS, artifact_of(Chance(), known, corpus), known, corpus)
    assert any(tell(folds).auroc.low <= 0.5 for folds in found.values())
    assert tell(found[CORPUS]).better_by.low <= 0


def test_every_reference_is_scored_once_by_a_fit_that_has_not_seen_it() -> None:
    known, corpus = sets(np.random.default_rng(2), count=23)
    seen: list[tuple[set[bytes], set[bytes]]] = []

    class Watching(Larf):
        fitted: ClassVar[set[bytes]] = set()

        def fit(self, reduce: Reduce, blocks: int) -> Artifact:
            column = self.requests(blocks)[0].column
            Watching.fitted = reduce(lambda f: {row.tobytes() for row in f[column]}, set.union, "unsafe")
            return super().fit(reduce, blocks)

        def score(self, artifact: Artifact, features: Features) -> Any:
            column = self.requests(BLOCKS)[0].column
            seen.append(({row.tobytes() for row in features[column]}, Watching.fitted))
            return super().score(artifact, features)

    method = Watching(layer=2)
    found = held_out(method, BLOCKS, Artifact({}), known, corpus)
    unsafe = {row.tobytes() for row in known[UNSAFE].features["block_02.last_token"]}
    assert all(not scored & fitted for scored, fitted in seen)
    assert [len(fitted) for _, fitted in seen[::3]] == [18, 18, 18, 19, 19]
    assert set().union(*(scored for scored, _ in seen)) >= unsafe
    assert sum(len(fold.positive) for fold in found[SAFE]) == 23


def test_rows_of_one_place_share_a_fold() -> None:
    """Row 7 of the unsafe file was quarantined: its partners of the same prompt must still be held out together."""
    known, corpus = sets(np.random.default_rng(3), count=20)
    known[UNSAFE] = known[UNSAFE].where(np.arange(20) != 7)
    found = held_out(Larf(layer=2), BLOCKS, Artifact({}), known, corpus)[SAFE]
    for fold in range(FOLDS):
        places = [known[name].places[known[name].places % FOLDS == fold] for name in (UNSAFE, SAFE)]
        assert set(places[0]) <= set(places[1])
        assert found[fold].positive_lengths.tolist() == known[UNSAFE].lengths[
            known[UNSAFE].places % FOLDS == fold].tolist()  # fmt: skip


def test_a_method_without_references_is_tested_on_those_of_another() -> None:
    rng = np.random.default_rng(4)
    known, corpus = sets(rng, shift=4.0)
    mixed = Rows(
        {name: np.concatenate([corpus.features[name], known[UNSAFE].features[name][:30]]) for name in corpus.features},
        np.zeros(330, np.int64), np.arange(330),
    )  # fmt: skip
    method = Saft(layer=2)
    artifact = artifact_of(method, {}, mixed)
    found = held_out(method, BLOCKS, artifact, {UNSAFE: known[UNSAFE]}, corpus)
    assert list(found) == [CORPUS]
    assert tell(found[CORPUS]).auroc.low > 0.9
    with pytest.raises(Untested, match="no unsafe references"):
        held_out(method, BLOCKS, artifact, {}, corpus)


def test_compliance_is_tested_with_both_of_its_columns() -> None:
    known, corpus = sets(np.random.default_rng(5), shift=2.0)
    found = held_out(Compliance(layer=2), BLOCKS, Artifact({}), known, corpus)
    assert set(found) == {SAFE, CORPUS}


def test_without_vectors_of_the_corpus_only_the_safe_references_are_left() -> None:
    known, _ = sets(np.random.default_rng(8))
    assert list(held_out(Larf(layer=2), BLOCKS, Artifact({}), known, None)) == [SAFE]
    with pytest.raises(Untested, match="no vectors of corpus rows"):
        held_out(Matching(layer=2), BLOCKS, Artifact({}), known, None)


class Fragile(Larf):
    """A method that others have written may fail in ways of its own."""

    def score(self, artifact: Artifact, features: Features) -> Any:
        raise KeyError("a secret of the sample")


class Refusing(Larf):
    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        raise KeyError("a secret of the sample")


@pytest.mark.parametrize(("method", "said"), [(Fragile(layer=2), "score some"), (Refusing(layer=2), "without a fold")])
def test_a_method_that_fails_here_is_untested_and_ends_no_run(method: Method, said: str) -> None:
    known, corpus = sets(np.random.default_rng(7))
    with pytest.raises(Untested, match=said + r".*\(KeyError\)"):
        held_out(method, BLOCKS, Artifact({}), known, corpus)


def test_too_few_rows_and_fits_that_fail_are_said() -> None:
    known, corpus = sets(np.random.default_rng(6), count=9)
    with pytest.raises(Untested, match="only 9 unsafe and 9 safe could be used; it takes 10 of each"):
        held_out(Larf(layer=2), BLOCKS, Artifact({}), known, corpus)
    known, corpus = sets(np.random.default_rng(6), count=12)
    with pytest.raises(Untested, match=r"without a fold of its references .*nearest=11"):
        held_out(Matching(layer=2, nearest=11), BLOCKS, Artifact({}), known, corpus)
    with pytest.raises(Untested, match="only 0 corpus"):
        held_out(Contrast(layer=2), BLOCKS, Artifact({}), known, corpus.where(np.zeros(300, bool)))

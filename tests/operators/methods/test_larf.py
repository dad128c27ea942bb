from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.methods.directions import unit
from tamis.operators.methods.larf import Larf, default_block
from tamis.operators.methods.protocol import Features, reduce_in_process
from tamis.operators.methods.saft import Saft

COLUMN = "block_02.last_token"
LARF = Larf(layer=2)


def shards(rows: np.ndarray, cuts: list[int] | None = None) -> list[Features]:
    return [{COLUMN: part} for part in np.split(rows, sorted(cuts or []))]


def representations(
    seed: int, n: int = 100, d: int = 48, offset: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unsafe and safe references and a corpus, around a common direction as real residual streams are."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=d) * offset
    unsafe = common + rng.normal(size=(n, d)) + rng.normal(size=d)
    safe = common + rng.normal(size=(n, d))
    corpus = common + rng.normal(size=(77, d)) * rng.uniform(0.1, 5, size=(77, 1))
    return unsafe.astype(np.float32), safe.astype(np.float32), corpus.astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> np.float32:
    return np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))


def authors_scores(unsafe: np.ndarray, safe: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """The released program, in float32: the mean over the pairs of the difference of two cosines."""
    scores = []
    for row in corpus:
        differences = [cosine(row, u) - cosine(row, s) for u, s in zip(unsafe, safe, strict=True)]
        scores.append(np.mean(np.array(differences, np.float32)))
    return np.array(scores, np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_scores_are_the_authors(seed: int, offset: float) -> None:
    unsafe, safe, corpus = representations(seed, offset=offset)
    artifact = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    scores = LARF.score(artifact, {COLUMN: corpus})
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, authors_scores(unsafe, safe, corpus), atol=1e-5, rtol=0)
    assert np.abs(scores).max() > 1e-3


@given(cuts=st.lists(st.integers(0, 20), max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_sharding_of_references_and_corpus_does_not_matter(cuts: list[int], seed: int) -> None:
    unsafe, safe, corpus = representations(seed, n=20, d=8)
    whole = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    parts = LARF.fit(reduce_in_process({"unsafe": shards(unsafe, cuts), "safe": shards(safe, cuts[:1])}), 8)
    np.testing.assert_allclose(
        parts.arrays["direction"], whole.arrays["direction"], rtol=0, atol=2 * np.finfo(np.float32).eps
    )
    scores = np.concatenate([LARF.score(whole, features) for features in shards(corpus, cuts)])
    np.testing.assert_allclose(scores, LARF.score(whole, {COLUMN: corpus}), rtol=0, atol=1e-6)


def test_mean_representation_form() -> None:
    unsafe, safe, corpus = representations(4, offset=0.5)
    method = Larf(layer=2, form="mean_representation")
    artifact = method.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    mean_unsafe, mean_safe = unsafe.astype(np.float64).mean(axis=0), safe.astype(np.float64).mean(axis=0)
    naive = [cosine(row, mean_unsafe) - cosine(row, mean_safe) for row in corpus.astype(np.float64)]
    np.testing.assert_allclose(method.score(artifact, {COLUMN: corpus}), naive, atol=1e-6)
    paired = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    assert np.abs(paired.arrays["direction"] - artifact.arrays["direction"]).max() > 1e-2


def test_unsafe_scores_higher_than_safe() -> None:
    unsafe, safe, _ = representations(5)
    artifact = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    assert LARF.score(artifact, {COLUMN: unsafe}).mean() > LARF.score(artifact, {COLUMN: safe}).mean()


def test_facts_are_json_and_say_what_was_used() -> None:
    unsafe, safe, _ = representations(6)
    reduce = reduce_in_process({"unsafe": shards(unsafe, [50]), "safe": shards(safe[:98])})
    artifact = LARF.fit(reduce, 8)
    facts = json.loads(json.dumps(artifact.facts))
    assert facts["references"] == {"unsafe": 100, "safe": 98}
    assert (facts["layer"], facts["position"], facts["columns"]) == (2, "last_token", [COLUMN])
    assert facts["layer_chosen"] == "job"
    assert artifact.arrays["direction"].dtype == np.float32
    (warning,) = LARF.warnings(artifact, 0.1)
    assert "100 unsafe and 98 safe" in warning
    equal = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    assert LARF.warnings(equal, 0.1) == []


def test_zero_vectors_have_no_direction() -> None:
    unsafe, safe, corpus = representations(7, n=10)
    unsafe[3] = 0
    corpus[5] = 0
    artifact = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    expected = unit(unsafe.astype(np.float64)).sum(axis=0) / 10 - unit(safe.astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(artifact.arrays["direction"], expected, atol=1e-7)
    assert artifact.facts["zero_references"] == {"unsafe": 1, "safe": 0}
    assert "1 unsafe" in LARF.warnings(artifact, 0.1)[0]
    assert LARF.score(artifact, {COLUMN: corpus})[5] == 0


def test_scores_do_not_depend_on_scale() -> None:
    unsafe, safe, corpus = representations(8)
    artifact = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    plain = LARF.score(artifact, {COLUMN: corpus})
    for scale in (1e-30, 1e30):
        scaled = (corpus * np.float32(scale)).astype(np.float32)
        np.testing.assert_allclose(LARF.score(artifact, {COLUMN: scaled}), plain, atol=1e-6)


@pytest.mark.parametrize("missing", ["unsafe", "safe"])
def test_references_must_not_be_empty(missing: str) -> None:
    unsafe, safe, _ = representations(9)
    sources = {"unsafe": shards(unsafe), "safe": shards(safe)}
    with pytest.raises(ValueError, match=f"no usable {missing} reference"):
        LARF.fit(reduce_in_process(sources | {missing: shards(np.empty((0, 48), np.float32))}), 8)
    with pytest.raises(ValueError, match=missing):
        LARF.fit(reduce_in_process(sources | {missing: []}), 8)


@pytest.mark.parametrize("form", ["paired", "mean_representation"])
def test_references_must_differ(form: str) -> None:
    unsafe, _, _ = representations(10)
    with pytest.raises(ValueError, match="do not differ"):
        Larf(layer=2, form=form).fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(unsafe[::-1])}), 8)


def test_artifact_of_another_model_is_refused() -> None:
    unsafe, safe, corpus = representations(11)
    artifact = LARF.fit(reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)}), 8)
    with pytest.raises(ValueError, match="another model"):
        LARF.score(artifact, {COLUMN: corpus[:, :40]})
    with pytest.raises(ValueError, match=COLUMN):
        LARF.score(artifact, {"block_03.last_token": corpus})
    assert LARF.score(artifact, {COLUMN: corpus[:0]}).shape == (0,)


@pytest.mark.parametrize(("blocks", "block"), [(1, 0), (2, 1), (4, 1), (12, 4), (32, 10), (80, 25)])
def test_default_block(blocks: int, block: int) -> None:
    assert default_block(blocks) == block
    (request,) = Larf().requests(blocks)
    assert (request.block, request.position) == (block, "last_token")


def test_auto_layer_is_recorded() -> None:
    unsafe, safe, _ = representations(12)
    sources = {"unsafe": unsafe, "safe": safe}
    reduce = reduce_in_process({name: [{"block_10.response_mean": rows}] for name, rows in sources.items()})
    facts = Larf(position="response_mean").fit(reduce, 32).facts
    assert (facts["layer"], facts["layer_chosen"]) == (10, "default_block")


def test_how_the_layer_was_found_is_recorded() -> None:
    unsafe, safe, _ = representations(13)
    reduce = reduce_in_process({"unsafe": shards(unsafe), "safe": shards(safe)})
    assert LARF.fit(reduce, 8).facts["layer_chosen"] == "job"
    searched = replace(LARF, layer_chosen="search").fit(reduce, 8)
    assert searched.facts == {**LARF.fit(reduce, 8).facts, "layer_chosen": "search"}


def test_settings_are_checked() -> None:
    assert Larf.sources() == ("unsafe", "safe")
    with pytest.raises(ValueError, match="form"):
        Larf(form="median")


def test_it_hands_over_what_the_search_for_its_block_needs() -> None:
    named = Larf(layer=3, over_rejection_prompts="p.jsonl", refusal_markers=["no"]).block_search()
    assert (named.method, named.layer, named.prompts, named.markers) == ("larf", 3, "p.jsonl", ("no",))
    assert set(named.sets) == set(Larf.references)
    ways = {layer: Larf(layer=layer).block_search() for layer in ("auto", "fisher", 3)}
    assert {layer: (way.open, way.by_refusals) for layer, way in ways.items()} == {
        "auto": (True, True),
        "fisher": (True, False),
        3: (False, False),
    }
    assert Saft().block_search() is None

"""CSA against a naive loop in float64, and the traps of its paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_configs import VOCABULARY, random_model, small_config

from tamis.operators.forward.representations import Representer
from tamis.operators.methods import csa
from tamis.operators.methods.csa import Csa, risk, spread_blocks
from tamis.operators.methods.protocol import Artifact, Features, reduce_in_process
from tamis.operators.methods.reference_test import Rows, held_out

BLOCKS = (1, 4, 6)
COLUMNS = [f"block_{block:02d}.last_token" for block in BLOCKS]
CSA = Csa(blocks=[4, 1, 6])


def drawn(rng: np.random.Generator, n: int, d: int, shift: float = 0.0) -> Features:
    """Around a common direction, as states are."""
    return {
        column: (4 * np.arange(1, d + 1) ** (1 / (number + 1)) / d + shift * np.eye(d)[0] + rng.normal(size=(n, d)))
        .astype(np.float32)
        for number, column in enumerate(COLUMNS)
    }  # fmt: skip


def cut(features: Features, at: list[int]) -> list[Features]:
    parts = {column: np.split(rows, sorted(at)) for column, rows in features.items()}
    return [{column: part[i] for column, part in parts.items()} for i in range(len(at) + 1)]


def fit(unsafe: Features, safe: Features, at: tuple[int, ...] = (), **settings: Any) -> Artifact:
    sources = {"unsafe": cut(unsafe, [*at]), "safe": cut(safe, [*at])}
    return Csa(blocks=[4, 1, 6], **settings).fit(reduce_in_process(sources), 8)


def size(features: Features) -> int:
    return len(features[COLUMNS[0]])


# --- the naive twin -----------------------------------------------------------------------------------------------


def naive_unit(x: np.ndarray) -> np.ndarray:
    length = np.sqrt(sum(float(value) ** 2 for value in x))
    return x / length if length else x


def naive_c(states: list[np.ndarray]) -> np.ndarray:
    """states: one float64 vector a block."""
    return naive_unit(np.concatenate([naive_unit(state.astype(np.float64)) for state in states]))


def naive_rows(features: Features, columns: list[str] = COLUMNS) -> list[np.ndarray]:
    return [naive_c([features[column][row] for column in columns]) for row in range(len(features[columns[0]]))]


def naive_scores(rows: list[np.ndarray], unsafe: list[np.ndarray], safe: list[np.ndarray], rank: int) -> np.ndarray:
    """As the formula says it, one row at a time."""
    bases = [np.linalg.svd(np.array(side))[2][: min(rank, len(side))].T for side in (unsafe, safe)]
    return np.array([np.linalg.norm(bases[0].T @ c) ** 2 - np.linalg.norm(bases[1].T @ c) ** 2 for c in rows])


def in_span(rows: list[np.ndarray], references: list[np.ndarray]) -> np.ndarray:
    """Squared lengths of what least squares explains of each row by the references: no singular vector in it."""
    columns = np.array(references).T
    found = []
    for c in rows:
        weights = np.linalg.lstsq(columns, c, rcond=1e-9)[0]
        found.append(float(((columns @ weights) ** 2).sum()))
    return np.array(found)


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 20),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    d=st.integers(6, 16),
    rank=st.integers(1, 17),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    zero=st.booleans(),
    at_once=st.sampled_from([1, 100, 1 << 22]),
)
@settings(deadline=None, max_examples=60)
def test_scores_are_the_naive_ones_for_any_sharding(
    seed: int, n: int, sizes: tuple[int, int], d: int, rank: int, cuts: list[int], zero: bool, at_once: int
) -> None:
    rng = np.random.default_rng(seed)
    unsafe, safe, corpus = drawn(rng, sizes[0], d, 1.0), drawn(rng, sizes[1], d), drawn(rng, n, d)
    if zero:  # in one block, and in all of them
        corpus[COLUMNS[0]][: n // 2] = 0
        for column in COLUMNS:
            corpus[column][: n // 4] = 0
    artifact = fit(unsafe, safe, tuple(cuts), rank=rank)
    expected = naive_scores(naive_rows(corpus), naive_rows(unsafe), naive_rows(safe), rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csa, "_AT_ONCE", at_once)
        scores = CSA.score(artifact, corpus)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-7, rtol=0)
    exact = risk(np.array(naive_rows(corpus)).reshape(n, 3 * d), artifact.arrays["unsafe"], artifact.arrays["safe"])
    np.testing.assert_allclose(exact, expected, atol=1e-9, rtol=0)
    assert np.abs(exact).max(initial=0) <= 1 + 1e-12


@given(seed=st.integers(0, 2**16), size=st.integers(1, 8), copies=st.integers(1, 5), zeros=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_references_that_stand_twice_add_no_direction(seed: int, size: int, copies: int, zeros: int) -> None:
    """Singular vectors of a singular value of 0 point anywhere: none of them may count."""
    rng = np.random.default_rng(seed)
    once, safe, corpus = drawn(rng, size, 10, 1.0), drawn(rng, 5, 10), drawn(rng, 12, 10)
    unsafe = {
        column: np.vstack([*[rows] * copies, 0 * rows[:1].repeat(zeros, axis=0)]) for column, rows in once.items()
    }
    artifact = fit(unsafe, safe)
    assert artifact.facts["directions"] == {"unsafe": size, "safe": 5}
    assert artifact.facts["zero_references"] == {"unsafe": zeros, "safe": 0}
    expected = in_span(naive_rows(corpus), naive_rows(once)) - in_span(naive_rows(corpus), naive_rows(safe))
    np.testing.assert_allclose(CSA.score(artifact, corpus), expected, atol=1e-7, rtol=0)
    said = "\n".join(CSA.warnings(artifact, 0.1))
    assert (f"span only {size} directions, not 16" in said) == (size < min(16, size * copies + zeros))
    assert (f"{zeros} unsafe references have a representation of zeros" in said) == (zeros > 0)


# --- whole models -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["LlamaConfig", "GPT2Config", "Gemma3TextConfig"])
def test_the_whole_path_on_models_of_three_architectures(kind: str, tmp_path: Path) -> None:
    """From token ids: against transformers' own hidden states, whose entry b + 1 is the output of block b."""
    model = random_model(small_config(getattr(transformers, kind), num_hidden_layers=5))
    model.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, VOCABULARY - 10, rng.integers(6, 12)).astype(np.int32) for _ in range(64)]
    parts = {"unsafe": ids[:20], "safe": ids[20:37], "corpus": ids[37:]}
    method = Csa()
    requests = method.requests(5)
    assert [request.block for request in requests] == [1, 2, 3]
    loaded = Representer.load(tmp_path, requests, device="cpu", dtype="float32")
    found: dict[str, Features] = {}
    naive: dict[str, list[np.ndarray]] = {}
    for name, rows in parts.items():
        made, problems = loaded.represent(rows, [(2, len(row) - 1) for row in rows])
        assert not problems
        found[name] = {request.column: vectors for request, vectors in made.items()}
        naive[name] = []
        for row in rows:
            with torch.inference_mode():
                states = model(torch.from_numpy(row.astype(np.int64))[None], output_hidden_states=True).hidden_states
            naive[name].append(naive_c([states[block + 1][0, -1].double().numpy() for block in (1, 2, 3)]))
    loaded.close()
    artifact = method.fit(reduce_in_process({name: [found[name]] for name in method.sources()}), 5)
    scores = method.score(artifact, found["corpus"])
    expected = naive_scores(naive["corpus"], naive["unsafe"], naive["safe"], 16)
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert np.ptp(scores) > 0.01
    # An unsafe reference scores above its safe counterpart, mostly.
    unsafe, safe = (method.score(artifact, found[name]) for name in ("unsafe", "safe"))
    assert (unsafe[:17] > safe).mean() > 0.8


# --- the traps ----------------------------------------------------------------------------------------------------


def test_the_norms_are_squared_and_it_is_said() -> None:
    """The authors' code takes other norms than their formula: nearly the same ranks, other numbers."""
    rng = np.random.default_rng(1)
    unsafe, safe, corpus = drawn(rng, 30, 12, 1.0), drawn(rng, 30, 12), drawn(rng, 40, 12)
    artifact = fit(unsafe, safe)
    rows = np.array(naive_rows(corpus))
    lengths = [np.linalg.norm(rows @ artifact.arrays[side].T, axis=1) for side in ("unsafe", "safe")]
    scores = CSA.score(artifact, corpus)
    np.testing.assert_allclose(scores, lengths[0] ** 2 - lengths[1] ** 2, atol=1e-7)
    unsquared = lengths[0] - lengths[1]
    assert np.abs(scores - unsquared).max() > 0.01
    assert np.corrcoef(scores.argsort().argsort(), unsquared.argsort().argsort())[0, 1] > 0.99
    assert artifact.facts["form"] == "squared norms"
    assert "as squared norms (the authors' code does not square them)" in Csa.explain({})
    assert "squared norms" in CSA.planned(8, {"unsafe": 120, "safe": 120})


@given(seed=st.integers(0, 2**16), n=st.integers(1, 400), ties=st.booleans())
def test_the_order_is_that_of_clipped_and_scaled_scores_with_ties_by_the_unclipped_one(
    seed: int, n: int, ties: bool
) -> None:
    """What the paper's normalising would do for one model, if ties were not left to the order of the file."""
    g = np.random.default_rng(seed).normal(size=n)
    if ties:
        g = np.round(g, 1)
    clipped = np.clip(g, np.percentile(g, 1), np.percentile(g, 99))
    scaled = clipped / np.std(clipped) if np.std(clipped) else clipped
    places = np.arange(n)
    np.testing.assert_array_equal(np.lexsort((places, -g, -scaled)), np.lexsort((places, -g)))


def test_clipping_alone_would_leave_one_row_in_a_hundred_to_the_order_of_the_file() -> None:
    """The trap is real, and the written score has no such ties."""
    rng = np.random.default_rng(2)
    artifact = fit(drawn(rng, 30, 12, 1.0), drawn(rng, 30, 12))
    scores = CSA.score(artifact, drawn(rng, 1000, 12)).astype(np.float64)
    clipped = np.clip(scores, *np.percentile(scores, [1, 99]))
    assert (clipped == clipped.max()).sum() == 10
    assert len(set(scores[np.argsort(-scores)[:11]])) == 11


@pytest.mark.parametrize(("unsafe", "safe"), [(1, 1), (1, 20), (15, 3), (16, 17), (40, 40)])
def test_the_rank_is_at_most_the_number_of_references(unsafe: int, safe: int) -> None:
    rng = np.random.default_rng(3)
    corpus = drawn(rng, 9, 20)
    sides = drawn(rng, unsafe, 20, 1.0), drawn(rng, safe, 20)
    artifact = fit(*sides)
    assert artifact.facts["directions"] == {"unsafe": min(16, unsafe), "safe": min(16, safe)}
    assert artifact.facts["references"] == {"unsafe": unsafe, "safe": safe}
    assert artifact.arrays["unsafe"].shape == (min(16, unsafe), 60)
    naive = naive_scores(naive_rows(corpus), *map(naive_rows, sides), rank=16)
    np.testing.assert_allclose(CSA.score(artifact, corpus), naive, atol=1e-7)
    few = [line for line in CSA.warnings(artifact, 0.1) if "the paper at least 16" in line]
    assert len(few) == (unsafe < 16) + (safe < 16)
    assert f"rank {min(16, unsafe)} of {unsafe} unsafe references and " in CSA.planned(
        8, {"unsafe": unsafe, "safe": safe}
    )
    assert f"({min(16, unsafe)} and {min(16, safe)} directions)" in Csa.explain(artifact.facts)


def test_one_reference_of_a_kind_is_a_cosine() -> None:
    rng = np.random.default_rng(4)
    unsafe, safe, corpus = drawn(rng, 1, 8, 1.0), drawn(rng, 1, 8), drawn(rng, 6, 8)
    [u], [s] = naive_rows(unsafe), naive_rows(safe)
    expected = [float(c @ u) ** 2 - float(c @ s) ** 2 for c in naive_rows(corpus)]
    np.testing.assert_allclose(CSA.score(fit(unsafe, safe), corpus), expected, atol=1e-7)


def test_it_is_not_centred() -> None:
    """Rows that are all alike have a direction: their own."""
    rng = np.random.default_rng(5)
    one, safe = drawn(rng, 1, 8), drawn(rng, 3, 8)
    alike = {column: rows.repeat(20, axis=0) for column, rows in one.items()}
    artifact = fit(alike, safe)
    assert artifact.facts["directions"]["unsafe"] == 1
    np.testing.assert_allclose(np.abs(artifact.arrays["unsafe"][0] @ naive_rows(one)[0]), 1, atol=1e-12)


def test_a_subspace_of_long_references_encodes_length_and_the_test_of_every_run_shows_it() -> None:
    """Here a state tells the length of its answer and nothing else, and the unsafe references are the long ones."""
    rng = np.random.default_rng(6)
    lengths = {"unsafe": rng.integers(60, 90, 40), "safe": rng.integers(5, 30, 40), "corpus": rng.integers(5, 90, 400)}

    def states(tokens: np.ndarray) -> Features:
        pure = np.outer(np.cos(tokens / 60), np.eye(12)[0]) + np.outer(np.sin(tokens / 60), np.eye(12)[1])
        return {column: (pure + 0.02 * rng.normal(size=pure.shape)).astype(np.float32) for column in COLUMNS}

    rows = {name: Rows(states(tokens), tokens, np.arange(len(tokens))) for name, tokens in lengths.items()}
    method = Csa(blocks=[4, 1, 6], rank=1)
    artifact = method.fit(reduce_in_process({name: [rows[name].features] for name in method.sources()}), 8)
    scores = method.score(artifact, rows["corpus"].features)
    assert np.corrcoef(scores, lengths["corpus"])[0, 1] > 0.9
    folds = held_out(method, 8, artifact, {name: rows[name] for name in method.sources()}, rows["corpus"])
    for fold in folds["safe"]:  # found, and by its length just as well
        assert fold.positive.min() > fold.negative.max()
        assert fold.positive_lengths.min() > fold.negative_lengths.max()
    assert "encodes length" in Csa.explain({})


def test_it_does_not_bear_the_name_of_two_other_projects() -> None:
    assert "datashield" not in Path(csa.__file__).read_text(encoding="utf-8").lower()


# --- edges --------------------------------------------------------------------------------------------------------


def test_references_as_strong_in_all_directions_are_told() -> None:
    """Twenty references at right angles: which 16 of them count is chance."""
    d = 24
    unsafe = {column: np.eye(d, dtype=np.float32)[:20] for column in COLUMNS}
    rng = np.random.default_rng(7)
    safe = drawn(rng, 20, d)
    artifact = fit(unsafe, safe)
    assert artifact.facts["ambiguous"] == {"unsafe": True, "safe": False}
    assert "direction 16 of the unsafe references is as strong as the next" in CSA.warnings(artifact, 0.1)[0]
    assert fit(unsafe, safe, rank=20).facts["ambiguous"] == {"unsafe": False, "safe": False}


def test_rows_that_are_alike_score_alike_and_a_row_without_a_direction_scores_0() -> None:
    rng = np.random.default_rng(8)
    corpus = drawn(rng, 3, 8)
    corpus = {column: np.vstack([rows, rows[1:2], 0 * rows[:1]]) for column, rows in corpus.items()}
    scores = CSA.score(fit(drawn(rng, 20, 8, 1.0), drawn(rng, 20, 8)), corpus)
    assert scores[1] == pytest.approx(scores[3], abs=1e-7)
    assert scores[4] == 0


def test_scores_do_not_depend_on_scale() -> None:
    rng = np.random.default_rng(9)
    artifact, corpus = fit(drawn(rng, 20, 8, 1.0), drawn(rng, 20, 8)), drawn(rng, 10, 8)
    plain = CSA.score(artifact, corpus)
    for scale in (1e-30, 1e30):
        scaled = {column: (rows * np.float32(scale)).astype(np.float32) for column, rows in corpus.items()}
        np.testing.assert_allclose(CSA.score(artifact, scaled), plain, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_references_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    rng = np.random.default_rng(10)
    unsafe, safe = drawn(rng, 5, 8, 1.0), drawn(rng, 5, 8)
    safe[COLUMNS[1]][2, 3] = bad
    with pytest.raises(ValueError, match="states of some safe references are not finite"):
        fit(unsafe, safe)
    # Of a row of the corpus, quarantined before it gets here, nothing else may be the score.
    corpus = drawn(rng, 3, 8)
    corpus[COLUMNS[1]][1, 0] = bad
    scores = CSA.score(fit(unsafe, drawn(rng, 5, 8)), corpus)
    assert np.isfinite(scores).tolist() == [True, False, True]


def test_data_that_cannot_support_the_method_is_refused() -> None:
    rng = np.random.default_rng(11)
    some, none = drawn(rng, 5, 8), drawn(rng, 0, 8)
    for sides, name in (((none, some), "unsafe"), ((some, none), "safe")):
        with pytest.raises(ValueError, match=f"no usable {name} reference"):
            fit(*sides)
    zeros = {column: 0 * rows for column, rows in some.items()}
    with pytest.raises(ValueError, match="all unsafe references have a representation of zeros"):
        fit(zeros, some)
    shuffled = {column: rows[::-1].copy() for column, rows in some.items()}
    with pytest.raises(ValueError, match="span the same directions"):
        fit(some, shuffled)
    with pytest.raises(ValueError, match="span the same directions"):  # 16 directions are all that there are
        fit(drawn(rng, 20, 5), drawn(rng, 20, 5))
    artifact = fit(some, drawn(rng, 5, 8))
    with pytest.raises(ValueError, match="fitted on another model"):
        CSA.score(artifact, drawn(rng, 2, 7))
    for rows in (0, 2):
        features = drawn(rng, rows, 8)
        with pytest.raises(ValueError, match=f"the artifact needs {COLUMNS[2]}"):
            CSA.score(artifact, {column: features[column] for column in COLUMNS[:2]})
    with pytest.raises(ValueError, match="the artifact needs"):
        CSA.score(artifact, {})
    assert CSA.score(artifact, drawn(rng, 0, 8)).shape == (0,)


@pytest.mark.parametrize(
    ("blocks", "read"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [1, 2, 3]), (8, [2, 4, 6]), (32, [8, 16, 24]), (80, [20, 40, 60])],
)
def test_the_blocks_by_themselves_are_spread(blocks: int, read: list[int]) -> None:
    assert spread_blocks(blocks) == read
    requests = Csa().requests(blocks)
    assert [(request.block, request.position) for request in requests] == [(block, "last_token") for block in read]


@given(blocks=st.integers(3, 200))
def test_three_of_them_wherever_there_are_three(blocks: int) -> None:
    assert len(spread_blocks(blocks)) == 3
    assert spread_blocks(blocks)[-1] < blocks


def test_the_order_of_the_blocks_does_not_matter() -> None:
    rng = np.random.default_rng(12)
    unsafe, safe, corpus = drawn(rng, 20, 8, 1.0), drawn(rng, 20, 8), drawn(rng, 10, 8)
    reduce = reduce_in_process({"unsafe": [unsafe], "safe": [safe]})
    for order in ([1, 4, 6], [6, 4, 1]):
        method = Csa(blocks=order)
        np.testing.assert_array_equal(method.score(method.fit(reduce, 8), corpus), CSA.score(fit(unsafe, safe), corpus))


def test_settings_are_checked() -> None:
    for bad in ([], [1, True], [-1, 2, 3], [1.0, 2, 3], "middle", 4, None, (1, 2, 3)):
        with pytest.raises(ValueError, match=r"csa\.blocks="):
            Csa(blocks=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names a block twice"):
        Csa(blocks=[2, 3, 2])
    for rank in (0, True, 2.0):
        with pytest.raises(ValueError, match=r"csa\.rank="):
            Csa(rank=rank)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"csa\.blocks=\[4, 1, 8\]: the model has blocks 0 to 7"):
        Csa(blocks=[4, 1, 8]).requests(8)
    with pytest.raises(ValueError, match="blocks=0"):
        Csa().requests(0)


def test_facts_are_json_and_an_artifact_says_all_that_score_needs() -> None:
    rng = np.random.default_rng(13)
    artifact, corpus = fit(drawn(rng, 20, 8, 1.0), drawn(rng, 18, 8)), drawn(rng, 5, 8)
    facts = json.loads(json.dumps(artifact.facts))
    assert (facts["blocks"], facts["blocks_chosen"], facts["columns"]) == ([1, 4, 6], "job", COLUMNS)
    assert (facts["position"], facts["rank"], facts["references"]) == ("last_token", 16, {"unsafe": 20, "safe": 18})
    assert 0 < facts["overlap"] < 1
    assert "blocks 1, 4 and 6" in Csa.explain(facts)
    # With other settings than it was fitted with: those of the artifact count.
    scores = Csa(blocks=[0], rank=1).score(Artifact(artifact.arrays, facts), corpus)
    np.testing.assert_array_equal(scores, CSA.score(artifact, corpus))
    for side in artifact.arrays.values():
        np.testing.assert_allclose(side @ side.T, np.eye(16), atol=1e-12)


def test_the_plan_says_what_is_read() -> None:
    assert Csa().planned(8, {}).startswith("blocks 2, 4 and 6 (spread over the depth; csa.blocks sets others); squared")
    assert CSA.planned(8, {"unsafe": 9, "safe": 20}).startswith(
        "blocks 1, 4 and 6 (by csa.blocks); rank 9 of 9 unsafe references and 16 of 20 safe references; squared"
    )
    assert Csa(blocks=[3]).planned(8, {}).startswith("block 3 (by")

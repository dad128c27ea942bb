"""CSA over several models: against the whole formula in float64, on models of three architectures; its settings; and
references that stand twice, in the number formats of a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_configs import VOCABULARY, random_model, small_config

from tamis.operators.forward.representations import Representer
from tamis.operators.methods.csa import Csa, FurtherModel
from tamis.operators.methods.protocol import Features, reduce_in_process
from tamis.operators.methods.reference_test import Rows, Untested, held_out
from tamis.operators.statistics.consensus import Scale, consensus

KINDS = ("LlamaConfig", "GPT2Config", "Gemma3TextConfig")
COLUMNS = [f"block_{block:02d}.last_token" for block in (1, 2, 3)]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def naive_g(states: dict[str, list[list[np.ndarray]]]) -> np.ndarray:
    """states: of each part, of each row, a float64 vector a block."""
    rows = {
        part: np.array([unit(np.concatenate([unit(block) for block in row])) for row in of])
        for part, of in states.items()
    }
    bases = {side: np.linalg.svd(rows[side])[2][:16].T for side in ("unsafe", "safe")}
    sides = {
        side: np.array([np.linalg.norm(bases[side].T @ c) ** 2 for c in rows["corpus"]]) for side in ("unsafe", "safe")
    }
    return np.asarray(sides["unsafe"] - sides["safe"])


@pytest.mark.usefixtures("one_thread")
def test_the_whole_consensus_on_models_of_three_architectures(tmp_path: Path) -> None:
    """From token ids, which differ from model to model: against transformers' own hidden states."""
    rng = np.random.default_rng(0)
    g, exact = [], []
    for kind in KINDS:
        model = random_model(small_config(getattr(transformers, kind), num_hidden_layers=5))
        model.save_pretrained(tmp_path / kind)
        ids = [rng.integers(5, VOCABULARY - 10, rng.integers(6, 12)).astype(np.int32) for _ in range(257)]
        parts = {"unsafe": ids[:20], "safe": ids[20:37], "corpus": ids[37:]}
        method = Csa()
        loaded = Representer.load(tmp_path / kind, method.requests(5), device="cpu", dtype="float32")
        found: dict[str, Features] = {}
        states: dict[str, list[list[np.ndarray]]] = {}
        for name, rows in parts.items():
            made, problems = loaded.represent(rows, [(2, len(row) - 1) for row in rows])
            assert not problems
            found[name] = {request.column: vectors for request, vectors in made.items()}
            states[name] = []
            for row in rows:
                with torch.inference_mode():
                    hidden = model(torch.from_numpy(row.astype(np.int64))[None], output_hidden_states=True)
                states[name].append([hidden.hidden_states[block + 1][0, -1].double().numpy() for block in (1, 2, 3)])
        loaded.close()
        artifact = method.fit(reduce_in_process({name: [found[name]] for name in method.sources()}), 5)
        g.append(method.score(artifact, found["corpus"]))
        exact.append(naive_g(states))
    scales, plain, clipped = [], [], []
    for own, true in zip(g, exact, strict=True):
        low, high = np.percentile(own.astype(np.float64), [1, 99])
        scales.append(Scale(low, high, float(np.std(np.clip(own.astype(np.float64), low, high)))))
        spread = np.std(np.clip(true, *np.percentile(true, [1, 99])))
        plain.append(true / spread)
        clipped.append(np.clip(true, *np.percentile(true, [1, 99])) / spread)
    expected = np.mean(clipped, axis=0)
    at_an_end = [own == true for own, true in zip(clipped, plain, strict=True)]
    everywhere = ~np.any(at_an_end, axis=0)  # clipped in all models
    assert everywhere.sum() <= 2
    found_means = consensus(g, scales)
    np.testing.assert_allclose(found_means[~everywhere], expected[~everywhere], atol=1e-4, rtol=0)
    assert np.ptp(found_means) > 1


# --- settings -------------------------------------------------------------------------------------------------------


def test_each_model_has_blocks_of_its_own() -> None:
    method = Csa(blocks=[1], models=[FurtherModel("b"), FurtherModel("c", blocks=[5, 2])], rank=3)
    assert [request.block for request in method.requests(8)] == [1]
    second, third = (method.under(model) for model in method.models)
    assert [request.block for request in second.requests(12)] == [3, 6, 9]
    assert [request.block for request in third.requests(6)] == [2, 5]
    assert (second.rank, second.models, third.models) == (3, [], [])
    with pytest.raises(ValueError, match="the model has blocks 0 to 3"):
        third.requests(4)
    assert "the first of 3 models, clip_std" in method.planned(8, {})


def test_settings_of_models_are_checked() -> None:
    with pytest.raises(ValueError, match=r"csa\.models: names b twice"):
        Csa(models=[FurtherModel("b"), FurtherModel("c"), FurtherModel("b", blocks=[1])])
    Csa(models=[FurtherModel("b", revision="x"), FurtherModel("b", revision="y")])
    with pytest.raises(ValueError, match=r"blocks of b=.*names a block twice"):
        FurtherModel("b", blocks=[1, 1])
    with pytest.raises(ValueError, match=r"csa\.normalise='both': write clip_std or none"):
        Csa(normalise="both")  # type: ignore[arg-type]


def test_what_the_report_says_of_several_models() -> None:
    models = {number: {"model": name} for number, name in (("1", "first"), ("2", "second"))}
    said = Csa.explain({"models": models, "normalise": "clip_std"})
    assert "the mean over 2 models" in said
    assert "standard deviations and comparable within this run alone" in said
    assert "The models: first, second." in said
    assert "mean of that over the models, between -1 and 1: first, second." in Csa.explain(
        {"models": models, "normalise": "none"}
    )


def test_the_references_do_not_test_a_mean_over_models() -> None:
    method = Csa(models=[FurtherModel("b")])
    nothing: Any = None
    rows = Rows({}, np.zeros(20, np.int64), np.arange(20))
    with pytest.raises(Untested, match="the mean over several models"):
        held_out(method, 4, nothing, {"unsafe": rows, "safe": rows}, None)


# --- references that stand twice, with the noise of a forward pass ---------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11), (torch.float32, 1e-6)]
)
def test_repeated_references_add_no_direction_in_any_format(dtype: torch.dtype, bound: float) -> None:
    """The states of one text differ by roundings from batch to batch; here by one in the last place of each number."""
    rng = np.random.default_rng(1)

    def states(rows: int, shift: float) -> dict[str, torch.Tensor]:
        around = 4 * np.arange(1, 65) / 64 + shift * np.eye(64)[0]
        return {column: torch.from_numpy(around + rng.normal(size=(rows, 64))).to(dtype) for column in COLUMNS}

    def again(once: torch.Tensor) -> torch.Tensor:
        up = torch.from_numpy(rng.random(once.shape) < 0.5)
        return torch.where(up, once * (1 + torch.finfo(dtype).eps), once).to(dtype)

    once, safe = states(20, 1.0), states(20, 0.0)
    twice = {column: torch.cat([own, again(own)]).float().numpy() for column, own in once.items()}
    sources = {"unsafe": [twice], "safe": [{column: own.float().numpy() for column, own in safe.items()}]}
    artifact = Csa(blocks=[1, 2, 3], rank=40).fit(reduce_in_process(sources), 5)
    assert artifact.facts["noise_below"] == {"unsafe": bound, "safe": bound}
    assert artifact.facts["directions"] == {"unsafe": 20, "safe": 20}

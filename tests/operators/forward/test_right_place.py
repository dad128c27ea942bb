"""Architectures in which a block's output is not the whole model's state: found out at load, on the real weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import random_model, small_config
from transformers import LlamaConfig

from tamis.operators.forward.representations import Representer, check_model
from tamis.operators.forward.right_place import require_right_place, states_of_whole, trial_row
from tamis.operators.model.architecture import plan_cut, read_config
from tamis.operators.model.dry_run import observe
from tamis.operators.model.loading import find_weights, load_cut
from tamis.operators.requests import POSITIONS, Request

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = """
import torch
from transformers import LlamaConfig, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnBlock(LlamaDecoderLayer):
    def forward(self, hidden_states, **kwargs):
        new = super().forward(hidden_states, **kwargs)
        {returned}

class OwnModel(LlamaModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = torch.nn.ModuleList(OwnBlock(config, place) for place in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids=None, use_cache=None, **kwargs):
        state = self.embed_tokens(input_ids)
        places = torch.arange(state.shape[1], device=state.device)[None]
        options = {{"position_embeddings": self.rotary_emb(state, places), "attention_mask": None}}
        {first}
        for _ in range({turns}):
            for block in self.layers:
                given = block(state, **options)
                {taken}
        return BaseModelOutputWithPast(last_hidden_state=self.norm(state))
"""
PLAIN = {"returned": "return new", "first": "pass", "turns": "1", "taken": "state = given"}
WRONG = {
    "a tuple in another order": {"returned": "return hidden_states * 2, new", "taken": "state = given[1]"},
    "a state that is changed between blocks": {"taken": "state = given * 0.5"},
    "blocks that run twice": {"turns": "2"},
    "something added between blocks": {"first": "embedded = state", "taken": "state = given + embedded"},
}


def own_model(folder: Path, **changes: str) -> Path:
    config = small_config(LlamaConfig)
    model = random_model(config)
    model.save_pretrained(folder)
    # without a mask of its own a block's attention is causal, as sdpa makes it
    (folder / "own.py").write_text(OWN.format(**{**PLAIN, **changes}))
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def load(folder: Path, block: int = 1, **options: Any) -> Representer:
    requests = [Request(block, position) for position in POSITIONS]
    return Representer.load(folder, requests, device="cpu", trust_remote_code=True, **options)


@pytest.mark.parametrize("block", range(3))
def test_code_of_its_own_that_passes_its_state_on(block: int, tmp_path: Path) -> None:
    vectors, problems = load(own_model(tmp_path), block).represent([np.array([5, 6, 7, 8])], [[1, 3]])
    assert not problems
    assert np.isfinite(vectors[Request(block, "last_token")]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_state_of_another_place_is_refused(kind: str, dtype: str, tmp_path: Path) -> None:
    folder = own_model(tmp_path, **WRONG[kind])
    with pytest.raises(ValueError, match="is not the state that the whole model has there") as refusal:
        load(folder, dtype=dtype)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("first", "shape"),
    [
        ("state = torch.stack([state, state], dim=2)", "(1, 7, 2, 32)"),
        ("state = torch.stack([state, state], dim=0)", "(2, 1, 7, 32)"),
        ("state = torch.cat([state, state], dim=2)", "(1, 7, 64)"),
        ("state = torch.cat([state, state], dim=1)", "(1, 14, 32)"),
    ],
)
def test_several_states_a_token_are_refused_by_the_plan(first: str, shape: str, tmp_path: Path) -> None:
    """Before any weight is read: what the blocks compute does not matter, only what they hand on."""
    folder = own_model(tmp_path, first=first)
    code = (
        (folder / "own.py").read_text().replace("new = super().forward(hidden_states, **kwargs)", "new = hidden_states")
    )
    (folder / "own.py").write_text(code.replace("self.norm(state)", "state"))
    for attempt in (check_model, Representer.load):
        with pytest.raises(ValueError, match="not one state of width 32 a token") as refusal:
            attempt(folder, [Request(1, "last_token")], trust_remote_code=True)
        assert shape in str(refusal.value)


def test_the_norm_stays_where_it_is_used_before_the_blocks(tmp_path: Path) -> None:
    folder = own_model(tmp_path, first="state = self.norm(state)")
    loaded = load(folder)
    assert "norm.weight" in loaded._model.state_dict()
    ids = np.array([5, 6, 7, 8])
    other = load(folder, 2)
    whole: Any = other._model
    other.close()
    states: list[torch.Tensor] = []
    whole.layers[1].register_forward_hook(lambda module, args, output: states.append(output))
    with torch.inference_mode():
        whole(input_ids=torch.from_numpy(ids)[None])
    vectors, _ = loaded.represent([ids], [[1, 3]])
    np.testing.assert_allclose(vectors[Request(1, "last_token")][0], states[-1][0, -1].numpy(), rtol=1e-5, atol=1e-6)


def test_a_norm_whose_dtype_is_asked_for_stays_too(tmp_path: Path) -> None:
    folder = own_model(tmp_path)
    code = (folder / "own.py").read_text().replace("self.norm(state)", "self.norm(state.to(self.norm.weight.dtype))")
    (folder / "own.py").write_text(code)
    assert "norm.weight" in load(folder)._model.state_dict()


def test_the_reference_is_taken_from_the_weights_that_were_loaded(tmp_path: Path) -> None:
    """Spoilt after loading, the model no longer gives what the whole one gave before."""
    folder = own_model(tmp_path)
    config = read_config(folder, revision=None, trust_remote_code=True)
    cut = plan_cut(config, 2, trust_remote_code=True)
    files = find_weights(folder, cut, revision=None, allow_pickle_weights=False)
    model = load_cut(cut, files, dtype=torch.float32, device=torch.device("cpu"))
    ids, answer = trial_row(config.vocab_size, None)
    states = states_of_whole(cut, model, ids, [0, 1])
    assert {block: tuple(state.shape) for block, state in states.items()} == {0: (7, 32), 1: (7, 32)}
    start, stop = answer
    right = {
        Request(0, "last_token"): states[0][-1:],
        Request(1, "last_prompt_token"): states[1][start - 1 : start],
        Request(1, "response_mean"): states[1][start:stop].mean(dim=0, keepdim=True),
    }
    vectors = {request: state.numpy() for request, state in right.items()}
    require_right_place(config, vectors, states, answer, torch.float32)
    for request in right:
        with pytest.raises(ValueError, match=rf"after block {request.block} of own .*\(at {request.position}"):
            require_right_place(config, {request: vectors[request] * 1.01}, states, answer, torch.float32)
        with pytest.raises(ValueError):
            require_right_place(config, {request: vectors[request] * np.nan}, states, answer, torch.float32)


@pytest.mark.parametrize(("vocabulary", "longest"), [(80, None), (2, 5), (80, 3), (80, 2), (1, 1)])
def test_the_row_that_is_tried_fits_the_model(vocabulary: int, longest: int | None) -> None:
    ids, (start, stop) = trial_row(vocabulary, longest)
    assert 0 <= ids.min() <= ids.max() < vocabulary
    assert len(ids) <= (longest or 7)
    assert 0 <= start <= stop <= len(ids)
    if len(ids) > 1:
        assert 0 < start < stop


def test_a_model_that_cannot_run_on_zeros_is_not_judged() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

        def forward(self, **inputs: Any) -> None:
            raise RuntimeError("needs a GPU")

    assert observe(Odd(), "layers", []).shape is None

"""The parts give the logits of the whole, at any positions, whatever the architecture does to its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from test_representations import BLOCKS, COMMON, CONFIGS, GEMMA, GROUPED, VOCABULARY
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
)

from tamis.operators.forward.lm_head import SplitModel
from tamis.operators.model.architecture import find_blocks

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS: dict[str, PreTrainedConfig] = {
    "soft_cap": Gemma2Config(**GEMMA, final_logit_softcapping=2.0),
    "tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "logit_scale": CohereConfig(**GROUPED, logit_scale=0.25),
    "logits_scaling": GraniteConfig(**GROUPED, logits_scaling=3.0),
    "head_bias": PhiConfig(**GROUPED),
    "bias_gptj": GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=BLOCKS, n_head=4, n_positions=128, rotary_dim=4),
    "falcon": FalconConfig(**COMMON),
    "narrow_embeddings": OPTConfig(**{**COMMON, "ffn_dim": 56, "word_embed_proj_dim": 16}),
}


def build(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero, a bias would not be missed
            parameter.data += torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", [*CONFIGS, *HEADS])
def test_the_parts_give_the_logits_of_the_whole(name: str) -> None:
    model = build({**CONFIGS, **HEADS}[name])
    parts = SplitModel(model, find_blocks(model, BLOCKS))
    ids = torch.randint(0, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        states = parts.states(ids)
        assert states.shape[:2] == ids.shape
        places = torch.tensor([0, 5, 10, 17, 17, 32])
        logits = parts.logits(states.flatten(0, 1)[places])
    torch.testing.assert_close(logits, whole.flatten(0, 1)[places], rtol=1e-5, atol=1e-5)


def test_the_model_is_neither_copied_nor_changed() -> None:
    model = build(CONFIGS["llama"])
    modules = dict(model.named_modules())
    parts = SplitModel(model, "model.layers")
    assert parts.body is model.model
    assert {name: id(module) for name, module in model.named_modules()} == {
        name: id(module) for name, module in modules.items()
    }
    assert not any(module._forward_hooks for module in model.modules())
    model.lm_head.weight.data.zero_()
    with torch.no_grad():
        assert not parts.logits(parts.states(torch.ones((1, 4), dtype=torch.long))[0]).any()


def test_a_model_that_accelerate_has_hooked_is_run_by_its_own_parts() -> None:
    """As when it is spread over GPUs: its forward is then bound to the model as it was, body and all."""
    model = build(CONFIGS["llama"])
    hooked = dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)
    assert "forward" in vars(hooked)
    parts = SplitModel(hooked, "model.layers")
    ids = torch.ones((1, 4), dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(parts.logits(parts.states(ids)[0]), hooked(input_ids=ids).logits[0])


class Doubled(nn.Module):
    """A body around a body, with work of its own to do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output


def test_the_body_is_all_that_stands_around_the_blocks() -> None:
    model = build(CONFIGS["llama"])
    model.model = Doubled(model.model)
    parts = SplitModel(model, "model.inner.layers")
    assert parts.body is model.model
    ids = torch.ones((1, 4), dtype=torch.long)
    with torch.no_grad():
        torch.testing.assert_close(parts.logits(parts.states(ids)[0]), model(input_ids=ids).logits[0])


def test_hidden_states_are_let_go() -> None:
    parts = SplitModel(build(CONFIGS["llama"]), "model.layers")
    with torch.no_grad():
        parts.logits(torch.zeros((2, 32)))
    assert parts._stub.states is None
    with pytest.raises(RuntimeError):
        parts.logits(torch.zeros((2, 31)))
    assert parts._stub.states is None


class PositionInLogits(LlamaForCausalLM):  # type: ignore[misc]
    """Logits that depend on where a token stands, not on its hidden state alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * torch.arange(1, output.logits.shape[1] + 1)[:, None]
        return output


class InputsInLogits(LlamaForCausalLM):  # type: ignore[misc]
    """Logits that depend on the token ids."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits * (1 + input_ids[:, :, None])
        return output


@pytest.mark.parametrize("odd", [PositionInLogits, InputsInLogits])
def test_a_model_that_cannot_be_taken_apart_is_refused(odd: Any) -> None:
    with pytest.raises(ValueError, match="do not follow from its last hidden states"):
        SplitModel(odd(CONFIGS["llama"]).eval(), "model.layers")

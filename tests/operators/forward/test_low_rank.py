"""Fused LoRA layers give what the formula gives in float64, and leave to peft what is not plain LoRA."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import peft
import pytest
import torch
from torch import nn

from tamis.operators.forward.low_rank import fuse_low_rank

WIDTH, MIDDLE, RANK, ALPHA = 24, 40, 4, 6

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank_stabilised": {"use_rslora": True},
    "dora": {"use_dora": True},
    "bias": {"lora_bias": True},
}


def layers(**settings: Any) -> nn.Sequential:
    """Two linear layers, of which the adapter "one" is on the first and "two" on both."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, MIDDLE), nn.Linear(MIDDLE, WIDTH, bias=False)).eval()
    for name, targets in (("one", ["0"]), ("two", ["0", "1"])):
        config = peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=targets, init_lora_weights=False, inference_mode=True, **settings
        )
        peft.inject_adapter_in_model(config, model, adapter_name=name)
    return model


def use(model: nn.Sequential, name: str) -> None:
    for layer in model:
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.set_adapter(name)


def naive(model: nn.Sequential, x: torch.Tensor, name: str, scale: float) -> torch.Tensor:
    """float64, with the whole matrix W + scale B A."""
    for layer in model:
        base: Any = layer.base_layer if isinstance(layer, peft.tuners.lora.LoraLayer) else layer
        weight = base.weight.double()
        if name in layer.lora_A:
            weight = weight + scale * layer.lora_B[name].weight.double() @ layer.lora_A[name].weight.double()
        x = x @ weight.t() + (0 if base.bias is None else base.bias.double())
    return x


@pytest.mark.parametrize("shape", [(3, 5, WIDTH), (1, 1, WIDTH), (7, WIDTH), (0, WIDTH)])
@pytest.mark.parametrize(("kind", "scale"), [("plain", ALPHA / RANK), ("rank_stabilised", ALPHA / RANK**0.5)])
def test_it_is_the_formula(kind: str, scale: float, shape: tuple[int, ...]) -> None:
    model = layers(**KINDS[kind])
    fuse_low_rank(model)
    x = torch.randn(shape)
    for name in ("one", "two", "one"):
        use(model, name)
        with torch.inference_mode():
            found = model(x)
        torch.testing.assert_close(found.double(), naive(model, x.double(), name, scale), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_peft_gives(kind: str, dtype: torch.dtype) -> None:
    model = layers(**KINDS[kind]).to(dtype)
    x = torch.randn(3, 5, WIDTH).to(dtype)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    with torch.inference_mode():
        expected = {}
        for name in ("one", "two"):
            use(model, name)
            expected[name] = model(x)
        fuse_low_rank(model)
        for name in ("one", "two"):
            use(model, name)
            difference = (model(x) - expected[name]).float().norm()
            assert difference <= rounding * expected[name].float().norm()
            if kind in ("dora", "bias"):
                assert difference == 0


def test_gradients_are_pefts() -> None:
    model = layers()
    use(model, "two")
    fuse_low_rank(model)
    weight: Any = model[0].lora_A["two"].weight
    weight.requires_grad_(True)
    model(torch.randn(2, WIDTH)).sum().backward()
    assert weight.grad is not None


def test_inputs_and_base_stay_as_they_were() -> None:
    model = layers()
    use(model, "two")
    fuse_low_rank(model)
    x = torch.randn(3, WIDTH)
    before = [x.clone(), *(tensor.clone() for tensor in model.state_dict().values())]
    with torch.inference_mode():
        first, second = model(x), model(x)
    assert torch.equal(first, second)
    for old, new in zip(before, [x, *model.state_dict().values()], strict=True):
        assert torch.equal(old, new)


def test_a_fused_model_ends_with_its_last_use() -> None:
    """Else gigabytes of weights would stay until Python collects cycles, which tamis lets it do rarely."""
    model = layers()
    fuse_low_rank(model)
    weight = weakref.ref(model[0].base_layer.weight)
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_a_copy_has_weights_of_its_own() -> None:
    model = layers()
    use(model, "two")
    fuse_low_rank(model)
    copied = copy.deepcopy(model)
    x = torch.randn(3, WIDTH)
    with torch.inference_mode():
        before = model(x)
        for weight in copied.parameters():
            weight.zero_()
        assert torch.equal(model(x), before)
        assert not copied(x).any()


def test_dropout_is_not_left_out_in_training_mode() -> None:
    model = layers(lora_dropout=0.5)
    use(model, "two")
    fuse_low_rank(model)
    x = torch.randn(3, WIDTH)
    with torch.inference_mode():
        assert not torch.equal(model.train()(x), model(x))

"""Checkpoints that are not simply a causal language model: read as what they are, or named with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_configs import random_model, small_config
from transformers import GptOssConfig, LlamaConfig

from tamis.operators.forward.losses import TokenLosses
from tamis.operators.forward.representations import Representer, check_model, describe_model
from tamis.operators.requests import Request

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = [np.array([5, 9, 4, 6, 7, 8], dtype=np.int32)]
REQUEST = Request(1, "last_token")

Tensors = dict[str, torch.Tensor]


def vector(folder: Path) -> np.ndarray:
    check_model(folder, [REQUEST])
    vectors, problems = Representer.load(folder, [REQUEST], device="cpu").represent(IDS, [[2, 4]])
    assert not problems
    return vectors[REQUEST]


def twice(folder: Path, settings: dict[str, Any], quantised: Tensors, full: Tensors) -> tuple[Path, Path]:
    """A quantised checkpoint, and one with the numbers that it stands for. folder: a model's, whose config both get."""
    raw = json.loads((folder / "config.json").read_text())
    for name, tensors in (("quantised", quantised), ("full", full)):
        (folder / name).mkdir()
        given = raw | {"quantization_config": settings} if name == "quantised" else raw
        (folder / name / "config.json").write_text(json.dumps(given))
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    return folder / "quantised", folder / "full"


def eight_bits(folder: Path, inner: int) -> tuple[Path, Path]:
    """A model in blocks of 128 x 128 numbers with one scale each, as DeepSeek V3 is published, and its full twin."""
    config = small_config(LlamaConfig, hidden_size=256, intermediate_size=inner, head_dim=64)
    random_model(config).save_pretrained(folder)
    quantised: Tensors = {}
    full: Tensors = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        quantised[key] = full[key] = tensor
        if not key.endswith("proj.weight"):
            continue
        rows, columns = tensor.shape
        high, wide = -(-rows // 128), -(-columns // 128)
        padded = torch.zeros(high * 128, wide * 128)
        padded[:rows, :columns] = tensor
        tiles = padded.view(high, 128, wide, 128)
        scale = tiles.abs().amax((1, 3)) / 448
        eight = (tiles / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        back = (eight.float() * scale[:, None, :, None]).view(high * 128, wide * 128)
        quantised[key] = eight.view(high * 128, wide * 128)[:rows, :columns].contiguous()
        quantised[f"{key}_scale_inv"] = scale
        full[key] = back[:rows, :columns].contiguous()
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    return twice(folder, settings, quantised, full)


@pytest.mark.parametrize("inner", [384, 96])
def test_fp8_is_read_in_full_precision(inner: int, tmp_path: Path) -> None:
    small, large = eight_bits(tmp_path, inner)
    np.testing.assert_array_equal(vector(small), vector(large))
    scored = [TokenLosses.load(folder, device="cpu").losses(IDS, [[(2, 6)]])[0]["base"][0] for folder in (small, large)]
    np.testing.assert_array_equal(*scored)


@pytest.mark.parametrize("inner", [192, 320, 225])
def test_fp8_that_transformers_would_read_wrong_is_refused(inner: int, tmp_path: Path) -> None:
    """Its last block is a part of one: transformers divides the matrix evenly."""
    folder, _ = eight_bits(tmp_path, inner)
    for attempt in (check_model, Representer.load):
        with pytest.raises(ValueError, match=rf"blocks of 128 for {inner} rows or columns") as refusal:
            attempt(folder, [REQUEST])
        assert "\n" not in str(refusal.value)


def test_mxfp4_is_read_in_full_precision(tmp_path: Path) -> None:
    """Two numbers of four bits a byte, 32 to a scale, as GPT-OSS is published."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    table = torch.cat([values, -values])
    random_model(small_config(GptOssConfig)).save_pretrained(tmp_path)
    some = torch.Generator().manual_seed(0)
    quantised: Tensors = {}
    full: Tensors = {}
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        if not key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            quantised[key] = full[key] = tensor
            continue
        experts, inner, outer = tensor.shape
        shape = (experts, outer, inner // 32)
        blocks = torch.randint(0, 256, (*shape, 16), generator=some, dtype=torch.uint8)
        scales = torch.randint(120, 126, shape, generator=some, dtype=torch.uint8)
        pairs = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], dim=-1)
        numbers = pairs.reshape(*shape, 32) * torch.exp2(scales.float() - 127)[..., None]
        quantised |= {f"{key}_blocks": blocks, f"{key}_scales": scales}
        full[key] = numbers.reshape(experts, outer, inner).transpose(1, 2).contiguous()
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    small, large = twice(tmp_path, settings, quantised, full)
    np.testing.assert_array_equal(vector(small), vector(large))


@pytest.mark.parametrize("scale", ["missing", "of another shape"])
def test_fp8_without_its_scales_is_refused(scale: str, tmp_path: Path) -> None:
    random_model(small_config(LlamaConfig)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    tensors[key] = tensors[key].to(torch.float8_e4m3fn)
    if scale != "missing":
        tensors[f"{key}_scale_inv"] = torch.ones(3, 5)
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    folder, _ = twice(tmp_path, settings, tensors, tensors)
    said = (
        r"lacks the scales of its quantised layers\.0\.mlp\.up_proj\.weight"
        if scale == "missing"
        else "blocks of 128 for 64 rows"
    )
    for attempt in (check_model, Representer.load):
        with pytest.raises(ValueError, match=said) as refusal:
            attempt(folder, [REQUEST])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("base", ["org/base", 5, None])
def test_an_adapter_is_named_with_how_to_merge_it(base: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"holds an adapter.*merge_and_unload\(\)\.save_pretrained") as refusal:
            describe_model(tmp_path)
        assert "\n" not in str(refusal.value)
        assert ("of 'org/base'" in str(refusal.value)) == (base == "org/base")
        # weights beside it do not make it a whole model: transformers would put the adapter on them
        random_model(small_config(LlamaConfig)).save_pretrained(tmp_path)


def test_an_adapter_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(ValueError, match="holds an adapter"):
        describe_model(tmp_path)

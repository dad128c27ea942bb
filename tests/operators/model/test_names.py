"""Whatever the names in the files: the weights that transformers would read are read, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_configs import BLOCKS, random_model, small_config

from tamis.operators.forward.losses import TokenLosses
from tamis.operators.forward.representations import Representer, check_model
from tamis.operators.model.architecture import plan_cut, read_config
from tamis.operators.model.loading import find_weights
from tamis.operators.model.names import unwrapped
from tamis.operators.requests import Request

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = [np.array([5, 9, 4, 6, 7, 8], dtype=np.int32)]
REQUEST = Request(1, "last_token")


def saved(name: str, folder: Path, **changes: Any) -> Path:
    random_model(small_config(getattr(transformers, name), **changes)).save_pretrained(folder)
    return folder


def renamed(folder: Path, rename: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    tensors = {rename(key): tensor.clone() for key, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def vector(folder: Path) -> np.ndarray:
    check_model(folder, [REQUEST])
    vectors, problems = Representer.load(folder, [REQUEST], device="cpu").represent(IDS, [[2, 4]])
    assert not problems
    return vectors[REQUEST]


def losses(folder: Path) -> np.ndarray:
    found, problems = TokenLosses.load(folder, device="cpu").losses(IDS, [[(2, 6)]])
    assert not problems
    return found["base"][0]


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("_orig_mod.model.norm.weight", "model.norm.weight"),
        ("module._orig_mod.model.norm.weight", "model.norm.weight"),
        ("model.layers.0._orig_mod.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.x", "model.layers.0.x"),
        ("model.module.weight", "model.module.weight"),
        ("my_orig_mod.weight", "my_orig_mod.weight"),
    ],
)
def test_what_wrappers_add_to_a_name(key: str, plain: str) -> None:
    assert unwrapped(key) == plain


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module._orig_mod."])
def test_weights_of_a_wrapped_model(prefix: str, tmp_path: Path) -> None:
    folder = saved("LlamaConfig", tmp_path)
    expected, of_tokens = vector(folder), losses(folder)
    renamed(folder, lambda key: prefix + key)
    np.testing.assert_array_equal(vector(folder), expected)
    np.testing.assert_array_equal(losses(folder), of_tokens)


def test_weights_whose_blocks_were_compiled_one_by_one(tmp_path: Path) -> None:
    folder = saved("LlamaConfig", tmp_path)
    expected = vector(folder)
    renamed(folder, lambda key: re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", key))
    np.testing.assert_array_equal(vector(folder), expected)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = saved("LlamaConfig", tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["_orig_mod.model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, path, metadata={"format": "pt"})
    for attempt in (check_model, Representer.load):
        with pytest.raises(ValueError, match=r"two tensors for model\.embed_tokens\.weight"):
            attempt(folder, [REQUEST])


@pytest.mark.parametrize("name", ["NemotronHConfig", "MixtralConfig"])
def test_only_the_shards_of_the_needed_blocks_are_asked_for(name: str, tmp_path: Path) -> None:
    """Also where transformers gives the blocks another name, or makes one weight of many."""
    folder = saved(name, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    expected = vector(folder)
    (folder / "model.safetensors").unlink()

    def shard(key: str) -> str:
        found = re.search(r"layers\.(\d+)\.", key)
        return f"block-{found[1]}.safetensors" if found else f"{key.rpartition('.')[0]}.safetensors"

    table = {key: shard(key) for key in tensors}
    for file in set(table.values()):
        save_file({key: tensors[key] for key in table if table[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    config = read_config(folder, revision=None, trust_remote_code=False)
    files = find_weights(folder, plan_cut(config, 2), revision=None, allow_pickle_weights=False)
    assert {Path(file).name for file in files if "block" in file} == {"block-0.safetensors", "block-1.safetensors"}
    assert not any("lm_head" in file or "norm" in Path(file).name for file in files)
    (folder / "block-2.safetensors").unlink()
    np.testing.assert_array_equal(vector(folder), expected)


MULTIMODAL = {
    # as published in 2025, and as transformers saves them now
    "Gemma3Config": (("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")),
    "Mistral3Config": (("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")),
    "Llama4Config": (("language_model.model.", "language_model.lm_head."),),
}


@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name in MULTIMODAL for layout in MULTIMODAL[name]])
def test_the_text_half_of_a_multimodal_checkpoint(name: str, layout: tuple[str, str], tmp_path: Path) -> None:
    """It gives what a text-only checkpoint with the same weights gives, and the whole model gives for text."""
    config = small_config(getattr(transformers, name))
    text = config.get_text_config()
    text.tie_word_embeddings = config.tie_word_embeddings = False
    alone = random_model(text)
    alone.save_pretrained(tmp_path / "text")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = transformers.AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    path = tmp_path / "whole" / "model.safetensors"
    is_text = re.compile(r"(model\.)?language_model\.|lm_head\.")
    tensors = {key: tensor for key, tensor in load_file(path).items() if not is_text.match(key)}
    assert tensors  # those of the images
    body, head = layout
    for key, tensor in load_file(tmp_path / "text" / "model.safetensors").items():
        place = head + key.removeprefix("lm_head.") if key.startswith("lm_head.") else body + key.removeprefix("model.")
        tensors[place] = tensor
    save_file(tensors, path, metadata={"format": "pt"})

    np.testing.assert_array_equal(vector(tmp_path / "whole"), vector(tmp_path / "text"))
    scored = losses(tmp_path / "whole")
    np.testing.assert_array_equal(scored, losses(tmp_path / "text"))
    full = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "whole").eval()
    ids = torch.from_numpy(IDS[0].astype(np.int64))[None]
    with torch.inference_mode():
        logits = full(input_ids=ids, use_cache=False).logits[0, 1:5].float()
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 2:6], reduction="none")
    np.testing.assert_allclose(scored, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_block_count_is_the_language_models(tmp_path: Path) -> None:
    folder = saved("Gemma3Config", tmp_path)
    info, _ = check_model(folder, [Request(BLOCKS - 1, "last_token")])
    assert info.architecture == "Gemma3ForCausalLM (text half of Gemma3ForConditionalGeneration)"
    assert info.blocks == BLOCKS
    with pytest.raises(ValueError, match=f"block {BLOCKS} is requested, but Gemma3ForCausalLM .* has blocks 0 to"):
        check_model(folder, [Request(BLOCKS, "last_token")])

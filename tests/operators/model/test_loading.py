"""Only what is needed is built and read; what is missing or not allowed is one clear ValueError."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    ClvpConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
)
from transformers.utils import logging as transformers_logging

from tamis.operators.forward.representations import Representer, check_model, describe_model
from tamis.operators.model.architecture import find_blocks, plan_cut, read_config, rope_boundaries
from tamis.operators.model.loading import find_weights
from tamis.operators.requests import Request

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = 4
CONFIG = LlamaConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=BLOCKS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)
BLOCK_0 = [Request(0, "last_token")]
BLOCK_1 = [Request(1, "last_token")]
LAST_BLOCK = [Request(BLOCKS - 1, "last_token")]
IDS = [np.array([3, 1, 4, 1, 5], dtype=np.int32), np.array([9, 2], dtype=np.int32)]
FINALS = [[1, 5], [1, 2]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whole")
    LlamaForCausalLM(CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same model in one file for the embedding, one for each block, and one for the final norm and the LM
    head.
    """
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    def shard(key: str) -> str:
        parts = key.split(".")
        name = f"block-{parts[2]}" if parts[1] == "layers" else "embedding" if "embed" in key else "head"
        return f"{name}.safetensors"

    weight_map = {key: shard(key) for key in tensors}
    for name in set(weight_map.values()):
        save_file({key: tensors[key] for key in tensors if weight_map[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)


def represent(folder: Path, requests: list[Request], **options: Any) -> np.ndarray:
    vectors, problems = Representer.load(folder, requests, device="cpu", **options).represent(IDS, FINALS)
    assert not problems
    return vectors[requests[0]]


def refused(
    folder: Path | str, match: str, *, both: bool = True, requests: list[Request] = BLOCK_1, **options: Any
) -> None:
    """Loading refuses with one line; so does the check that reads no weights, where it can tell."""
    with pytest.raises(ValueError, match=match) as refusal:
        Representer.load(folder, requests, device="cpu", **options)
    assert "\n" not in str(refusal.value)
    if both:
        with pytest.raises(ValueError, match=match):
            check_model(folder, requests, **options)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_only_the_needed_blocks_and_neither_norm_nor_head_are_built(whole: Path, block: int) -> None:
    full = LlamaForCausalLM(CONFIG)
    model = Representer.load(whole, [Request(block, "last_token")], device="cpu")._model
    expected = [key for key in full.model.state_dict() if key != "norm.weight"]
    expected = [key for key in expected if not key.startswith("layers.") or int(key.split(".")[1]) <= block]
    assert sorted(model.state_dict()) == sorted(expected)
    tensors = full.model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == sum(tensors[key].numel() for key in expected)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert not model.training


def test_tensors_above_the_block_are_never_read(folder: Path) -> None:
    """NaN in every tensor that is not needed changes nothing; in one that is needed it does."""
    expected = represent(folder, BLOCK_1)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            if key.startswith(("model.layers.2.", "model.layers.3.", "model.norm.", "lm_head.")):
                tensor.fill_(float("nan"))

    edit_weights(folder, spoil)
    np.testing.assert_array_equal(represent(folder, BLOCK_1), expected)
    _, problems = Representer.load(folder, [Request(2, "last_token")], device="cpu").represent(IDS, FINALS)
    assert {problem.code for problem in problems.values()} == {"non_finite"}


def test_files_that_hold_nothing_needed_are_never_opened(whole: Path, sharded: Path) -> None:
    expected = represent(whole, BLOCK_1)
    (sharded / "block-2.safetensors").unlink()
    (sharded / "block-3.safetensors").write_bytes(b"this is not a weight file")
    (sharded / "head.safetensors").unlink()
    np.testing.assert_array_equal(represent(sharded, BLOCK_1), expected)
    config = read_config(sharded, revision=None, trust_remote_code=False)
    files = find_weights(sharded, plan_cut(config, 2), revision=None, allow_pickle_weights=False)
    assert sorted(Path(file).name for file in files) == [
        "block-0.safetensors",
        "block-1.safetensors",
        "embedding.safetensors",
    ]


def test_a_missing_shard_that_is_needed_is_named(sharded: Path) -> None:
    (sharded / "block-1.safetensors").unlink()
    refused(sharded, "lacks block-1.safetensors")
    represent(sharded, BLOCK_0)


def test_a_damaged_shard_that_is_needed_is_named(sharded: Path) -> None:
    path = sharded / "block-1.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(sharded, "block-1.safetensors is damaged or incomplete")


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_is_named(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    refused(sharded, "index.json of .* is not valid|names no weights")


@pytest.mark.parametrize("name", ["../block-0.safetensors", "block-0.bin"])
def test_an_index_cannot_name_files_elsewhere_or_of_another_kind(sharded: Path, name: str) -> None:
    path = sharded / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("block-0.safetensors", name))
    refused(sharded, "is not a .safetensors file beside it")


def test_a_weight_that_is_missing_is_never_made_up(folder: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]

    edit_weights(folder, drop)
    refused(folder, r"lacks layers\.1\.mlp\.up_proj\.weight")
    represent(folder, BLOCK_0)


def test_a_weight_of_another_shape_is_never_made_up(folder: Path) -> None:
    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(40, 32)

    edit_weights(folder, shrink)
    refused(folder, r"another shape for layers\.1\.mlp\.up_proj\.weight \(40, 32\) for \(48, 32\)")


def test_a_weight_that_the_model_would_ignore_is_refused(folder: Path) -> None:
    """A config that forgets the biases of its attention would silently give other numbers."""

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.self_attn.q_proj.bias"] = torch.ones(32)
        tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # old checkpoints have it
        tensors["model.layers.3.self_attn.q_proj.bias"] = torch.ones(32)

    edit_weights(folder, add)
    refused(folder, r"does not know: .*layers\.1\.self_attn\.q_proj\.bias$")
    represent(folder, BLOCK_0)


def test_the_buffers_of_old_gpt2_checkpoints_are_no_leftovers(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=BLOCKS, n_head=4, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    expected = represent(tmp_path, BLOCK_1)

    def as_published(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.removeprefix("transformer.")] = tensors.pop(key)
        for block in range(BLOCKS):
            tensors[f"h.{block}.attn.bias"] = torch.ones(1, 1, 64, 64)

    edit_weights(tmp_path, as_published)
    np.testing.assert_array_equal(represent(tmp_path, BLOCK_1), expected)


def test_pickled_weights_are_read_only_when_allowed(folder: Path) -> None:
    expected = represent(folder, BLOCK_1)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "has no model.safetensors .*allow_pickle_weights")
    np.testing.assert_array_equal(represent(folder, BLOCK_1, allow_pickle_weights=True), expected)
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    refused(folder, "pytorch_model.bin is damaged", allow_pickle_weights=True)


def test_pickled_shards_are_read_only_when_allowed(folder: Path) -> None:
    expected = represent(folder, BLOCK_1)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    lower = {key: tensor for key, tensor in tensors.items() if "layers.2" not in key and "layers.3" not in key}
    torch.save(lower, folder / "lower.bin")
    weight_map = {key: "lower.bin" if key in lower else "upper.bin" for key in tensors}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "allow_pickle_weights")
    np.testing.assert_array_equal(represent(folder, BLOCK_1, allow_pickle_weights=True), expected)
    refused(folder, "lacks upper.bin", requests=LAST_BLOCK, allow_pickle_weights=True)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "has no model.safetensors or model.safetensors.index.json$")


def test_a_damaged_weight_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    refused(folder, "model.safetensors is damaged or incomplete")


def test_paths_that_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no model folder")
    refused("./nowhere", "there is no model folder")
    refused("a/b/c", "there is no model folder")
    refused(folder / "config.json", "is a file")
    (folder / "config.json").unlink()
    refused(folder, "has no config.json")


def test_a_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refused(folder, "config.json of .* cannot be read")


def test_a_config_with_senseless_values(folder: Path) -> None:
    edit_config(folder, num_hidden_layers="many")
    refused(folder, "config.json of .* is not valid|num_hidden_layers")


def test_an_unknown_architecture(folder: Path) -> None:
    edit_config(folder, model_type="llamba", architectures=["LlambaForCausalLM"])
    refused(folder, "model_type='llamba', an architecture that transformers .* does not know")


def test_code_of_the_models_own_runs_only_when_trusted(folder: Path) -> None:
    """The code leaves a mark when it runs; nothing of it may run before it is trusted."""
    mark = folder / "it_ran"
    (folder / "own_model.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaModel\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaModel):\n    config_class = OwnConfig\n"
    )
    expected = represent(folder, BLOCK_1)
    edit_config(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.OwnModel"},
    )
    refused(folder, "names code of its own to run .*trust_remote_code")
    assert not mark.exists()
    np.testing.assert_array_equal(represent(folder, BLOCK_1, trust_remote_code=True), expected)
    assert mark.exists()


def test_a_tokenizer_of_its_own_is_no_code_of_the_model(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    assert describe_model(folder).blocks == BLOCKS


def test_models_that_are_not_causal_decoders(folder: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
    }
    bert = BertConfig(**small, num_hidden_layers=2)
    BertModel(bert).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "bert is not causal")
    T5Config(vocab_size=60).save_pretrained(tmp_path / "t5")
    refused(tmp_path / "t5", "encoder-decoder")
    ClvpConfig().save_pretrained(tmp_path / "clvp")
    refused(tmp_path / "clvp", "not a language model|multi-modal")
    edit_config(folder, is_causal=False)
    refused(folder, "llama is not causal")


def test_a_model_that_looks_ahead_in_secret_is_found_out(folder: Path) -> None:
    """Code that the config does not give away: the loader tries it."""
    (folder / "own_model.py").write_text(
        "from transformers import LlamaConfig, LlamaModel\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaModel):\n"
        "    config_class = OwnConfig\n"
        "    def forward(self, input_ids=None, **kwargs):\n"
        "        return super().forward(input_ids=input_ids.flip(1), **kwargs)\n"
    )
    edit_config(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "own_model.OwnConfig", "AutoModel": "own_model.OwnModel"},
    )
    refused(folder, "own is not causal", both=False, trust_remote_code=True)


def test_quantised_checkpoints_are_refused(folder: Path) -> None:
    for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors"):
        edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
        refused(folder, rf"quantised \({method}\), .*give the unquantised one")


def test_loading_is_silent_and_changes_no_setting(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.enable_progress_bar()  # the default, whatever a test before has left
    hook = transformers_logging.set_tqdm_hook(None)
    Representer.load(whole, BLOCK_0, device="cpu")
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.set_tqdm_hook(hook) is None
    assert transformers_logging.is_progress_bar_enabled()
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_blocks_are_the_outermost_list_of_their_length() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Module()
            self.inner.stack = torch.nn.ModuleList(Block() for _ in range(3))
            self.others = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))

    assert find_blocks(Model(), 3) == "inner.stack"
    with pytest.raises(ValueError, match="0 lists of 5 modules"):
        find_blocks(Model(), 5)
    ambiguous = Model()
    ambiguous.others.append(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"inner\.stack, others"):
        find_blocks(ambiguous, 3)


def test_rope_boundaries() -> None:
    assert rope_boundaries(CONFIG) == ()
    config = LlamaConfig(
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 1024,
            "short_factor": [1.0] * 64,
            "long_factor": [2.0] * 64,
        }
    )
    assert rope_boundaries(config) == (1024,)

"""Each adapter gives the losses of peft's own merged model; the base stays as it is; what does not fit is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lm_head import HEADS
from test_losses import assert_alike, full_model, one_at_a_time, samples
from test_representations import CONFIGS, GROUPED, VOCABULARY, save
from transformers import AutoModelForCausalLM, LlamaConfig

from tamis.operators.forward.adapters import Adapters
from tamis.operators.forward.losses import TokenLosses

pytestmark = pytest.mark.usefixtures("one_thread")

ATTENTION = ["q_proj", "v_proj"]
BASES: dict[str, tuple[Any, Any]] = {
    "llama": (CONFIGS["llama"], ATTENTION),
    "gpt2": (CONFIGS["gpt2"], ["c_attn", "c_fc"]),
    "phi3": (CONFIGS["phi3"], ["qkv_proj", "gate_up_proj"]),
    "opt": (CONFIGS["opt"], ATTENTION),
    "mixtral": (CONFIGS["mixtral"], ATTENTION),
    "gemma2_soft_cap": (HEADS["soft_cap"], ATTENTION),
    "cohere": (HEADS["logit_scale"], ATTENTION),
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank_stabilised": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks_by_name": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"q_proj": 3},
    },
    "some_blocks": {"layers_to_transform": [1, 3], "layers_pattern": "layers"},
    "by_expression": {"target_modules": r".*layers\.[12]\..*_proj"},
    "lm_head": {"target_modules": ["lm_head", "q_proj"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "own_embeddings": {"modules_to_save": ["embed_tokens"]},
    "own_lm_head": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


def train(base: Path, folder: Path, seed: int = 1, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """An adapter as peft saves it, none of whose weights are what they began as."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **settings}
    )
    trained = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            noise = 0.05 * torch.randn_like(parameter)
            parameter.data += noise * parameter if "magnitude" in name else noise
    trained.save_pretrained(folder)
    return folder


def merged(base: Path, adapter: Path) -> Any:
    """peft's own way to one model: the adapter's product added to the base's weights, in float64."""
    wrapped = peft.PeftModel.from_pretrained(full_model(base), adapter, autocast_adapter_dtype=False)
    return wrapped.merge_and_unload().double().eval()


def expected_losses(base: Path, adapter: Path, ids: Any, responses: Any) -> list[np.ndarray]:
    return one_at_a_time(merged(base, adapter), ids, responses)


@pytest.mark.parametrize("name", BASES)
def test_two_adapters_give_what_pefts_merged_models_give(name: str, tmp_path: Path) -> None:
    config, modules = BASES[name]
    base = save(config, tmp_path / "base")
    folders = {f"tuned on {seed}.x": train(base, tmp_path / str(seed), seed, target_modules=modules) for seed in (1, 2)}
    ids, responses = samples(12, seed=4)
    scorer = TokenLosses.load(base, adapters=folders, device="cpu")
    assert scorer.names == tuple(folders)
    losses, problems = scorer.losses(ids, responses, token_budget=300)
    assert not problems
    unadapted = np.concatenate(one_at_a_time(full_model(base), ids, responses))
    for adapter, folder in folders.items():
        assert_alike(losses[adapter], expected_losses(base, folder, ids, responses))
        assert np.abs(np.concatenate(losses[adapter]) - unadapted).max() > 0.01
    only, _ = scorer.losses(ids, responses, names=["tuned on 2.x"])
    assert list(only) == ["tuned on 2.x"]
    assert_alike(only["tuned on 2.x"], losses["tuned on 2.x"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_beside_a_plain_one(kind: str, llama: Path, tmp_path: Path) -> None:
    """What one adapter has and the other has not must not leak from one to the other."""
    folders = {
        "special": train(llama, tmp_path / "special", 1, **KINDS[kind]),
        "plain": train(llama, tmp_path / "plain", 2),
    }
    ids, responses = samples(8, seed=6)
    expected = {name: expected_losses(llama, folder, ids, responses) for name, folder in folders.items()}
    for order in (folders, dict(reversed(folders.items()))):
        scorer = TokenLosses.load(llama, adapters=order, device="cpu")
        losses, problems = scorer.losses(ids, responses)
        assert not problems
        assert list(losses) == list(order)
        for name in folders:
            assert_alike(losses[name], expected[name])


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (LlamaConfig(**GROUPED, tie_word_embeddings=True), {"modules_to_save": ["embed_tokens"]}),
        (CONFIGS["qwen2"], {"lora_bias": True}),
    ],
    ids=["tied embeddings", "bias"],
)
def test_an_adapter_gives_what_peft_gives_without_merging(config: Any, settings: Any, tmp_path: Path) -> None:
    base = save(config, tmp_path / "base")
    folder = train(base, tmp_path / "adapter", **settings)
    ids, responses = samples(8)
    losses, _ = TokenLosses.load(base, adapters={"a": folder}, device="cpu").losses(ids, responses)
    trained = peft.PeftModel.from_pretrained(full_model(base), folder, autocast_adapter_dtype=False).double().eval()
    assert_alike(losses["a"], one_at_a_time(trained, ids, responses))


def digests(model: torch.nn.Module) -> Mapping[str, bytes]:
    return {
        name.replace(".base_layer", "").replace(".original_module", ""): tensor.detach().float().numpy().tobytes()
        for name, tensor in model.named_parameters(remove_duplicate=False)
        if "lora_" not in name and "modules_to_save" not in name
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_is_bit_identical_after_use(dtype: str, llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype)).eval()
    before = digests(model)
    folders = {kind: train(llama, tmp_path / kind, **KINDS[kind]) for kind in ("plain", "own_embeddings", "dora")}
    adapters = Adapters(model, folders)
    ids = torch.ones((2, 5), dtype=torch.long)
    for name in folders:
        adapters.use(name)
        with torch.no_grad():
            model(input_ids=ids)
    assert digests(model) == before
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)
    assert not any(module.training for module in model.modules())


def test_adapters_take_the_dtype_of_the_model(llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).eval()
    Adapters(
        model, {kind: train(llama, tmp_path / kind, **KINDS[kind]) for kind in ("plain", "dora", "own_embeddings")}
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_half_precision_errs_no_more_than_pefts_own(llama: Path, tmp_path: Path) -> None:
    folder = train(llama, tmp_path / "a")
    ids, responses = samples(12)
    exact = np.concatenate(expected_losses(llama, folder, ids, responses))
    half = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    twin = peft.PeftModel.from_pretrained(half, folder, autocast_adapter_dtype=False).eval()
    allowed = np.linalg.norm(np.concatenate(one_at_a_time(twin, ids, responses)) - exact)
    losses, _ = TokenLosses.load(llama, adapters={"a": folder}, dtype="bfloat16", device="cpu").losses(ids, responses)
    error = np.linalg.norm(np.concatenate(losses["a"]) - exact)
    assert 0 < error <= 1.5 * allowed


def test_loading_leaves_the_random_numbers_alone(llama: Path, tmp_path: Path) -> None:
    folder = train(llama, tmp_path / "a")
    model = AutoModelForCausalLM.from_pretrained(llama)
    before = torch.get_rng_state()
    Adapters(model, {"a": folder})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_row_that_is_not_finite_under_one_adapter_is_set_aside(llama: Path, tmp_path: Path) -> None:
    good, bad = train(llama, tmp_path / "good"), train(llama, tmp_path / "bad", modules_to_save=["embed_tokens"])
    weights = load_file(bad / "adapter_model.safetensors")
    name = next(name for name in weights if "embed_tokens" in name)
    weights[name][11] = float("nan")
    save_file(weights, bad / "adapter_model.safetensors", metadata={"format": "pt"})
    ids, responses = samples(6)
    ids[2][0] = 11
    scorer = TokenLosses.load(llama, adapters={"good": good, "bad": bad}, device="cpu")
    losses, problems = scorer.losses(ids, responses)
    assert {row: problem.code for row, problem in problems.items()} == {2: "non_finite"}
    assert "'bad'" in problems[2].message
    for name in ("good", "bad"):
        assert np.isnan(losses[name][2]).all()
        assert all(np.isfinite(losses[name][row]).all() for row in (0, 1, 3, 4, 5))


def refuse(base: Path, folder: Path, message: str) -> None:
    """Refused in one line that names the adapter, before and after another one."""
    for folders in ({"mine": folder}, {"fits": base.parent / "fits", "mine": folder}):
        with pytest.raises(ValueError, match=message) as error:
            TokenLosses.load(base, adapters=folders, device="cpu")
        assert "adapter 'mine' in " in str(error.value)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    save(CONFIGS["llama"], folder / "base")
    train(folder / "base", folder / "fits")
    return folder / "base"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"hidden_size": 64}, r"has another shape for .*; it was made for another base model or vocabulary"),
        ({"num_hidden_layers": 6}, r"has weights for .*layers\.4.*which this model lacks"),
        ({"num_hidden_layers": 2}, r"lacks .*layers\.2"),
        ({"num_key_value_heads": 4}, r"has another shape for .*v_proj"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(
    other: dict[str, int], message: str, base: Path, tmp_path: Path
) -> None:
    stranger = save(LlamaConfig(**{**GROUPED, **other}), tmp_path / "stranger")
    refuse(base, train(stranger, tmp_path / "adapter"), message)


def test_an_adapter_of_another_architecture_is_refused(base: Path, tmp_path: Path) -> None:
    stranger = save(CONFIGS["gpt2"], tmp_path / "stranger")
    refuse(base, train(stranger, tmp_path / "adapter", target_modules=["c_attn"]), "c_attn.*(not found|lacks)")


def test_an_adapter_that_targets_one_module_too_many_is_refused(base: Path, tmp_path: Path) -> None:
    stranger = save(CONFIGS["gpt2"], tmp_path / "gpt2")
    other = load_file(train(stranger, tmp_path / "other", target_modules=["c_attn"]) / "adapter_model.safetensors")
    folder = train(base, tmp_path / "adapter")
    edit(folder, target_modules=[*ATTENTION, "c_attn"])
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({**weights, **other}, folder / "adapter_model.safetensors")
    refuse(base, folder, r"has weights for .*c_attn.*which this model lacks")


def test_an_adapter_with_weights_for_fewer_modules_than_it_says_is_refused(base: Path, tmp_path: Path) -> None:
    folder = train(base, tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if ".0." not in name}, folder / "adapter_model.safetensors"
    )
    refuse(base, folder, r"it lacks base_model\.model\.model\.layers\.0\..* and 1 more")


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_an_adapter_with_another_vocabulary_is_refused(module: str, base: Path, tmp_path: Path) -> None:
    stranger = save(LlamaConfig(**{**GROUPED, "vocab_size": VOCABULARY + 3}), tmp_path / "stranger")
    refuse(
        base, train(stranger, tmp_path / "adapter", modules_to_save=[module]), rf"another shape for .*{module}.*vocab"
    )


def test_an_adapter_that_would_replace_the_bases_embeddings_is_refused(base: Path, tmp_path: Path) -> None:
    folder = train(base, tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.weight"
    same = full_model(base, torch.float32).get_input_embeddings().weight.detach().clone()
    for brought, message in ((same + 1, f"brings its own {name}"), (same[:-1], f"brings its own {name}")):
        save_file({**weights, name: brought.contiguous()}, folder / "adapter_model.safetensors")
        refuse(base, folder, message)
    save_file({**weights, name: same}, folder / "adapter_model.safetensors")
    TokenLosses.load(base, adapters={"mine": folder}, device="cpu")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'; a LORA adapter is needed"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the base model"),
        ({"bias": "all"}, "sets bias, which is not supported"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "sets layer_replication"),
        ({"trainable_token_indices": [1, 2]}, "sets trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "sets alora_invocation_tokens"),
        ({"an_option_of_tomorrow": 3}, "sets an_option_of_tomorrow"),
        ({"r": 0}, "does not fit this model|is not valid"),
        ({"r": 5}, "has another shape for"),
        ({"target_modules": ["no_such_module"]}, "no_such_module|this model lacks"),  # which, depends on peft
    ],
)
def test_what_is_not_plain_lora_is_refused(changes: dict[str, Any], message: str, base: Path, tmp_path: Path) -> None:
    folder = train(base, tmp_path / "adapter")
    edit(folder, **changes)
    refuse(base, folder, message)


@pytest.mark.parametrize("setting", ["r", "lora_alpha"])
def test_the_strength_of_an_adapter_is_never_guessed(setting: str, base: Path, tmp_path: Path) -> None:
    folder = train(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != setting}))
    refuse(base, folder, "lacks r or lora_alpha")


def test_options_of_tomorrow_that_are_off_do_not_matter(base: Path, tmp_path: Path) -> None:
    folder = train(base, tmp_path / "adapter")
    edit(folder, an_option_of_tomorrow=None, another=False, auto_mapping={"parent_library": "no.such.library"})
    TokenLosses.load(base, adapters={"mine": folder}, device="cpu")


def test_missing_and_damaged_files_are_named(base: Path, tmp_path: Path) -> None:
    refuse(base, tmp_path / "nowhere", "there is no such folder")
    (tmp_path / "empty").mkdir()
    refuse(base, tmp_path / "empty", "there is no adapter_config.json")
    folder = train(base, tmp_path / "adapter")
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[:-100])
    refuse(base, folder, "adapter_model.safetensors is damaged")
    (folder / "adapter_model.safetensors").unlink()
    refuse(base, folder, "there is no adapter_model.safetensors$")
    (folder / "adapter_config.json").write_text("{")
    refuse(base, folder, "not valid JSON")
    (folder / "adapter_config.json").write_text("[]")
    refuse(base, folder, "peft_type=None")


class Explosive:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def test_pickled_adapters_are_never_loaded(base: Path, tmp_path: Path) -> None:
    folder = train(base, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Explosive()))
    refuse(base, folder, "adapter_model.bin is pickled and not loaded")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_on_the_accelerator_agree_with_the_cpu(kind: str, llama: Path, tmp_path: Path) -> None:
    folder = train(llama, tmp_path / "adapter", **KINDS[kind])
    ids, responses = samples(12)
    expected = np.concatenate(expected_losses(llama, folder, ids, responses))
    for dtype, tolerance in (("float32", 1e-3), ("auto", 0.2)):
        losses, problems = TokenLosses.load(llama, adapters={"a": folder}, dtype=dtype).losses(ids, responses)
        assert not problems
        assert np.linalg.norm(np.concatenate(losses["a"]) - expected) <= tolerance * np.linalg.norm(expected)

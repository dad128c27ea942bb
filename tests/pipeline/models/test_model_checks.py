"""Models that cannot do what the job asks are refused by the plan, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from plan_jobs import Planner, larf
from small_configs import random_model, small_config
from transformers import DeepseekV4Config

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import load_layers_job
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.checks import check_files, open_model, vocabulary_note
from tamis.pipeline.planning.layer_plan import plan_layers


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def change(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def refusal(folder: Path, *, head: bool = False, blocks: int = 4) -> str:
    with pytest.raises(ConfigError) as caught:
        check_files(open_model(ModelSpec(name=str(folder))), blocks, head=head)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_model(tiny_model: Path) -> None:
    model = open_model(ModelSpec(name=str(tiny_model)))
    check_files(model, 4, head=True)
    assert (model.info.blocks, model.source.revision) == (4, "local")
    assert model.tokenizer.highest_id == model.info.vocabulary - 1
    assert model.keys["model.dtype"] == "auto"


def shrunk(folder: Path, rows: int) -> int:
    """Takes the embeddings of the last tokens out of the model. Returns the number of those that are left."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    left = len(weights["lm_head.weight"]) - rows
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        weights[name] = weights[name][:left].clone()
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", vocab_size=left)
    return left


def test_a_tokenizer_that_knows_many_more_tokens_than_the_model_is_another_ones(copy: Path) -> None:
    left = shrunk(copy, 30)
    said = refusal(copy)
    assert f"token ids up to {left + 29}" in said
    assert f"its embedding has {left} rows (0 to {left - 1})" in said


def test_a_few_tokens_without_an_embedding_are_the_rows_to_answer_for(copy: Path, tmp_path: Path) -> None:
    left = shrunk(copy, 2)
    model = open_model(ModelSpec(name=str(copy)))
    check_files(model, 4, head=True)
    note = vocabulary_note(model.tokenizer, model.info)
    assert note is not None
    assert f"2 token(s) without an embedding (from id {left}, {model.tokenizer.spelling(left)!r})" in note
    plan = Planner(tmp_path, copy)
    assert note in plan(**larf(tmp_path)).warnings


def test_an_added_token_beyond_the_embedding(copy: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.save_pretrained(copy)
    model = open_model(ModelSpec(name=str(copy)))
    assert "1 token(s) without an embedding" in (vocabulary_note(model.tokenizer, model.info) or "")
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "<|new|>")
    assert "its chat template writes the token '<|new|>'" in refusal(copy)


def test_a_padded_embedding_is_fine(copy: Path) -> None:
    change(copy / "config.json", vocab_size=512)
    assert open_model(ModelSpec(name=str(copy))).info.vocabulary == 512


def sharded(folder: Path) -> None:
    """The same weights in a file for each block, and one for the rest."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"part-{key.split('.')[2] if '.layers.' in key else 'rest'}.safetensors" for key in weights}
    for name in set(names.values()):
        part = {key: value for key, value in weights.items() if names[key] == name}
        safetensors.torch.save_file(part, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_a_missing_shard_matters_where_it_is_read(copy: Path) -> None:
    sharded(copy)
    check_files(open_model(ModelSpec(name=str(copy))), 4, head=True)
    (copy / "part-3.safetensors").unlink()
    assert "lacks part-3.safetensors" in refusal(copy)
    assert "lacks part-3.safetensors" in refusal(copy, head=True)
    check_files(open_model(ModelSpec(name=str(copy))), 3, head=False)


def test_a_base_model_without_its_head(copy: Path) -> None:
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    assert "lm_head.weight" in weights
    bare = {key: value for key, value in weights.items() if key != "lm_head.weight"}
    safetensors.torch.save_file(bare, copy / "model.safetensors", metadata={"format": "pt"})
    check_files(open_model(ModelSpec(name=str(copy))), 4, head=False)
    assert "there is no LM head (lm_head or embed_out)" in refusal(copy, head=True)
    # Tied to the embedding, it need not be there.
    change(copy / "config.json", tie_word_embeddings=True)
    check_files(open_model(ModelSpec(name=str(copy))), 4, head=True)


def test_the_plan_checks_what_the_layer_needs(copy: Path, tmp_path: Path) -> None:
    sharded(copy)
    (copy / "part-3.safetensors").unlink()
    plan = Planner(tmp_path, copy)
    assert plan(**larf(tmp_path)).requests[0].block == 1
    for layer in ("auto", "fisher"):
        with pytest.raises(ConfigError, match=r"lacks part-3\.safetensors"):
            plan(**{**larf(tmp_path), "larf.layer": layer})


@pytest.mark.parametrize("kind", ["no weights", "a shard", "code", "architecture", "vocabulary", "no head"])
def test_a_layer_search_is_refused_as_a_run_is(copy: Path, tmp_path: Path, kind: str) -> None:
    if kind == "no weights":
        (copy / "model.safetensors").unlink()
    elif kind == "a shard":
        sharded(copy)
        (copy / "part-rest.safetensors").unlink()
    elif kind == "no head":
        weights = safetensors.torch.load_file(copy / "model.safetensors")
        del weights["lm_head.weight"]
        safetensors.torch.save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    else:
        changes: dict[str, dict[str, Any]] = {
            "code": {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "evil.Model"}},
            "architecture": {"model_type": "nosuch"},
            "vocabulary": {"vocab_size": 300},
        }
        change(copy / "config.json", **changes[kind])
    plan = Planner(tmp_path, copy)
    searched = {**larf(tmp_path), "larf.layer": "auto"}
    messages = []
    for attempt in (lambda: plan_layers(load_layers_job(None, {**plan.job, **searched})), lambda: plan(**searched)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"model {copy}: ")
    assert "\n" not in messages[0]


def test_several_streams_matter_where_vectors_are_taken(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    vocabulary = json.loads((copy / "config.json").read_text())["vocab_size"]
    random_model(small_config(DeepseekV4Config, vocab_size=vocabulary)).save_pretrained(copy)
    model = open_model(ModelSpec(name=str(copy)))
    check_files(model, 3, head=True, vectors=False)
    with pytest.raises(ConfigError, match="not one state of width 32 a token"):
        check_files(model, 3, head=True)


def test_code_and_unknown_architectures(copy: Path) -> None:
    change(copy / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="nosuch")
    assert "set trust_remote_code if you trust the code" in refusal(copy)
    change(copy / "config.json", auto_map={})
    assert "model_type='nosuch'" in refusal(copy)


def test_code_beside_an_architecture_that_transformers_has_is_not_run(copy: Path) -> None:
    """As transformers does without trust: its own class takes the place of the code that the model brings."""
    mark = copy / "it_ran"
    (copy / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    before = open_model(ModelSpec(name=str(copy))).info
    change(
        copy / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"},
    )
    model = open_model(ModelSpec(name=str(copy)))
    check_files(model, 4, head=True)
    assert model.info == before
    assert not mark.exists()


HOSTILE = {
    "hidden_size": (10**9, "hidden_size=1,000,000,000; at most"),
    "vocab_size": (10**13, "vocab_size=10,000,000,000,000; at most"),
    "num_hidden_layers": (10**8, "num_hidden_layers=100,000,000; at most 1,024"),
    "num_attention_heads": (10**9, "at most"),
    "intermediate_size": (10**7, "at most"),
    "max_position_embeddings": (10**12, "max_position_embeddings=1,000,000,000,000; at most"),
    "num_labels": (10**9, "num_labels=1,000,000,000; at most"),
    "layer_types": (["full_attention"] * 10**5, "100,000 entries in layer_types"),
    "rms_norm_eps": (float("nan"), "rms_norm_eps=nan; a finite number is needed"),
    "auto_map": ("AutoModel", "auto_map='AutoModel'; it must be an object"),
    "model_type": (["llama"], "model_type=['llama']; it must be a text"),
    "architectures": ([1], "architectures that are not all names"),
    "quantization_config": ({"quant_method": "nowhere"}, "quantised"),
    "text_config": ({"model_type": "llama", "num_hidden_layers": 10**8}, "text_config.num_hidden_layers"),
}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_config_with_numbers_of_no_model(copy: Path, key: str) -> None:
    value, said = HOSTILE[key]
    change(copy / "config.json", **{key: value})
    assert said in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 900}, "num_hidden_layers=900, and its weights are of 4 blocks"),
        ({"hidden_size": 16384, "head_dim": 4096}, "parameters, and the weight files hold"),
        ({"intermediate_size": 10**6}, "parameters, and the weight files hold"),
        ({"vocab_size": 10**7}, "parameters, and the weight files hold"),
    ],
)
def test_a_config_that_the_weights_contradict(copy: Path, changes: dict[str, Any], said: str) -> None:
    change(copy / "config.json", **changes)
    assert said in refusal(copy)
    assert said in refusal(copy, head=True)


@pytest.mark.parametrize("text", ["{" * 100_000, '{"a":' * 100_000, '{"vocab_size": ' + "9" * 6000 + "}", "[1]", "5"])
def test_a_config_that_is_none(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    assert "config.json" in refusal(copy)


@pytest.mark.parametrize(
    "rope",
    [
        5,
        {"rope_type": "nowhere", "factor": 2},
        {"rope_type": "longrope", "factor": "x", "short_factor": [1], "long_factor": [1]},
        {"rope_type": "linear", "factor": -1e30},
        {"rope_type": ["linear"]},
    ],
)
def test_a_config_with_senseless_rotations(copy: Path, rope: Any) -> None:
    """Refused in one line, or without any meaning for the model."""
    change(copy / "config.json", rope_scaling=rope, rope_parameters=rope)
    said = ""
    try:
        check_files(open_model(ModelSpec(name=str(copy))), 4, head=True)
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(
    "asked", ["nobody/evil-kernels", "nobody/evil-kernels:attention", "eager", "flash_attention_2", {"": "eager"}, 5]
)
def test_the_attention_is_not_the_configs_to_choose(copy: Path, asked: Any) -> None:
    from tamis.operators.model.architecture import plan_cut, read_config

    names = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "experts_implementation")
    change(copy / "config.json", **dict.fromkeys(names, asked))
    check_files(open_model(ModelSpec(name=str(copy))), 4, head=True)
    config = read_config(copy, revision=None, trust_remote_code=False)
    assert (config._attn_implementation, config._experts_implementation) == (None, None)
    plan_cut(config, 1)
    assert config._attn_implementation == "sdpa"


def test_a_soft_cap_on_the_attention_is_never_left_to_a_kernel_without_one(tmp_path: Path) -> None:
    """transformers 5.17 gives Gemma 2 torch's attention, which has none."""
    from transformers import Gemma2Config

    from tamis.operators.model.architecture import read_config

    for cap, chosen in ((50.0, "eager"), (None, None)):
        Gemma2Config(attn_logit_softcapping=cap, architectures=["Gemma2ForCausalLM"]).save_pretrained(tmp_path)
        assert read_config(tmp_path, revision=None, trust_remote_code=False)._attn_implementation == chosen


def test_a_config_that_asks_for_more_than_is_read(copy: Path) -> None:
    from tamis.operators.model.architecture import read_config

    change(copy / "config.json", output_attentions=True, output_hidden_states=True)
    config = read_config(copy, revision=None, trust_remote_code=False)
    assert not config.output_attentions
    assert not config.output_hidden_states
    assert config._attn_implementation is None

"""The losses of single tokens, as the workers write them, against transformers and peft with the adapters merged."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plan_jobs import Planner, lines_of, rows_of

from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.token_losses import ADAPTER_FILES, LossSpec, ReferenceModel, TokenScorer, ragged
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_shard
from tamis.pipeline.errors import ConfigError, from_facts
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.storage.store import Sealed, Store

pytestmark = pytest.mark.usefixtures("one_thread")

ROLES = ("utility", "harmful")
TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Sure, first."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "The second."},
]


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two random adapters, and beside each the full model that it makes of the base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("adapters")
    for seed, role in enumerate(ROLES):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
        model.save_pretrained(folder / "artifact" / role)
        model.merge_and_unload().save_pretrained(folder / "full" / role)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "full" / role)
    return folder


def spec_for(store: Store, model: Path, references: dict[str, ReferenceModel], **changes: Any) -> LossSpec:
    settings: dict[str, Any] = {
        "store": store, "options": {}, "key": "k", "model": ModelHandle("tiny", str(model), None, device="cpu"),
        "token_budget": "auto", "attention": "padded", "compile": False, "exact": False, "max_tokens": 90,
        "overlong": "quarantine", "columns": (), "stage": "losses", "references": references,
    }  # fmt: skip
    return LossSpec(**{**settings, **changes})


def tokenised(shard: Shard, spec: LossSpec) -> pa.Table:
    tokenizer = PackedTokenizer.pack(ChatTokenizer.load(spec.model.source))
    return tokenise_shard(shard.to_json(), spec, tokenizer)


def scored(shard: Shard, spec: LossSpec) -> tuple[dict[str, Any], pa.Table]:
    """The receipt and the written table of one shard."""
    result = TokenScorer(spec)(tokenised(shard, spec))
    receipt = json.loads(result.column("receipt")[0].as_py())
    return receipt, spec.store.read_table(f"_work/{spec.stage}/{shard.name}.parquet")


def naive(model: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    """The loss of every token but the first, from the whole model in float64 past its logits."""
    import torch
    from transformers import AutoModelForCausalLM

    whole: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        logits = whole(torch.tensor([ids])).logits[0, :-1].double()
    losses: np.ndarray[Any, Any] = torch.nn.functional.cross_entropy(
        logits, torch.tensor(ids[1:]), reduction="none"
    ).numpy()
    return losses


def _sealed(store: Store, name: str) -> Sealed:
    return Sealed(name, hashlib.sha256(store.read(name)).hexdigest())


def kinds(adapters: Path) -> dict[str, dict[str, ReferenceModel]]:
    store = Store(str(adapters))
    on_base = {
        role: ReferenceModel(adapter=tuple(_sealed(store, f"artifact/{role}/{name}") for name in ADAPTER_FILES))
        for role in ROLES
    }
    whole = {role: ReferenceModel(model=str(adapters / "full" / role)) for role in ROLES}
    return {
        "two adapters": on_base,
        "two full models": whole,
        "one of each": {"utility": whole["utility"], "harmful": on_base["harmful"]},
    }


@pytest.mark.parametrize("kind", ["two adapters", "two full models", "one of each"])
def test_losses_are_those_of_the_merged_models(kind: str, tmp_path: Path, tiny_model: Path, adapters: Path) -> None:
    planner = Planner(tmp_path, tiny_model)
    long = {"prompt": "long", "response": "word " * 200}
    rows = [*rows_of(3), long, {"messages": TURNS}, {"prompt": "p", "response": ""}, *rows_of(2, words=1)]
    messages = [
        row if "messages" in row else {"messages": [
            {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
        for row in rows
    ]  # fmt: skip
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(messages))
    [shard] = planner("max_quarantined=0.9").shards
    references = kinds(adapters)[kind]
    receipt, table = scored(shard, spec_for(Store(str(adapters)), tiny_model, references))

    assert table.column("code").to_pylist() == [None] * 3 + ["overlong", None, "empty_response", None, None]
    assert receipt["quarantined"] == {"overlong": 1, "empty_response": 1}
    assert receipt["precision"] == "float32 on cpu"
    found = table.to_pylist()
    for row, original in zip(found, messages, strict=True):
        if row["code"] is not None:
            assert row["utility"] is row["harmful"] is row["input_ids"] is row["starts"] is None
            assert (row["n_tokens"], row["n_response_tokens"]) == (0, 0)
            continue
        answers = [turn for turn in original["messages"] if turn["role"] == "assistant"]
        assert len(row["starts"]) == len(row["stops"]) == len(answers)
        places = [at for start, stop in zip(row["starts"], row["stops"], strict=True) for at in range(start, stop)]
        assert row["n_response_tokens"] == len(places)
        for role in ROLES:
            expected = naive(adapters / "full" / role, row["input_ids"])[[place - 1 for place in places]]
            np.testing.assert_allclose(row[role], expected, rtol=0, atol=1e-4)
        assert np.abs(np.subtract(row["utility"], row["harmful"])).max() > 0.01
    assert len(found[4]["starts"]) == 2


def test_a_later_round_scores_one_model_and_writes_no_tokens(tmp_path: Path, tiny_model: Path, adapters: Path) -> None:
    planner = Planner(tmp_path, tiny_model)
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(6)))
    [shard] = planner().shards
    store, both = Store(str(adapters)), kinds(adapters)["two adapters"]
    _, first = scored(shard, spec_for(store, tiny_model, both))
    later = spec_for(store, tiny_model, {"harmful": both["harmful"]}, with_tokens=False, stage="losses-1")
    _, table = scored(shard, later)
    assert set(first.column_names) - set(table.column_names) == {"utility", "input_ids", "starts", "stops"}
    assert table.column("harmful").equals(first.column("harmful"))


def test_a_shard_without_a_usable_row(tmp_path: Path, tiny_model: Path, adapters: Path) -> None:
    planner = Planner(tmp_path, tiny_model)
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(3), b"{broken", b"{broken"]))
    shard = planner("max_quarantined=1", "shard_rows=3").shards[1]
    receipt, table = scored(shard, spec_for(Store(str(adapters)), tiny_model, kinds(adapters)["two adapters"]))
    assert receipt["tokens"] == 0
    assert table.column("utility").to_pylist() == [None, None]
    assert table.schema.field("utility").type == pa.large_list(pa.float32())


def test_an_adapter_of_another_model_is_told_with_each_shard(tmp_path: Path, slow_model: Path, adapters: Path) -> None:
    planner = Planner(tmp_path, slow_model)
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(3)))
    [shard] = planner().shards
    spec = spec_for(Store(str(adapters)), slow_model, kinds(adapters)["two adapters"])
    scorer = TokenScorer(spec)
    for _ in range(2):  # Ray may give this worker more shards before the first answer is read
        [said] = scorer(tokenised(shard, spec)).column("receipt").to_pylist()
        error = from_facts(json.loads(said)["error"])
        assert isinstance(error, ConfigError)
        assert re.search(r"the reference models cannot be used: .*another base model", str(error))


def test_adapter_files_are_those_of_peft(adapters: Path) -> None:
    assert {path.name for path in (adapters / "artifact" / "utility").iterdir()} >= set(ADAPTER_FILES)


def test_ragged_of_nothing() -> None:
    assert ragged([], pa.float32()).to_pylist() == []
    assert ragged([np.empty(0, np.float32), np.ones(2, np.float32)], pa.float32()).to_pylist() == [[], [1.0, 1.0]]

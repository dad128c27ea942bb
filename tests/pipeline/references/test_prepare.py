"""TOSS's reference models: what a job gives is checked and copied, and what a trained one depends on is in its key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from plan_jobs import Planner, lines_of, rows_of

from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.token_losses import ADAPTER_FILES
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.models.fetch import identity
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.references import prepare as reference_models
from tamis.pipeline.references.prepare import CURVE_POINTS, ReferenceModels, check_given, thinned
from tamis.pipeline.storage.store import Store

POOL = Pool(workers=1, cpus_per_worker=0.5, gpus_per_worker=0.0, threads=1, task_cpus=0.5)


class TossPlanner(Planner):
    """Plans a TOSS job over folder/data with folder/safe.jsonl as good and folder/unsafe.jsonl as harmful data."""

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder, model)
        self.job["method"] = "toss"
        self.references = {
            "toss.utility_references": str(folder / "safe.jsonl"),
            "toss.harmful_references": str(folder / "unsafe.jsonl"),
        }

    def __call__(self, *assignments: str, **overlay: Any) -> Plan:
        return super().__call__(*assignments, **{**self.references, **overlay})


@pytest.fixture
def planner(tmp_path: Path, tiny_model: Path) -> TossPlanner:
    return TossPlanner(tmp_path, tiny_model)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


def save_adapter(model: Path, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def models(plan: Plan, folder: Path) -> ReferenceModels:
    return ReferenceModels(plan, Store(str(folder / "out")), POOL)


# --- given models -------------------------------------------------------------------------------------------------


def test_a_given_adapter_is_copied_into_the_artifact(planner: TossPlanner, adapter: Path, tmp_path: Path) -> None:
    plan = planner(**{"toss.harmful_model": str(adapter)})
    assert {shard.role for shard in plan.reference_shards} == {"toss.utility"}
    check_given(plan)
    prepared = models(plan, tmp_path).prepare("harmful")
    assert prepared.reference.adapter == tuple((file["name"], file["sha256"]) for file in prepared.files)
    assert [file["name"] for file in prepared.files] == [
        f"artifact/references/harmful/{name}" for name in ADAPTER_FILES
    ]
    assert prepared.key == identity(str(adapter))
    assert (prepared.facts["how"], prepared.facts["source"]) == ("given", str(adapter))
    names = [f"artifact/references/harmful/{name}" for name in ADAPTER_FILES]
    assert [file["name"] for file in prepared.files] == names
    for name in ADAPTER_FILES:
        assert (tmp_path / "out/artifact/references/harmful" / name).read_bytes() == (adapter / name).read_bytes()


def test_a_given_full_model_stays_where_it_is(planner: TossPlanner, tiny_model: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    shutil.copytree(tiny_model, full)
    plan = planner(**{"toss.utility_model": str(full)})
    check_given(plan)
    prepared = models(plan, tmp_path).prepare("utility")
    assert (prepared.reference.adapter, prepared.reference.model) == (None, str(full))
    assert prepared.key == identity(str(full))
    assert prepared.files == []
    assert not (tmp_path / "out").exists()


def refused(planner: TossPlanner, given: Path | str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_given(planner(**{"toss.utility_model": str(given)}))
    assert "\n" not in str(caught.value)


def test_an_adapter_that_was_trained_on_other_tokens_is_refused(
    planner: TossPlanner, adapter: Path, tmp_path: Path, tiny_model: Path
) -> None:
    own = planner().fingerprint["tokenizer and template"]
    told = shutil.copytree(adapter, tmp_path / "told")
    (told / "training.json").write_text(json.dumps({"tokenizer and template": own}))
    check_given(planner(**{"toss.utility_model": str(told)}))
    (told / "training.json").write_text(json.dumps({"tokenizer and template": "of another"}))
    refused(planner, told, "toss.utility_model: .* another tokenizer or chat template")

    beside = shutil.copytree(adapter, tmp_path / "beside")
    for path in tiny_model.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            shutil.copy(path, beside)
    check_given(planner(**{"toss.utility_model": str(beside)}))
    tokenizer = json.loads((beside / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (beside / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(planner, beside, "another tokenizer or chat template")


def test_an_adapter_that_does_not_fit_is_refused(
    planner: TossPlanner, adapter: Path, slow_model: Path, tmp_path: Path
) -> None:
    refused(planner, save_adapter(slow_model, tmp_path / "foreign"), "toss.utility_model: .*another base model")
    for name in ADAPTER_FILES:
        half = shutil.copytree(adapter, tmp_path / f"without {name}")
        (half / name).unlink()
        refused(planner, half, f"{name}: cannot be read")
    pickled = shutil.copytree(adapter, tmp_path / "other kind")
    config = json.loads((pickled / "adapter_config.json").read_text())
    (pickled / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    refused(planner, pickled, "toss.utility_model: .*a LORA adapter is needed")


def test_a_full_model_that_cannot_be_used_is_refused(planner: TossPlanner, tiny_model: Path, tmp_path: Path) -> None:
    refused(planner, tmp_path / "nothing", "toss.utility_model: .* is not a folder")
    (tmp_path / "bare").mkdir()
    refused(planner, tmp_path / "bare", "toss.utility_model: ")
    small = shutil.copytree(tiny_model, tmp_path / "small")
    for path in small.glob("tokenizer*"):
        path.unlink()
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    refused(planner, small, "an embedding of 100 rows")


# --- reference sets -----------------------------------------------------------------------------------------------


def test_rows_are_tokenised_as_the_corpus_is(planner: TossPlanner, tmp_path: Path) -> None:
    plan = planner()
    rows = models(plan, tmp_path).rows("utility")
    tokenizer = ChatTokenizer.load(plan.model.path)
    texts = [tokenizer.pieces(row.input_ids.tolist()) for row in rows]
    assert len(rows) == 3
    for number, (row, pieces) in enumerate(zip(rows, texts, strict=True)):
        [(start, stop)] = row.responses
        assert "".join(pieces[start:stop]) == rows_of(3, 2)[number]["response"]


def test_a_set_that_changed_since_the_plan_is_refused(planner: TossPlanner, tmp_path: Path) -> None:
    plan = planner()
    (tmp_path / "safe.jsonl").write_bytes(lines_of([*rows_of(2, 2), {"prompt": "p", "response": ""}]))
    with pytest.raises(InputError):
        models(plan, tmp_path).rows("utility")


# --- the key ------------------------------------------------------------------------------------------------------


def key_of(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """The key under which the utility model is trained, and what else the training is given; nothing is trained."""
    seen: dict[str, Any] = {}

    def train(store: Store, name: str, key: str, *rest: Any, notes: Any, patience: float) -> dict[str, Any]:
        seen.update(name=name, key=key, notes=notes)
        return {"files": [], "curve": [], "seconds": {}, "rows": 3}

    monkeypatch.setattr(reference_models, "train_reference", train)
    prepared = models(plan, folder).prepare("utility")
    assert prepared.key == seen["key"]
    assert prepared.reference.adapter == (), "nothing was written here"
    assert "seconds" not in prepared.facts
    return seen["key"], seen


def test_a_trained_model_is_that_of_its_base_its_recipe_and_its_rows(
    planner: TossPlanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, seen = key_of(planner(), tmp_path, monkeypatch)
    assert seen["notes"] == {"tokenizer and template": planner().fingerprint["tokenizer and template"]}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/b.jsonl").write_bytes(lines_of(rows_of(4, 9)))
    for same in (
        ["shard_rows=3"], ["toss.discard=0.3"], ["toss.scope=sample"], ["method=toss-pro", "toss.rounds=2"],
        [f"input={tmp_path}/other"], [f"toss.harmful_references={tmp_path}/other/b.jsonl"],
        ["toss.training.checkpoint_steps=3"], ["workers=2"],
    ):  # fmt: skip
        assert key_of(planner(*same), tmp_path, monkeypatch)[0] == key, same
    others = [
        key_of(planner(*assignments), tmp_path, monkeypatch)[0]
        for assignments in (
            [f"toss.utility_references={tmp_path}/other/b.jsonl"], ["toss.training.rank=3"],
            ["toss.training.seed=1"], ["toss.training.learning_rate=0.5"], ["model.dtype=bfloat16"],
            ["max_tokens=99"], ["model.template='{{ messages[0].content }} {{ messages[1].content }}'"],
        )
    ]  # fmt: skip
    assert len({key, *others}) == len(others) + 1


@pytest.mark.parametrize("steps", [0, 1, 2, 199, 200, 201, 400, 401, 5000])
def test_a_long_curve_is_thinned_to_its_ends_and_even_steps(steps: int) -> None:
    curve = list(range(steps))
    found = thinned(curve)
    assert found == sorted(set(found))
    assert len(found) <= CURVE_POINTS + 1
    assert not steps or (found[0], found[-1]) == (0, steps - 1)
    assert steps > CURVE_POINTS or found == curve


# --- rows that cannot be used -------------------------------------------------------------------------------------


def test_a_few_bad_rows_of_a_large_reference_set_are_left_out(
    planner: TossPlanner, tmp_path: Path, tiny_model: Path
) -> None:
    rows = [*rows_of(150), {"prompt": "p", "response": ""}, *rows_of(50)]
    (tmp_path / "many.jsonl").write_bytes(lines_of(rows))
    plan = planner(**{"toss.utility_references": str(tmp_path / "many.jsonl")})
    assert any(
        "1 of 201 toss.utility references cannot be used" in note and "row 150" in note for note in plan.warnings
    )
    assert len(models(plan, tmp_path).rows("utility")) == 200
    few = [*rows_of(20), {"prompt": "p", "response": ""}]
    (tmp_path / "few.jsonl").write_bytes(lines_of(few))
    with pytest.raises(InputError, match="1 reference row"):
        planner(**{"toss.utility_references": str(tmp_path / "few.jsonl")})

"""What is kept of the model serves the next command of a run, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_jobs import Planner, larf

from tamis.operators.conversation.conversation import Conversation
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.checks import OpenedModel, open_model
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run import paths
from tamis.pipeline.run.folder import begin
from tamis.pipeline.storage.store import Store

CHAT = [{"role": "user", "content": "Who are you? <|im_end|>"}, {"role": "assistant", "content": "I am a test."}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of which models the configuration was read, as transformers does."""
    from tamis.operators.model import architecture

    found: list[str] = []
    whole = architecture.describe_model

    def counted(path: Any, **options: Any) -> Any:
        found.append(str(path))
        return whole(path, **options)

    monkeypatch.setattr(architecture, "describe_model", counted)
    return found


def kept(store: Store, model: Path, **spec: Any) -> OpenedModel:
    opened = open_model(ModelSpec(name=str(model), **spec), {}, store)
    opened.keep(store)
    return opened


def encoded(opened: OpenedModel) -> list[int]:
    [row] = opened.tokenizer.encode([Conversation(CHAT)], max_tokens=500, overlong="quarantine")
    ids: list[int] = row.input_ids.tolist()  # type: ignore[union-attr]
    return ids


def test_the_next_command_finds_the_same_model(store: Store, model: Path, described: list[str]) -> None:
    first = kept(store, model)
    second = kept(store, model)
    assert (first.known, second.known) == (False, True)
    assert len(described) == 1
    assert second.keys == first.keys
    assert (second.info, second.source) == (first.info, first.source)
    assert encoded(second) == encoded(first)
    assert second.tokenizer.highest_id == first.tokenizer.highest_id
    assert second.tokenizer.control_ids == first.tokenizer.control_ids
    assert second.tokenizer.has_template == first.tokenizer.has_template


def a_setting(model: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 77}))


def a_weight(model: Path) -> None:
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def the_tokenizer(model: Path) -> None:
    path = model / "tokenizer.json"
    path.write_text(path.read_text() + " ")


def a_file_that_only_some_tokenizers_have(model: Path) -> None:
    (model / "merges.txt").write_text("a b")


def a_vocabulary_of_another_kind(model: Path) -> None:
    (model / "words.tiktoken").write_bytes(b"YQ== 0")


def a_named_template(model: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize(
    "change",
    [
        a_setting,
        a_weight,
        the_tokenizer,
        a_file_that_only_some_tokenizers_have,
        a_vocabulary_of_another_kind,
        a_named_template,
    ],
)
def test_another_content_is_another_model(
    store: Store, model: Path, described: list[str], change: Callable[[Path], None]
) -> None:
    kept(store, model)
    change(model)
    assert not kept(store, model).known
    assert len(described) == 2
    assert kept(store, model).known  # what is kept is of the changed one now
    assert len(described) == 2


def test_a_gpt_2_tokenizer_that_changed_is_seen(store: Store, model: Path) -> None:
    """It may lie in vocab.json and merges.txt alone."""
    (model / "tokenizer.json").unlink()
    config = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "a", "bos_token": "a", "eos_token": "a"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}))
    fingerprints = []
    for merge in ("a b", "b c"):
        (model / "merges.txt").write_text(f"#version: 0.2\n{merge}\n")
        fingerprints.append(kept(store, model).tokenizer.fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_what_is_allowed_decides_whether_it_was_checked(store: Store, model: Path) -> None:
    assert not kept(store, model, allow_pickle_weights=True).known
    assert not kept(store, model).known


def test_another_template_is_another_tokenizer(store: Store, model: Path, described: list[str]) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    own, given = kept(store, model), kept(store, model, template=template)
    assert len(described) == 2
    assert encoded(own) != encoded(given)
    assert encoded(kept(store, model, template=template)) == encoded(given)
    assert len(described) == 2


def test_other_libraries_look_for_themselves(
    store: Store, model: Path, described: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(store, model)
    whole = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" if name == "transformers" else whole(name))
    kept(store, model)
    assert len(described) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree["info"].update(blocks=3),
        lambda tree: tree.update(tokenizer=tree["tokenizer"].replace("messages", "massages")),
        lambda tree: tree.update(tokenizer=7),
        lambda tree: tree.pop("info"),
        lambda tree: tree["stamp"].pop("sha256"),
    ],
)
def test_what_was_damaged_is_not_used(
    store: Store, model: Path, described: list[str], damage: Callable[[Any], Any]
) -> None:
    first = kept(store, model)
    tree = store.read_json(paths.PLANNED_MODEL)
    damage(tree)
    store.write_json(paths.PLANNED_MODEL, tree)
    assert kept(store, model).keys == first.keys
    assert len(described) == 2


def test_what_is_no_json_is_not_used(store: Store, model: Path, described: list[str]) -> None:
    kept(store, model)
    store.write(paths.PLANNED_MODEL, b"\x00 no JSON")
    kept(store, model)
    assert len(described) == 2


def test_code_of_a_model_is_never_taken_as_known(store: Store, model: Path, described: list[str]) -> None:
    for _ in range(2):
        kept(store, model, trust_remote_code=True)
    assert len(described) == 2
    assert not store.exists(paths.PLANNED_MODEL)


def test_nothing_is_kept_where_nobody_asks(store: Store, model: Path) -> None:
    open_model(ModelSpec(name=str(model)), {}, store)
    assert not store.exists(paths.PLANNED_MODEL)


def test_a_model_that_is_gone_is_named(store: Store, model: Path) -> None:
    kept(store, model)
    shutil.rmtree(model)
    with pytest.raises(ConfigError, match=r"model\.name"):
        kept(store, model)


# --- in a plan --------------------------------------------------------------------------------------------------


def begun(plan: Plan) -> None:
    """What `tamis curate` does when it begins."""
    store = Store(plan.job.output)
    begin(store, {"fingerprint": dict(plan.fingerprint)})
    plan.opened.keep(store)


IMPORTS = """
import json, sys
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import make_plan
import tamis.pipeline.recipes.samples
make_plan(load_job(None, json.loads(sys.argv[1]), []))
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("layer", [1, "auto"])
def test_a_run_that_goes_on_need_not_import_torch_to_know_its_model(
    tmp_path: Path, tiny_model: Path, layer: Any
) -> None:
    """It takes seconds, which a resumed run has better use for."""
    plan = Planner(tmp_path, tiny_model)
    job = {**plan.job, **larf(tmp_path), "larf.layer": layer}

    def imports() -> str:
        command = [sys.executable, "-c", IMPORTS, json.dumps(job)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert imports() == "['torch', 'transformers']\n"
    begun(plan(**job))
    assert imports() == "[]\n"


def test_a_model_that_was_damaged_since_the_run_began_is_found(tmp_path: Path, tiny_model: Path) -> None:
    plan = Planner(tmp_path, tiny_model)
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    begun(plan(model=str(model)))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        plan(model=str(model))

"""`tamis export`: what it writes is what the trainers are fed, by transformers and TRL themselves."""

from __future__ import annotations

import importlib
import json
import runpy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    default_data_collator,
)

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.commands.export import COLUMNS, export
from tamis.pipeline.commands.trainers import MESSAGES, TRAINERS
from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

Row = dict[str, Any]
TYPES = [pa.int32(), pa.int8(), pa.int64(), pa.float32()]
# Prompt of three tokens, then the answer, of which every third token is discarded.
ROWS: list[Row] = [
    {
        "input_ids": list(range(20, 24 + length)),
        "attention_mask": [1] * (4 + length),
        "labels": [-100] * 3 + [token if token % 3 else -100 for token in range(23, 24 + length)],
        "token_risk": [None] * 3 + [token / 8 for token in range(23, 24 + length)],
    }
    for length in (3, 9, 5, 5)
]


def run_of(folder: Path, model: Path, tables: Mapping[str, pa.Table], **facts: Any) -> Store:
    """The output of a finished run with these tables in kept/."""
    store = Store(str(folder / "out"))
    files = [store.write_table(f"kept/{name}.parquet", table).to_dict() for name, table in tables.items()]
    job = {"model": {"name": str(model), "revision": None, "trust_remote_code": False}}
    rows = sum(table.num_rows for table in tables.values())
    store.write_facts(MANIFEST, {"fingerprint": {}, "job": job, "counts": {"kept": rows}, "files": files, **facts})
    return store


@pytest.fixture
def masked(tmp_path: Path, tiny_model: Path) -> Store:
    schema = pa.schema([("text", pa.string()), *zip([*COLUMNS, "token_risk"], map(pa.list_, TYPES), strict=True)])
    table = pa.Table.from_pylist([{"text": "t", **row} for row in ROWS], schema=schema)
    parts = {"000000-a": table.slice(0, 1), "000001-b": table.slice(0, 0), "000002-c": table.slice(1)}
    return run_of(tmp_path, tiny_model, parts, kind="tokens")


def exported(store: Store, trainer: str, folder: Path) -> tuple[Path, str]:
    found = export(store, trainer, Store(str(folder / "export")))
    assert found.rows == len(ROWS)
    return folder / "export", found.start


# --- what trainers are fed ----------------------------------------------------------------------------------------


def noted(model: torch.nn.Module) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The (tokens, labels) of the rows that reach the model, padding taken off; filled while it trains."""
    rows = []

    def note(_model: Any, _positional: Any, named: dict[str, Any]) -> None:
        for ids, labels, mask in zip(named["input_ids"], named["labels"], named["attention_mask"], strict=True):
            real = mask.bool()
            assert (labels[~real] == -100).all()
            rows.append((tuple(ids[real].tolist()), tuple(labels[real].tolist())))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return rows


@pytest.mark.parametrize("trainer", ["transformers", "trl"])
def test_the_script_trains_on_exactly_these_labels(
    trainer: str, masked: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trainer == "trl":
        pytest.importorskip("trl")
    folder, start = exported(masked, trainer, tmp_path)
    monkeypatch.chdir(tmp_path)
    fed: list[Any] = []
    train = Trainer.train

    def noting(self: Trainer, *arguments: Any, **options: Any) -> Any:
        fed.append(noted(self.model))
        return train(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "train", noting)
    with torch.random.fork_rng():
        made = runpy.run_path(str(folder / start))
    assert made["trainer"].state.global_step == 2
    assert set(fed[0]) == {(tuple(row["input_ids"]), tuple(row["labels"])) for row in ROWS}
    assert len(fed[0]) == 2 * len(ROWS)
    assert (tmp_path / "trained" / "config.json").exists()


def test_masked_tokens_have_no_gradient(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    batch = DataCollatorForSeq2Seq(tokenizer_of(tiny_model))([{name: row[name] for name in COLUMNS} for row in ROWS])
    logits = model(**{name: batch[name] for name in COLUMNS[:2]}).logits
    logits.retain_grad()
    model.loss_function(logits=logits, labels=batch["labels"], vocab_size=model.config.vocab_size).backward()
    assert logits.grad is not None
    learned = logits.grad.abs().sum(dim=-1)[:, :-1] > 0
    assert torch.equal(learned, batch["labels"][:, 1:] != -100)
    assert learned.any()


def tokenizer_of(model: Path) -> Any:
    return AutoTokenizer.from_pretrained(model)


@pytest.mark.parametrize(
    "collator",
    [
        lambda _: default_data_collator,
        DataCollatorWithPadding,
        lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ],
)
def test_other_collators_of_transformers_fail_on_the_labels(collator: Callable[[Any], Any], tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"expected sequence of length|Unable to create tensor"):
        collator(tokenizer_of(tiny_model))([{name: row[name] for name in COLUMNS} for row in ROWS])


def test_and_one_overwrites_them_where_rows_are_of_one_length(tiny_model: Path) -> None:
    rows = [{name: row[name] for name in COLUMNS} for row in ROWS[2:]]
    batch = DataCollatorForLanguageModeling(tokenizer_of(tiny_model), mlm=False)(rows)
    assert batch["labels"].tolist() == [row["input_ids"] for row in rows]


# --- what the others read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != MESSAGES])
def test_a_masked_corpus_is_what_save_to_disk_writes(trainer: str, masked: Store, tmp_path: Path) -> None:
    folder, start = exported(masked, trainer, tmp_path)
    found = datasets.load_from_disk(str(folder / "dataset"))
    if trainer == "llama-factory":
        found = found["train"]
    assert found.column_names == COLUMNS
    assert found.to_list() == [{name: row[name] for name in COLUMNS} for row in ROWS]
    assert str(folder / "dataset") in (folder / start).read_text()


def test_the_configs_name_data_and_model_and_cut_nothing(masked: Store, tmp_path: Path, tiny_model: Path) -> None:
    folder, start = exported(masked, "axolotl", tmp_path / "a")
    config = yaml.safe_load((folder / start).read_text())
    assert config["base_model"] == str(tiny_model)
    assert config["datasets"] == [{"path": str(folder / "dataset")}]
    assert (config["sequence_len"], config["excess_length_strategy"]) == (13, "raise")
    folder, start = exported(masked, "llama-factory", tmp_path / "l")
    config = yaml.safe_load((folder / start).read_text())
    assert config["model_name_or_path"] == str(tiny_model)
    assert config["tokenized_path"] == str(folder / "dataset")
    assert not (folder / "dataset_info.json").exists()


def test_torchtune_is_handed_the_tokens_and_the_labels(
    masked: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, start = exported(masked, "torchtune", tmp_path)
    assert start == "torchtune.yaml"
    config = yaml.safe_load((folder / start).read_text())["dataset"]
    module, _, builder = config.pop("_component_").partition(".")
    monkeypatch.syspath_prepend(str(folder))  # `tune run` looks where it is started
    rows = getattr(importlib.import_module(module), builder)("the tokenizer of the config", **config)
    found = [rows[place] for place in range(len(rows))]
    assert found == [{"tokens": row["input_ids"], "labels": row["labels"]} for row in ROWS]


def test_text_cannot_say_which_tokens_are_masked(masked: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--for messages: text cannot say which tokens are masked"):
        export(masked, "messages", Store(str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


# --- runs that dropped samples ------------------------------------------------------------------------------------


def dropped(folder: Path, model: Path, *layouts: Dialect, **facts: Any) -> Store:
    files = [{"columns": layout.to_dict()} for layout in layouts]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    others = ("conversations", "system", "instruction", "input", "output", "chosen")
    table = pa.table({"messages": [chat] * 4, "tools": [[]] * 4, **{name: ["x"] * 4 for name in others}})
    return run_of(folder, model, {"000000-a": table}, input={"files": files}, **facts)


MESSAGES = Dialect.of("messages", messages="messages", system="in_no_row")


def test_text_is_copied_and_described(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = replace(MESSAGES, seen=("messages",))
    store = dropped(tmp_path, tiny_model, MESSAGES, others)
    folder, start = exported(store, "llama-factory", tmp_path / "l")
    entry = json.loads((folder / "dataset_info.json").read_text())["kept_by_tamis"]
    assert entry["columns"] == {"messages": "messages"}
    assert (folder / entry["file_name"] / "000000-a.parquet").read_bytes() == store.read("kept/000000-a.parquet")
    assert yaml.safe_load((folder / start).read_text())["dataset"] == "kept_by_tamis"
    folder, start = exported(store, "axolotl", tmp_path / "a")
    [entry] = yaml.safe_load((folder / start).read_text())["datasets"]
    assert (entry["type"], entry["field_messages"]) == ("chat_template", "messages")
    assert datasets.load_dataset(
        "parquet", data_files=entry["data_files"], split="train", cache_dir=str(tmp_path / "c")
    )
    pytest.importorskip("trl")
    folder, start = exported(store, "trl", tmp_path / "t")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with torch.random.fork_rng():
        assert runpy.run_path(str(folder / start))["trainer"].state.global_step == 2


@pytest.mark.parametrize(("trainer", "key"), [("axolotl", "revision_of_model"), ("llama-factory", "model_revision")])
def test_every_config_names_the_revision_and_allows_the_code_that_the_run_did(
    trainer: str, key: str, masked: Store, tmp_path: Path, tiny_model: Path
) -> None:
    job = {"model": {"name": str(tiny_model), "revision": "v2", "trust_remote_code": True}}
    text = dropped(tmp_path / "of_text", tiny_model, MESSAGES, job=job)
    masked.write_facts(MANIFEST, {**masked.read_facts(MANIFEST), "job": job})
    for store, place in ((masked, tmp_path / "m"), (text, tmp_path / "t")):
        folder, start = exported(store, trainer, place)
        config = yaml.safe_load((folder / start).read_text())
        assert (config[key], config["trust_remote_code"]) == ("v2", True)


TOOLS = Dialect.of("messages", messages="messages", tools="tools")
OASST = Dialect.of("oasst", messages="messages")
SPOKEN = Dialect.of("messages", messages="messages", system="system")
SHAREGPT = Dialect.of("sharegpt", conversations="conversations")
ALPACA = Dialect.of("alpaca", instruction="instruction", input="input", output="output", system="system")
TEXT = Dialect.of("text", text="chosen")


@pytest.mark.parametrize(
    ("trainer", "layouts", "facts", "said"),
    [
        ("nemo", [MESSAGES], {}, "--for nemo: there is transformers, trl, axolotl, llama-factory"),
        ("transformers", [MESSAGES], {}, "its Trainer reads tokens, and this run kept text; use --for trl"),
        ("trl", [SHAREGPT], {}, r"it reads a column messages, .*; the run has read sharegpt \(conversations\)"),
        ("trl", [SPOKEN], {}, r"it reads a column messages, .*; the run has read messages \(system, messages\)"),
        ("axolotl", [OASST], {}, r"it reads lists of turns, .*; the run has read oasst \(messages\)"),
        ("llama-factory", [TOOLS], {}, r"it reads lists of turns, .*; the run has read messages \(messages; tools\)"),
        ("axolotl", [ALPACA], {}, r"it reads lists of turns, .*; the run has read alpaca \(system, instruction, input"),
        ("llama-factory", [TEXT], {}, r"it reads lists of turns, .*; the run has read text \(chosen\)"),
        ("llama-factory", [MESSAGES], {"json_columns": ["tools[]"]}, r"cannot read JSON as in tools\[\]"),
        ("trl", [MESSAGES, SHAREGPT], {}, "hold conversations in 2 layouts"),
        ("trl", [MESSAGES], {"counts": {"kept": 0}}, "kept has no rows"),
    ],
)
def test_what_a_trainer_cannot_read_is_refused(
    trainer: str, layouts: list[Dialect], facts: Row, said: str, tmp_path: Path, tiny_model: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        export(dropped(tmp_path, tiny_model, *layouts, **facts), trainer, Store(str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


def test_folders_that_are_not_right_are_refused(masked: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run here"):
        export(Store(str(tmp_path / "nothing")), "trl", Store(str(tmp_path / "export")))
    with pytest.raises(ConfigError, match="lies in the output of the run"):
        export(masked, "trl", Store(str(tmp_path / "out/kept/export")))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(ConfigError, match="full holds something already"):
        export(masked, "trl", Store(str(tmp_path / "full")))
    manifest = masked.read_facts(MANIFEST)
    strange = [*manifest["files"], {"name": "kept/../../x.parquet", "bytes": 1, "sha256": "x"}]
    masked.write_facts(MANIFEST, {**manifest, "files": strange})
    with pytest.raises(ConfigError, match=r"x\.parquet. is no name of a file of this folder"):
        export(masked, "trl", Store(str(tmp_path / "export")))
    masked.write_facts(MANIFEST, manifest)
    (tmp_path / "out/kept/000002-c.parquet").write_bytes(b"PAR1 other")
    with pytest.raises(DamagedError, match="is not as it was written"):
        export(masked, "trl", Store(str(tmp_path / "export")))
    assert not (tmp_path / "export/train.py").exists()

"""Mistakes in a TOSS job: one line, the exit code for its kind, and no work started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import tamis
from outputs import alpaca_rows, write_jsonl
from token_outputs import reference_rows, sets

NOWHERE = ("--address", "127.0.0.1:1")
"""A command that gets as far as Ray fails with exit code 5."""
CANARY = "kanarienvogel"


@dataclass(frozen=True)
class Sources:
    folder: Path
    model: Path
    other_model: Path


@pytest.fixture(scope="module")
def sources(tiny_model: Path, slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A corpus, both reference sets, and adapters of the model and of another one."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("mistakes")
    write_jsonl(folder / "data.jsonl", alpaca_rows(20, seed=1))
    write_jsonl(folder / "utility.jsonl", reference_rows(4, seed=2))
    write_jsonl(folder / "harmful.jsonl", reference_rows(4, seed=3))
    write_jsonl(folder / "unanswered.jsonl", [*reference_rows(2, seed=4), {"messages": [user(CANARY)]}])
    (folder / "empty.jsonl").write_bytes(b"")
    for name, model in (("adapter", tiny_model), ("foreign", slow_model)):
        with torch.random.fork_rng():
            config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
            get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder / name)
    template = shutil.copytree(folder / "adapter", folder / "template")
    (template / "training.json").write_text(json.dumps({"tokenizer and template": "another"}))
    half = shutil.copytree(folder / "adapter", folder / "half")
    (half / "adapter_model.safetensors").unlink()
    for kind, row in (("typed", {"labels": 1}), ("nested", {"meta": {"labels": 1}})):
        rows = [{**original, **row} for original in alpaca_rows(5, seed=5)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{kind}.parquet")
    return Sources(folder, tiny_model, slow_model)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def job(sources: Sources, **toss: Any) -> dict[str, Any]:
    references = {f"{role}_references": str(sources.folder / f"{role}.jsonl") for role in ("utility", "harmful")}
    return {
        "input": str(sources.folder / "data.jsonl"),
        "output": "out",
        "model": str(sources.model),
        "method": "toss",
        "toss": {**references, **toss},
    }


Change = Callable[[Sources], dict[str, Any]]
MISTAKES: dict[str, tuple[int, Change, list[object], list[str]]] = {
    "no good data": (2, lambda s: job(s, utility_references=None), [], ["toss.utility_references", "utility_model"]),
    "discard 0": (2, lambda s: job(s, discard=0), [], ["toss.discard", "0"]),
    "discard 1": (2, lambda s: job(s, discard=1), [], ["toss.discard", "1"]),
    "discard 1.5": (2, lambda s: job(s, discard=1.5), [], ["toss.discard", "1.5"]),
    "a share of samples": (2, job, ["--drop", "0.2"], ["toss masks tokens", "toss.discard"]),
    "two methods": (2, job, ["--method", "toss", "--method", "larf"], ["toss masks tokens and runs by itself"]),
    "rounds without their data": (
        2,
        lambda s: {**job(s, harmful_references=None, harmful_model="m"), "method": "toss-pro"},
        [],
        ["toss.harmful_model", "toss.harmful_references"],
    ),
    "a slip of the pen": (2, lambda s: job(s, discrad=0.1), [], ["unknown key toss.discrad", "mean toss.discard?"]),
    "an empty reference file": (3, lambda s: job(s, utility_references=at(s, "empty.jsonl")), [], ["empty.jsonl"]),
    "a missing reference file": (3, lambda s: job(s, harmful_references=at(s, "none.jsonl")), [], ["none.jsonl"]),
    "a reference without an answer": (
        3,
        lambda s: job(s, harmful_references=at(s, "unanswered.jsonl")),
        [],
        ["harmful", "unanswered.jsonl", "row 2"],
    ),
    "a column of ours": (2, lambda s: {**job(s), "input": at(s, "typed.parquet")}, [], ["column labels"]),
    "an adapter of another model": (
        2,
        lambda s: job(s, harmful_model=at(s, "foreign")),
        [],
        ["toss.harmful_model", "another base model"],
    ),
    "an adapter of another template": (
        2,
        lambda s: job(s, utility_model=at(s, "template")),
        [],
        ["toss.utility_model", "another tokenizer or chat template"],
    ),
    "half an adapter": (2, lambda s: job(s, utility_model=at(s, "half")), [], ["adapter_model.safetensors"]),
    "a model that is not there": (2, lambda s: job(s, utility_model=at(s, "nothing")), [], ["toss.utility_model"]),
}


def at(sources: Sources, name: str) -> str:
    return str(sources.folder / name)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_trained(mistake: str, sources: Sources, tmp_path: Path) -> None:
    rc, change, flags, words = MISTAKES[mistake]
    (tmp_path / "job.yaml").write_text(json.dumps(change(sources)))
    ran = tamis("curate", "job.yaml", *flags, *NOWHERE, cwd=tmp_path)
    assert ran.rc == rc, ran.output
    assert ran.stderr.startswith("error: ")
    assert all(word in ran.stderr for word in words), ran.stderr
    # If files or rows are named, each has a line below.
    assert len([line for line in ran.stderr.splitlines() if not line.startswith("  - ")]) == 1
    assert CANARY not in ran.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_column_inside_another_is_no_mistake(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps({**job(sources), "input": str(sources.folder / "nested.parquet")}))
    ran = tamis("plan", "job.yaml", cwd=tmp_path)
    assert ran.rc == 0, ran.output


def test_only_masking_methods_have_references(sources: Sources, tmp_path: Path) -> None:
    tree = {**job(sources), "method": "saft"}
    (tmp_path / "job.yaml").write_text(json.dumps(tree))
    ran = tamis("references", "job.yaml", *NOWHERE, cwd=tmp_path)
    assert (ran.rc, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: method: saft needs no reference models")


def test_good_files_get_as_far_as_ray(sources: Sources, tmp_path: Path) -> None:
    """Otherwise the refusals above would show nothing."""
    given = job(sources, utility_model=str(sources.folder / "adapter"), harmful_model=str(sources.model))
    (tmp_path / "job.yaml").write_text(json.dumps(given))
    ran = tamis("curate", "job.yaml", *NOWHERE, *sets("shard_rows=5"), cwd=tmp_path)
    assert ran.rc == 5, ran.output
    assert "no Ray cluster answers" in ran.stderr


def test_a_column_of_ours_in_json_is_found_once_its_rows_are_read(
    sources: Sources, tmp_path: Path, ray_address: str
) -> None:
    write_jsonl(tmp_path / "data.jsonl", [*alpaca_rows(3, seed=6), {**alpaca_rows(1, seed=7)[0], "labels": CANARY}])
    given = {f"{role}_model": at(sources, "adapter") for role in ("utility", "harmful")}
    (tmp_path / "job.yaml").write_text(json.dumps({**job(sources, **given), "input": str(tmp_path / "data.jsonl")}))
    ran = tamis("curate", "job.yaml", "--address", ray_address, cwd=tmp_path)
    assert ran.rc == 2, ran.output
    assert ran.stderr.splitlines()[-1].startswith("error: the corpus has a column labels")
    assert CANARY not in ran.output
    assert not (tmp_path / "out" / "kept").exists()

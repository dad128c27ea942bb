"""The fingerprint: it changes with all that changes the result, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import fsspec
import pytest
from plan_jobs import Planner, larf, lines_of, rows_of
from pydantic import BeforeValidator

from tamis.pipeline.job.job_file import Job, _with_methods
from tamis.pipeline.job.sections import InputSpec, ModelSpec, Section, SelectionSpec
from tamis.pipeline.models import keys as model_keys
from tamis.pipeline.planning.fingerprint import NO_MATTER, OTHERWISE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def plan(folder: Path, tiny_model: Path) -> Planner:
    return Planner(folder, tiny_model)


def test_the_same_job_has_the_same_fingerprint(plan: Planner, folder: Path) -> None:
    first = plan(**larf(folder)).fingerprint
    assert plan(**larf(folder)).fingerprint == first
    assert json.loads(json.dumps(first)) == first  # it is compared with one that was read back


@pytest.mark.parametrize(
    "assignment",
    [
        "workers=1",
        "keep_captures=true",
        "max_quarantined=0.5",
        "seed=7",
        "model.gpus_per_worker=0.5",
        "output=elsewhere",
        "selection.drop=0.1",
        "selection.by=saft",
        "selection.allow_majority=true",
        "storage_options={anon: true}",
        "larf.layer=2",
        "max_tokens=5000",
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_fingerprint(plan: Planner, assignment: str) -> None:
    # The default max_tokens is what this model takes at most: 5000 is lowered to the same.
    assert plan(assignment).fingerprint == plan().fingerprint


@pytest.mark.parametrize(
    ("assignment", "keys"),
    [
        ("max_tokens=500", {"max_tokens"}),
        ("overlong=keep_end", {"overlong"}),
        ("model.dtype=bfloat16", {"model.dtype"}),
        ("model.device=cpu", {"model.device"}),
        ("model.token_budget=100", {"model.token_budget"}),
        ("model.attention=packed", {"model.attention"}),
        ("model.compile=true", {"model.compile"}),
        ("model.exact=true", {"model.exact"}),
        ("saft.layer=1", {"saft.layer"}),
        ("saft.k=2", {"saft.k"}),
        ("saft.weighted=true", {"saft.weighted"}),
        ("saft.position=response_mean", {"saft.position"}),
        ("selection.drop=0.2", {"selection.drop"}),
        ("selection.drop_count=5", {"selection.drop", "selection.drop_count"}),
        ("selection.control=random", {"selection.control", "seed"}),
        ("shard_rows=20", {"input"}),
        ("sample_id=true", {"sample_id"}),
        ("file_size=1 MB", {"file_size"}),
        ("input.columns={prompt: response, response: prompt}", {"input"}),
        ("model.template='{% for m in messages %}{{ m.content }}{% endfor %}'", {"tokenizer and template"}),
    ],
)
def test_every_setting_that_counts_is_in_the_fingerprint(plan: Planner, assignment: str, keys: set[str]) -> None:
    assert differing(plan().fingerprint, plan(assignment).fingerprint) == keys


@pytest.mark.parametrize(
    ("assignment", "keys"),
    [
        ("larf.refusal_markers=[nope]", {"larf.refusal_markers"}),
        ("larf.over_rejection_prompts={folder}/prompts.jsonl", {"larf.over_rejection_prompts"}),
    ],
)
def test_what_the_search_depends_on_counts_where_it_decides(
    plan: Planner, folder: Path, assignment: str, keys: set[str]
) -> None:
    (folder / "prompts.jsonl").write_bytes(lines_of([{"prompt": "How do I kill a process?"}]))
    assignment = assignment.format(folder=folder)
    searched = {**larf(folder), "larf.layer": "auto"}
    assert differing(plan(**searched).fingerprint, plan(assignment, **searched).fingerprint) == keys
    for layer in (1, "fisher"):
        other = {**larf(folder), "larf.layer": layer}
        assert plan(assignment, **other).fingerprint == plan(**other).fingerprint


def test_the_content_of_the_prompts_counts_and_not_their_place(plan: Planner, folder: Path) -> None:
    def made(name: str, *prompts: str) -> Any:
        (folder / name).write_bytes(lines_of([{"prompt": prompt} for prompt in prompts]))
        overlay = {**larf(folder), "larf.layer": "auto", "larf.over_rejection_prompts": str(folder / name)}
        return plan(**overlay).fingerprint

    assert made("a.jsonl", "one", "two") == made("b.jsonl", "one", "two")
    assert differing(made("a.jsonl", "one", "two"), made("b.jsonl", "two", "one")) == {"larf.over_rejection_prompts"}


def test_what_joins_alpaca_rows_counts_where_there_are_some(plan: Planner, folder: Path) -> None:
    joined = r'input.join="\n\n"'
    assert plan(joined).fingerprint == plan().fingerprint
    lines = lines_of([{"instruction": "a", "input": "b", "output": "c"}] * 40)
    (folder / "data/a.jsonl").write_bytes(lines)
    assert differing(plan().fingerprint, plan(joined).fingerprint) == {"input", "input.join"}


def test_what_joins_alpaca_references_counts_for_the_ratios_too(plan: Planner, folder: Path) -> None:
    (folder / "safe.jsonl").write_bytes(lines_of([{"instruction": "a", "input": "b", "output": "c"}] * 4))
    asked = {**larf(folder), "larf.layer": "fisher"}
    one, two = plan(**asked), plan("input.join=' '", **asked)
    assert differing(one.fingerprint, two.fingerprint) == {"input.join"}
    assert one.layers is not None
    assert two.layers is not None
    assert differing(one.layers.fisher_keys, two.layers.fisher_keys) == {"input.join"}


def every_setting(kind: type[Section]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        section = field.annotation
        yield name
        if isinstance(section, type) and issubclass(section, Section):
            yield from (f"{name}.{key}" for key in section.model_fields)


def test_what_is_named_as_left_out_exists() -> None:
    """A setting that is renamed must not stay named here: under its new name it would count."""
    assert {*NO_MATTER, *OTHERWISE} <= {*every_setting(_with_methods(Job))}
    assert not NO_MATTER & OTHERWISE
    assert {*model_keys.NO_MATTER, *model_keys.OTHERWISE, *model_keys.OF_VECTORS} <= {*ModelSpec.model_fields}


class _New(Section):
    knob: int = 1


class _NewSelection(SelectionSpec):
    ties: str = "first"


class _NewModel(ModelSpec):
    rope: float = 1.0


class _NewInput(InputSpec):
    weight: int = 1


class _NewJob(Job):
    """A job with settings that nobody has thought of in the fingerprint."""

    input: Annotated[_NewInput, BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value)]
    model: Annotated[_NewModel, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
    selection: _NewSelection = _NewSelection()
    fresh: _New = _New()
    plain: str = "a"


@pytest.mark.parametrize(
    "setting", ["fresh.knob=2", "plain=b", "input.weight=2", "selection.ties=last", "model.rope=2.0"]
)
def test_a_setting_that_is_new_counts_unless_it_is_named(
    plan: Planner, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr("tamis.pipeline.job.job_file.Job", _NewJob)
    assert differing(plan().fingerprint, plan(setting).fingerprint) == {setting.partition("=")[0]}


def differing(a: Any, b: Any) -> set[str]:
    return {key for key in {**a, **b} if a.get(key) != b.get(key)}


def test_the_seed_counts_where_chance_decides(plan: Planner) -> None:
    one, two = (plan("selection.control=random", f"seed={seed}").fingerprint for seed in (1, 2))
    assert differing(one, two) == {"seed"}


def test_the_content_of_the_input_counts(plan: Planner, folder: Path) -> None:
    before = plan().fingerprint
    os.utime(folder / "data/a.jsonl", ns=(5, 5))
    assert differing(before, plan().fingerprint) == {"input"}
    before = plan().fingerprint
    (folder / "data/b.jsonl").write_bytes(lines_of(rows_of(1)))
    assert differing(before, plan().fingerprint) == {"input"}


def test_the_files_of_the_model_count(plan: Planner, folder: Path, tiny_model: Path) -> None:
    copy = Path(shutil.copytree(tiny_model, folder / "copy"))
    assert plan(model=str(copy)).fingerprint == plan().fingerprint
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert differing(plan(model=str(copy)).fingerprint, plan().fingerprint) == {"model"}


def test_the_content_of_the_references_counts_and_not_their_place(plan: Planner, folder: Path) -> None:
    before = plan(**larf(folder)).fingerprint
    (folder / "elsewhere").mkdir()
    (folder / "safe.jsonl").rename(folder / "elsewhere/s.jsonl")
    moved = {**larf(folder), "larf.safe_references": str(folder / "elsewhere/s.jsonl")}
    assert plan(**moved).fingerprint == before
    (folder / "elsewhere/s.jsonl").write_bytes(lines_of(rows_of(3, 3)))
    assert differing(before, plan(**moved).fingerprint) == {"references.larf.safe"}


def test_references_on_another_file_system(plan: Planner, folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/plan-test/safe.jsonl", (folder / "safe.jsonl").read_bytes())
    try:
        overlay = {
            **larf(folder),
            "larf.safe_references": "memory://plan-test/safe.jsonl",
        }
        made = plan(**overlay)
        assert made.fingerprint["references.larf.safe"] == plan(**larf(folder)).fingerprint["references.larf.safe"]
    finally:
        memory.rm("/plan-test", recursive=True)

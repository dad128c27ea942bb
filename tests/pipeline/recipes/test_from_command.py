"""The command that a refused `curate` names: what differs from the run, and nothing else."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import load_job, settings_in
from tamis.pipeline.recipes import from_command
from tamis.pipeline.recipes.from_command import _differing, command_of, naming_it
from tamis.pipeline.storage.store import Store


def differing(tmp_path: Path, **given: Any) -> dict[str, Any]:
    (tmp_path / "a.jsonl").write_text("{}\n")
    common = {"input": str(tmp_path / "a.jsonl"), "output": str(tmp_path / "out"), "model": {"name": "gone"}}
    of_run = {**common, "method": "larf", "larf": {"layer": 2}, "keep_captures": "vectors", "selection": {"drop": 0.2}}
    manifest = {"job": load_job(None, of_run).model_dump(mode="json")}
    parent: Any = SimpleNamespace(manifest=manifest)
    return _differing(parent, load_job(None, {**of_run, **given}))


def test_only_what_differs_is_given(tmp_path: Path) -> None:
    assert differing(tmp_path) == {}
    assert differing(tmp_path, larf={"layer": 5}, workers=3, keep_captures="none") == {"larf": {"layer": 5}}
    found = differing(tmp_path, method=["saft", "larf"], saft={"layer": 4, "k": 2}, contrast={"layer": 7})
    assert found == {"method": ["saft", "larf"], "saft": {"layer": 4, "k": 2}}
    assert differing(tmp_path, max_tokens=7) == {"max_tokens": 7}


def test_a_selection_is_given_whole(tmp_path: Path) -> None:
    assert differing(tmp_path, selection={"drop_count": 3}) == {"selection": {"drop_count": 3}}
    assert differing(tmp_path, selection={}) == {"selection": {"drop": 0.1}}
    found = differing(tmp_path, selection={"drop": 0.2, "control": "random"}, seed=4)
    assert found == {"seed": 4, "selection": {"drop": 0.2, "control": "random"}}


def test_the_command_gives_these_settings(tmp_path: Path) -> None:
    given = {
        "method": ["saft", "contrast"],
        "saft": {"layer": 4, "weighted": True, "position": "last_token"},
        "contrast": {"unsafe_references": "a file.jsonl"},
        "selection": {"drop_count": 3, "by": "ranks"},
        "seed": 4,
    }
    words = shlex.split(command_of("the run", given))
    assert words[:8] == ["tamis", "curate", "--from", "the run", "--output", "NEW", "--method", "saft,contrast"]
    assert words[8::2] == ["--set"] * len(words[9::2])
    again = settings_in(None, {"method": words[7].split(",")}, words[9::2])
    assert json.loads(json.dumps(again)) == given


def test_text_that_yaml_takes_for_something_else_comes_back_as_it_is() -> None:
    texts = [
        "007",
        "no",
        "a: b.jsonl",
        "a #b.jsonl",
        " a ",
        "[a]",
        "*.jsonl",
        "2024-01-01",
        "\U0001f600 \t",
        "it's",
        "",
    ]
    given = {"contrast": {f"t{number}": text for number, text in enumerate(texts)}, "input": {"path": texts}}
    words = shlex.split(command_of("run", given))
    assert settings_in(None, {}, words[7::2]) == given


def test_small_numbers_come_back(tmp_path: Path) -> None:
    given = {"selection": {"threshold": 1e-05}}
    common = {"input": str(tmp_path), "output": "out", "model": "m", "method": "saft"}
    assert load_job(None, common, shlex.split(command_of("run", given))[7::2]).selection.threshold == 1e-05


def test_storage_options_are_named_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_command, "command_for", lambda *_: "tamis ...")
    (tmp_path / "manifest.json").write_text("{}")
    common = {"input": str(tmp_path), "output": str(tmp_path), "model": "m", "method": "saft"}
    for options, end in (({}, "`tamis ...`"), ({"anon": True}, "`tamis ...`, with the storage_options of this job")):
        job = load_job(None, {**common, "storage_options": options})
        with pytest.raises(ConfigError) as raised, naming_it(Store(str(tmp_path)), job, {}):
            raise ConfigError("output: holds another", "  - method")
        assert str(raised.value).split("\n")[-1].endswith(end)

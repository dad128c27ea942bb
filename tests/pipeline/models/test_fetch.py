"""The model as a folder on this machine, its identity, and the chat template."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.models import fetch as models
from tamis.pipeline.models.fetch import ModelSource, chat_template, fetch, identity


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "tokenizer.model").write_bytes(b"pieces")
    return model


def test_a_folder_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(str(folder), None, weights=True) == ModelSource(str(folder), "local")
    monkeypatch.chdir(folder.parent)
    # Workers run in other folders: the path is made absolute.
    assert fetch("model", "ignored", weights=False) == ModelSource(str(folder), "local")
    assert fetch("./model", None, weights=False).path == str(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "../model", "a/b/c", "", "has space/x", "models/m/"])
def test_a_name_that_can_be_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.name: .* is not a folder on this machine, nor a name"):
        fetch(name, None, weights=False)


def test_credentials_in_the_name_are_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        fetch("https://me:hunter2@huggingface.co/org/model", None, weights=False)
    assert "hunter2" not in str(caught.value)


def test_identity_is_of_the_content(folder: Path) -> None:
    before = identity(str(folder))
    os.utime(folder / "config.json", ns=(1, 1))
    (folder / "README.md").write_text("notes")
    (folder / "checkpoints.json").mkdir()
    assert identity(str(folder)) == before
    moved = folder.rename(folder.parent / "elsewhere")
    assert identity(str(moved)) == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"{ }"),
        ("model.safetensors", b"weighty"),
        ("model.safetensors", b"weights and more"),
        ("tokenizer.model", b"piecee"),
        ("chat_template.jinja", b"new"),
        ("modeling.py", b"new"),
        ("pytorch_model.bin", b"new"),
    ],
)
def test_identity_changes_with_any_file_that_matters(folder: Path, name: str, data: bytes) -> None:
    before = identity(str(folder))
    (folder / name).write_bytes(data)
    assert identity(str(folder)) != before


def test_identity_knows_names_from_contents(folder: Path) -> None:
    (folder / "a.json").write_bytes(b"xy")
    before = identity(str(folder))
    (folder / "a.json").rename(folder / "b.json")
    assert identity(str(folder)) != before


def test_large_weights_are_sampled_to_their_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_WHOLE", 1000)
    monkeypatch.setattr(models, "_PIECE", 10)
    weights = bytearray(os.urandom(100_000))
    path = folder / "model.safetensors"
    path.write_bytes(weights)
    before = identity(str(folder))
    assert identity(str(folder)) == before
    for place in (0, 99_999, 5 * 99_990 // 63 + 3):
        changed = bytearray(weights)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert identity(str(folder)) != before
    # Training changes nearly every number.
    path.write_bytes(bytes(255 - byte for byte in weights))
    assert identity(str(folder)) != before


def test_chat_template(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert chat_template(None) is None
    assert chat_template(text) == text
    (tmp_path / "t.jinja").write_text(text, encoding="utf-8")
    assert chat_template(str(tmp_path / "t.jinja")) == text
    (tmp_path / "bad.jinja").write_bytes(b"\xff")
    for path in (tmp_path / "missing.jinja", tmp_path / "bad.jinja", tmp_path):
        with pytest.raises(ConfigError, match=r"model\.template: .* is neither a jinja template nor a readable file"):
            chat_template(str(path))

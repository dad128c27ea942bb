"""Model folders in an object store: copied once, whole, and pinned to what the plan saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.models.fetch import fetch, identity_at
from tamis.pipeline.models.folders import CACHE_VARIABLE, copy_here

URL = "memory://models/tiny"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit",
    "notes.pdf": b"no business of ours",
}


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    for name, data in FILES.items():
        filesystem.pipe_file(f"/models/tiny/{name}", data)
    yield filesystem
    filesystem.rm("/models", recursive=True)


def names(folder: str) -> set[str]:
    return {name for name in os.listdir(folder) if not name.startswith(".")}


def test_only_what_is_asked_for_is_copied(memory: Any) -> None:
    small = fetch(URL, None, weights=False)
    assert names(small.path) == {"config.json", "tokenizer.json"}
    large = fetch(URL, small.revision, weights=True)
    assert large == small
    assert names(large.path) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (Path(large.path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    everything = fetch(URL, small.revision, weights=True, pickles=True, remote_code=True)
    assert names(everything.path) == set(FILES) - {"notes.pdf"}


def test_it_is_copied_once_however_many_ask(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gets: list[str] = []
    whole = type(memory).cat_file

    def counted(self: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        gets.append(path)
        data: bytes = whole(self, path, *args, **kwargs)
        return data

    monkeypatch.setattr(type(memory), "cat_file", counted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetch(URL, None, weights=True), range(8)))
    assert len(set(found)) == 1
    assert sorted(gets) == sorted(
        f"/models/tiny/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors")
    )


def test_a_model_that_changes_is_another_one(memory: Any) -> None:
    before = fetch(URL, None, weights=True)
    assert identity_at(URL, {}) == before.revision
    memory.pipe_file("/models/tiny/model.safetensors", b"x" * 300_000)
    with pytest.raises(ConfigError, match="the model changed since the run was planned"):
        fetch(URL, before.revision, weights=True)
    after = fetch(URL, None, weights=True)
    assert after.path != before.path
    assert (Path(after.path) / "model.safetensors").read_bytes() == b"x" * 300_000


def test_what_is_no_model_or_has_no_room(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"there is no model folder here \(no config.json"):
        copy_here("memory://models/none", {}, ("*",))
    memory.pipe_file("/other/a.txt", b"")
    with pytest.raises(ConfigError, match="there is no model folder here"):
        copy_here("memory://other", {}, ("*",))
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=f"set {CACHE_VARIABLE} to a folder with room"):
        copy_here(URL, {}, ("*.json",))


def test_a_copy_that_was_cut_off_is_no_copy(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fetch(URL, None, weights=False)
    aside = Path(source.path) / ".model.safetensors.12345678"
    aside.write_bytes(b"half")  # of a process that was killed
    assert (Path(fetch(URL, None, weights=True).path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]

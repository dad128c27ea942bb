"""The output folder: new, begun, complete, of other settings, or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run_folder import MANIFEST, RUN, begin, facts_in, key_of, state_of
from tamis.pipeline.store import Store

FINGERPRINT: dict[str, Any] = {"format": 1, "input": "aaa", "model": "bbb", "method": ["larf"], "larf.layer": "auto"}


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(str(tmp_path / "out"))
        return
    yield Store("memory://run-folder-test/out")
    memory = fsspec.filesystem("memory")
    if memory.exists("/run-folder-test"):
        memory.rm("/run-folder-test", recursive=True)


def refusal(store: Store, fingerprint: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        state_of(store, fingerprint)
    assert caught.value.exit_code == 2
    assert store.path() in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_not_there_or_is_empty_is_new(store: Store, tmp_path: Path) -> None:
    assert state_of(store, FINGERPRINT) == "new"
    if store.is_local:
        (tmp_path / "out").mkdir()
        assert state_of(store, FINGERPRINT) == "new"
        (tmp_path / "out/.DS_Store").touch()
        assert state_of(store, FINGERPRINT) == "new"


def test_from_new_to_complete(store: Store) -> None:
    begin(store, {"fingerprint": FINGERPRINT, "rows": 5})
    assert store.read_json(RUN)["rows"] == 5
    assert state_of(store, FINGERPRINT) == "started"
    store.write("kept/000000-x.parquet", b"")
    assert state_of(store, FINGERPRINT) == "started"
    store.write_json(MANIFEST, {"fingerprint": FINGERPRINT})
    assert state_of(store, FINGERPRINT) == "complete"
    store.remove("_work")
    assert state_of(store, FINGERPRINT) == "complete"


def test_a_run_that_was_killed_before_it_claimed_the_folder(store: Store) -> None:
    store.write("_work/.probe-0123", b"")
    assert state_of(store, FINGERPRINT) == "new"


@pytest.mark.parametrize("name", [RUN, MANIFEST])
def test_other_settings_are_named(store: Store, name: str) -> None:
    store.write_json(name, {"fingerprint": FINGERPRINT})
    now = {**FINGERPRINT, "larf.layer": 3, "input": "ccc", "saft.k": 2}
    said = refusal(store, now)
    lines = said.splitlines()
    assert len(lines) == 5
    assert ("finished result" if name == MANIFEST else "unfinished run") in lines[0]
    assert "  - larf.layer: auto there, 3 now" in lines
    assert "  - input: the files, their content, the way they are read or shard_rows changed" in lines
    assert "  - saft.k: None there, 2 now" in lines
    # Digests mean nothing to a person.
    assert "aaa" not in said
    assert "ccc" not in said
    assert refusal(store, {k: v for k, v in FINGERPRINT.items() if k != "method"}).count("\n  - ") == 1


def test_somebody_else_s_folder(store: Store) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "d.txt"):
        store.write(name, b"precious")
    said = refusal(store, FINGERPRINT)
    assert "not written by tamis" in said
    assert "a.txt, b.txt, d.txt, ..." in said


@pytest.mark.parametrize("content", ["{}", "[]", "null", "not JSON", '{"fingerprint": 5}', '{"name": "web app"}'])
def test_somebody_else_s_manifest(store: Store, content: str) -> None:
    store.write(MANIFEST, content.encode())
    assert "not written by tamis" in refusal(store, FINGERPRINT)
    with pytest.raises(ConfigError, match="not written by tamis"):
        facts_in(store, MANIFEST)


def test_the_facts_of_a_run(store: Store) -> None:
    begin(store, {"fingerprint": FINGERPRINT, "rows": 5})
    assert facts_in(store, RUN) == {"fingerprint": FINGERPRINT, "rows": 5}


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/out cannot be looked into"):
        state_of(Store(str(tmp_path / "file/out")), FINGERPRINT)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="out"):
        state_of(Store(str(tmp_path / "out")), FINGERPRINT)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        begin(Store(str(tmp_path / "file/out")), {})


def test_the_key_is_of_the_values_and_not_of_their_order() -> None:
    assert key_of(FINGERPRINT) == key_of(dict(reversed(FINGERPRINT.items())))
    assert len(key_of(FINGERPRINT)) == 16
    assert key_of({**FINGERPRINT, "larf.layer": 3}) != key_of(FINGERPRINT)


def test_a_fingerprint_survives_json(store: Store) -> None:
    # Tuples become lists and back they do not come: what is compared must have been JSON already.
    begin(store, {"fingerprint": FINGERPRINT})
    assert state_of(store, dict(FINGERPRINT)) == "started"

"""The output folder: new, begun, complete, of other settings, or somebody else's."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run.folder import (
    begin,
    clear_work,
    facts_in,
    finished,
    key_of,
    layers_in,
    layers_state_of,
    remove_work,
    run_id,
    state_of,
)
from tamis.pipeline.run.paths import LAYERS, LAYERS_PAGE, LAYERS_RUN, MANIFEST, RUN
from tamis.pipeline.storage.store import Store

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
    assert store.read_facts(RUN)["rows"] == 5
    assert state_of(store, FINGERPRINT) == "started"
    store.write("kept/000000-x.parquet", b"")
    assert state_of(store, FINGERPRINT) == "started"
    store.write_facts(MANIFEST, {"fingerprint": FINGERPRINT})
    assert state_of(store, FINGERPRINT) == "complete"
    store.remove("_work")
    assert state_of(store, FINGERPRINT) == "complete"


def test_a_run_that_was_killed_before_it_claimed_the_folder(store: Store) -> None:
    store.write("_work/.probe-0123", b"")
    assert state_of(store, FINGERPRINT) == "new"


@pytest.mark.parametrize("name", [RUN, MANIFEST])
def test_other_settings_are_named(store: Store, name: str) -> None:
    store.write_facts(name, {"fingerprint": FINGERPRINT})
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


def test_an_output_of_an_earlier_tamis_says_how_it_goes_on(store: Store) -> None:
    store.write_facts(RUN, {"fingerprint": FINGERPRINT})
    said = refusal(store, {**FINGERPRINT, "file_size": 128_000_000})
    assert "(an output of an earlier tamis goes on with file_size: 0) changed" in said


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
    facts = facts_in(store, RUN)
    assert str(uuid.UUID(facts.pop("run_id"), version=4)) == run_id(store, FINGERPRINT)
    assert facts == {"fingerprint": FINGERPRINT, "rows": 5}


def test_a_run_has_one_id_for_as_long_as_it_lasts(store: Store) -> None:
    facts = {"fingerprint": FINGERPRINT, "rows": 5}
    assert run_id(store, FINGERPRINT) is None
    made = begin(store, facts)
    assert begin(store, facts) == made
    store.write(RUN, b"torn")
    assert run_id(store, FINGERPRINT) == made, "the other copy has it"
    assert begin(store, facts) == made
    assert facts_in(store, RUN)["run_id"] == made
    for file in store.list("_work"):
        store.write_facts(f"_work/{file}", facts)  # as an earlier tamis has begun it
    new = begin(store, facts)
    assert new == run_id(store, FINGERPRINT) == begin(store, facts) != made
    assert begin(store, facts, LAYERS_RUN) != new, "a layer search is no part of a run"
    store.remove("_work")
    assert begin(store, facts) not in (made, new)


def test_drivers_that_begin_at_the_same_time_agree_on_the_id(store: Store) -> None:
    begun = threading.Barrier(4)

    def at_once() -> None:
        begun.wait()
        begin(store, {"fingerprint": FINGERPRINT, "rows": 5})

    threads = [threading.Thread(target=at_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begin(store, {"fingerprint": FINGERPRINT, "rows": 5}) == run_id(store, FINGERPRINT)


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
    with pytest.raises(ConfigError, match=r"cannot be (written|looked into)"):
        begin(Store(str(tmp_path / "file/out")), {"fingerprint": FINGERPRINT})


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null"])
def test_a_job_goes_on_though_what_says_so_is_damaged(
    store: Store, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"fingerprint": FINGERPRINT, "rows": 5}
    begin(store, facts)
    store.write("kept/000000-x.parquet", b"")
    [twin] = [f"_work/{name}" for name in store.list("_work") if name not in {"run.json", "plan"}]
    for name in (RUN, twin):
        whole = store.read(name)
        for content in (damage, whole[:-9], whole.replace(b"5", b"6"), None):
            store.remove(name) if content is None else store.write(name, content)
            assert state_of(store, FINGERPRINT) == "started"
            with pytest.raises(ConfigError):
                state_of(store, {**FINGERPRINT, "input": "ccc"})
            begin(store, facts)
            assert store.read(name) == whole
            assert capsys.readouterr().err == ("" if content is None else f"damaged: {name}; it is written again\n")
    store.write(RUN, damage)
    store.remove(twin)
    assert "is damaged" in refusal(store, FINGERPRINT)


def test_a_manifest_is_written_again_as_long_as_the_work_is_there(store: Store) -> None:
    begin(store, {"fingerprint": FINGERPRINT})
    store.write_facts(MANIFEST, {"fingerprint": FINGERPRINT, "kept": 17})
    store.write(MANIFEST, store.read(MANIFEST).replace(b"17", b"18"))
    assert state_of(store, FINGERPRINT) == "started"
    store.remove("_work")
    assert "put it back from a copy" in refusal(store, FINGERPRINT)


def test_a_finished_run_of_an_input_that_was_touched(store: Store) -> None:
    begin(store, {"fingerprint": FINGERPRINT})
    assert state_of(store, FINGERPRINT, "now") == "started", "its rows are compared when they are written"
    store.write_facts(MANIFEST, {"fingerprint": FINGERPRINT, "input": {"changed": "then"}})
    assert state_of(store, FINGERPRINT, "then") == "complete"
    with pytest.raises(ConfigError, match="its input files were changed, renamed or copied since"):
        state_of(store, FINGERPRINT, "now")


def test_the_key_is_of_the_values_and_not_of_their_order() -> None:
    assert key_of(FINGERPRINT) == key_of(dict(reversed(FINGERPRINT.items())))
    assert len(key_of(FINGERPRINT)) == 16
    assert key_of({**FINGERPRINT, "larf.layer": 3}) != key_of(FINGERPRINT)


def test_a_fingerprint_survives_json(store: Store) -> None:
    # Tuples become lists and back they do not come: what is compared must have been JSON already.
    begin(store, {"fingerprint": FINGERPRINT})
    assert state_of(store, dict(FINGERPRINT)) == "started"


def test_whether_another_driver_has_finished_it(store: Store) -> None:
    assert finished(store, FINGERPRINT) is None
    for content in (b"", b"[]", b"{}"):
        store.write(MANIFEST, content)
        assert finished(store, FINGERPRINT) is None
    store.write_facts(MANIFEST, {"fingerprint": {**FINGERPRINT, "input": "ccc"}})
    assert finished(store, FINGERPRINT) is None
    store.write_facts(MANIFEST, {"fingerprint": FINGERPRINT, "rows": 5})
    assert finished(store, FINGERPRINT) == {"fingerprint": FINGERPRINT, "rows": 5}


ALL = ["capture", "receipts", "scored"]


@pytest.mark.parametrize(
    ("kept", "left"),
    [("none", []), (False, []), ("vectors", ALL), (True, ALL), ("scores", ["receipts", "scored"])],
)
def test_what_stays_of_a_finished_run(store: Store, kept: str | bool, left: list[str]) -> None:
    """True and False are in the manifests of earlier versions."""
    for stage in ("capture", "scored"):
        store.write(f"_work/{stage}/a.parquet", b"x")
        store.write(f"_work/receipts/{stage}/a.json", b"{}")
    clear_work(store, kept)
    assert sorted(store.list("_work")) == left
    if left:
        assert store.exists("_work/receipts/scored/a.json")
        assert store.exists("_work/receipts/capture/a.json") == ("capture" in left)


def test_the_work_folder_goes_though_another_driver_writes_into_it(store: Store) -> None:
    begin(store, {"fingerprint": FINGERPRINT})
    writing, written = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not writing.is_set():
            with suppress(FileNotFoundError):  # its folder vanished under it
                store.write(f"_work/receipts/capture/{number % 50}.json", b"{}")
            number += 1
            written.set()

    other = threading.Thread(target=write)
    other.start()
    try:
        written.wait(30)
        remove_work(store, shared=True)
    finally:
        writing.set()
        other.join()
    remove_work(store)
    assert "_work" not in store.list("")


def test_a_work_folder_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    begin(store, {"fingerprint": FINGERPRINT})

    def refuse(self: Store, folder: str) -> None:
        raise OSError("no")

    monkeypatch.setattr(Store, "remove", refuse)
    remove_work(store, shared=True)
    with pytest.raises(OSError, match="no"):
        remove_work(store)


# --- layer searches -----------------------------------------------------------------------------------------------

SEARCH: dict[str, Any] = {"search format": 1, "model": "bbb", "larf.over_rejection_prompts": "ppp"}
FISHER: dict[str, Any] = {"fisher format": 1, "model": "bbb", "references.larf.safe": "sss"}
AUTO = {**FINGERPRINT, **SEARCH, "references.larf.safe": "sss"}


def finish_search(store: Store, fingerprint: dict[str, Any] | None) -> None:
    search = None if fingerprint is None else {"fingerprint": fingerprint}
    result = {"chosen": {"block": 1, "how": "search"}, "blocks": [{}], "search": search, "fisher": None}
    store.write_facts(LAYERS, result)
    store.write(LAYERS_PAGE, b"")


def search_refusal(store: Store, search: dict[str, Any], fisher: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        layers_state_of(store, search, fisher or FISHER)
    return str(caught.value)


def test_a_search_from_new_to_complete(store: Store) -> None:
    assert layers_state_of(store, SEARCH, FISHER) == "new"
    begin(store, {"fingerprint": SEARCH}, LAYERS_RUN)
    assert layers_state_of(store, SEARCH, FISHER) == "started"
    finish_search(store, SEARCH)
    assert layers_state_of(store, SEARCH, FISHER) == "complete"
    store.remove("_work")
    assert layers_state_of(store, SEARCH, FISHER) == "complete"


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_may_begin_beside_a_search(store: Store, finished: bool) -> None:
    begin(store, {"fingerprint": SEARCH}, LAYERS_RUN)
    if finished:
        finish_search(store, SEARCH)
    assert state_of(store, AUTO) == "new"
    # A run that names its block does not depend on the prompts.
    assert state_of(store, FINGERPRINT) == "new"
    said = refusal(store, {**AUTO, "larf.over_rejection_prompts": "qqq"})
    assert "holds a layer search of other settings" in said
    assert said.count("\n  - ") == 1
    assert "larf.over_rejection_prompts: the over-rejection prompts changed" in said
    assert "model: the model's files changed" in refusal(store, {**FINGERPRINT, "model": "ccc"})
    store.write("thesis.txt", b"mine")
    assert "thesis.txt" in refusal(store, AUTO)


def test_a_search_beside_a_run(store: Store) -> None:
    begin(store, {"fingerprint": AUTO})
    assert layers_state_of(store, SEARCH, FISHER) == "new"
    assert state_of(store, AUTO) == "started"
    assert "model: the model's files" in search_refusal(store, {**SEARCH, "model": "ccc"}, {**FISHER, "model": "ccc"})
    assert "the content of larf.safe_references changed" in search_refusal(
        store, SEARCH, {**FISHER, "references.larf.safe": "ttt"}
    )
    assert "over_rejection" in search_refusal(store, {**SEARCH, "larf.over_rejection_prompts": "qqq"})
    finish_search(store, SEARCH)
    assert layers_state_of(store, SEARCH, FISHER) == "complete"
    store.write_facts(MANIFEST, {"fingerprint": AUTO})
    assert layers_state_of(store, SEARCH, FISHER) == "complete"
    assert state_of(store, AUTO) == "complete"


def test_nothing_is_added_to_a_finished_run(store: Store) -> None:
    store.write_facts(MANIFEST, {"fingerprint": FINGERPRINT})
    assert "holds a finished run without a layer search" in search_refusal(store, SEARCH)
    finish_search(store, None)  # Fisher ratios alone
    assert "holds a finished run without a layer search" in search_refusal(store, SEARCH)


def test_another_search_is_refused(store: Store) -> None:
    finish_search(store, SEARCH)
    said = search_refusal(store, {**SEARCH, "larf.refusal_markers": ["no"]})
    assert "larf.refusal_markers: None there, ['no'] now" in said
    store.remove(LAYERS)
    assert "layers.html" in search_refusal(store, SEARCH)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "not JSON", '{"blocks": [], "chosen": {"block": 0}}'])
def test_a_damaged_search(store: Store, content: str) -> None:
    store.write(LAYERS, content.encode())
    # It is made again.
    assert layers_state_of(store, SEARCH, FISHER) == state_of(store, AUTO) == "new"
    with pytest.raises(ConfigError, match="damaged"):
        layers_in(store)

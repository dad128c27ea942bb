"""A finished run as an object: its tables, its report, and files that are not as the run wrote them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest
from labelled_runs import write_run

import tamis
from tamis.errors import ConfigError, DamagedError, IncompleteError, InputError
from tamis.pipeline.run.paths import INCOMPLETE, MANIFEST, REPORT
from tamis.pipeline.storage.store import Store

ROWS = [{"prompt": f"question {i}", "response": "an answer"} for i in range(10)]
DECISIONS = ["kept"] * 7 + ["dropped"] * 3
SCORES = [i / 10 for i in range(10)]
HOSTILE = "<script>alert('\"&amp;')</script>"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "a [1]*"))
    write_run(store, {"a.jsonl": ROWS}, {"saft": SCORES}, DECISIONS, warnings=["look"])
    store.write(REPORT, f"<html>{HOSTILE}</html>".encode())
    return store


def test_the_tables_are_datasets_in_the_order_of_the_corpus(store: Store) -> None:
    run = tamis.load(Path(store.url))
    assert run.kept.to_list() == ROWS[:7]
    assert run.dropped.to_list() == ROWS[7:]
    assert run.scores.to_pandas()["decision"].tolist() == DECISIONS
    assert run.scores["row"][:] == list(range(10))
    assert run.scores is run.scores
    assert (run.quarantined.num_rows, run.counts["kept"], run.warnings) == (0, 7, ["look"])
    assert not datasets.utils.are_progress_bars_disabled()
    assert repr(run) == f"Run({store.url!r}: 10 rows: 7 kept, 3 dropped, 0 quarantined)"


def test_the_tables_of_an_object_store_are_fetched() -> None:
    store = Store("memory://bucket/run")
    write_run(store, {"a.jsonl": ROWS}, {"saft": SCORES}, DECISIONS)
    try:
        run = tamis.load("memory://bucket/run")
        assert run.kept.to_list() == ROWS[:7]
        data = store.read(f"kept/{store.list('kept')[0]}")
        store.write(f"dropped/{store.list('dropped')[0]}", data[: len(data) - 1])
        with pytest.raises(DamagedError, match="dropped/"):
            _ = run.dropped
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    write_run(store, {"a.jsonl": ROWS}, {"saft": SCORES}, ["dropped"] * 10)
    assert tamis.load(store.url).kept.column_names == ["prompt", "response"]


def test_the_manifest_is_a_copy_and_the_run_does_not_change(store: Store) -> None:
    run = tamis.load(store.url)
    run.manifest["counts"]["kept"] = 0
    run.counts["kept"] = 0
    run.storage_options["a"] = "b"
    assert (run.manifest["counts"]["kept"], run.counts["kept"], run.storage_options) == (7, 7, {})
    with pytest.raises(AttributeError):
        run.output = "elsewhere"  # type: ignore[misc]


def test_a_damaged_table_is_refused(store: Store) -> None:
    run = tamis.load(store.url)
    [first, second] = sorted(Path(store.url, "kept").iterdir())
    first.write_bytes(first.read_bytes() + b"x")
    with pytest.raises(DamagedError, match="has not the size with which it was written"):
        _ = run.kept
    first.unlink()
    with pytest.raises(DamagedError, match="is missing"):
        _ = run.kept
    assert second.exists()


def test_a_file_that_is_not_of_the_run_is_not_read(store: Store) -> None:
    [first, *_] = sorted(Path(store.url, "kept").iterdir())
    (first.parent / "999999-stranger.parquet").write_bytes(first.read_bytes())
    assert tamis.load(store.url).kept.num_rows == 7


def test_the_report_is_shown_in_a_frame_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run = tamis.load(store.url)
    report = run.report(open=True)
    assert opened == [Path(store.url, REPORT).as_uri()]
    assert run.report(open=False) == report
    assert len(opened) == 1
    frame = report._repr_html_()
    assert frame.count("<") == 2  # the frame, and nothing of the page beside it
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    assert HOSTILE not in repr(report)
    Path(store.url, REPORT).unlink()
    with pytest.raises(DamagedError, match="is missing; `tamis report`"):
        run.report(open=False)


@pytest.mark.skipif(sys.platform == "darwin", reason="its browsers always have a window")
@pytest.mark.parametrize(
    ("terminal", "display", "expected"), [(True, ":0", 1), (True, "", 0), (False, ":0", 0), (False, "", 0)]
)
def test_a_browser_is_opened_where_a_person_sees_its_window(
    store: Store, monkeypatch: pytest.MonkeyPatch, terminal: bool, display: str, expected: int
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    tamis.load(store.url).report()
    assert len(opened) == expected


def test_options_that_are_credentials_reach_no_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", started)
    options = {"key": "AKIA0123456789", "client_kwargs": {"aws_secret_access_key": "hidden-words"}}
    calls: list[Callable[[], Any]] = [
        lambda: tamis.load(store.url, storage_options=options),
        lambda: tamis.select(store.url, "out", drop=0.1, storage_options=options),
        lambda: tamis.evaluate(store.url, "labels.jsonl", storage_options=options),
        lambda: tamis.export(store.url, "trl", "out", storage_options=options),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="looks like a credential") as raised:
            call()
        assert "hidden" not in str(raised.value)


def test_reading_a_table_asks_no_network(store: Store) -> None:
    """In a process where `datasets` is not told to stay offline: no name is looked up, nothing is
    connected."""
    code = f"""
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in
                 ("socket.connect", "socket.getaddrinfo") else None)
import tamis, datasets
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
assert not datasets.config.HF_HUB_OFFLINE
assert tamis.load({store.url!r}).kept.num_rows == 7
assert opened == [], opened
"""
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_UPDATE_DOWNLOAD_COUNTS")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    command = [sys.executable, "-P", "-c", code, str(Path(store.url).parent / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_types_are_those_of_the_files(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "more": {"n": i, "tags": ["x"]}} for i in range(4)]
    store = Store(str(tmp_path / "run"))
    write_run(store, {"a.jsonl": rows}, {"saft": SCORES[:4]}, ["kept"] * 4)
    run = tamis.load(store.url)
    assert run.kept.to_list() == rows
    [first, *_] = store.list("kept")
    assert run.kept.data.schema.remove_metadata() == store.read_table(f"kept/{first}").schema.remove_metadata()


def test_what_is_no_finished_run_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run here"):
        tamis.load(tmp_path / "nowhere")
    store.remove(MANIFEST)
    store.write_facts(INCOMPLETE, {"fingerprint": {}, "complete": False})
    with pytest.raises(IncompleteError, match="some shards were set aside"):
        tamis.load(store.url)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text("{}")
    with pytest.raises(ConfigError, match="was not written by tamis"):
        tamis.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("labels", "words"), [(None, "not None"), ([], "holds no rows"), (["a", "b"], "one file"), (3, "not int")]
)
def test_labels_that_are_none_are_refused(labels: Any, words: str, store: Store) -> None:
    with pytest.raises((ConfigError, InputError), match=words):
        tamis.evaluate(tamis.load(store.url), labels)
    with pytest.raises(ConfigError, match="the run has its own"):
        tamis.evaluate(tamis.load(store.url), "file", storage_options={})

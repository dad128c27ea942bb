"""Whoever reads an output gets the same of files that hold many shards as of a file of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labelled_runs import write_run

import tamis
from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.commands.export import export
from tamis.pipeline.commands.plain_messages import Kept
from tamis.pipeline.commands.verify import verify
from tamis.pipeline.emit.browse import LISTED, with_samples
from tamis.pipeline.errors import InputError
from tamis.pipeline.labels.read import read_labels
from tamis.pipeline.labels.texts import texts_at
from tamis.pipeline.run.paths import KEPT, MANIFEST
from tamis.pipeline.storage.store import Sealed, Store

COUNT = 23
DECISIONS = ["dropped" if number % 3 == 0 or number in (7, 8) else "kept" for number in range(COUNT)]
SOURCES = {"a.jsonl": range(3), "b.jsonl": range(3, 10), "c.jsonl": range(10, COUNT)}
"""Of the first two shards, one has no row that was kept, and one none that was dropped."""
DECISIONS[:3] = ["dropped", "dropped", "kept"]


def write(store: Store, *, together: bool) -> dict[str, Any]:
    """Rows of two layouts, whose texts name them."""
    files = {}
    for source, numbers in SOURCES.items():
        ask, tell = ("prompt", "response") if source != "b.jsonl" else ("question", "answer")
        empty = dict.fromkeys(("prompt", "response", "question", "answer"), "")
        files[source] = [{**empty, ask: f"ask {n}", tell: f"tell {n}", "harm": n % 2} for n in numbers]

    def columns(source: str) -> dict[str, Any]:
        ask, tell = ("prompt", "response") if source != "b.jsonl" else ("question", "answer")
        return Dialect.of("pair", prompt=ask, response=tell).to_dict()

    named = [{"path": source, "rows": len(rows), "columns": columns(source)} for source, rows in files.items()]
    scores = {"larf": [number / COUNT for number in range(COUNT)]}
    model = {"name": "m", "revision": None, "trust_remote_code": False}
    lists: dict[str, Any] = {name: [] for name in LISTED}
    return write_run(
        store, files, scores, DECISIONS, together=together, input={"files": named}, job={"model": model}, **lists
    )


@pytest.fixture
def runs(tmp_path: Path) -> list[tuple[Store, dict[str, Any]]]:
    stores = [Store(str(tmp_path / name)) for name in ("apart", "together")]
    made = [(store, write(store, together=number == 1)) for number, store in enumerate(stores)]
    assert [len(store.list("kept")) for store in stores] == [6, 1]
    assert [len(store.list("dropped")) for store in stores] == [5, 1]
    return made


def test_texts_of_rows(runs: list[tuple[Store, dict[str, Any]]]) -> None:
    apart, together = (list(texts_at(store, manifest, range(COUNT), "test")) for store, manifest in runs)
    assert together == apart
    assert [f"tell {row.place}" in row.text for row in together] == [True] * COUNT


def test_the_samples_of_a_report(runs: list[tuple[Store, dict[str, Any]]]) -> None:
    apart, together = (with_samples(store, manifest)["browse"] for store, manifest in runs)
    assert together == apart
    for name in ("random_kept", "random_dropped"):
        for sample in together[name]:
            [number] = [int(turn["content"].split()[1]) for turn in sample["messages"] if turn["role"] == "assistant"]
            assert sample["row"] == number - SOURCES[sample["source"]].start


def test_a_column_of_labels(runs: list[tuple[Store, dict[str, Any]]]) -> None:
    for store, _ in runs:
        labels = read_labels("column:harm", store)
        assert labels.harmful.tolist() == [number % 2 == 1 for number in range(COUNT)]
        assert labels.rows.column("decision").to_pylist() == DECISIONS


def test_conversations_to_export(runs: list[tuple[Store, dict[str, Any]]], tmp_path: Path) -> None:
    expected = [f"tell {number}" for number in range(COUNT) if DECISIONS[number] == "kept"]
    for store, manifest in runs:
        files = sorted(
            Sealed(each["name"], each["sha256"]) for each in manifest["files"] if each["name"].startswith(KEPT)
        )
        kept = Kept(store, manifest, files)
        found = [each for file in files for _, each in kept.conversations(file)]
        assert [each.messages[-1]["content"] for each in found if each is not None] == expected
        done = export(store, "messages", Store(str(tmp_path / f"for-{Path(store.url).name}")))
        assert done.rows == len(expected)


def test_the_tables_as_datasets(
    runs: list[tuple[Store, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    apart, together = (tamis.load(store.url) for store, _ in runs)
    assert together.kept.to_list() == apart.kept.to_list()
    assert together.dropped.to_list() == apart.dropped.to_list()
    assert together.kept.num_rows == DECISIONS.count("kept")


def test_verify_finds_what_is_wrong_with_a_file_of_many_shards(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    manifest = write(store, together=True)
    assert verify(store).problems == []
    [name] = [f"kept/{each}" for each in store.list("kept")]
    [entry] = [each for each in manifest["files"] if each["name"] == name]
    # The file has as many rows as ever, but another shard has one of them.
    shards = [list(each) for each in entry["shards"]]
    shards[4][1], shards[5][1] = shards[4][1] + 1, shards[5][1] - 1
    others = [each for each in manifest["files"] if each is not entry]
    store.write_facts(MANIFEST, {**manifest, "files": [*others, {**entry, "shards": shards}]})
    [problem] = verify(store).problems
    assert problem == f"{name}: its row groups have not the rows that the manifest says of its shards"
    # As if the run had written it so.
    table = store.read_table(name)
    with store.writing_table(name, table.schema) as writer:
        before = 0
        for _, rows in shards:
            writer.add(table.slice(before, rows))
            before += rows
    made = {**writer.written.to_dict(), "shards": shards}
    store.write_facts(MANIFEST, {**manifest, "files": [*others, made]})
    said = verify(store).problems
    assert [problem.partition(":")[0] for problem in said] == [f"scores/{shards[at][0]}.parquet" for at in (4, 5)]
    with pytest.raises(InputError, match=r"rows, scores/ .*; see `tamis verify`"):
        list(texts_at(store, {**manifest, "files": [*others, made]}, range(COUNT), "test"))
    # Damage.
    path = tmp_path / "out" / name
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    assert verify(store).problems == [f"{name}: its content has changed (another sha256 than the manifest says)"]
    for shards_said in ("no list", [["a", "b"]], [[1, 2, 3]]):
        store.write_facts(MANIFEST, {**manifest, "files": [*others, {**made, "shards": shards_said}]})
        assert any("has not the form of one" in problem for problem in verify(store).problems)

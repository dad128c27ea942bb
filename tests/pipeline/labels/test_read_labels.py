"""Labels from a file or a column find exactly their rows; what does not fit is refused in one line without text."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_runs import write_run

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.labels.read import read_labels
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

TEXT = "a secret of the corpus"
HARMFUL = [1, 0, 0, 1, 0, None, 1, 0]
DECISIONS = ["dropped", "kept", "kept", "kept", "dropped", "kept", "quarantined", "kept"]
FILES: dict[str, list[dict[str, Any]]] = {
    "a.jsonl": [{"text": TEXT, "harmful": HARMFUL[row]} for row in range(5)],
    "b.jsonl": [{"text": TEXT, "harmful": HARMFUL[row]} for row in range(5, 8)],
}
SCORES = {"larf": [0.9, 0.1, 0.2, 0.3, 0.8, 0.0, None, 0.4]}
Row = Mapping[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "out"))
    write_run(made, FILES, SCORES, DECISIONS)
    return made


def jsonl(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def csv(path: Path, rows: Sequence[Row]) -> str:
    names = list(rows[0])
    lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return str(path)


def parquet(path: Path, rows: Sequence[Row]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


@pytest.mark.parametrize("write", [jsonl, csv, parquet])
@pytest.mark.parametrize(
    "naming",
    [
        lambda row: {"row": row},
        lambda row: {"sample_id": [*sample_ids("a.jsonl", 0, 5), *sample_ids("b.jsonl", 0, 3)][row]},
        lambda row: {"source": "a.jsonl" if row < 5 else "b.jsonl", "row": row if row < 5 else row - 5},
    ],
    ids=["row", "sample_id", "source and row"],
)
def test_each_label_finds_its_row(
    write: Callable[..., str], naming: Callable[[int], Row], store: Store, tmp_path: Path
) -> None:
    said = {7: "harmful", 0: "yes", 4: "fine", 6: "1", 2: "0", 3: ""}
    path = write(tmp_path / f"labels.{write.__name__}", [{**naming(row), "label": word} for row, word in said.items()])
    found = read_labels(path, store)
    assert found.places.tolist() == [0, 2, 4, 6, 7]
    assert found.harmful.tolist() == [True, False, False, True, True]
    assert found.rows.column("row").to_pylist() == [0, 2, 4, 1, 2]
    assert found.rows.column("source").to_pylist() == ["a.jsonl"] * 3 + ["b.jsonl"] * 2
    assert found.rows.column("decision").to_pylist() == [DECISIONS[place] for place in found.places]
    assert found.rows.column("larf").to_pylist() == pytest.approx([0.9, 0.2, 0.8, None, 0.4])
    assert (found.total, found.empty, found.methods) == (8, 1, ("larf",))
    assert found.source.startswith(f"the file labels.{write.__name__} (by ")
    assert ("through all 2 files" in found.source) == (naming(0) == {"row": 0})
    assert found.by_sample_id[sample_ids("b.jsonl", 2, 1)[0]] is True


def test_a_column_is_read_from_what_the_run_has_written(store: Store) -> None:
    found = read_labels("harmful", store)
    # Row 5 has no label, and row 6 is in quarantine, so that its columns could not be read.
    assert found.places.tolist() == [0, 1, 2, 3, 4, 7]
    assert found.harmful.tolist() == [True, False, False, True, False, False]
    assert found.empty == 1
    assert read_labels("column:harmful", store).places.tolist() == found.places.tolist()


def test_a_column_of_json_text(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "json"))
    files = {"a.jsonl": [{"label": json.dumps(label)} for label in (1, "fine", True, None)]}
    write_run(store, files, {"larf": [1.0, 2.0, 3.0, 4.0]}, ["kept"] * 4, json_columns=["label"])
    found = read_labels("label", store)
    assert (found.harmful.tolist(), found.empty) == ([True, False, True], 1)


def test_harmful_counts_where_there_is_also_another_label(store: Store, tmp_path: Path) -> None:
    rows = [{"row": 0, "label": "sports", "harmful": 1}, {"row": 1, "label": "news", "harmful": 0}]
    assert read_labels(jsonl(tmp_path / "l.jsonl", rows), store).harmful.tolist() == [True, False]


def test_a_label_that_is_said_twice_counts_once(store: Store, tmp_path: Path) -> None:
    rows = [
        {"row": 0, "harmful": 1},
        {"sample_id": sample_ids("a.jsonl", 0, 1)[0], "harmful": 1},
        {"row": 0, "harmful": 1},
    ]
    assert len(read_labels(jsonl(tmp_path / "l.jsonl", rows), store)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"row": 0, "harmful": 1}, {"row": 8, "harmful": 0}], r"1 of the 2 labels match no row .* l.jsonl row 1"),
        ([{"row": 0, "source": "c.jsonl", "harmful": 1}], "1 of the 1 labels match no row"),
        ([{"row": 3, "source": "b.jsonl", "harmful": 1}], "1 of the 1 labels match no row"),
        ([{"sample_id": "0" * 16, "harmful": 1}], "1 of the 1 labels match no row"),
        ([{"row": 2**60, "harmful": 1}], "neither sample_id nor row"),
        ([{"row": 0, "harmful": 1}, {"row": 0, "harmful": 0}], "l.jsonl row 1 contradicts l.jsonl row 0"),
        (
            [{"row": 5, "harmful": 1}, {"row": 0, "source": "b.jsonl", "harmful": 0}],
            r"l.jsonl row 1 contradicts l.jsonl row 0, which names the same row of the corpus \(5\)",
        ),
        ([{"row": 0, "harmful": TEXT}], "l.jsonl row 0: column harmful holds no label; write 1"),
        ([{"harmful": 1, "text": TEXT}], "neither sample_id nor row"),
        ([{"row": -1, "harmful": 1, "text": TEXT}], "neither sample_id nor row"),
        ([{"row": 0.5, "harmful": 1}], "neither sample_id nor row"),
        ([{"row": 0, "bad": TEXT}], r"no column harmful \(or label\)"),
        ([{"row": 0, "harmful": None}], "labels no row"),
    ],
)
def test_labels_that_do_not_fit_are_refused(rows: Sequence[Row], message: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_labels(jsonl(tmp_path / "l.jsonl", rows), store)
    assert TEXT not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_class_only(store: Store, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "l.jsonl", [{"row": row, "harmful": 0} for row in range(3)])
    with pytest.raises(InputError, match=r"all 3 labelled rows are harmless.* label some harmful rows"):
        read_labels(path, store).need_both()
    read_labels("harmful", store).need_both()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("toxic", "is no file, and no column of the corpus, which has text, harmful"),
        ("column:toxic", "no such column; it has text, harmful"),
    ],
)
def test_neither_a_file_nor_a_column(source: str, message: str, store: Store) -> None:
    with pytest.raises(ConfigError, match=message):
        read_labels(source, store)


def test_a_file_that_is_not_there(store: Store) -> None:
    with pytest.raises(InputError, match=r"--labels: .*gone\.jsonl") as caught:
        read_labels("gone.jsonl", store)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("l.jsonl", b""), ("l.csv", b"row,harmful\n"), ("l.parquet", b"PAR1 not really PAR1")]
)
def test_a_file_without_labels_or_broken(name: str, content: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^--labels: ") as caught:
        read_labels(str(tmp_path / name), store)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_no_json(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"row": 0, "harmful": 1}\n{"row": 1, "text": "' + TEXT + "\n")
    with pytest.raises(InputError, match=r"l\.jsonl row 1 cannot be read") as caught:
        read_labels(str(path), store)
    assert TEXT not in str(caught.value)


def test_packed_and_tab_separated_labels(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "l.tsv.gz"
    path.write_bytes(gzip.compress(b"row\tharmful\n0\tyes\n1\tno\n5\t\n"))
    found = read_labels(str(path), store)
    assert (found.places.tolist(), found.harmful.tolist(), found.empty) == ([0, 1], [True, False], 1)


def test_both_a_file_and_a_column(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmful").write_text("{}")
    with pytest.raises(ConfigError, match=r"write \./harmful or column:harmful"):
        read_labels("harmful", store)


def test_a_column_with_other_words(store: Store) -> None:
    with pytest.raises(InputError, match=r"column text, row 0 of the corpus holds no label") as caught:
        read_labels("text", store)
    assert TEXT not in str(caught.value)


@pytest.mark.parametrize("part", ["scores", "kept"])
def test_a_damaged_file_of_the_run(part: str, store: Store) -> None:
    [name] = [
        entry["name"] for entry in store.read_facts(MANIFEST)["files"] if entry["name"].startswith(f"{part}/000001")
    ]
    data = bytearray(store.read(name))
    data[len(data) // 2] ^= 1
    Path(store.path(name)).write_bytes(data)
    with pytest.raises(InputError, match=rf"{part}/000001-.*is not as it was written"):
        read_labels("harmful", store)


def test_a_run_that_is_not_there(tmp_path: Path, store: Store) -> None:
    with pytest.raises(ConfigError, match="no finished run here"):
        read_labels("harmful", Store(str(tmp_path / "empty")))
    store.write_facts(MANIFEST, {**store.read_facts(MANIFEST), "kind": "tokens"})
    with pytest.raises(ConfigError, match="masked tokens"):
        read_labels("harmful", store)

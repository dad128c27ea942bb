"""Every input format and dialect through the real command: kept/ has the columns, types and metadata of the input.

Three runs: typed files; JSON and CSV files of all dialects in one folder; transcripts in a column named by hand.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from command import Ran, curate
from outputs import Row, alpaca_rows, check_whole, manifest_of, merged, pair, tables, write_jsonl

SAFT = ["--method", "saft", "--drop", "0.2"]


def say(number: int) -> tuple[str, str]:
    row = alpaca_rows(1, seed=number)[0]
    return row["instruction"], row["output"]


# --- Parquet and Arrow --------------------------------------------------------------------------------------------

HUGGINGFACE = {"info": {"features": {"id": {"dtype": "int32", "_type": "Value"}}}}
TYPED = pa.schema(
    [
        pa.field("id", pa.int32(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("source", pa.dictionary(pa.int8(), pa.string())),
        pa.field("seen", pa.timestamp("us", tz="Europe/Zurich")),
        pa.field("note", pa.large_string(), metadata={"unit": "none"}),
        pa.field("tree", pa.list_(pa.struct([("name", pa.string()), ("sizes", pa.list_(pa.float32()))]))),
        pa.field("price", pa.decimal128(12, 3)),
        pa.field("raw", pa.binary()),
        pa.field("vector", pa.list_(pa.float16(), 3)),
        pa.field("whole", pa.uint64()),
    ],
    metadata={b"huggingface": json.dumps(HUGGINGFACE).encode(), b"maker": b"a test \xff"},
)


def typed_rows(first: int, count: int) -> list[Row]:
    start = datetime.datetime(2026, 3, 29, 0, 30, tzinfo=datetime.UTC)
    rows: list[Row] = []
    for number in range(first, first + count):
        rows.append(
            {
                "id": number,
                "messages": [{"role": "system", "content": "Be brief."}, *pair(*say(number))],
                "source": ["web", "book", None][number % 3],
                "seen": start + datetime.timedelta(minutes=20 * number, microseconds=number),
                "note": None if number % 5 == 0 else f"note {number}",
                "tree": [{"name": "a", "sizes": [0.5, None]}, None] if number % 4 else None,
                "price": decimal.Decimal(number) / 8 if number % 7 else None,
                "raw": bytes([number % 256, 255, 0]),
                "vector": [0.5, 1.0, float(number)],
                "whole": 2**64 - 1 - number,
            }
        )
    return rows


@pytest.fixture(scope="module")
def typed(tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("typed")
    rows = typed_rows(0, 70)
    (folder / "data").mkdir()
    first, second = (pa.Table.from_pylist(part, TYPED) for part in (rows[:45], rows[45:]))
    pq.write_table(first, folder / "data" / "a.parquet", row_group_size=8)
    pyarrow.feather.write_feather(second, str(folder / "data" / "b.arrow"))
    flags = ["--input", folder / "data", "--model", tiny_model, *SAFT, "--set", "shard_rows=20"]
    curate(*flags, "--output", folder / "out", cwd=folder, address=ray_address)
    return folder / "out", rows


def test_kept_has_exactly_the_schema_and_metadata_of_the_input(typed: tuple[Path, list[Row]]) -> None:
    out, _ = typed
    check_whole(out, ["saft"])
    # The schema as read from the input file, because Parquet has its own name for the items of a list.
    expected = pq.read_schema(out.parent / "data" / "a.parquet")
    assert expected.equals(TYPED)
    assert len(tables(out, "scores")) == 5
    assert len(tables(out, "kept")) == 1, "shards share their files"
    for table in tables(out, "kept"):
        assert table.schema.equals(expected, check_metadata=True), table.schema
        assert table.schema.metadata == TYPED.metadata
    for table in tables(out, "dropped"):
        columns = pa.schema(list(table.schema)[: len(TYPED)], metadata=table.schema.metadata)
        assert columns.equals(expected, check_metadata=True), table.schema


def test_typed_values_come_back_as_they_were(typed: tuple[Path, list[Row]]) -> None:
    out, rows = typed
    found = merged(out)
    assert {decision for decision, _ in found} == {"kept", "dropped"}
    expected = pa.Table.from_pylist(rows, TYPED).to_pylist()
    assert [{name: row[name] for name in TYPED.names} for _, row in found] == expected


def test_shares_by_the_corpus_s_own_source_are_exact_and_in_the_report(typed: tuple[Path, list[Row]]) -> None:
    out, _ = typed
    found = Counter((row["source"] or "", decision) for decision, row in merged(out))
    expected = [
        {"source": name, "rows": found[name, "kept"] + found[name, "dropped"], "dropped": found[name, "dropped"]}
        for name in ("", "book", "web")
    ]
    assert manifest_of(out)["own_sources"] == expected
    page = (out / "report.html").read_text()
    assert "By the column <code>source</code> of the corpus" in page
    assert all(f'["source","{name}"]' in page for name in ("(empty)", "book", "web"))


# --- JSON and CSV -------------------------------------------------------------------------------------------------


def write_mixed_folder(folder: Path) -> list[Row]:
    """Writes files of every text format and dialect; returns their rows, in the order of the file names."""
    folder.mkdir()
    messages: list[Row] = [{"messages": pair(*say(i)), "tag": i} for i in range(12)]
    # Later in the corpus the same keys hold other types, and keys appear and disappear.
    late: list[Row] = [{"messages": pair(*say(i)), "tag": f"t{i}", "score": i} for i in range(12, 20)]
    late += [{"score": 0.5, "extra": {"deep": [1, 2]}, "messages": [*pair(*say(20)), *pair(*say(21))]}]
    sharegpt: list[Row] = [
        {"conversations": [{"from": "human", "value": say(i)[0]}, {"from": "gpt", "value": say(i)[1]}], "id": f"s{i}"}
        for i in range(30, 40)
    ]
    alpaca: list[Row] = [{**row, "extra": None} for row in alpaca_rows(10, seed=50)]
    completion: list[Row] = [{"prompt": say(i)[0], "completion": say(i)[1]} for i in range(60, 70)]
    quoted: list[Row] = [{"question": f'{say(i)[0]}\nA "quoted", line', "answer": say(i)[1]} for i in range(70, 80)]
    write_jsonl(folder / "a.jsonl", messages)
    write_jsonl(folder / "b.jsonl", late)
    (folder / "c.json").write_text(json.dumps(sharegpt, indent=1, ensure_ascii=False))
    text = "".join(json.dumps(row) + "\r\n" for row in alpaca)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    plain = write_jsonl(folder.parent / "plain.jsonl", [*completion[:5], "  ", *completion[5:]])
    with pa.OSFile(str(folder / "e.jsonl.zst"), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as packed:
        packed.write(plain.read_bytes())
    with (folder / "f.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(quoted)
    (folder / "notes.txt").write_text("no data")
    (folder / "_SUCCESS").touch()
    return [*messages, *late, *sharegpt, *alpaca, *completion, *quoted]


@pytest.fixture(scope="module")
def mixed(tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], Ran]:
    folder = tmp_path_factory.mktemp("mixed")
    rows = write_mixed_folder(folder / "data")
    flags = ["--input", folder / "data", "--model", tiny_model, *SAFT, "--set", "shard_rows=8"]
    ran = curate(*flags, "--output", folder / "out", cwd=folder, address=ray_address)
    return folder / "out", rows, ran


def test_rows_with_differing_keys_share_one_schema(mixed: tuple[Path, list[Row], Ran]) -> None:
    out, rows, _ = mixed
    check_whole(out, ["saft"])
    [schema] = {table.schema for table in tables(out, "kept")}
    assert set(schema.names) == {name for row in rows for name in row}
    assert schema.field("tag").type == pa.json_()
    assert schema.field("score").type == pa.float64()
    assert schema.field("extra").type == pa.struct([("deep", pa.list_(pa.int64()))])
    found = merged(out)
    assert len(found) == len(rows)
    for (_, row), original in zip(found, rows, strict=True):
        expected: dict[str, Any] = {name: original.get(name) for name in schema.names}
        assert {name: row[name] for name in schema.names} == expected


def test_every_dialect_is_recognised(mixed: tuple[Path, list[Row], Ran]) -> None:
    out, _, ran = mixed
    manifest = check_whole(out, ["saft"])
    assert {item["path"]: (item["dialect"].split()[0], item["format"]) for item in manifest["input"]["files"]} == {
        "a.jsonl": ("messages", "jsonl"),
        "b.jsonl": ("messages", "jsonl"),
        "c.json": ("sharegpt", "json"),
        "d.jsonl.gz": ("alpaca", "jsonl (gzip)"),
        "e.jsonl.zst": ("pair", "jsonl (zstd)"),
        "f.csv": ("pair", "csv"),
    }
    assert manifest["input"]["not_read"] == {"files": 1, "names": ["notes.txt"], "hidden": 1}
    assert "not read" in ran.stdout
    for word in (
        "messages (system, messages)",
        "sharegpt (system, conversations)",
        "alpaca (system, instruction, input -> output)",
    ):
        assert word in ran.stdout


def test_a_column_of_mixed_types_is_said(mixed: tuple[Path, list[Row], Ran]) -> None:
    out, _, _ = mixed
    assert check_whole(out, ["saft"])["json_columns"] == ["tag"]
    assert "the keys or types of tag." in (out / "README.md").read_text()


# --- transcripts, by hand -----------------------------------------------------------------------------------------


def test_transcripts_in_a_column_named_by_hand(tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    rows: list[Row] = []
    for number in range(40):
        prompt, answer = say(number)
        opening = f"\n\nHuman: {prompt}\n\nAssistant: {answer}"
        rows.append({"chosen": f"{opening}\n\nHuman: {prompt}\n\nAssistant: {answer}", "rejected": f"{opening} No."})
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    flags = ["--input", tmp_path / "pairs.jsonl", "--model", tiny_model, *SAFT]
    flags += ["--set", "input.columns.text=chosen", "--output", tmp_path / "out"]
    curate(*flags, cwd=tmp_path, address=ray_address)
    manifest = check_whole(tmp_path / "out", ["saft"])
    assert manifest["input"]["files"][0]["dialect"] == "text (chosen)"
    assert manifest["counts"]["dropped"] == 8
    assert [{"chosen": row["chosen"], "rejected": row["rejected"]} for _, row in merged(tmp_path / "out")] == rows

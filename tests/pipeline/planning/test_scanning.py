"""The dialect of a file: exact where its columns are known, open where a later row may bring more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tamis.operators.conversation.columns import parts_of_row
from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import scan
from tamis.pipeline.planning.scanning import dialect_of

PLAIN = {"instruction": "a", "output": "b"}
LATE = {"instruction": "a", "input": "TEXT", "output": "b", "system": "RULES"}
ROWS: list[Mapping[str, str]] = [*[PLAIN] * 64, LATE]  # as many plain ones as a scan looks at


def write(folder: Path, ending: str) -> Path:
    path = folder / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([PLAIN] * 65), path)
    elif ending == "csv":
        path.write_text("instruction,output\n" + "a,b\n" * 65)
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def dialect(path: Path, name: str | None = None, **columns: str) -> Dialect:
    [file] = resolve([str(path)], "auto", {})
    return dialect_of(scan(file, 100, {}), name, columns)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("name", [None, "alpaca"])
def test_parts_that_first_come_after_the_head_are_not_lost(tmp_path: Path, ending: str, name: str | None) -> None:
    messages = normalise(LATE, dialect(write(tmp_path, ending), name)).messages
    assert [message["content"] for message in messages] == ["RULES", "a\nTEXT", "b"]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("name", [None, "alpaca"])
def test_known_columns_are_bound_exactly(tmp_path: Path, ending: str, name: str | None) -> None:
    path = write(tmp_path, ending)
    assert dialect(path, name) == Dialect.of("alpaca", instruction="instruction", output="output")
    with pytest.raises(ValueError, match="did you mean 'instruction'"):
        dialect(path, instruction="instructoin", output="output")


def test_a_column_named_by_hand_may_first_come_after_the_head(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    assert dialect(path, instruction="instruction", input="input", output="output").column("input") == "input"
    with pytest.raises(ValueError, match="did you mean 'instruction'"):
        dialect(path, instruction="instructoin", output="outptu")


def test_later_rows_with_more_columns_are_understood_or_a_problem(tmp_path: Path) -> None:
    more = {"tools": [{"name": "f"}], "history": [["c", "d"]], "chat_template_kwargs": {"x": 1}}
    found = dialect(write(tmp_path, "jsonl"))
    parts = parts_of_row({**LATE, **more}, found)
    assert [turn["content"] for turn in parts.turns] == ["c", "d", "a\nTEXT", "b"]
    assert parts.variables == {"tools": [{"name": "f"}], "x": 1}
    for column in ("few_shot", "system_prompt", "response", "context"):
        with pytest.raises(RowProblem, match=f"unplanned_column: the row has a column {column}"):
            parts_of_row({**LATE, column: "x"}, found)
    by_name = dialect(write(tmp_path, "jsonl"), "alpaca")
    with pytest.raises(RowProblem, match="unplanned_column"):
        parts_of_row({**LATE, "few_shot": "x"}, by_name)


@pytest.mark.parametrize(
    ("turns", "name"),
    [
        ([{"from": "human", "value": "a"}], "sharegpt"),
        ([{"role": "prompter", "text": "a"}], "oasst"),
        ([{"role": "user", "content": "a"}], "messages"),
    ],
)
def test_a_chat_named_by_hand_has_the_layout_of_its_rows(tmp_path: Path, turns: list[object], name: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"chat": turns, "reply": "b"}) + "\n")
    found = dialect(tmp_path / "a.jsonl", messages="chat", response="reply")
    assert (found.name, found.replaces) == (name, True)
    parts = parts_of_row({"chat": turns, "reply": "b"}, found)
    assert [turn[parts.content_key] for turn in parts.turns] == ["a", "b"]
    with pytest.raises(RowProblem, match="unknown_role"):
        normalise({"chat": [{"x": 1}], "reply": "b"}, dialect(tmp_path / "a.jsonl", "messages", messages="chat"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_turns_as_json_text_are_read_from_tables_too(tmp_path: Path, ending: str) -> None:
    row = {
        "messages": json.dumps([{"role": "user", "content": "a"}]),
        "completion": '{"role": "model", "content": "b"}',
    }
    table, path = pa.Table.from_pylist([row] * 3), tmp_path / f"a.{ending}"
    if ending == "csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    found = dialect(path)
    assert found.describe() == "messages (messages -> completion)"
    assert [turn["content"] for turn in parts_of_row(row, found).turns] == ["a", "b"]
    by_hand = dialect(path, prompt="messages", response="completion")
    assert by_hand.encoded == ("prompt", "response")
    assert [turn["content"] for turn in parts_of_row(row, by_hand).turns] == ["a", "b"]


@pytest.mark.parametrize("column", ["image", "Images", "video_path", "audio-url"])
@pytest.mark.parametrize("kind", ["jsonl", "late.jsonl", "parquet"])
def test_images_are_seen_where_columns_are_set_by_hand(tmp_path: Path, column: str, kind: str) -> None:
    row = {"ask": "a", "reply": "b"}
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({**{name: [text] for name, text in row.items()}, column: [None]}), path)
    else:
        path.write_text(json.dumps(row if "late" in kind else {**row, column: None}) + "\n")
    for found in (dialect(path, prompt="ask", response="reply"), dialect(path, "pair", prompt="ask", response="reply")):
        assert (column in found.reads) == ("late" not in kind)  # tables are read by column
        assert len(parts_of_row({**row, column: ""}, found).turns) == 2
        with pytest.raises(RowProblem, match=f"multimodal: the row has something in {column}"):
            parts_of_row({**row, column: "x.png"}, found)
    named = dialect(path, prompt="ask", response="reply", system=column) if "late" not in kind else None
    assert named is None or len(parts_of_row({**row, column: "x"}, named).turns) == 2

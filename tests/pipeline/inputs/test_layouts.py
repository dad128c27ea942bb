"""How a text file is read that is not what its name says: JSON in its three forms, and the fields of CSV and TSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import Wanted, find
from tamis.pipeline.inputs.shards import CORPUS, Scanned, make_shards, read, scan

ROWS: list[dict[str, Any]] = [{"prompt": f"p {i}", "response": f'say "{i}", [it];'} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
ARRAY, PRETTY = json.dumps(ROWS), json.dumps(ROWS, indent=1)
CHAT = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]


def scanned(path: Path, text: str, **wanted: str) -> Scanned:
    path.write_text(text, newline="")
    [file] = find([str(path)], "auto", {}, wanted=Wanted(**wanted)).files
    return scan(file, 2, {})


def values(found: Scanned) -> list[Any]:
    return [row.value for shard in make_shards(found, CORPUS, {}, 0) for row in read(shard, {})]


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("a.jsonl", LINES, ""),
        ("a.json", ARRAY, ""),
        ("a.json", PRETTY, ""),
        ("a.json", LINES, "holds one JSON object a line"),
        ("a.json", "\ufeff\ufeff" + LINES, "holds one JSON object a line"),
        ("a.jsonl", ARRAY, "holds a JSON array"),
        ("a.jsonl", PRETTY, "holds a JSON array"),
        ("a.jsonl", "[\n" + ",\n".join(LINES.splitlines()) + "\n]\n", "holds a JSON array"),
        ("a.json", json.dumps({"data": ROWS}), "those under the key 'data' (input.field)"),
        ("a.json", json.dumps({"version": "1", "ids": [1, 2], "data": ROWS, "end": {}}, indent=2), "the key 'data'"),
        ("a.jsonl", json.dumps({"rows": ROWS}, indent=2), "those under the key 'rows'"),
    ],
)
def test_json_in_its_forms(tmp_path: Path, name: str, text: str, note: str) -> None:
    found = scanned(tmp_path / name, text)
    assert values(found) == ROWS
    assert [note in said for said in found.notes] == [True] * bool(note)


def test_json_whose_first_row_is_longer_than_what_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.pipeline.inputs.text_files.LAYOUT_BYTES", 40)
    chats = [{"messages": [{"role": "user", "content": "x" * 100}]}, {"messages": CHAT}]
    lines = "".join(json.dumps(chat) + "\n" for chat in chats)
    assert values(scanned(tmp_path / "a.json", lines)) == chats
    assert values(scanned(tmp_path / "a.jsonl", lines)) == chats
    numbered = [{"id": 1, **chats[0]}, {"id": 2, **chats[1]}]
    assert values(scanned(tmp_path / "c.json", "".join(json.dumps(chat) + "\n" for chat in numbered))) == numbered
    assert values(scanned(tmp_path / "b.json", json.dumps({"data": ROWS}))) == ROWS
    assert values(scanned(tmp_path / "b.jsonl", ARRAY)) == ROWS


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"prompt": CHAT[:1], "response": CHAT[1:], "tags": ["a"]},
        {"prompt": "p", "response": "r"},
        {"conversations": []},
        {},
    ],
)
def test_one_object_on_one_line_is_a_row(tmp_path: Path, row: Any) -> None:
    for name in ("a.json", "a.jsonl"):
        assert values(scanned(tmp_path / name, json.dumps(row))) == [row]


def test_broken_first_lines_stay_rows_with_problems(tmp_path: Path) -> None:
    for first in ("{broken", "[1, 2]", "[]", "nonsense", '{"a": 1} {"b": 2}', "{"):
        codes = [getattr(value, "code", None) for value in values(scanned(tmp_path / "a.jsonl", f"{first}\n{LINES}"))]
        assert codes == [codes[0], *[None] * 5]
        assert codes[0] in {"malformed_json", "not_an_object"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            json.dumps({"a": ROWS, "b": ROWS}),
            "one JSON object with several lists of objects (a, b); say with input.field",
        ),
        (
            json.dumps({"prompt": ["p"], "response": ["r"]}),
            "none of its keys (prompt, response) holds a list of objects",
        ),
        (json.dumps({"0": ROWS[0], "1": ROWS[1]}), "none of its keys (0, 1) holds a list of objects"),
        (json.dumps({"p": {"0": 1}, "q": {"0": 2}}, indent=1), "none of its keys (p, q) holds a list of objects"),
        ('{"a": [{}]', "not JSON|cut off"),
        (json.dumps(ROWS[0], indent=1) * 2, "there is more after the end of the first JSON object"),
        ("prompt,response\n", "not JSON: a .json file holds an array of rows, or one object a line"),
    ],
)
def test_json_that_is_none_of_them_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        scanned(tmp_path / "a.json", text)
    assert any(part in str(caught.value) for part in says.split("|"))
    assert "\n" not in str(caught.value)


def test_the_field_with_the_rows_is_named_by_hand(tmp_path: Path) -> None:
    two = {"train": ROWS, "test": ROWS[:1]}
    assert values(scanned(tmp_path / "a.json", json.dumps(two), field="test")) == ROWS[:1]
    assert values(scanned(tmp_path / "a.json", json.dumps(two), field="train")) == ROWS
    with pytest.raises(InputError, match=r"input.field: .* under 'dev' \(train, test\)"):
        scanned(tmp_path / "a.json", json.dumps(two), field="dev")


def test_marks_before_any_line_are_no_part_of_a_row(tmp_path: Path) -> None:
    assert values(scanned(tmp_path / "a.jsonl", "\ufeff" + LINES + "\ufeff" + LINES)) == ROWS * 2


CSV = [{"prompt": f"p, {i}", "response": f'say "{i}"\n; and more'} for i in range(5)]


def table(rows: list[dict[str, str]], delimiter: str) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    return "\n".join(delimiter.join(map(quoted, row)) for row in [rows[0].keys(), *(row.values() for row in rows)])


@pytest.mark.parametrize(
    ("name", "delimiter", "note"),
    [
        ("a.csv", ",", ""),
        ("a.csv", ";", "semicolons"),
        ("a.csv", "\t", "tabs"),
        ("a.csv", "|", "vertical bars"),
        ("a.tsv", "\t", ""),
        ("a.tsv", ",", "commas"),
    ],
)
def test_the_delimiter_is_found_and_said(tmp_path: Path, name: str, delimiter: str, note: str) -> None:
    found = scanned(tmp_path / name, table(CSV, delimiter))
    assert values(found) == CSV
    assert list(found.notes) == ([f"has {note} between its fields (input.delimiter)"] if note else [])


def test_a_note_for_excel_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv: its first line \(sep=;\) is a note for Excel; take it out"):
        scanned(tmp_path / "a.csv", "sep=;\r\na;b\r\n1;2\r\n")


def test_a_delimiter_set_by_hand(tmp_path: Path) -> None:
    found = scanned(tmp_path / "a.csv", "a^b\n1,^2\n", delimiter="^")
    assert values(found) == [{"a": "1,", "b": "2"}]
    assert found.notes == ()


def test_one_column_or_uneven_rows_are_no_reason_for_another_delimiter(tmp_path: Path) -> None:
    assert values(scanned(tmp_path / "a.csv", "text\na; b\nc\td\n")) == [{"text": "a; b"}, {"text": "c\td"}]
    uneven = values(scanned(tmp_path / "a.csv", "a,b\n1,2;3\nonly;this\n"))
    assert uneven[0] == {"a": "1", "b": "2;3"}
    assert uneven[1].code == "malformed_csv"


def test_tabs_without_quoting(tmp_path: Path) -> None:
    rows = [{"a": '"Well" she said', "b": 'x "y'}, {"a": '"', "b": "z"}]
    text = "a\tb\n" + "".join(f"{row['a']}\t{row['b']}\n" for row in rows)
    found = scanned(tmp_path / "a.tsv", text)
    assert values(found) == rows
    assert found.notes == ("has fields without quoting, so that a quote is part of the text (input.quoting)",)
    assert values(scanned(tmp_path / "b.tsv", text, quoting="none")) == rows
    with pytest.raises(InputError, match=r"not valid CSV near line 2 .*; if quotes are .* set input.quoting: none"):
        scanned(tmp_path / "c.tsv", text, quoting="csv")


def test_tabs_without_quoting_of_which_only_a_late_row_tells(tmp_path: Path) -> None:
    plain = "".join(f"p {i}\tr {i}\n" for i in range(300))
    found = scanned(tmp_path / "a.tsv", "a\tb\n" + plain + '"Well" then\tr\n')
    assert values(found)[-1] == {"a": '"Well" then', "b": "r"}
    assert "without quoting" in found.notes[0]
    with pytest.raises(InputError, match="not valid CSV near line 302"):  # with quotes or without, it is no table
        scanned(tmp_path / "b.tsv", "a\tb\n" + plain + '"Well" then\tr\none\n')


def test_columns_without_a_name_are_called_as_pandas_calls_them(tmp_path: Path) -> None:
    found = scanned(tmp_path / "a.csv", ",prompt,\n0,p,r\n")
    assert found.header == ("Unnamed: 0", "prompt", "Unnamed: 2")
    assert values(found) == [{"Unnamed: 0": "0", "prompt": "p", "Unnamed: 2": "r"}]


def test_a_header_that_comes_again_is_no_row(tmp_path: Path) -> None:
    for header in ("a,b", ",b"):
        again = values(scanned(tmp_path / "a.csv", f"{header}\n1,2\n\ufeff{header}\n3,4\n"))
        assert [getattr(value, "code", None) for value in again] == [None, "malformed_csv", None]
        assert "repeats the header" in again[1].message


def test_carriage_returns_alone_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its lines end in carriage returns alone, as on old Macs; convert it: tr"):
        scanned(tmp_path / "a.csv", "prompt,response\ra,b\rc,d\r")
    assert scanned(tmp_path / "b.csv", "prompt,response\r\na,b\r\n").rows == 1

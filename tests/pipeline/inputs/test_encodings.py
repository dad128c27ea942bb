"""Text files of other encodings: read as a person says, or named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tamis.pipeline.inputs.encodings import known_encoding
from tamis.pipeline.inputs.files import Wanted, find
from tamis.pipeline.inputs.shards import CORPUS, Scanned, make_shards, read, scan

ROWS = [
    {"prompt": f"Où est l’été nº {number}?", "response": 'Il dit "là", — déjà\nvu'} for number in range(5)
]  # it has bytes that are control characters in Latin-1


def csv_text(rows: list[dict[str, str]]) -> str:
    lines = [[value.replace('"', '""') for value in row.values()] for row in rows]
    return "prompt,response\n" + "".join(",".join(f'"{value}"' for value in line) + "\n" for line in lines)


TEXTS = {
    "a.csv": csv_text(ROWS),
    "a.tsv": csv_text(ROWS).replace(",prompt", "\tprompt").replace('","', '"\t"').replace("prompt,", "prompt\t"),
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "a.json": json.dumps(ROWS, ensure_ascii=False, indent=1),
    "rows.json": json.dumps({"n": 5, "rows": ROWS}, ensure_ascii=False),
}


def scanned(path: Path, encoding: str = "", rows: int = 2) -> Scanned:
    [file] = find([str(path)], "auto", {}, None, Wanted(encoding=encoding)).files
    return scan(file, rows, {})


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["cp1252", "mac-roman"])
def test_rows_of_an_encoding_that_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(TEXTS[name].encode(encoding))
    found = scanned(tmp_path / name, known_encoding(encoding))
    assert list(found.head)[:2] == ROWS[:2]
    assert not found.notes or "input.encoding" not in found.notes[0]
    shards = make_shards(found, CORPUS, {}, 0)
    assert [row.value for shard in shards for row in read(shard, {})] == ROWS
    assert all("déjà" in row.raw_text() for shard in shards for row in read(shard, {}))
    plain = scanned(tmp_path / name)
    assert plain.rows == 5
    assert not {shard.id for shard in shards} & {s.id for s in make_shards(plain, CORPUS, {}, 0)}


def test_rows_that_are_not_utf8_name_the_setting(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(TEXTS[name].encode("cp1252"))
        for problem in scanned(tmp_path / name).head_problems:
            assert problem.code == "invalid_utf8"
            assert problem.message.endswith("set input.encoding: cp1252")
    (tmp_path / "b.csv").write_bytes("prémier,x\na,b\n".encode("cp1252"))
    with pytest.raises(Exception, match=r"set input.encoding \(such as cp1252"):
        scanned(tmp_path / "b.csv")
    assert scanned(tmp_path / "b.csv", "cp1252").header == ("prémier", "x")


def test_a_byte_that_the_encoding_does_not_have(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(TEXTS[name].encode("cp1252").replace(b"\x97", b"\x81", 1))
        [problem] = scanned(tmp_path / name, "cp1252").head_problems
        assert str(problem).endswith("invalid_utf8: the row has a byte that cp1252 does not have; check input.encoding")


def test_utf8_that_is_read_as_another_encoding_is_said(tmp_path: Path) -> None:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text.replace("’", "'").replace("—", "-"))
        assert (
            scanned(tmp_path / name, "cp1252").notes[-1] == "seems to be UTF-8, and is read as cp1252 (input.encoding)"
        )


def test_encodings_that_can_be_named() -> None:
    assert known_encoding("UTF8") == ""
    assert [known_encoding(name) for name in ("latin-1", "Windows-1252", "koi8-r")] == ["iso8859-1", "cp1252", "koi8-r"]
    for name in ("shift_jis", "utf-16", "cp037", "unicode_escape", "raw_unicode_escape", "ascii", "gbk"):
        with pytest.raises(ValueError, match="iconv"):
            known_encoding(name)
    for name in ("rot13", "windoes", "", "base64", "a\0b", "utf-7"):
        with pytest.raises(ValueError, match="no encoding of text is called"):
            known_encoding(name)

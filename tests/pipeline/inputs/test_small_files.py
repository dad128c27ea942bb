"""A small text file is read in one go, and found to be what it is when it is read in parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs import shards, text_files
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Scanned, scan

ROWS = [{"prompt": f"q{n}", "response": f"answer {n}" * (n % 4)} for n in range(30)]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TABLE = b"prompt\tresponse\n" + b"".join(b'q%d\tsaid "%d\n' % (n, n) for n in range(30))
FILES = {
    "lines.jsonl": JSON_LINES,
    "no-newline.jsonl": JSON_LINES.rstrip(),
    "blank-lines.jsonl": b"\n \n" + JSON_LINES.replace(b"\n", b"\r\n\r\n"),
    "marked.jsonl": b"\xef\xbb\xbf" + JSON_LINES,
    "broken.jsonl": JSON_LINES + b'{"prompt": \n\xff\xfe\n',
    "array.json": json.dumps(ROWS).encode(),
    "array.jsonl": json.dumps(ROWS, indent=1).encode(),
    "lines.json": JSON_LINES,
    "object.json": json.dumps({"version": 1, "data": ROWS}, indent=1).encode(),
    "table.csv": b'prompt,response\n"a\nb",c\n\n' + b"q,r\n" * 20,
    "semicolons.csv": b"prompt;response\n" + b"q;r\n" * 20,
    "bare-quotes.tsv": TABLE,
    "white.jsonl": b" \n\n",
    "open-quote.csv": b'prompt,response\n"q,r\n',
    "text.json": b"hello",
    "wide.jsonl": JSON_LINES.decode().encode("utf-16"),
}


def found(path: Path) -> Scanned | str:
    status = path.stat()
    file = SourceFile(str(path), path.name, path.suffix[1:], None, status.st_size, str(status.st_mtime_ns))
    try:
        return scan(file, 7, {})
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", FILES)
def test_it_is_found_as_when_read_in_parts(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    at_once = found(path)
    with monkeypatch.context() as patched:
        patched.setattr(text_files, "small_in_memory", lambda file, size: file)
        assert repr(found(path)) == repr(at_once)


def test_every_byte_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSON_LINES)
    told: list[int] = []
    scan(SourceFile(str(path), "a.jsonl", "jsonl", None, len(JSON_LINES), ""), 7, {}, tell=told.append)
    assert sum(told) == len(JSON_LINES)


def test_a_file_that_grew_is_not_taken_for_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "LAYOUT_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSON_LINES)
    file = shards._text(SourceFile(str(path), "a.jsonl", "jsonl", None, 50, ""), {}, (), shards.AS_NAMED)
    assert text_files.small_in_memory(file, 50).held is None
    assert text_files.small_in_memory(file, len(JSON_LINES)).held is None

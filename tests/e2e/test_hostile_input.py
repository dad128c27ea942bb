"""The real command on hostile rows among good ones: each row is kept, dropped or quarantined; nothing is executed."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from command import curate, tamis
from hostile import LINES, TEXTS, dumped, pair, with_text, words
from outputs import check_whole, merged, rows_of, write_jsonl

GOOD = 60


def good_rows(seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [pair(chance, words) for _ in range(GOOD)]


def corpus(folder: Path) -> list[bytes]:
    """Writes a JSON Lines file with every kind of hostile row; returns its lines."""
    chance = random.Random(11)
    lines = [dumped(row) for row in good_rows(1)]
    lines += [dumped(pair(chance, text), ensure_ascii=False) for text in TEXTS.values()]
    lines += [make(chance, pair(chance, words)) for make in LINES.values() for _ in range(2)]
    lines.append(dumped(with_text(pair(chance, words), "a b" * 3_500_000)))
    turns = [{"role": role, "content": "x"} for _ in range(50_000) for role in ("user", "assistant")]
    lines.append(dumped({"prompt": turns[:-1], "response": [turns[-1]]}))
    chance.shuffle(lines)
    write_jsonl(folder / "rows.jsonl", lines)
    return lines


def same(kept: Any, read: Any) -> bool:
    """Whether a column of kept/ equals the row's value: unchanged, or the digits of a whole number as text."""
    if isinstance(kept, str) and not isinstance(read, str):
        return repr(json.loads(kept)) == repr(read)
    if isinstance(read, dict):
        return list(kept) == list(read) and all(same(kept[key], value) for key, value in read.items())
    if isinstance(read, list):
        return len(kept) == len(read) and all(map(same, kept, read))
    return bool(kept == read) or (kept != kept and read != read)


def test_every_hostile_line_is_kept_dropped_or_quarantined(tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    lines, out = corpus(tmp_path / "data"), tmp_path / "out"
    flags = ["--input", tmp_path / "data", "--output", out, "--model", tiny_model, "--method", "saft"]
    curate(*flags, "--set", "max_quarantined=0.9", "--set", "shard_rows=32", cwd=tmp_path, address=ray_address)
    manifest = check_whole(out, ["saft"])
    assert manifest["counts"]["rows_in"] == len(lines)
    codes = set(manifest["quarantine_codes"])
    assert {"malformed_json", "duplicate_keys", "number_too_large", "invalid_utf8", "too_many_columns"} <= codes
    assert "overlong" in codes
    found = merged(out)
    assert len(found) == len(lines)
    for line, (decision, row) in zip(lines, found, strict=True):
        if decision == "quarantined":
            assert row["raw_text"][:1000] == line.decode("utf-8", "backslashreplace")[:1000]
            assert len(row["raw_text"]) < 1_100_000
        else:
            read = json.loads(line)
            assert same({key: row[key] for key in read}, read)
    page = (out / "report.html").read_text()
    assert page.casefold().count("<script") == 2  # the page's own, and its data
    assert "\u202e" not in page + (out / "README.md").read_text()


def test_hostile_texts_in_other_formats(tiny_model: Path, ray_address: str, tmp_path: Path) -> None:
    """One run over a CSV, a JSON and a Parquet file of the same rows, each with two that cannot be used."""
    chance, data, out = random.Random(12), tmp_path / "data", tmp_path / "out"
    data.mkdir()
    rows = good_rows(2) + [pair(chance, text) for text in TEXTS.values()]
    lines = [*(dumped(row) for row in rows), b'{"prompt": 1, "prompt": 2}', b"5"]
    (data / "rows.json").write_bytes(b"[" + b",".join(lines) + b"]")
    plain = [{key: value.replace("\r", " ") for key, value in row.items()} for row in rows]
    cells = [",".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in plain]
    (data / "rows.csv").write_bytes("\n".join(["prompt,response", *cells, "one", '"a",b,c', ""]).encode())
    pq.write_table(pa.Table.from_pylist([*rows, {"prompt": None}, {"response": " "}]), data / "rows.parquet")
    flags = ["--input", data, "--output", out, "--model", tiny_model, "--method", "saft"]
    curate(*flags, "--set", "max_quarantined=0.5", cwd=tmp_path, address=ray_address)
    counts = check_whole(out, ["saft"])["counts"]
    assert (counts["rows_in"], counts["quarantined"]) == (3 * (len(rows) + 2), 6)
    bad = Counter(row["source"] for row in rows_of(out, "quarantine"))
    assert bad == {"rows.csv": 2, "rows.json": 2, "rows.parquet": 2}
    usable = [row for decision, row in merged(out) if decision != "quarantined"]
    assert [{key: row[key] for key in ("prompt", "response")} for row in usable] == [*plain, *rows, *rows]


def test_an_archive_bomb_is_refused_by_the_plan(tiny_model: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b" " * (64 << 20), 9) * 20)
    ran = tamis("plan", "--input", bomb, "--output", "out", "--model", tiny_model, "--method", "saft", cwd=tmp_path)
    assert ran.rc == 3, ran.output
    assert "bomb.jsonl.gz: " in ran.stderr
    assert "times as many" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_someone_else_neither_escapes_nor_crashes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shown = {
        "shard": "../../secret",
        "row": 0,
        "dialect": {"name": "pair", "columns": {"prompt": "a", "response": "b"}},
    }
    samples = {"riskiest": [shown], "borderline_dropped": [], "borderline_kept": []}
    trees = ({"fingerprint": {}, "files": [], **samples}, {"fingerprint": {}, "files": 5}, {"fingerprint": 5}, [])
    for text in [*map(json.dumps, trees), "[" * 200_000, "", "\0"]:
        (out / "manifest.json").write_text(text)
        ran = tamis("report", out, cwd=tmp_path)
        assert ran.rc == 2, ran.output
        assert "manifest.json" in ran.stderr
    assert [path.name for path in out.iterdir()] == ["manifest.json"]

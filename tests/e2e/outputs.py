"""An output folder as a user finds it: its tables, and checks of what every finished run guarantees."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from json_rows import to_rows

from tamis.pipeline.storage.seals import opened

Row = dict[str, Any]
SCORE_COLUMNS_AFTER = ["decision", "n_tokens", "n_response_tokens", "truncated"]
WORDS = (
    *("river", "stone", "lamp", "garden", "winter", "paper", "bridge", "copper", "salt", "window", "engine", "cloud"),
    *("letter", "forest", "mirror", "road", "basket", "candle", "harbour", "needle", "orange", "pillow", "quartz"),
    *("ribbon", "silver", "table", "umbrella", "velvet", "wagon", "yellow", "zebra", "anchor", "button", "kettle"),
)


def sentence(chance: random.Random, low: int = 3, high: int = 25) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(low, high))).capitalize() + "."


def alpaca_rows(count: int, seed: int) -> list[Row]:
    chance = random.Random(seed)
    return [
        {
            "instruction": sentence(chance),
            "input": sentence(chance) if chance.random() < 0.3 else "",
            "output": sentence(chance),
        }
        for _ in range(count)
    ]


def pair(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """One line per row; bytes and strings are written unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def manifest_of(out: Path) -> dict[str, Any]:
    """The content of the manifest, after its seal is checked."""
    return opened(json.loads((out / "manifest.json").read_text()))


def tables(out: Path, part: str) -> list[pa.Table]:
    """The files of one folder, ordered by name, which is the order of the corpus."""
    return [pq.read_table(path) for path in sorted((out / part).glob("*.parquet"))]


def rows_of(out: Path, part: str) -> list[Row]:
    return [row for table in tables(out, part) for row in to_rows(table)]


def check_whole(out: Path, methods: list[str], *, work_kept: bool = False) -> dict[str, Any]:
    """Checks everything that every finished run guarantees; returns its manifest."""
    manifest = manifest_of(out)
    counts = manifest["counts"]
    assert counts["rows_in"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    for part, count in (("kept", "kept"), ("dropped", "dropped"), ("quarantine", "quarantined")):
        assert sum(table.num_rows for table in tables(out, part)) == counts[count], part

    scores = tables(out, "scores")
    assert all(table.column_names == ["sample_id", "source", "row", *methods, *SCORE_COLUMNS_AFTER] for table in scores)
    scored = rows_of(out, "scores")
    assert len(scored) == counts["rows_in"]
    assert len({row["sample_id"] for row in scored}) == len(scored)
    for row in scored:
        assert all((row[name] is None) == (row["decision"] == "quarantined") for name in methods)

    listed = {file["name"]: file for file in manifest["files"]}
    assert len(listed) == len(manifest["files"])
    # A killed run may leave .tmp files, which nothing reads.
    present = {
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.is_file() and path.relative_to(out).parts[0] != "_work" and path.suffix != ".tmp"
    }
    assert present == {*listed, "manifest.json"}
    assert {"README.md", "report.html", "artifact/artifact.json"} <= present
    for name, file in listed.items():
        data = (out / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"]), name
        assert (out / name).stat().st_mtime_ns <= (out / "manifest.json").stat().st_mtime_ns, name
    assert (out / "_work").exists() == work_kept
    return manifest


def merged(out: Path) -> list[tuple[str, Row]]:
    """(decision, row) of every input row in input order: scores/ says which folder has the next row."""
    rest = {part: iter(rows_of(out, part)) for part in ("kept", "dropped", "quarantine")}
    found = []
    for row in rows_of(out, "scores"):
        decision = row["decision"]
        found.append((decision, next(rest["quarantine" if decision == "quarantined" else decision])))
    for part, rows in rest.items():
        assert next(rows, None) is None, f"{part}/: rows that scores/ does not know"
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> (inode, time of modification) of every file below `folder`."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }

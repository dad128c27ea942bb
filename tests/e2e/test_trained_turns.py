"""Chats whose turns are not all trained on, through a whole run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from command import curate, tamis
from outputs import manifest_of, merged, rows_of, sentence, write_jsonl


def chat(number: int, *weights: int) -> dict[str, Any]:
    chance = random.Random(number)
    turns = []
    for weight in weights:
        turns += [
            {"role": "user", "content": sentence(chance), "weight": 0},
            {"role": "assistant", "content": sentence(chance), "weight": weight},
        ]
    return {"messages": turns, "number": number}


def test_rows_without_a_trained_turn_are_kept_and_counted(tmp_path: Path, tiny_model: Path, ray_address: str) -> None:
    """As they are, with a column that only they have, and without a score; they are not among the bad rows."""
    untrained = {3, 4, 17}
    rows = [chat(number, *((0, 0) if number in untrained else (0, 1, 0))) for number in range(24)]
    rows[17]["note"] = "only here"
    write_jsonl(tmp_path / "data.jsonl", rows)
    flags: list[object] = ["--input", tmp_path / "data.jsonl", "--model", tiny_model, "--method", "saft"]
    flags += ["--drop", "0.25", "--output", tmp_path / "out", "--set", "shard_rows=10"]
    curate(*flags, cwd=tmp_path, address=ray_address)

    manifest = manifest_of(tmp_path / "out")
    counts = manifest["counts"]
    assert (counts["kept"], counts["dropped"], counts["quarantined"]) == (19, 5, 0)
    assert manifest["unscored"] == 3
    assert manifest["quarantine_codes"] == {}
    assert [source["rows"] for source in manifest["sources"]] == [21]
    assert any(warning.startswith("3 rows have no turn that is trained on") for warning in manifest["warnings"])
    for place, ((decision, row), given) in enumerate(zip(merged(tmp_path / "out"), rows, strict=True)):
        assert {key: row[key] for key in given} == given
        assert row["note"] == given.get("note")
        assert decision == "kept" or place not in untrained
    scores = {row["row"]: row["saft"] for row in rows_of(tmp_path / "out", "scores")}
    assert {place for place, score in scores.items() if score is None} == untrained
    assert tamis("verify", tmp_path / "out", cwd=tmp_path).rc == 0

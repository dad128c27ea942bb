"""Small jobs to plan: rows, files and the job around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import Plan, make_plan


class Planner:
    """Plans a SAFT job over folder/data, or with the given changes of it."""

    def __init__(self, folder: Path, model: Path) -> None:
        (folder / "data").mkdir()
        (folder / "data/a.jsonl").write_bytes(lines_of(rows_of(50)))
        (folder / "unsafe.jsonl").write_bytes(lines_of(rows_of(3, 1)))
        (folder / "safe.jsonl").write_bytes(lines_of(rows_of(3, 2)))
        self.job = {
            "input": str(folder / "data"),
            "output": str(folder / "out"),
            "model": str(model),
            "method": "saft",
        }

    def __call__(self, *assignments: str, **overlay: Any) -> Plan:
        return make_plan(load_job(None, {**self.job, **overlay}, assignments))


def rows_of(count: int, words: int = 5) -> list[dict[str, str]]:
    return [{"prompt": f"question {i}", "response": f"answer {i} " + "word " * words} for i in range(count)]


def lines_of(rows: list[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def larf(folder: Path) -> dict[str, Any]:
    return {
        "method": "larf",
        "larf.layer": 1,
        "larf.unsafe_references": str(folder / "unsafe.jsonl"),
        "larf.safe_references": str(folder / "safe.jsonl"),
    }

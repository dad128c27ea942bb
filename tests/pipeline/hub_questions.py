"""Asks tamis about addresses on a loopback hub, in a process of its own: the hub's address is fixed at import."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hub import Hub

_CODE = """
import json, sys, dataclasses
from tamis.pipeline.errors import TamisError
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.hub import DatasetPart
answers = []
for paths, part in json.load(sys.stdin):
    try:
        found = resolve(paths, part.pop("format", "auto"), {}, DatasetPart(**part))
        answers.append([[dataclasses.asdict(file) for file in found], "", ""])
    except TamisError as error:
        answers.append([[], type(error).__name__, str(error)])
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Answer:
    """The files found, or the kind and the text of the error."""

    files: list[dict[str, Any]]
    kind: str
    error: str

    @property
    def names(self) -> list[str]:
        assert not self.kind, self.error
        return [file["name"] for file in self.files]

    @property
    def problem(self) -> str:
        assert self.kind, self.names
        return self.error.removeprefix("1 of the inputs cannot be used:\n  - ")


Question = tuple[str | list[str], Mapping[str, str]]
"""Addresses, and which part: config, split, revision; also format."""


def ask(hub: Hub, home: Path, questions: Sequence[Question], **environment: str) -> list[Answer]:
    """An answer to each. Nothing but the answers may be printed."""
    asked = [([paths] if isinstance(paths, str) else paths, part) for paths, part in questions]
    done = run(hub, home, _CODE, json.dumps(asked), **environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [Answer(*answer) for answer in json.loads(done.stdout)]


def run(hub: Hub, home: Path, code: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code where `hub` is the hub. environment: more of it."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"HF_HUB_OFFLINE", "HF_TOKEN"}}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **environment},
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )


def parquet(rows: int, first: int = 0, metadata: Mapping[str, str] | None = None) -> bytes:
    """A Parquet file of prompts and answers that bear their number."""
    numbers = range(first, first + rows)
    table = pa.table({"prompt": [f"ask {n}" for n in numbers], "response": [f"reply {n}" for n in numbers]})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()

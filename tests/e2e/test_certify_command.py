"""`tamis sample` and `tamis certify` as a user runs them, on a finished run; neither needs a model or Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command import tamis

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.run.paths import DROPPED, KEPT, MANIFEST, SCORES
from tamis.pipeline.storage.store import Store

ROWS = 1_000
HARMFUL = np.arange(ROWS) % 5 == 0


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run of 1,000 rows, a fifth harmful; `good` tells them, `poor` does not."""
    store, rng = Store(str(tmp_path / "out")), np.random.default_rng(2)
    good = (rng.normal(size=ROWS) + 3 * HARMFUL).astype(np.float32)
    rows = pa.table({"prompt": [f"secret {row}" for row in range(ROWS)], "response": ["-1"] * ROWS})
    fell = good > 2.5
    scores = {
        "sample_id": sample_ids("c.jsonl", 0, ROWS),
        "source": ["c.jsonl"] * ROWS,
        "row": range(ROWS),
        "good": good,
        "poor": rng.normal(size=ROWS).astype(np.float32),
        "decision": np.where(fell, "dropped", "kept"),
        "n_tokens": [9] * ROWS,
        "n_response_tokens": [4] * ROWS,
        "truncated": [False] * ROWS,
    }
    written = [
        store.write_table(f"{KEPT}/0.parquet", rows.filter(pa.array(~fell))),
        store.write_table(f"{DROPPED}/0.parquet", rows.filter(pa.array(fell))),
        store.write_table(f"{SCORES}/0.parquet", pa.table({name: pa.array(of) for name, of in scores.items()})),
    ]
    layout = Dialect.of("pair", prompt="prompt", response="response").to_dict()
    facts: dict[str, Any] = {
        "fingerprint": {},
        "counts": {"rows_in": ROWS},
        "input": {"files": [{"path": "c.jsonl", "columns": layout}]},
        "methods": [{"name": "good"}, {"name": "poor"}],
        "selected_by": "good",
        "files": [file.to_dict() for file in written],
    }
    store.write_facts(MANIFEST, facts)
    return tmp_path / "out"


def test_a_sheet_there_and_back(out: Path, tmp_path: Path) -> None:
    drawn = tamis("sample", "out", "--for-labels", 300, "--seed", 3, "--output", "labels.jsonl", cwd=tmp_path)
    assert drawn.rc == 0, drawn.output
    assert drawn.stdout.startswith("300 rows to label are in ")
    assert "secret" not in drawn.output
    sheet = tmp_path / "labels.jsonl"
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    sheet.write_text("".join(json.dumps({**row, "harmful": int(HARMFUL[row["row"]])}) + "\n" for row in rows))

    good = tamis("certify", "out", "--labels", "labels.jsonl", "--json", cwd=tmp_path)
    assert (good.rc, good.stderr) == (0, "")
    [part] = json.loads(good.stdout)["parts"]
    assert (part["by"], part["labelled"], part["certified"]) == ("good", 300, True)
    poor = tamis("certify", "out", "--labels", "labels.jsonl", "--by", "poor", cwd=tmp_path)
    assert poor.rc == 3
    assert "no cut by poor can be certified" in poor.stdout
    assert poor.stderr.splitlines()[-1] == "error: these labels do not certify a cut; what it takes is above"

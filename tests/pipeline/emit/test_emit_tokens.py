"""Emit of a method that masks tokens, called as the workers call it: every row and every token is somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plan_jobs import Planner, lines_of, rows_of
from token_shards import Scored, scored, write_losses

from tamis.operators.statistics.selection import Threshold
from tamis.pipeline.emit.shard import STAGE, empty_dropped, write_group
from tamis.pipeline.emit.tokens import TokensMade, TokenSpec
from tamis.pipeline.fit.token_risks import TokenCut
from tamis.pipeline.inputs.added_columns import WithIds
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard, read, rows_digest
from tamis.pipeline.storage.store import Store

ROWS = rows_of(5)
SCHEMA = pa.schema([("prompt", pa.string()), ("response", pa.string())])
SAMPLES = [
    Scored((0.5, 2.0, -1.0), first=10),
    None,
    Scored((3.0,), first=30),
    Scored((2.0, 0.0, 2.0), answers=(2, 1), first=50),
    Scored((-1.0, -2.0), first=70),
]


@pytest.fixture
def shard(tmp_path: Path, tiny_model: Path) -> Shard:
    """A real file whose second row is in quarantine."""
    planner = Planner(tmp_path, tiny_model)
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([ROWS[0], b"{broken", *ROWS[2:]]))
    [shard] = planner("max_quarantined=0.5").shards
    return shard


def emitted(folder: Path, shard: Shard, cut: TokenCut, quota: int, **changes: Any) -> dict[str, Any]:
    store = Store(str(folder / "out"))
    write_losses(store, shard, SAMPLES)
    settings: dict[str, Any] = {
        "store": store, "options": {}, "key": "k", "schema": SCHEMA.serialize().to_pybytes(), "method": "toss",
        "cut": cut, "control_ids": frozenset(),
    }  # fmt: skip
    [files] = scored(store, [shard])
    made = TokensMade(files, rows_digest(read(shard, {})))
    [receipt] = write_group([(shard, quota, made)], TokenSpec(**{**settings, **changes}))
    assert store.read_facts(f"_work/receipts/{STAGE}/{shard.name}.json") == receipt
    names = [file["name"] for file in receipt["files"]]
    parts = {name.split("/")[0]: store.read_table(name) for name in names}
    assert all(name.endswith(f"/{shard.name}.parquet") for name in names)
    return {"receipt": json.loads(json.dumps(receipt)), **parts}


def test_the_end_of_an_answers_turn_keeps_its_label(tmp_path: Path, shard: Shard) -> None:
    # Of the fourth sample, two prompt tokens, an answer, two tokens of the next turn, an answer; 52 and 53 are its
    # first answer, so the token behind that is 54.
    found = emitted(tmp_path, shard, TokenCut(0.3, Threshold(2.0, 2)), 2, control_ids=frozenset({10, 50, 54}))
    rows = found["kept"].to_pylist()
    assert rows[1]["labels"] == [-100, -100, -100, 53, 54, -100, 56]
    assert rows[1]["token_risk"][4] is None
    assert rows[0]["labels"] == [-100, -100, 12, -100, 14], "control tokens before an answer are the prompt's"


def test_labels_risk_and_what_is_dropped(tmp_path: Path, shard: Shard) -> None:
    found = emitted(tmp_path, shard, TokenCut(0.3, Threshold(2.0, 2)), 2)
    kept = found["kept"]
    assert kept.schema.names == ["prompt", "response", "input_ids", "attention_mask", "labels", "token_risk"]
    assert kept.schema.types[2:] == [pa.list_(kind) for kind in (pa.int32(), pa.int8(), pa.int64(), pa.float32())]
    rows = kept.to_pylist()
    assert [row["prompt"] for row in rows] == ["question 0", "question 3", "question 4"]
    assert rows[0] == {
        **ROWS[0],
        "input_ids": [10, 11, 12, 13, 14],
        "attention_mask": [1, 1, 1, 1, 1],
        "labels": [-100, -100, 12, -100, 14],
        "token_risk": [None, None, 0.5, 2.0, -1.0],
    }
    assert rows[1]["labels"] == [-100, -100, -100, 53, -100, -100, 56]
    assert rows[1]["token_risk"] == [None, None, 2.0, 0.0, None, None, 2.0]
    assert rows[2]["labels"] == [-100, -100, 72, 73]
    why = {"method": "toss", "score": 3.0, "reason": "all 1 response tokens are discarded"}
    assert found["dropped"].to_pylist() == [{**ROWS[2], "sample_id": sample_ids("a.jsonl", 2, 1)[0], **why}]
    [bad] = found["quarantine"].to_pylist()
    assert (bad["row"], bad["code"], bad["raw_text"]) == (1, "overlong", "{broken")
    assert found["receipt"]["counts"] == {"kept": 3, "dropped": 1, "quarantined": 1}
    assert found["receipt"]["tokens"] == {"response": 9, "discarded": 3}


def test_scores_have_a_row_per_input_row(tmp_path: Path, shard: Shard) -> None:
    scores = emitted(tmp_path, shard, TokenCut(0.3, Threshold(2.0, 1)), 1)["scores"]
    assert scores.schema.names[3:] == [
        *("toss", "toss_highest", "n_discarded", "decision", "n_tokens", "n_response_tokens", "truncated")
    ]
    assert scores.column("decision").to_pylist() == ["kept", "quarantined", "dropped", "kept", "kept"]
    assert scores.column("n_discarded").to_pylist() == [1, None, 1, 0, 0]
    assert scores.column("toss_highest").to_pylist() == [2.0, None, 3.0, 2.0, -1.0]
    means = [None if row is None else float(np.float32(np.mean(row.risk))) for row in SAMPLES]
    assert scores.column("toss").to_pylist() == means
    assert scores.column("row").to_pylist() == list(range(5))
    assert len(set(scores.column("sample_id").to_pylist())) == 5


def test_the_same_share_of_each_sample(tmp_path: Path, shard: Shard) -> None:
    found = emitted(tmp_path, shard, TokenCut(0.5, None), 0)
    assert "dropped" not in found
    assert found["scores"].column("n_discarded").to_pylist() == [1, None, 0, 1, 1]
    assert [row["labels"].count(-100) for row in found["kept"].to_pylist()] == [3, 2, 5, 3]


def test_nothing_is_discarded_and_everything_is(tmp_path: Path, shard: Shard) -> None:
    found = emitted(tmp_path, shard, TokenCut(0.01, Threshold(float("inf"), 0)), 0)
    assert found["receipt"]["tokens"] == {"response": 9, "discarded": 0}
    found = emitted(tmp_path, shard, TokenCut(0.99, Threshold(-2.0, 1)), 1)
    assert found["receipt"]["counts"] == {"kept": 0, "dropped": 4, "quarantined": 1}
    assert found["kept"].num_rows == 0
    assert found["kept"].schema.names[-4:] == ["input_ids", "attention_mask", "labels", "token_risk"]


def test_an_empty_dropped_has_the_columns_of_a_full_one(tmp_path: Path, shard: Shard) -> None:
    dropped = emitted(tmp_path, shard, TokenCut(0.3, Threshold(2.0, 2)), 2)["dropped"]
    assert empty_dropped(SCHEMA, with_quantile=False).schema.equals(dropped.schema)
    assert empty_dropped(SCHEMA, with_quantile=False).num_rows == 0
    taken = empty_dropped(pa.schema([("score", pa.int8())]), with_quantile=False)
    assert taken.column_names == ["score", "sample_id", "method", "tamis_score", "reason"]


def test_sample_ids_where_they_are_wanted(tmp_path: Path, shard: Shard) -> None:
    def found(ids: WithIds) -> dict[str, pa.Table]:
        parts: dict[str, pa.Table] = emitted(tmp_path / ids, shard, TokenCut(0.3, Threshold(2.0, 2)), 2, with_ids=ids)
        return parts

    everywhere, nowhere = found("all"), found("none")
    known = dict(zip(*(everywhere["scores"].column(name).to_pylist() for name in ("row", "sample_id")), strict=True))
    assert everywhere["kept"].column_names[-1] == "sample_id"
    assert everywhere["kept"].column("sample_id").to_pylist() == [known[row] for row in (0, 3, 4)]
    assert everywhere["dropped"].column("sample_id").to_pylist() == [known[2]]
    assert empty_dropped(SCHEMA, with_quantile=False, with_ids="all").schema.equals(everywhere["dropped"].schema)
    for part in ("kept", "dropped"):
        assert nowhere[part].equals(everywhere[part].drop_columns(["sample_id"])), part
    assert empty_dropped(SCHEMA, with_quantile=False, with_ids="none").schema.equals(nowhere["dropped"].schema)

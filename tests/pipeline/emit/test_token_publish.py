"""The end of a TOSS run: examples show the tokens of their own row, and nothing is published that does not add up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from plan_jobs import Planner

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.statistics.selection import Threshold
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.emit.token_publish import publish_tokens, with_pieces
from tamis.pipeline.emit.totals import TokenTotals
from tamis.pipeline.errors import InternalError
from tamis.pipeline.fit.token_risks import RiskSums, TokenCut, TokenSelection
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.storage.store import Store

DECISIONS = ["kept", "quarantined", "dropped", "kept", "kept"]


# --- pieces -------------------------------------------------------------------------------------------------------


def tokenised(model: Path, row: int) -> Tokenised:
    [found] = ChatTokenizer.load(str(model)).encode(
        [
            Conversation(
                [
                    {"role": "user", "content": f"Ask {row}?"},
                    {"role": "assistant", "content": f"Tell <b>{row}</b> – é\n"},
                ]
            )
        ],
        max_tokens=200,
        overlong="quarantine",
    )
    assert isinstance(found, Tokenised)
    return found


def write_output(store: Store, model: Path, start: int, files: list[dict[str, Any]]) -> list[Tokenised]:
    """kept/ and scores/ of one shard of five rows, of which every other response token is discarded."""
    rows = [tokenised(model, start + place) for place in range(5)]
    kept = [row for row, decision in zip(rows, DECISIONS, strict=True) if decision == "kept"]
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "token_risk": []}
    for row in kept:
        [(first, end)] = row.responses
        ids = row.input_ids.tolist()
        columns["input_ids"].append(ids)
        columns["labels"].append([ids[at] if first <= at < end and at % 2 else -100 for at in range(len(ids))])
        columns["token_risk"].append([at / 4 if first <= at < end else None for at in range(len(ids))])
    files.append(store.write_table(f"kept/{start:06d}-x.parquet", pa.table(columns)).to_dict())
    scores = pa.table({"row": pa.array(range(start, start + 5), pa.int64()), "decision": DECISIONS})
    store.write_table(f"scores/{start:06d}-x.parquet", scores)
    return rows


def test_the_pieces_of_an_example_are_those_of_its_row(tmp_path: Path, tiny_model: Path) -> None:
    store = Store(str(tmp_path))
    files: list[dict[str, Any]] = []
    rows = {start: write_output(store, tiny_model, start, files) for start in (0, 5)}
    model = {"name": str(tiny_model), "revision": None, "trust_remote_code": False, "template": None}
    examples = [
        {"shard": f"{start:06d}-x", "row": start + place, "decision": DECISIONS[place]}
        for start, place in ((5, 4), (0, 0), (5, 2), (0, 3))
    ]
    summary = {"job": {"model": model}, "examples": examples, "files": files, "other": 1}
    found = with_pieces(store, summary)
    assert found["other"] == 1
    assert "pieces" not in examples[0], "the summary itself, which the manifest holds, has no texts"
    for example in found["examples"]:
        start = example["row"] // 5 * 5
        if example["decision"] == "dropped":
            assert example["pieces"] == []
            continue
        row = rows[start][example["row"] - start]
        [(first, end)] = row.responses
        shown = example["pieces"]
        assert len(shown) == len(row.input_ids)
        assert f"Ask {example['row']}?" in "".join(piece["text"] for piece in shown[:first])
        assert "".join(piece["text"] for piece in shown[first:end]).strip() == f"Tell <b>{example['row']}</b> – é"
        assert [piece["risk"] for piece in shown[first:end]] == [at / 4 for at in range(first, end)]
        assert [piece["discarded"] for piece in shown] == [
            first <= at < end and at % 2 == 0 for at in range(len(shown))
        ]


# --- what does not add up -----------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    planner = Planner(tmp_path, tiny_model)
    references = {"toss.utility_references": str(tmp_path / "safe.jsonl")}
    return planner(**references, method="toss")


@pytest.mark.parametrize(
    ("counts", "tokens", "words"),
    [
        ({"kept": 48, "dropped": 1}, {"response": 90, "discarded": 9}, "rows were lost or doubled"),
        ({"kept": 50, "dropped": 1}, {"response": 90, "discarded": 9}, "rows were lost or doubled"),
        ({"kept": 49, "dropped": 1}, {"response": 89, "discarded": 9}, "89 response tokens were written, 90 expected"),
        ({"kept": 49, "dropped": 1}, {"response": 90, "discarded": 10}, "10 discarded tokens were written, 9 expected"),
    ],
)
def test_nothing_is_published_when_a_row_or_a_token_is_missing(
    counts: dict[str, int], tokens: dict[str, int], words: str, plan: Plan, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "out"))
    emitted = TokenTotals()
    emitted.counts.update(counts)
    emitted.tokens.update(tokens)
    coarse = np.zeros(4, dtype=np.int64)
    coarse[1] = 90
    selection = TokenSelection(TokenCut(0.1, Threshold(1.0, 9)), (9,), 9, 9, RiskSums(coarse, -math.pi, math.pi, 1.0))
    nothing: Any = None  # not looked at before the sums are
    with pytest.raises(InternalError, match=words):
        publish_tokens(store, plan, [], selection, nothing, [], CaptureTotals(), emitted, {}, [], [], "k")
    assert not store.exists()

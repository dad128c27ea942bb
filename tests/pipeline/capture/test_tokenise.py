"""Rows of a shard -> tokens and answers: only answers that are trained on have a range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plan_jobs import Planner, lines_of

from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.parcels import unpack
from tamis.pipeline.capture.spec import CaptureSpec
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_shard
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.storage.store import Store

CALL = {"type": "function", "function": {"name": "tides", "arguments": '{"at": 6}'}}
ASKED = {"role": "user", "content": "Well?"}


def answer(text: str, **marks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **marks}


def test_answers_that_are_not_trained_on_have_no_range(tmp_path: Path, tiny_model: Path) -> None:
    chats = [
        ([ASKED, answer("First."), ASKED, answer("Second.")], ["First.", "Second."]),
        ([ASKED, answer("First.", weight=0), ASKED, answer("Second.", weight=1)], ["Second."]),
        ([ASKED, answer("First."), ASKED, answer("Second.", train=False)], ["First."]),
        ([ASKED, answer("First.", loss=False)], "no_trained_turn"),
        ([ASKED, answer("First.", mask=1)], "unclear_weight"),
        ([ASKED, answer("", tool_calls=[CALL])], "not_rendered"),
        ([{"role": "user", "content": [{"type": "image"}]}, answer("First.")], "multimodal"),
        ([{"role": "user", "content": [{"type": "text", "text": "Well?"}]}, answer("First.")], ["First."]),
    ]
    planner = Planner(tmp_path, tiny_model)
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([{"messages": turns} for turns, _ in chats]))
    [shard] = planner("max_quarantined=0.9").shards
    settings: dict[str, Any] = {
        "store": Store(str(tmp_path / "out")), "options": {}, "key": "k", "token_budget": "auto",
        "model": ModelHandle("tiny", str(tiny_model), None, device="cpu"), "attention": "padded", "compile": False,
        "exact": False, "max_tokens": 90, "overlong": "quarantine", "columns": ("block_01.last_token",),
    }  # fmt: skip
    tokenizer = ChatTokenizer.load(str(tiny_model))
    _, table = unpack(tokenise_shard(shard.to_json(), CaptureSpec(**settings), PackedTokenizer.pack(tokenizer)))
    assert table is not None
    for row, (_, expected) in zip(table.to_pylist(), chats, strict=True):
        if isinstance(expected, str):
            assert (row["code"], row["starts"]) == (expected, [])
            continue
        pieces = tokenizer.pieces(row["input_ids"])
        spans = zip(row["starts"], row["stops"], strict=True)
        assert ["".join(pieces[start:stop]) for start, stop in spans] == expected
        assert row["n_response_tokens"] == sum(row["stops"]) - sum(row["starts"])

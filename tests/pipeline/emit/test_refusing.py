"""Refusing answers of a shard, counted where they fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.messages import detect
from tamis.operators.conversation.schema import infer_rows, settle, to_table
from tamis.operators.generation.refusals import OPENING, is_refusal
from tamis.pipeline.emit.refusing import refusing
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.inputs.text_files import Span


def counted(rows: list[dict[str, Any]], dropped: list[bool]) -> dict[str, int]:
    table = to_table(rows, settle(infer_rows(rows)))
    file = SourceFile("a.jsonl", "a.jsonl", "jsonl", None, 1, "")
    shard = Shard(0, "corpus", file, (), Span(0, len(rows), 0, 1), detect(list(rows[0]), rows).to_dict())
    return refusing(shard, table, np.array(dropped, dtype=bool))


def chat(*texts: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def test_refusals_are_counted_by_what_becomes_of_the_row() -> None:
    rows = [
        chat("q", "I'm sorry, but I can\u2019t help with that."),
        chat("q", "Sure, here is how."),
        chat("q", "I cannot do this."),
        chat("I cannot sleep", "Try warm milk."),
        chat("q", "Sorry, no.", "please", "All right: first, ..."),
        chat("q", "All right.", "and more?", "Sorry, no."),
    ]
    assert counted(rows, [True, False, False, False, True, True]) == {"kept": 1, "dropped": 2}


def test_only_the_opening_of_an_answer_is_a_refusal() -> None:
    late = "word " * (OPENING // 5)
    assert counted([chat("q", late + "cannot"), chat("q", late[:-10] + "cannot")], [False, False]) == {
        "kept": 1,
        "dropped": 0,
    }


def test_rows_without_an_answer_count_nowhere() -> None:
    unmarked = chat("q", "I cannot.")
    unmarked["messages"][1]["weight"] = 0
    marked = chat("q", "I cannot.")
    marked["messages"][1]["weight"] = 1
    assert counted([unmarked, marked], [False, False]) == {"kept": 1, "dropped": 0}


@given(rows=st.lists(st.tuples(st.sampled_from(["Sorry.", "No, I can not.", "Yes.", "x"]), st.booleans()), min_size=1))
def test_every_answer_is_looked_at_once(rows: list[tuple[str, bool]]) -> None:
    samples = [{"instruction": "q", "input": "", "output": text} for text, _ in rows]
    expected = {name: sum(is_refusal(text) for text, fell in rows if fell is falls)
                for name, falls in (("kept", False), ("dropped", True))}  # fmt: skip
    assert counted(samples, [falls for _, falls in rows]) == expected


@pytest.mark.parametrize("old", [False, True])
def test_receipts_of_an_earlier_version_make_the_total_unknown(old: bool, tmp_path: Path) -> None:
    totals = EmitTotals(bins=2)
    for number in range(2):
        receipt: dict[str, Any] = {
            "rows": 3,
            "index": number,
            "source": "a",
            "counts": {"kept": 2, "dropped": 1, "quarantined": 0},
            "misread": {},
            "unscored": 0,
            "histogram": {"kept": [1, 1], "dropped": [0, 1]},
            "deciles": {"rows": [0] * 10, "dropped": [0] * 10},
            "rank_sums": [3, 2.0, 2.0, 1.0],
            "riskiest": [],
            "borderline_dropped": [],
            "borderline_kept": [],
            "files": [],
        }
        totals.add(receipt if old and number else receipt | {"refusing": {"kept": 1, "dropped": number}})
    assert totals.all_counted is not old
    if not old:
        assert dict(totals.refusing) == {"kept": 2, "dropped": 1}

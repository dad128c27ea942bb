"""Refusing answers of a shard, counted where they fall."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.messages import Dialect, detect, normalise
from tamis.operators.conversation.schema import infer_rows, settle, to_table
from tamis.operators.generation.refusals import OPENING, is_refusal
from tamis.operators.problems import RowProblem
from tamis.pipeline.emit.refusing import refusing
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.inputs.text_files import Span


def counted(rows: list[dict[str, Any]], dropped: list[bool], dialect: Dialect | None = None) -> dict[str, int]:
    return of_table(to_table(rows, settle(infer_rows(rows))), dropped, dialect or detect(list(rows[0]), rows))


def of_table(table: pa.Table, dropped: list[bool], dialect: Dialect) -> dict[str, int]:
    file = SourceFile("a.jsonl", "a.jsonl", "jsonl", None, 1, "")
    shard = Shard(0, "corpus", file, (), Span(0, table.num_rows, 0, 1), dialect.to_dict())
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


SAID = st.sampled_from(["I can", "not", "cannot", "SORRY!", "I can\u2019t", "\u212aan not", "Yes.", " ", "x" * 198])
TEXT = st.lists(SAID, max_size=4).map("".join)
"""Refusals in one piece, and pieces that only together are one."""
ANSWER = st.one_of(TEXT, st.none())
TURN = st.tuples(st.sampled_from(["user", "assistant"]), ANSWER, st.sampled_from([None, 0, 1]))
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=3)


def as_turns(turns: list[Any], role: str, content: str) -> list[dict[str, Any]]:
    return [{role: speaker, content: said, "weight": weight} for speaker, said, weight in turns]


LAYOUTS: dict[str, tuple[Dialect, st.SearchStrategy[dict[str, Any]]]] = {
    "answers": (
        Dialect.of("alpaca", instruction="q", output="a", history="h"),
        st.fixed_dictionaries({"q": TEXT, "a": ANSWER, "h": st.lists(st.lists(TEXT, min_size=2, max_size=2))}),
    ),
    "pairs": (Dialect.of("pair", prompt="q", response="a"), st.fixed_dictionaries({"q": TEXT, "a": ANSWER})),
    "a prompt that ends with the answer": (
        Dialect.of("pair", prompt="q", response="a"),
        st.tuples(TEXT, TEXT).map(
            lambda said: {
                "q": as_turns([("user", "q", 1), ("assistant", "".join(said), 1)], "role", "content"),
                "a": f" {''.join(said)} ",
            }
        ),
    ),
    "JSON text": (
        Dialect("pair", (("prompt", "q"), ("response", "a")), encoded=("response",)),
        TEXT.map(lambda said: {"q": "q", "a": json.dumps(as_turns([("assistant", said, None)], "role", "content"))}),
    ),
    "turns": (
        Dialect.of("messages", messages="m"),
        st.lists(TURN, max_size=4).map(lambda turns: {"m": as_turns(turns, "role", "content")}),
    ),
    "turns of ShareGPT": (
        Dialect.of("sharegpt", conversations="m"),
        st.lists(TURN, max_size=4).map(lambda turns: {"m": as_turns(turns, "from", "value")}),
    ),
    "parts": (
        Dialect.of("messages", messages="m"),
        PARTS.map(lambda parts: {"m": [{"role": "user", "content": []}, {"role": "assistant", "content": parts}]}),
    ),
    "an answer beside a chat": (
        Dialect.of("messages", messages="m", response="a"),
        TEXT.map(lambda said: {"m": as_turns([("user", "q", None)], "role", "content"), "a": said}),
    ),
    "one text": (Dialect.of("text", text="t"), TEXT.map(lambda said: {"t": f"Human: q\n\nAssistant: {said}"})),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_every_layout_counts_what_its_conversations_say(layout: str, data: st.DataObject) -> None:
    dialect, row = LAYOUTS[layout]
    rows = data.draw(st.lists(row, min_size=1, max_size=6))
    fell = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    expected = {"kept": 0, "dropped": 0}
    for sample, falls in zip(rows, fell, strict=True):
        with suppress(RowProblem):
            said = normalise(sample, dialect).messages[-1].get("content", "")
            expected["dropped" if falls else "kept"] += is_refusal(said[:OPENING])
    assert counted(rows, fell, dialect) == expected


def test_text_that_is_not_utf8_counts_nowhere() -> None:
    texts = pa.array([b"Sorry, no.", b"Sorry \xff", b"Yes."]).view(pa.string())
    table = pa.table({"q": ["q"] * 3, "a": texts})
    assert of_table(table, [False, False, True], Dialect.of("pair", prompt="q", response="a")) == {
        "kept": 1,
        "dropped": 0,
    }


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

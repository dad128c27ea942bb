"""kept/ of JSON rows, as the workers write it and `datasets` reads it: each row has its own keys and no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_rows import to_rows
from tool_templates import TEMPLATES
from transformers import AutoTokenizer

from tamis.operators.conversation.schema import infer_rows, settle
from tamis.pipeline.emit.shard import Decided, EmitSpec, write_group
from tamis.pipeline.inputs.added_columns import WithIds
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import Shard, make_shards, read, rows_digest, scan
from tamis.pipeline.report import render_card
from tamis.pipeline.run.parent import Parent
from tamis.pipeline.storage.store import Store

Row = dict[str, Any]


class KeepAll(EmitSpec):
    def decide(self, shard: Shard, quota: int, made: Any) -> Decided:
        facts = {"code": pa.string(), "message": pa.string(), "n_tokens": pa.int32(), "n_response_tokens": pa.int32()}
        columns = {name: pa.nulls(shard.rows, kind) for name, kind in facts.items()}
        captured = pa.table({**columns, "truncated": [False] * shard.rows})
        return Decided(captured, rows_digest(read(shard, {})), np.zeros(shard.rows, bool), {}, {}, {})


def kept(
    folder: Path, rows: Sequence[Row], shard_rows: int = 3, with_ids: WithIds = "dropped"
) -> tuple[Path, list[Row]]:
    """An output folder with these rows in kept/, in several shards; and the receipts."""
    folder.mkdir(exist_ok=True)
    (folder / "in.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    [file] = resolve([str(folder / "in.jsonl")], "auto", {})
    store = Store(str(folder / "out"))
    schema = settle(infer_rows(rows)).serialize().to_pybytes()
    spec = KeepAll(store=store, options={}, key="k", schema=schema, with_ids=with_ids)
    shards = make_shards(scan(file, shard_rows, {}), "corpus", {}, 0)
    receipts = [receipt for shard in shards for receipt in write_group([(shard, 0, None)], spec)]
    store.write("README.md", render_card({}).encode())
    return folder / "out", receipts


def loaded(out: Path) -> list[Row]:
    """What a user gets who follows the dataset card."""
    return list(datasets.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache")))


def tool(name: str, properties: Row, **more: Any) -> Row:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, **more, "parameters": parameters}}


def call(name: str, arguments: Any) -> Row:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def asked(question: Any, *rest: Row) -> list[Row]:
    return [{"role": "user", "content": question}, *rest, {"role": "assistant", "content": "So – it is."}]


@pytest.mark.parametrize("name", ["note", "sample_id"])
def test_every_kept_row_is_found_again_by_its_sample_id(name: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "response": "r", name: f"mine {number}"} for number in range(7)]
    out, _ = kept(tmp_path, rows, with_ids="all")
    added = "tamis_sample_id" if name == "sample_id" else "sample_id"
    found = loaded(out)
    assert [list(row) for row in found] == [["prompt", "response", name, added]] * 7
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    scores = pa.concat_tables(pq.read_table(file) for file in sorted((out / "scores").iterdir()))
    assert [row[added] for row in found] == scores.column("sample_id").to_pylist()
    # `tamis select` takes the corpus's own columns from a table that has ours.
    table = sorted((out / "kept").iterdir())[0]
    sealed = {f"{part}/{table.name}": {"name": f"{part}/{table.name}", "sha256": sha256(out / part / table.name)}
              for part in ("kept", "scores")}  # fmt: skip
    frozen: Any = None
    for ids, names in (("all", list(rows[0])), ("dropped", [*rows[0], added])):
        parent = Parent(Store(str(out)), {"job": {"sample_id": ids}}, "", frozen, sealed)
        assert parent.schema().names == names


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


TOOLS = [
    {"messages": asked("When is the tide?"), "tools": [tool("tide", {"harbour": {"type": "string"}})]},
    {
        "messages": asked(
            "How windy?",
            {"role": "assistant", "content": None, "tool_calls": [call("wind", {"metres": 10, "share": 0.7})]},
            {"role": "tool", "tool_call_id": "call_wind", "content": '{"knots": 12}'},
        ),
        "tools": [
            tool("wind", {"metres": {"type": "number", "minimum": 0}}, description="Wind – at a height."),
            tool("gusts", {"metres": {"minimum": 0.5, "type": "number", "default": 1.0}}, strict=None),
        ],
    },
    {
        "messages": asked(
            "How windy, and what bread?",
            {"role": "assistant", "content": "", "tool_calls": [call("wind", {"metres": 7.5, "share": 1})]},
            {"role": "tool", "content": "12"},
        ),
        "tools": [tool("bread", {"flour": {"enum": ["rye", 550, None, 0.1]}, "seeds": {"type": ["string", "null"]}})],
    },
    {"messages": asked("No tools at all?"), "tools": None},
    {"messages": asked("An empty list?"), "tools": []},
    {
        "messages": asked("Text?", {"role": "assistant", "tool_calls": [call("tide", '{"harbour": "Ålesund"}')]}),
        "tools": [{"function": {"name": "order", "parameters": {}}, "type": "function"}],
    },
    {"messages": asked([{"type": "text", "text": "Parts?"}, {"type": "text", "text": "Two."}]), "tools": []},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_give_the_prompts_of_the_input(name: str, tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def prompts(rows: Sequence[Row]) -> list[str]:
        return [
            tokenizer.apply_chat_template(
                row["messages"], tools=row["tools"], chat_template=TEMPLATES[name], tokenize=False
            )
            for row in rows
        ]

    found = loaded(kept(tmp_path, TOOLS)[0])
    assert prompts(found) == prompts(TOOLS)
    assert repr(found) == repr(TOOLS)  # the order of keys and the kind of each number, too


ROWS = {
    "one tool each": [
        {"messages": asked(f"Question {i}?"), "tools": [tool(f"t{i}", {f"p{i}": {"type": "string"}})]} for i in range(8)
    ],
    "text and parts": [
        {"messages": asked([{"type": "text", "text": f"Part {i}"}] if i % 3 == 0 else f"Text {i}")} for i in range(8)
    ],
    "a turn with a name": [
        {"messages": [{"role": "user", "content": "5", **({"name": "Ann"} if i == 7 else {})}]} for i in range(8)
    ],
    "null and absent": [{"messages": [{"role": "user", **({"name": None} if i else {})}]} for i in range(8)],
    "documents": [
        {"messages": asked("What?"), "documents": [{"title": "t", "text": "x"}, {"text": "y"}][: i % 3]}
        for i in range(8)
    ],
    "keyword arguments": [
        {"messages": asked("What?"), "chat_template_kwargs": [{}, {"thinking": False}, {"budget": 1}, None][i % 4]}
        for i in range(8)
    ],
    "a column of many types": [
        {"messages": asked("What?"), "x": [1, "1", 0.5, True, None, [1], {"a": {}}, "null"][i]} for i in range(8)
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    out, receipts = kept(tmp_path, ROWS[name])
    assert repr(loaded(out)) == repr(ROWS[name])
    tables = [pq.read_table(path) for path in sorted((out / "kept").glob("*.parquet"))]
    assert len({table.schema for table in tables}) == 1
    assert [row for table in tables for row in to_rows(table)] == ROWS[name]
    assert all(receipt["misread"] == {} for receipt in receipts)


def test_rows_whose_keys_do_not_differ_stay_typed(tmp_path: Path) -> None:
    rows = [
        {"messages": asked(f"Question {i}?"), "score": i / 8, "meta": None if i == 3 else {"tags": ["a"], "n": i}}
        for i in range(8)
    ]
    out, _ = kept(tmp_path, rows)
    [schema] = {pq.read_schema(path) for path in (out / "kept").glob("*.parquet")}
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    meta = pa.struct([("tags", pa.list_(pa.string())), ("n", pa.int64())])
    assert schema == pa.schema([("messages", pa.list_(turn)), ("score", pa.float64()), ("meta", meta)])
    assert loaded(out) == rows


def test_a_number_that_datasets_misreads_is_counted(tmp_path: Path) -> None:
    _, receipts = kept(tmp_path, [{"meta": {"id": 2**70}}, {"meta": {"id": 1, "x": 0.7}}, {"meta": {"id": 2**65}}], 2)
    assert [receipt["misread"] for receipt in receipts] == [{"meta": 1}, {"meta": 1}]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9, width=32) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3), min_size=1, max_size=7))
@settings(max_examples=20, deadline=None)
def test_any_rows_come_back(rows: list[Row]) -> None:
    """A number outside of objects may come back as a fraction; a column that a row lacks is null in it."""
    with TemporaryDirectory() as folder:
        rows = [{"id": number, **row} for number, row in enumerate(rows)]
        out, receipts = kept(Path(folder), rows)
        found = loaded(out)
        assert len(found) == len(rows)
        for row, again in zip(rows, found, strict=True):
            assert again == {name: row.get(name) for name in again}
            assert row.keys() <= again.keys()
        assert all(receipt["misread"] == {} for receipt in receipts)

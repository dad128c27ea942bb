"""`tamis export --for messages` and `--for torchtune`: what is written is what the run has read, marks included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.conversation import REASONING, Conversation
from tamis.operators.conversation.dialects import VARIABLES, Dialect
from tamis.operators.conversation.messages import normalise
from tamis.operators.conversation.schema import infer_rows, settle, to_table
from tamis.operators.problems import RowProblem
from tamis.pipeline.commands.export import export
from tamis.pipeline.commands.plain_messages import line, plain, unlike_torchtune
from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

Row = dict[str, Any]
AGAIN = Dialect.of("messages", messages="messages", **{name: name for name in VARIABLES})


def turn(role: str, content: Any, **more: Any) -> Row:
    return {"role": role, "content": content, **more}


ASKED = [turn("user", "Hi\u2028é"), turn("assistant", "Ho")]
TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "n": [1, 2.5, None]}}}
CALL = {"id": "a", "type": "function", "function": {"name": "tide", "arguments": {"harbour": "Bergen"}}}
ALPACA = Dialect.of("alpaca", instruction="instruction", input="input", output="output", system="system")
SHAREGPT = Dialect.of("sharegpt", conversations="conversations")
MESSAGES: list[Row] = [
    {"messages": ASKED},
    {"messages": [*ASKED, turn("user", "More"), turn("assistant", "No", weight=0)]},
    {"messages": [turn("system", "S"), turn("user", "A"), turn("assistant", "B", train=False), *ASKED]},
    {"messages": [turn("user", "A"), turn("assistant", "B", weight=0)]},
    {
        "messages": [
            turn("user", "Tide?"),
            {"role": "assistant", "tool_calls": [CALL]},
            turn("tool", "12", tool_call_id="a"),
            turn("assistant", "Noon.", reasoning="Look at the table."),
        ],
        "tools": [TOOL],
        "chat_template_kwargs": {"enable_thinking": True},
    },
]


def run_of(folder: Path, files: Mapping[str, tuple[Dialect, Sequence[Row]]]) -> Store:
    """The output of a finished run that kept these rows, one shard a file."""
    store, written, listed = Store(str(folder / "out")), [], []
    for number, (name, (dialect, rows)) in enumerate(files.items()):
        shard = f"{number:06d}-aa.parquet"
        written.append(store.write_table(f"kept/{shard}", to_table(rows, settle(infer_rows(rows)))))
        written.append(store.write_table(f"scores/{shard}", pa.table({"source": [name] * len(rows)})))
        listed.append({"path": name, "columns": dialect.to_dict()})
    facts = {
        "fingerprint": {},
        "job": {"model": {"name": "m", "revision": None, "trust_remote_code": False}},
        "counts": {"kept": sum(len(rows) for _, rows in files.values())},
        "files": [file.to_dict() for file in written],
        "input": {"files": listed},
    }
    store.write_facts(MANIFEST, facts)
    return store


def read(folder: Path) -> list[Row]:
    files = sorted((folder / "data").iterdir())
    return [json.loads(each) for file in files for each in file.read_text().split("\n")[:-1]]


def alike(conversation: Conversation) -> Row:
    """For a comparison: one name of the reasoning."""
    found = conversation.to_dict()
    messages = [{key: value for key, value in each.items() if key not in REASONING[1:]} for each in found["messages"]]
    return {**found, "messages": messages}


def test_the_messages_are_what_the_run_has_read_whatever_the_layout(tmp_path: Path) -> None:
    alpaca: list[Row] = [
        {"instruction": "Add", "input": "1 1", "output": "2", "system": "Be short"},
        {"instruction": "Say", "input": "", "output": "so", "system": None},
    ]
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    store = run_of(tmp_path, {
        "a.jsonl": (ALPACA, alpaca), "b.jsonl": (AGAIN, MESSAGES), "c.jsonl": (SHAREGPT, [{"conversations": talk}]),
    })  # fmt: skip
    found = export(store, "messages", Store(str(tmp_path / "export")))
    assert (found.rows, found.start, found.left_out) == (7, "data", 1)
    rows = read(tmp_path / "export")
    given = [normalise(row, ALPACA) for row in alpaca]
    given += [normalise(row, AGAIN) for row in MESSAGES if row is not MESSAGES[3]]
    given += [normalise({"conversations": talk}, SHAREGPT)]
    assert [alike(normalise(row, AGAIN)) for row in rows] == [alike(each) for each in given]
    assert rows[0]["messages"] == [turn("system", "Be short"), turn("user", "Add\n1 1"), turn("assistant", "2")]
    assert rows[2] == {"messages": ASKED}
    assert rows[3] == {"messages": ASKED}, "turns behind the last one that is trained on are left out"
    assert [each.get("weight") for each in rows[4]["messages"]] == [None, None, 0, None, None]
    assert rows[5]["tools"] == [TOOL]
    assert rows[5]["chat_template_kwargs"] == {"enable_thinking": True}
    assert rows[5]["messages"][3]["reasoning_content"] == "Look at the table."


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(str.strip)
marked = st.dictionaries(st.sampled_from(["weight", "train", "loss"]), st.sampled_from([0, 1]), max_size=1)
turns = st.lists(
    st.one_of(
        st.builds(lambda role, said: turn(role, said), st.sampled_from(["user", "tool", "system"]), text),
        st.builds(lambda said, marks: turn("assistant", said, **marks), text, marked),
    ),
    max_size=6,
)


@given(turns)
def test_marks_survive_whatever_the_conversation(said: list[Row]) -> None:
    try:
        given = normalise({"messages": said}, AGAIN)
    except RowProblem:
        return
    row = json.loads(line("row 0", given))
    assert alike(normalise(row, AGAIN)) == alike(given)
    last = max(place for place, each in enumerate(said) if each["role"] == "assistant" and all_set(each))
    assert [(each["role"], each["content"]) for each in row["messages"]] == [
        (each["role"], each["content"]) for each in said[: last + 1]
    ]
    weights = [each.get("weight", 1) for each in row["messages"] if each["role"] == "assistant"]
    assert weights == [int(all_set(each)) for each in said[: last + 1] if each["role"] == "assistant"]
    if unlike_torchtune(given) is None:
        assert torchtune_learns(row["messages"]) == weights


def all_set(answer: Row) -> bool:
    return all(answer.get(mark, 1) for mark in ("weight", "train", "loss"))


def torchtune_learns(messages: list[Row]) -> list[int]:
    """What torchtune 0.6 does with messages, by its sources: it learns from each answer, and refuses some orders."""
    last = "assistant"
    for place, each in enumerate(messages):
        assert each["role"] in ("system", "user", "assistant")
        assert each["role"] != "assistant" or last == "user"
        assert each["role"] != "user" or last != "user"
        assert each["role"] != "system" or place == 0
        last = each["role"]
    return [1 for each in messages if each["role"] == "assistant"]


def test_torchtune_reads_the_messages(tmp_path: Path) -> None:
    store = run_of(tmp_path, {"b.jsonl": (AGAIN, MESSAGES[:1] * 3)})
    found = export(store, "torchtune", Store(str(tmp_path / "export")))
    assert (found.rows, found.start) == (3, "torchtune.yaml")
    [(key, config)] = yaml.safe_load((tmp_path / "export/torchtune.yaml").read_text()).items()
    assert (key, config["_component_"], config["train_on_input"]) == (
        "dataset",
        "torchtune.datasets.chat_dataset",
        False,
    )
    given = {name: config[name] for name in ("data_files", "split")}
    rows = datasets.load_dataset(config["source"], **given, cache_dir=str(tmp_path / "cache"))
    assert rows.to_list() == [{config["conversation_column"]: ASKED}] * 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            MESSAGES[2],
            "row 1 of kept/000001-aa.parquet marks turns as not trained on, and torchtune would",
        ),
        (MESSAGES[4], "has tools, reasoning or names, which torchtune does not read"),
        ({"messages": [turn("developer", "D"), *ASKED]}, "has a turn of the role developer, which torchtune has not"),
        ({"messages": [turn("user", "A"), *ASKED]}, "is no exchange in which user and assistant take turns"),
        ({"messages": [turn("assistant", "A"), *ASKED]}, "is no exchange in which user and assistant take turns"),
        ({"messages": [ASKED[0], turn("system", "S"), ASKED[1]]}, "is no exchange in which"),
    ],
)
def test_what_torchtune_would_read_otherwise_is_refused_before_anything_is_written(
    row: Row, said: str, tmp_path: Path
) -> None:
    store = run_of(tmp_path, {"a.jsonl": (AGAIN, MESSAGES[:1]), "b.jsonl": (AGAIN, [MESSAGES[0], row])})
    with pytest.raises(ConfigError, match=said):
        export(store, "torchtune", Store(str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    store = run_of(tmp_path, {"b.jsonl": (AGAIN, [MESSAGES[3]])})
    with pytest.raises(ConfigError, match="has no turn that is trained on"):
        export(store, "messages", Store(str(tmp_path / "export")))
    (tmp_path / "out/scores/000000-aa.parquet").write_bytes(b"PAR1 other")
    with pytest.raises(DamagedError, match="is not as it was written"):
        export(store, "messages", Store(str(tmp_path / "other")))
    tools = normalise({"messages": ASKED, "tools": [{"name": "x", "n": float("nan")}]}, AGAIN)
    with pytest.raises(ConfigError, match="row 7 has a value in its tools or calls that JSON cannot hold"):
        line("row 7", tools)
    assert plain(normalise(MESSAGES[0], AGAIN)) == MESSAGES[0]

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tamis.operators.conversation.values import absent, answer_in, as_turns, blank, is_number, rekeyed, spelt, turns_in
from tamis.operators.problems import RowProblem

ASK, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TURNS = [ASK, REPLY]


def from_arrow(value: Any, kind: pa.DataType) -> Any:
    """The value as a Parquet file gives it back."""
    return pa.array([value], kind).to_pylist()[0]


@pytest.mark.parametrize(
    "given",
    [
        TURNS,
        tuple(TURNS),
        json.dumps(TURNS),
        [json.dumps(turn) for turn in TURNS],
        {"role": ["user", "assistant"], "content": ["a", "b"]},
        [[{"key": key, "value": value} for key, value in turn.items()] for turn in TURNS],
        from_arrow([list(turn.items()) for turn in TURNS], pa.list_(pa.map_(pa.string(), pa.string()))),
        from_arrow({"role": ["user", "assistant"], "content": ["a", "b"]}, pa.struct(
            {"role": pa.list_(pa.string()), "content": pa.list_(pa.string())}
        )),
    ],
)  # fmt: skip
def test_every_form_of_a_list_of_turns(given: Any) -> None:
    assert as_turns(given) == TURNS


@pytest.mark.parametrize("given", [None, 3, "a", "[1", {"role": "user", "content": "a"}, {"a": [1], "b": [1, 2]}, {}])
def test_what_is_no_list_of_turns_stays(given: Any) -> None:
    assert as_turns(given) == given


@pytest.mark.parametrize(
    "given",
    [
        '[{"role": "user", "content": "a", "content": "b"}]',
        ['{"role": "user", "content": "a", "content": "b"}'],
        [[("role", "user"), ("content", "a"), ("content", "b")]],
    ],
)
def test_a_key_twice_is_refused_in_every_form(given: Any) -> None:
    with pytest.raises(RowProblem, match="duplicate_keys"):
        as_turns(given)


def test_null_and_a_struct_of_nulls_are_absent() -> None:
    deep: Any = None
    for _ in range(5000):
        deep = {"a": deep}
    assert all(map(absent, [None, float("nan"), {"name": None, "arguments": {"x": None}}, {}, deep]))
    assert not any(map(absent, ["", 0, False, [], {"name": ""}, {"a": {"b": 0}}]))
    assert all(map(blank, ["", " \n", [], (), None]))
    assert not any(map(blank, [0, False, "a", [None], {"a": 0}]))


@pytest.mark.parametrize(
    ("number", "text"), [(42, "42"), (-1, "-1"), (0.5, "0.5"), (3.0, "3.0"), (1e20, "1e+20"), (Decimal("1.50"), "1.50")]
)
def test_numbers_as_text(number: Any, text: str) -> None:
    assert is_number(number)
    assert spelt(number) == text


def test_what_is_no_number() -> None:
    assert not any(map(is_number, [True, None, "1", float("nan"), float("inf"), [1]]))


def test_turns_in_a_text() -> None:
    assert turns_in(json.dumps(TURNS)) == TURNS
    assert turns_in(f" {json.dumps(REPLY)}\n") == [REPLY]
    assert turns_in('[{"from": "gpt", "value": "b"}]') == [{"from": "gpt", "value": "b"}]
    for text in (
        "",
        "a",
        "[1, 2]",
        '{"role": 3}',
        '{"roles": "x"}',
        "[]",
        '["role"]',
        '[{"role": "user"}, 3]',
        None,
        3,
    ):
        assert turns_in(text) is None


def test_the_keys_of_another_layout() -> None:
    shared = {"from": "gpt", "value": "b", "weight": 1}
    assert rekeyed(shared, "role", "content") == {"role": "gpt", "content": "b", "weight": 1}
    assert rekeyed(REPLY, "from", "value") == {"from": "assistant", "value": "b"}
    both = {**REPLY, "from": None, "value": None}
    assert rekeyed(both, "role", "content") is both
    call = {"role": "assistant", "content": None, "tool_calls": [1]}
    assert rekeyed(call, "role", "content") is call
    assert rekeyed("x", "role", "content") == "x"


@pytest.mark.parametrize(
    "value",
    [" b ", REPLY, TURNS, json.dumps(TURNS), {"from": "gpt", "value": "b"}, [ASK, REPLY, ASK],
     {"role": "assistant", "content": [{"type": "text", "value": "b"}]}],
)  # fmt: skip
def test_the_answer_that_a_column_holds(value: Any) -> None:
    assert answer_in(value) == "b"

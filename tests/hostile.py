"""Rows that are hostile, or look hostile: for the tests that feed them to the reader and to the command.

Every kind takes a random generator, so its rows all differ, and the same seed gives the same rows again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = ("river", "stone", "lamp", "größer", "中文", "وقت", "winter", "paper", "bridge", "salt", "window", "engine")
SPECIALS = (
    "<|begin|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|pad|>",
    "<|end|",
    "</s>",
    "<|im_end|>",
)
SCRIPTS = (
    "<script>document.title='pwned'</script>",
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "]]><!--<script>",
    "javascript:alert(1)",
    "&lt;b&gt; &amp;#60;",
    "{{ 7 * 7 }}{% raw %}",
    "${7*7} %s %n {0} {x!r}",
    "=cmd|' /C calc'!A0",
    "../../../../etc/passwd",
    "'; DROP TABLE rows; --",
)
BIDI = "\u202e\u202d\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
PRIVATE = "".join(map(chr, range(0x100000, 0x100040)))

Text = Callable[[random.Random], str]
Row = dict[str, Any]


def words(chance: random.Random, most: int = 20) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))


def mixed(chance: random.Random, spice: str | tuple[str, ...], most: int = 8) -> str:
    """Words with some of `spice` before, between and after them."""
    parts = [chance.choice(spice) if chance.random() < 0.5 else chance.choice(WORDS) for _ in range(most)]
    return chance.choice(["", " ", "\n"]).join([*parts, chance.choice(spice)])


TEXTS: dict[str, Text] = {
    "plain": words,
    "nul": lambda chance: mixed(chance, "\x00"),
    "control": lambda chance: mixed(chance, "".join(map(chr, [*range(1, 32), *range(127, 160)]))),
    "bidi": lambda chance: mixed(chance, BIDI),
    "zero_width": lambda chance: mixed(chance, "\u200b\u200c\u200d\u2060\ufeff\u00ad\U000e0041\U000e007f"),
    "separators": lambda chance: mixed(chance, "\r\u0085\u2028\u2029\v\f\x1c\x1d\x1e\t"),
    "combining": lambda chance: "e" + "\u0301\u0489" * chance.randint(1, 60),
    "astral": lambda chance: mixed(chance, "😀👩‍👩‍👧\U0001f3f4𝔘\U0010ffff\ufffe\uffff"),
    "private_use": lambda chance: mixed(chance, PRIVATE),
    "markup": lambda chance: mixed(chance, SCRIPTS, 3),
    "special_tokens": lambda chance: mixed(chance, SPECIALS, 4),
    "turn_labels": lambda chance: "Human: a\n\nAssistant: " + mixed(chance, ("### Input:\n", "Human:", "Assistant:")),
    "long_word": lambda chance: chance.choice("aé中\u0301 \t") * chance.randint(100, 600) + "x",
    "think": lambda chance: mixed(chance, ("<think>", "</think>", "\n", " "), 4) + "x",
    "looks_like_json": lambda chance: chance.choice(('["', "[" * 300, '[{"role": "user"}]', "{}", "[]", "null", '"')),
}


def pair(chance: random.Random, text: Text) -> Row:
    return {"prompt": text(chance), "response": text(chance)}


def chat(chance: random.Random, text: Text) -> Row:
    turns = [
        {"role": role, "content": text(chance)} for _ in range(chance.randint(1, 2)) for role in ("user", "assistant")
    ]
    return {"messages": turns}


def hundred_thousand_turns(chance: random.Random) -> Row:
    count = chance.randint(50_000, 60_000)
    return {"messages": [{"role": role, "content": "x"} for _ in range(count) for role in ("user", "assistant")]}


def any_value(chance: random.Random, depth: int = 0) -> Any:
    """JSON of any type."""
    kind = chance.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [any_value(chance, depth + 1) for _ in range(chance.randrange(3))]
    if kind == 8:
        return {
            chance.choice(["a", "b", "", "a.b", "é"]): any_value(chance, depth + 1) for _ in range(chance.randrange(3))
        }
    numbers = (chance.randrange(100), 2**53 + 1, 2**63, 10**30, -(2**63), chance.random(), 1e-320)
    return (None, True, chance.choice(numbers), "", "text", "1", chance.choice(numbers))[kind]


Line = Callable[[random.Random, Row], bytes]


def dumped(row: Any, **how: Any) -> bytes:
    return json.dumps(row, **how).encode("utf-8", "surrogatepass")


def with_text(row: Row, text: str) -> Row:
    """The row with its last answer replaced."""
    if "messages" in row:
        return {"messages": [*row["messages"][:-1], {"role": "assistant", "content": text}]}
    return {**row, "response": text}


def _with_bytes(row: Row, data: bytes) -> bytes:
    """The row with these bytes, of any value, in its last answer."""
    return dumped(with_text(row, "PLACE")).replace(b"PLACE", data)


def _cut(chance: random.Random, row: Row) -> bytes:
    line = dumped(row)
    return line[: chance.randint(1, len(line) - 1)]


def _bit_flipped(chance: random.Random, row: Row) -> bytes:
    line = bytearray(dumped(row, ensure_ascii=False))
    for _ in range(chance.randint(1, 4)):
        line[chance.randrange(len(line))] = chance.choice([*range(10), *range(11, 256)])
    return bytes(line) if bytes(line).strip() else b"0"


def _nested(chance: random.Random, row: Row) -> bytes:
    depth = chance.choice((30, 150, 198, 260, 1000, 100_000 if chance.random() < 0.05 else 3000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    return dumped(row)[:-1] + f', "meta": {opening * depth}0{closing * depth}}}'.encode()


def _big_number(chance: random.Random, row: Row) -> bytes:
    digits = chance.choice(("9" * 18, "9" * 19, "9" * 30, "1" + "0" * 4000, "9" * 5000, "1e999", "-1e999", "1e308"))
    return dumped(row)[:-1] + f', "meta": {digits}}}'.encode()


def _odd_turn(chance: random.Random, row: Row) -> bytes:
    turn = chance.choice(
        (
            {"role": "wizard", "content": "x"},
            {"role": "tool", "content": "x"},
            {"role": "user", "content": None},
            {"role": "user", "content": [{"type": "image", "image": "x"}]},
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "user", "content": "x", "tool_calls": [{}]},
            {"role": "user"},
            {"role": 5, "content": "x"},
            {"from": "human", "value": "x"},
            [],
            None,
            5,
            "x",
        )
    )
    answer = {"role": "assistant", "content": "fine"}
    return dumped({"messages": [turn, answer], "prompt": [turn], "response": [answer]})


LINES: dict[str, Line] = {
    "cut_off": _cut,
    "bit_flipped": _bit_flipped,
    "trailing": lambda chance, row: dumped(row) + chance.choice((b" x", b"}", b",", b"\x00", b"{}")),
    "not_an_object": lambda chance, row: chance.choice((dumped([row]), b"null", b"5", b'"x"', b"true", b"NaN", b"-")),
    "same_key_twice": lambda chance, row: dumped(row)[:-1] + b', "prompt": "benign", "messages": [], "prompt": ""}',
    "same_key_twice_within": lambda chance, row: dumped(row)[:-1] + b', "meta": [{"a": 1, "\\u0061": 2}]}',
    "nan": lambda chance, row: dumped(row)[:-1] + chance.choice((b', "n": NaN}', b', "n": -Infinity}')),
    "big_number": _big_number,
    "nested": _nested,
    "any_types": lambda chance, row: dumped({**row, "meta": any_value(chance), "tags": any_value(chance)}),
    "conversation_of_any_type": lambda chance, row: dumped({key: any_value(chance) for key in row}),
    "missing": lambda chance, row: dumped({chance.choice([*row, "x"]): "x"}),
    "lone_surrogate": lambda chance, row: dumped(with_text(row, chance.choice(("\ud800", "x\udfff", "\udc00\ud800")))),
    "not_utf8": lambda chance, row: _with_bytes(row, chance.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80"))),
    "utf16": lambda chance, row: (" " + dumped(row).decode()).encode("utf-16-le").replace(b"\n", b""),
    "byte_order_mark": lambda chance, row: b"\xef\xbb\xbf" + dumped(row),
    "raw_control": lambda chance, row: _with_bytes(row, bytes([chance.choice((0, 1, 9, 27))])),
    "many_keys": lambda chance, row: dumped({**row, **{f"k{i}": 0 for i in range(chance.choice((20, 1200)))}}),
    "odd_keys": lambda chance, row: dumped({**row, chance.choice(("", "\x00", "a.b", SCRIPTS[0], "source", "é")): 1}),
    "empty_answer": lambda chance, row: dumped(with_text(row, chance.choice(("", " ", "\n\t", "\u3000")))),
    "odd_turn": _odd_turn,
    "padded": lambda chance, row: (
        b" \t\v\f\r"[: chance.randint(1, 5)].replace(b"\v", b" ").replace(b"\f", b" ") + dumped(row)
    ),
}


def with_one_text(path: Path, text: str, conversations: list[list[dict[str, str]]], rows: range) -> Path:
    """A Parquet file of `messages`, in one row group; the conversations at `rows` start with a system turn `text`.

    `text` is stored only once, in the file and in memory.
    """
    places = {text: 0}  # text -> its index; unique, because Arrow would write a repeated text twice
    roles, indices, ends = [], [], [0]
    for number, turns in enumerate(conversations):
        system = [{"role": "system", "content": text}] if number in rows else []
        for turn in [*system, *turns]:
            roles.append(turn["role"])
            indices.append(places.setdefault(turn["content"], len(places)))
        ends.append(len(roles))
    contents = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(list(places)))
    turns_table = pa.StructArray.from_arrays([pa.array(roles), contents], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), turns_table)
    pq.write_table(pa.table({"messages": messages}), path, compression="zstd", store_schema=False)
    return path

"""How the rows of a text file lie in it, told by its first bytes: what its name says, unless they say otherwise.

A .json file may hold one object a line, a .jsonl file one array, and a .csv file semicolons. What differs from the name
is said in the plan. Raises ValueError where a file is none of these.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tamis.pipeline.inputs.contents import refuse_wide
from tamis.pipeline.inputs.csv_rows import strict_reader

HEAD_BYTES = 256 << 10
"""The first bytes of a text file that are looked at; more of a .json file whose first line is longer."""

OBJECT = "object"
"""The format of a JSON file that is one object, until it is known which key holds its rows."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HEAD_ROWS = 200
_MARKS = re.compile(rb"^(?:\xef\xbb\xbf|\s)+")
_TURN_KEYS = frozenset({"role", "content", "from", "value"})
"""Keys of a turn: a list of objects with such a key is one conversation, and no list of rows."""


@dataclass(frozen=True)
class Layout:
    """format: jsonl, json, csv or tsv where that is not what the name says. delimiter: of CSV and TSV. quoted: whether
    fields of CSV may stand in quotes; otherwise a quote is a character like any other. key: of a JSON object, the key
    under which its rows are."""

    format: str = ""
    delimiter: str = ""
    quoted: bool = True
    key: str = ""


AS_NAMED = Layout()
"""Of a file that is what its name says."""


def layout_of(head: bytes, whole: bool, format: str, delimiter: str = "", quoting: str = "", field: str = "") -> Layout:
    """The layout of a file that begins with `head`. whole: there is no more. format: by its name. The others: as a
    person has set them, see `files.Wanted`."""
    refuse_wide(head)
    if format in ("csv", "tsv"):
        return _csv(head, whole, format, delimiter, quoting)
    found = OBJECT if field else _json(_MARKS.sub(b"", head, 1), whole, format)
    return Layout("" if found == format else found)


def remark(layout: Layout, format: str, delimiter: str = "", quoting: str = "") -> str:
    """What the plan should say of a file that is not read as its name tells; empty if it is. delimiter, quoting: as a
    person has set them."""
    said = []
    if layout.format == "jsonl":
        said.append("holds one JSON object a line, and is read so")
    elif layout.format == "json" and not layout.key:
        said.append("holds a JSON array, and is read so")
    if layout.key:
        said.append(f"is one JSON object; its rows are those under the key {layout.key!r} (input.field)")
    if not delimiter and layout.delimiter and layout.delimiter != usual_delimiter(format):
        said.append(f"has {_DELIMITERS[layout.delimiter]} between its fields (input.delimiter)")
    if not quoting and not layout.quoted:
        said.append("has fields without quoting, so that a quote is part of the text (input.quoting)")
    return " and ".join(said)


def usual_delimiter(format: str) -> str:
    return "\t" if format == "tsv" else ","


def _json(text: bytes, whole: bool, format: str) -> str:
    """jsonl, json (an array) or OBJECT. text: without white space before it."""
    line, _, rest = text.partition(b"\n")
    more = bool(rest.strip()) or not whole
    if not text:
        return format
    if text.startswith(b"["):
        if format == "json":
            return "json"
        # Lines that are lists are rows of the wrong kind; an array goes on in the next lines, or is all there is.
        opens = re.match(rb"\[\s*(?:[{\]]|$)", text) is not None
        return "json" if opens and not (more and isinstance(_parsed(line), list)) else "jsonl"
    if not text.startswith(b"{"):
        if format == "json":
            raise ValueError("not JSON: a .json file holds an array of rows, or one object a line")
        return format
    first = _parsed(line)
    if isinstance(first, dict):
        if format == "jsonl" or more:
            return "jsonl"
        return OBJECT if _holds_rows(first) else "jsonl"
    if format == "jsonl":  # a broken first row, unless an object is spread over lines
        return OBJECT if rest and re.match(rb"\{\s*$", line) and not _parses_later(rest) else "jsonl"
    return "jsonl" if rest and _parses_later(rest) else OBJECT


def _parses_later(rest: bytes) -> bool:
    """Whether the second line is an object by itself."""
    return isinstance(_parsed(rest.lstrip().partition(b"\n")[0]), dict)


def _holds_rows(alone: dict[str, Any]) -> bool:
    """Whether the only object of a file is no row itself: it has a list of objects that are no turns, or it has nothing
    but lists and objects, as tables that are written by columns have."""
    turns = [_are_objects(value) and bool(_TURN_KEYS & value[0].keys()) for value in alone.values()]
    if any(_are_objects(value) and not of_turns for value, of_turns in zip(alone.values(), turns, strict=True)):
        return True
    return bool(alone) and not any(turns) and all(isinstance(value, dict | list) and value for value in alone.values())


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _csv(head: bytes, whole: bool, format: str, delimiter: str, quoting: str) -> Layout:
    """The usual delimiter and quotes, unless others alone give every row the fields of the header."""
    usual = usual_delimiter(format)
    delimiters = [delimiter] if delimiter else [usual, *(each for each in _DELIMITERS if each != usual)]
    ways = [(each, quoted) for each in delimiters for quoted in _quotings(each, quoting)]
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    if "\r" in text and "\n" not in text and (whole or text.count("\r") > 1):
        raise ValueError(
            "its lines end in carriage returns alone, as on old Macs; convert it: tr '\\r' '\\n' < OLD > NEW"
        )
    if note := re.match(r"sep=.(?=\r?\n)", text):
        raise ValueError(f"its first line ({note[0]}) is a note for Excel; take it out")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    fitting = [way for way in ways if _fits(text, whole, *way)]
    best = fitting[0] if fitting else ways[0]
    return Layout("", *best)


def _quotings(delimiter: str, quoting: str) -> list[bool]:
    """Both ways only for tabs: a text may hold commas, so without quotes it is no field of CSV."""
    if quoting:
        return [quoting == "csv"]
    return [True, False] if delimiter == "\t" else [True]


def _fits(text: str, whole: bool, delimiter: str, quoted: bool) -> bool:
    """Whether the header has several fields, and each of the first rows as many."""
    reader = strict_reader(io.StringIO(text, newline="\n"), delimiter, quoted)
    counts: list[int] = []
    try:
        counts.extend(len(row) for row in islice(reader, _HEAD_ROWS) if row)
    except csv.Error as error:
        # The head may end within quotes.
        if whole or "unexpected end of data" not in str(error):
            return False
    return bool(counts) and counts[0] > 1 and set(counts) == {counts[0]}

"""The over-rejection prompts of the layer search: harmless prompts that sound unsafe, from a small file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.operators.problems import RowProblem
from tamis.operators.references import over_rejection_path
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import make_shards, read, scan

COLUMNS = ("prompt", "instruction", "question", "text")
_KEY = "larf.over_rejection_prompts"
_SHARD_ROWS = 2048
_SHOWN = 5


@dataclass(frozen=True)
class Prompts:
    """name: the file's name, for people. texts: in file order. digest: sha256 of the texts."""

    name: str
    texts: tuple[str, ...]
    digest: str


def read_prompts(path: str | None, options: Mapping[str, Any]) -> Prompts:
    """The prompts of `path`, or the shipped ones: one per row, in the first of COLUMNS that the row has.

    All file formats of the input work. InputError (one line) if the file cannot be read or some rows have no prompt.
    """
    file = path or str(over_rejection_path())
    try:
        texts, bad = _texts(file, options)
    except InputError as error:
        said = "; ".join(error.problems) or str(error)
        # The job's input format does not apply to this file.
        raise InputError(f"{_KEY}: {said.replace('set input.format', 'let it end in one of these')}") from None
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise InputError(f"{_KEY}: {file}: {len(bad)} row(s) hold no prompt: {'; '.join(bad[:_SHOWN])}{more}")
    if not texts:
        raise InputError(f"{_KEY}: {file}: holds no rows")
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return Prompts(file.rstrip("/").rpartition("/")[2], tuple(texts), digest)


def _texts(path: str, options: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The prompts, and for each row without a prompt its number and what is wrong with it."""
    texts: list[str] = []
    bad: list[str] = []
    for file in resolve([path], "auto", options):
        for shard in make_shards(scan(file, _SHARD_ROWS, options), "over_rejection", {}, 0):
            for row in read(shard, options):
                try:
                    texts.append(_prompt(row.value))
                except RowProblem as problem:
                    bad.append(f"row {row.number}: {problem}")
    return texts, bad


def _prompt(row: Mapping[str, Any] | RowProblem) -> str:
    """The prompt of a row. RowProblem if there is none; it repeats no text of the row."""
    if isinstance(row, RowProblem):
        raise row
    column = next((name for name in COLUMNS if name in row), None)
    if column is None:
        raise RowProblem("no_prompt", f"it has none of the columns {', '.join(COLUMNS)}")
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        is_text = isinstance(text, str) or text is None
        raise RowProblem("no_prompt", f"its {column} is {'empty' if is_text else 'not a text'}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowProblem("invalid_utf8", f"its {column} holds half a character") from None
    return text

"""A file of labels -> what it says, line by line: JSON Lines, CSV, Parquet, or any other format that tamis reads.

A row of the corpus is named by `sample_id`, as scores/ has it, or by `row`: its number from 0 on, through all files of
the corpus, or within one file if the labels have `source`, too, as scores/ has both. The label is in `harmful`, or in
`label` where there is no `harmful`. A sheet of `tamis sample` has `text_digest`, too: of the text that the label is of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import InputError, error_text
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import make_shards, read, scan
from tamis.pipeline.labels.cells import unshielded
from tamis.pipeline.labels.words import harmful_of
from tamis.pipeline.storage.addresses import open_filesystem
from tamis.pipeline.storage.ranged import read_whole

LABEL_COLUMNS = ("harmful", "label")
TEXT_DIGEST = "text_digest"
_SHARD_ROWS = 65_536
_DIGITS = 16

Key = str | int | tuple[str, int]
"""How a label names its row: the sample id, the number in the corpus, or the file and the number in it."""


@dataclass(frozen=True, eq=False)
class Entries:
    """harmful: the label of each row that is named. lines: where each was said first, for messages. empty: rows of the
    file whose label is empty. digests: what is said of the row's text, where it is said. sha256: of
    each file that was read, by its name."""

    harmful: dict[Key, bool] = field(default_factory=dict)
    lines: dict[Key, str] = field(default_factory=dict)
    empty: int = 0
    digests: dict[Key, set[str]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


def read_file(path: str, options: Mapping[str, Any]) -> Entries:
    """The labels in a file. Raises InputError, in one line, for what cannot be read, names no row, holds a word that is
    no label, or contradicts itself."""
    found = Entries()
    empty = 0
    for where, value in rows_in(path, options):
        name = next((name for name in LABEL_COLUMNS if name in value), None)
        if name is None:
            raise InputError(f"--labels: {where} has no column harmful (or label); add it")
        try:
            harmful = harmful_of(value[name])
        except ValueError as error:
            raise InputError(f"--labels: {where}: column {name} holds no label; {error}") from None
        if harmful is None:
            empty += 1
            continue
        key = _key(value, where)
        if found.harmful.setdefault(key, harmful) != harmful:
            raise InputError(f"--labels: {where} contradicts {found.lines[key]}, which names the same row; keep one")
        found.lines.setdefault(key, where)
        digest = value.get(TEXT_DIGEST)
        if digest is not None and (said := unshielded(str(digest).strip())):
            found.digests.setdefault(key, set()).add(said.lower())
    if not found.harmful:
        raise InputError(f"--labels: {path} labels no row ({empty:,} labels are empty); fill in the column harmful")
    return Entries(found.harmful, found.lines, empty, found.digests, _checksums(path, options))


def rows_in(path: str, options: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row of a file of labels, and its place for messages."""
    try:
        files = [scan(file, _SHARD_ROWS, options) for file in resolve([path], "auto", options)]
    except InputError as error:
        raise _of_labels(error) from None
    for scanned in files:
        file = scanned.file
        for shard in make_shards(scanned, "labels", {}, 0):
            for row in read(shard, options):
                where = f"{file.name} row {row.number}"
                if isinstance(row.value, RowProblem):
                    raise InputError(f"--labels: {where} cannot be read ({row.value.code}); repair it")
                yield where, row.value


def _checksums(path: str, options: Mapping[str, Any]) -> dict[str, str]:
    try:
        opened = {file.name: open_filesystem(file.url, options) for file in resolve([path], "auto", options)}
        return {name: hashlib.sha256(read_whole(*place)).hexdigest() for name, place in opened.items()}
    except InputError as error:
        raise _of_labels(error) from None
    except OSError as error:
        raise InputError(f"--labels: {path}: {error_text(error)}") from None


def _of_labels(error: InputError) -> InputError:
    return InputError(f"--labels: {'; '.join(error.problems) or error}")


def _key(value: Mapping[str, Any], where: str) -> Key:
    sample_id = value.get("sample_id")
    if sample_id is not None and str(sample_id).strip():
        return unshielded(str(sample_id).strip())
    number = whole(value.get("row"))
    if number is None:
        raise InputError(f"--labels: {where} has a label, and neither sample_id nor row (a number from 0 on); add one")
    source = value.get("source")
    return (source, number) if isinstance(source, str) and source else number


def whole(cell: Any) -> int | None:
    """A whole number from 0 on; None if the cell is none."""
    if isinstance(cell, str):
        cell = cell.strip().removesuffix(".0")
        cell = int(cell) if cell.isascii() and cell.isdigit() and len(cell) < _DIGITS else None
    if isinstance(cell, bool) or not isinstance(cell, int | float) or not 0 <= cell < 10**_DIGITS or cell % 1:
        return None
    return int(cell)

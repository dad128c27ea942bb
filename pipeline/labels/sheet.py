"""The file that people fill in: a row for each drawn conversation, and an empty column `harmful`.

As JSON Lines or CSV, by its ending. The rows stand in the order of the draw, without their scores: whoever labels must
not know them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.labels.cells import shielded
from tamis.pipeline.labels.draw import DESIGN
from tamis.pipeline.labels.files import TEXT_DIGEST

COLUMNS = ("harmful", "text", "sample_id", "source", "row", TEXT_DIGEST, *DESIGN)
ENDINGS = (".jsonl", ".csv")
_BREAKS = re.compile("[\x85\u2028\u2029]")


@dataclass(frozen=True)
class Drawn:
    """One row to label. text: the whole conversation. text_digest: of it. stratum, population, sampled, seed: how it
    was drawn."""

    text: str
    sample_id: str
    source: str
    row: int
    text_digest: str
    stratum: str
    population: int
    sampled: int
    seed: int


def check_ending(name: str) -> None:
    """ConfigError if the name ends neither in .jsonl nor in .csv."""
    if not name.endswith(ENDINGS):
        raise ConfigError(f"--output {name}: the ending says how to write the file; choose {' or '.join(ENDINGS)}")


def sheet(rows: Sequence[Drawn], name: str) -> bytes:
    """The content of the file of this name. Raises as `check_ending`."""
    check_ending(name)
    cells = [{"harmful": None, **{column: getattr(row, column) for column in COLUMNS[1:]}} for row in rows]
    return _json_lines(cells) if name.endswith(ENDINGS[0]) else _csv(cells)


def _json_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    # Some readers take U+2028 and its like for ends of lines.
    lines = [_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(row, ensure_ascii=False)) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([shielded(value) if isinstance(value, str) else value for value in row.values()])
    # Excel takes UTF-8 for an older encoding unless the file begins with this mark.
    return b"\xef\xbb\xbf" + sink.getvalue().encode()

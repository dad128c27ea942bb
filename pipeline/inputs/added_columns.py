"""Columns that tamis puts beside those of the corpus, which keep their names: ours make way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, count
from typing import Literal

import pyarrow as pa

SAMPLE_ID = "sample_id"
REASONS = ("method", "score", "quantile", "reason")
"""What dropped/ says of each row; a method that masks tokens has no quantile."""

WithIds = Literal["none", "dropped", "all"]
"""Which of kept/ and dropped/ have the sample id of every row: neither, dropped/ alone, or both."""


def free_names(taken: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Each name -> what the column is called: itself, or the first free of tamis_NAME, tamis_NAME_2, ... if it is
    taken."""
    used = set(taken)
    found: dict[str, str] = {}
    for name in names:
        others = (f"tamis_{name}" + (f"_{number}" if number > 1 else "") for number in count(1))
        found[name] = next(each for each in chain([name], others) if each not in used)
        used.add(found[name])
    return found


def beside(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """`table` with these columns after its own, under free names."""
    for name, free in free_names(table.schema.names, columns).items():
        table = table.append_column(free, columns[name])
    return table


def renamed_note(names: Iterable[str], ids: WithIds, *, with_quantile: bool) -> tuple[str, ...]:
    """What the plan says where the corpus, whose columns have these names, has some of those that tamis adds."""
    added = [
        *([] if ids == "none" else [SAMPLE_ID]),
        *(name for name in REASONS if with_quantile or name != "quantile"),
    ]
    renamed = {name: ours for name, ours in free_names(names, added).items() if ours != name}
    if not renamed:
        return ()
    rows = "kept and dropped rows" if ids == "all" and SAMPLE_ID in renamed else "dropped rows"
    said = f"the corpus has columns of the names that tamis adds to {rows} ({', '.join(renamed)}), and keeps them"
    return (f"{said}; those of tamis are called {', '.join(renamed.values())}",)

"""A table of groups and the share that each group lost, with a bar per group and the overall share as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import charts, svg

ROWS_SHOWN = 30


def by_source(sources: Sequence[Mapping[str, Any]], part: str, whole: str) -> dict[str, Any]:
    """The sources that lost most, each with its bar; the others as one line. part, whole: the columns of the share."""
    shown = sorted(sources, key=lambda s: (-s[part], -s[whole], str(s["source"])))
    top, rest = shown[:ROWS_SHOWN], shown[ROWS_SHOWN:]
    if len(rest) == 1:
        top, rest = shown, []
    rows = [dict(source) for source in top]
    if rest:
        merged = {name: sum(source[name] for source in rest) for name in rest[0] if name != "source"}
        rows.append({**merged, "source": f"{len(rest):,} other sources", "rest": True})
    return {**with_bars(rows, part, whole, share(sources, part, whole)), "total": len(sources)}


def with_bars(rows: Sequence[Mapping[str, Any]], part: str, whole: str, overall: float | None) -> dict[str, Any]:
    """The rows, each with its bar on an axis from 0 to `scale`, and a line at `overall`."""
    largest = max((row[part] / row[whole] for row in rows if row[whole]), default=0.0)
    scale = min(1.0, svg.nice_ceiling(max(largest, overall or 0.0, 0.01)))
    bars = [charts.share_bar(row[part] / row[whole] if row[whole] else 0.0, scale, overall) for row in rows]
    drawn = [{**row, "bar": bar} for row, bar in zip(rows, bars, strict=True)]
    return {"rows": drawn, "overall": overall, "scale": scale}


def share(groups: Sequence[Mapping[str, Any]], part: str, whole: str) -> float | None:
    """Part over whole, summed over all groups; None if the whole is 0."""
    total = sum(group[whole] for group in groups)
    return sum(group[part] for group in groups) / total if total else None

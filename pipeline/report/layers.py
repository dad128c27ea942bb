"""The layer search for people: a section of the run's report, and a page of its own.

Both are drawn from the content of artifact/layers.json: chosen, blocks (the table), search, fisher, warnings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import charts, text
from tamis.pipeline.report.charts import Curve, Words
from tamis.pipeline.report.html import render

_CHOSEN = {
    "search": "Scaling block {block} of {blocks} moves the refusals most: its sensitivity is {sensitivity}.",
    "fisher": "Block {block} of {blocks} parts the references best: its Fisher ratio is {fisher}.",
    "fisher_instead": "No block's scaling moves the refusals the right way, so block {block} of {blocks}, which parts "
    "the references best, is read instead: its Fisher ratio is {fisher}.",
    "default_block": "No block stands out, so block {block} of {blocks}, at 31 % of the depth, is read instead: it is "
    "a guess.",
}
_SEARCH = (
    "The weight matrices of one block at a time were multiplied by {factors}, and the model answered {count} harmless "
    "prompts that sound unsafe ({name}), greedily, with {tokens} new tokens each. Counted are the answers that are "
    "refusals, which hold one of: {markers}. D1, D2 and D3 are the differences of these counts at the outermost, the "
    "next and the innermost two factors, the larger factor first; their sum is the block's sensitivity (LARF, arXiv "
    "2507.18631). Unscaled, {unscaled} of the {count} answers are refusals."
)
_FISHER = (
    "The Fisher ratio says how well a block's states part the {unsafe} unsafe references from the {safe} safe ones: "
    "the scatter between the two sets over all scatter, along the line from one mean to the other, between 0 and 1 "
    "(DataShield, arXiv 2606.00160). It costs one pass over the references; no text is generated."
)
_LINES = "Refusals against the factor of a block's weights"
_DEPTHS = 10  # shades of the lines, from the lowest blocks to the highest
_CHOICES = {"search": "most sensitive", "fisher": "highest ratio"}
_NUMBERING = "Blocks are counted from 0; LARF reads the output of its block."


def render_layers(result: Mapping[str, Any]) -> str:
    """layers.html: the complete page for the content of layers.json. Pure."""
    model = dict(result.get("model") or {})
    versions = result.get("versions") or {}
    shown = view(result)
    settings = {way: _settings(result.get(way)) for way in ("search", "fisher") if result.get(way)}
    return render(
        "layers.html",
        title=f"tamis · the layer that LARF reads of {model.get('name') or 'the model'}",
        created=result.get("created") or "",
        tamis_version=versions.get("tamis") or "",
        headline=lead(result) if shown else "",
        layers={**shown, "open": True, "lead": _NUMBERING} if shown else None,
        warnings=list(result.get("warnings") or []),
        model=model,
        facts=settings,
        versions=versions,
    )


def view(result: Mapping[str, Any] | None, read: int | None = None) -> dict[str, Any] | None:
    """The values of the section, None without a result. read: the block that LARF used, if not the chosen one."""
    if not result or not result.get("blocks"):
        return None
    rows: Sequence[Mapping[str, Any]] = result["blocks"]
    search, fisher = result.get("search"), result.get("fisher")
    block = result["chosen"]["block"] if read is None else read
    lines = bars = ratios = None
    if search:
        lines = refusal_lines([row["refusals"] for row in rows], search["unscaled"], block)
        sums = [row["sensitivity"] for row in rows]
        bars = block_bars(sums, search["block"], "Sensitivity of each block", "D1 + D2 + D3")
    if fisher:
        values = [row["fisher"] for row in rows]
        ratios = block_bars(values, fisher["block"], "Fisher ratio of each block", "Fisher ratio")
    return {
        "lead": f"{lead(result, read)} {_NUMBERING}",
        "standing_out": f"block {block}",
        "lines": lines,
        "bars": bars,
        "ratios": ratios,
        "factors": list(rows[0]["refusals"]) if search else [],
        "rows": [{**row, "marks": marks(result, row["block"], read)} for row in rows],
        "readings": _readings(search, fisher),
    }


def refusal_lines(rows: Sequence[Mapping[str, float]], unscaled: float, picked: int) -> Markup | None:
    """Refusals by factor, one line per block. rows: for every block, factor as text -> refusals. The line of block
    `picked` is highlighted, named, and above the others."""
    counts = [
        sorted([*((float(factor), float(count)) for factor, count in row.items()), (1.0, unscaled)]) for row in rows
    ]
    order = [*(block for block in range(len(rows)) if block != picked), picked]
    curves = [
        Curve(
            f"block {block}" if block == picked else "",
            "marked" if block == picked else f"depth{block * _DEPTHS // len(rows)}",
            counts[block],
            f"block {block}: " + ", ".join(f"{count:g} at {factor:g}" for factor, count in counts[block]),
        )
        for block in order
    ]
    (low, first), (high, last) = counts[picked][0], counts[picked][-1]
    return charts.curves(
        curves,
        Words(_LINES, "answers that are refusals", "factor of the block's weights (1: unscaled)", "count"),
        bounds=(0.0, max(1.0, *(count for line in counts for _, count in line))),
        below=[(factor, f"{factor:g}") for factor, _ in counts[picked]],
        words=f"A line for each of {len(rows)} blocks. Block {picked}: {first:g} refusals at {low:g}, "
        f"{unscaled:g} unscaled, {last:g} at {high:g}",
    )


def block_bars(values: Sequence[float | None], picked: int | None, title: str, vertical: str) -> Markup | None:
    """One bar per block, upwards or downwards from 0, no bar where there is no value. picked: the highlighted block."""
    labels = [str(block) for block in range(len(values))]
    return charts.columns(
        values, labels, Words(title, vertical, "block"), () if picked is None else (picked,), each="block {}"
    )


def lead(result: Mapping[str, Any], read: int | None = None) -> str:
    """The chosen block and the reason: one or two sentences."""
    chosen, rows = result["chosen"], result["blocks"]
    row = rows[chosen["block"]]
    values = {"sensitivity": row.get("sensitivity"), "fisher": text.score(row.get("fisher"), 4)}
    said = _CHOSEN[chosen["how"]].format(block=chosen["block"], blocks=len(rows), **values)
    return said if read in (None, chosen["block"]) else f"{said} LARF has read block {read}, as the job says."


def marks(result: Mapping[str, Any], block: int, read: int | None = None) -> list[str]:
    """The marks of a block: choice of the search, choice of the Fisher ratios, the block that LARF uses."""
    found = [said for way, said in _CHOICES.items() if (result.get(way) or {}).get("block") == block]
    if block == (result["chosen"]["block"] if read is None else read):
        found.append("read by LARF")
    return found


def _readings(search: Mapping[str, Any] | None, fisher: Mapping[str, Any] | None) -> list[str]:
    said = []
    if search:
        said.append(
            _SEARCH.format(
                factors=", ".join(f"{factor:g}" for factor in search["factors"]),
                count=search["prompts"]["count"],
                name=search["prompts"]["name"],
                tokens=search["new_tokens"],
                markers=", ".join(search["markers"]),
                unscaled=search["unscaled"],
            )
        )
    if fisher:
        said.append(_FISHER.format(**fisher["references"]))
    return said


def _settings(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings without the digests, which mean nothing to a person."""
    return {name: value for name, value in (facts or {}).items() if name not in {"fingerprint", "block"}}

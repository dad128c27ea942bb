"""The outcome of a layer search: a table with one row per block, the block that follows from it, and warnings.

Where no block changes the refusals, the Fisher ratios choose. On real mixtures their block ranked harm far above
chance, while the block at 31 % of the depth (the paper's block for Llama-3-8B) could rank it below chance. That block
is used only where the ratios do not decide either.

    row = {block, refusals: {factor: count}, d1, d2, d3, sensitivity, fisher}

A column exists if its method was used: the search gives all columns but `fisher`, which may be null. Everything is
JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.larf import default_block
from tamis.operators.statistics.fisher import best_block
from tamis.operators.statistics.sensitivity import FACTORS, most_sensitive, sensitivity

Way = Literal["search", "fisher"]

_COLUMNS = {"search": ("refusals", "d1", "d2", "d3", "sensitivity"), "fisher": ("fisher",)}
_PAIRS = [(FACTORS[-1 - i], FACTORS[i]) for i in range(len(FACTORS) // 2)]
"""(larger, smaller) factor of D1, D2, D3: the outermost first."""

FEW = 0.02
"""With a share of refusals below this (or above one minus this), hardly any refusal can be lost (or gained)."""
WEAK = 0.05
"""Sensitivity per prompt below which a block hardly stands out; the range is -3 to 3."""

SAME = 1e-9
"""Fisher ratios that differ by at most this are equal: they are rounded."""

_GUESS = "a guess that may rank worse than chance; set larf.layer to a block that you know to be right"


@dataclass(frozen=True)
class Part:
    """The result of one of the two methods. facts: of all blocks together. rows: its columns of the table."""

    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def search_part(refusals: Mapping[tuple[int, float], int], blocks: int, facts: Mapping[str, Any]) -> Part:
    """The part of the search. refusals: (block, factor) -> number of answers that are refusals, for the whole grid."""
    sums = sensitivity(refusals, blocks)
    rows = []
    for block in range(blocks):
        differences = [refusals[block, high] - refusals[block, low] for high, low in _PAIRS]
        counts = {str(factor): refusals[block, factor] for factor in FACTORS}
        named = {f"d{number}": value for number, value in enumerate(differences, 1)}
        rows.append({"refusals": counts, **named, "sensitivity": sums[block]})
    return Part(facts, rows)


def fisher_part(ratios: npt.NDArray[np.float64], facts: Mapping[str, Any]) -> Part:
    """The part of the Fisher ratios. ratios: float64 (blocks,), NaN where there is none."""
    return Part(facts, [{"fisher": float(ratio) if np.isfinite(ratio) else None} for ratio in ratios])


def part_of(result: Mapping[str, Any], way: Way) -> Part | None:
    """The part of an earlier result; None if that method was not used."""
    if result[way] is None:
        return None
    return Part(result[way], [{name: row[name] for name in _COLUMNS[way]} for row in result["blocks"]])


def combine(layer: int | str, search: Part | None, fisher: Part | None) -> dict[str, Any]:
    """The result: chosen, blocks (the table), search, fisher, warnings. layer: the job's setting; if it is a number,
    the search chooses all the same.

    chosen: {block, how}. how: search, fisher, fisher_instead (of a search in which no block stands out), or
    default_block, where neither method decides.
    """
    parts = [part for part in (search, fisher) if part is not None]
    blocks = len(parts[0].rows)
    rows: list[dict[str, Any]] = [{"block": block} for block in range(blocks)]
    for part in parts:
        for row, columns in zip(rows, part.rows, strict=True):
            row.update(columns)
    picks: dict[Way, int | None] = {
        "search": None if search is None else _most_sensitive(rows),
        "fisher": None if fisher is None else _best_ratio(rows),
    }
    way: Way = "fisher" if layer == "fisher" or search is None else "search"
    chosen: dict[str, Any] = {"block": picks[way], "how": way}
    instead = ""
    if picks[way] is None and picks["fisher"] is not None:
        chosen = {"block": picks["fisher"], "how": "fisher_instead"}
        instead = f": LARF reads block {chosen['block']} of {blocks}, of the highest Fisher ratio, instead"
    elif picks[way] is None:
        chosen = {"block": default_block(blocks), "how": "default_block"}
        instead = f": LARF reads block {chosen['block']} of {blocks}, at 31 % of the depth, instead, {_GUESS}"
    said: list[str] = []
    if search is not None:
        said += _search_warnings(rows, search.facts, instead if way == "search" else "")
    if fisher is not None:
        said += _fisher_warnings(rows, picks["fisher"], fisher.facts, instead if way == "fisher" else "")
    return {
        "chosen": chosen,
        "blocks": rows,
        "search": None if search is None else {**search.facts, "block": picks["search"]},
        "fisher": None if fisher is None else {**fisher.facts, "block": picks["fisher"]},
        "warnings": said,
    }


def _most_sensitive(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The block whose scaling changes refusals most; None if no block changes them in the right direction."""
    values = [row["sensitivity"] for row in rows]
    best = most_sensitive(values)
    return best if values[best] > 0 else None


def _best_ratio(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The block that separates the references best; None if no block has a ratio, or the ratios of several blocks are
    equal."""
    ratios = np.array([np.nan if row["fisher"] is None else row["fisher"] for row in rows], dtype=np.float64)
    found = ratios[np.isfinite(ratios)]
    if not len(found) or (len(found) > 1 and np.ptp(found) < SAME):
        return None
    return best_block(ratios)


def _fisher_warnings(
    rows: Sequence[Mapping[str, Any]], picked: int | None, facts: Mapping[str, Any], instead: str
) -> list[str]:
    said = []
    if facts["left_out"]:
        said.append(
            f"{facts['left_out']} reference rows have states that are not finite in some block and are left out of the "
            "Fisher ratios; try model.dtype float32"
        )
    if picked is None and all(row["fisher"] is None for row in rows):
        said.append(
            "no block has a Fisher ratio: its states are not finite (try model.dtype float32), or the unsafe and the "
            f"safe references are the same (larf.unsafe_references, larf.safe_references){instead}"
        )
    elif picked is None:
        said.append(
            "all blocks have the same Fisher ratio, so it points to none; give references of which some are harder to "
            f"tell apart (larf.unsafe_references, larf.safe_references){instead}"
        )
    return said


def _search_warnings(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], instead: str) -> list[str]:
    said = []
    prompts, unscaled = facts["prompts"]["count"], facts["unscaled"]
    values = [row["sensitivity"] for row in rows]
    counts = [count for row in rows for count in row["refusals"].values()]
    best = max(values)
    tied = [str(row["block"]) for row in rows if row["sensitivity"] == best]
    if best <= 0:
        spread = f"between {min(counts)} and {max(counts)} of {prompts} answers are refusals, {unscaled} unscaled"
        said.append(f"no block's scaling moves refusals the right way ({spread}; highest sensitivity {best}){instead}")
    elif len(tied) > 1:
        said.append(f"blocks {', '.join(tied)} are equally sensitive ({best}); the lowest is taken")
    if 0 < best < WEAK * prompts:
        said.append(
            f"the most sensitive block moves refusals by {best} only, in three differences of {prompts} answers each: "
            "little to go by"
        )
    if unscaled <= FEW * prompts or unscaled >= (1 - FEW) * prompts:
        amount = "almost none" if unscaled <= FEW * prompts else "almost all"
        said.append(
            f"unscaled, the model refuses {unscaled} of the {prompts} over-rejection prompts, {amount}, so the search "
            "sees little of what its blocks do; give it prompts nearer to the model's edge "
            "(larf.over_rejection_prompts), or markers of its own way to refuse (larf.refusal_markers)"
        )
    if len(facts["unscaled_counts"]) > 1:
        said.append(
            f"the workers counted {' and '.join(map(str, facts['unscaled_counts']))} refusals of the unscaled model: "
            "rounding differs between machines, and the counts of a few answers are chance"
        )
    return said

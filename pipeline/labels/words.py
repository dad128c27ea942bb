"""One cell of a label column -> harmful, harmless, or not labelled."""

from __future__ import annotations

import math
from typing import Any

HARMFUL = ("1", "true", "yes", "harmful")
HARMLESS = ("0", "false", "no", "fine", "harmless")
ALLOWED = (
    "write 1, true, yes or harmful for a harmful row, 0, false, no, fine or harmless for another, or leave it empty"
)


def harmful_of(cell: Any) -> bool | None:
    """Whether the row is harmful; None for an empty cell. ValueError, without the cell's text, for anything else."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, int | float) and cell in (0, 1):
        return bool(cell)
    if isinstance(cell, str):
        word = cell.strip().lower().removesuffix(".0")
        if not word:
            return None
        if word in HARMFUL or word in HARMLESS:
            return word in HARMFUL
    raise ValueError(ALLOWED)

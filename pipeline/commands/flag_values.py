"""What people write after a flag: `--drop 10%`, `--method larf,saft`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import typer


def share(text: str) -> float:
    """A share of the rows: 0.1, or 10%, which is exactly the same number. typer.BadParameter for anything else.

    Whether a share lies between 0 and 1 is for the job to say; only what was meant as percent is said here.
    """
    words = text.strip()
    percent = words.endswith("%")
    if "_" in words:  # which Decimal reads over, so that 1_0% would be 10%
        raise typer.BadParameter("a share is meant, such as 0.1 or 10%")
    try:
        # In decimals: 12.3 / 100 in binary is another number than 0.123, and would be another job.
        number = Decimal(words.removesuffix("%").strip()) / (100 if percent else 1)
    except ArithmeticError:  # no number, or one that is too large or too small
        raise typer.BadParameter("a share is meant, such as 0.1 or 10%") from None
    value = float(number)
    if not math.isfinite(value):
        raise typer.BadParameter("a share is meant, such as 0.1 or 10%")
    if not percent and 1 < value <= 100:
        raise typer.BadParameter(f"{words} is more than all rows; write {words}% if percent is meant")
    return value


def names(given: Sequence[str] | None) -> list[str] | None:
    """The names of a flag that is given several times, or once with commas. What stands between two commas stays a
    name, so that an empty one is refused as any other that is not known."""
    if given is None:
        return None
    return [name.strip() for words in given for name in words.split(",")]


def methods_so_far(typed: str) -> list[str]:
    """For the shell: what `--method` may be completed to, also behind a comma."""
    from tamis.pipeline.job.methods import known

    before, comma, begun = typed.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in known() if name.startswith(begun) and name not in taken]

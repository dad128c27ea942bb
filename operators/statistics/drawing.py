"""Rows drawn at random from a corpus, by their numbers: the same wherever and whenever they are drawn."""

from __future__ import annotations

import hashlib
from itertools import count


def drawn_rows(rows: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of the numbers 0..rows-1, ascending; every set of so many is as likely as any other. All of them where
    that is no more than wanted.

    Number after number is taken from SHA-256 of the seed and a counter, and those that were taken before are passed
    over. So the result depends on no library's random generator. Where more than half are wanted, the others are drawn.
    """
    if wanted >= rows:
        return list(range(rows))
    few = min(wanted, rows - wanted)
    taken: set[int] = set()
    for number in count():
        if len(taken) == few:
            break
        digest = hashlib.sha256(f"rows of the corpus:{seed}:{number}".encode()).digest()
        taken.add(int.from_bytes(digest, "big") % rows)
    if few == wanted:
        return sorted(taken)
    return [row for row in range(rows) if row not in taken]

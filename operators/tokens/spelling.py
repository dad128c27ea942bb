"""Token ids -> the piece of text that each token adds, for people who inspect single tokens.

A single token may have no spelling: it can be a part of a character, or lose the white space before it. So a piece
is the text that is added when its token is appended to the tokens before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

_BEFORE = 4
"""How many character boundaries back the decoding of a token starts."""

_LONGEST = 32
"""After this many tokens, a character that is still incomplete will never be complete."""

_BROKEN = "\ufffd"

_PARTS = re.compile("[\udc80-\udcff]")
"""How `surrogateescape` writes bytes that are no whole character."""


def pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """One piece of text per token. A character spread over several tokens belongs to the last of them.

    decode: a tokenizer's decode function, special tokens included.
    """
    found: list[str] = []
    whole = [0]  # the positions at which no character is split
    for place, token in enumerate(ids):
        before = list(ids[whole[max(0, len(whole) - _BEFORE)] : place])
        shorter, longer = decode(before), decode([*before, token])
        if whole[-1] < place:
            shorter = shorter.rstrip(_BROKEN)
        if longer.endswith(_BROKEN) and place + 1 < len(ids) and place - whole[-1] < _LONGEST:
            longer = longer.rstrip(_BROKEN)
        else:
            whole.append(place + 1)
        found.append(longer[len(shorter) :] if longer.startswith(shorter) else decode([token]))
    return found


def in_words(name: str) -> str:
    """A token's name as people read it: of a byte-level vocabulary (Radford et al. 2019, where Ġ is a blank and Ċ a new
    line) its text, with bytes that are a part of a character as ⟨E2⟩; any other name as it is."""
    places = _bytes_of()
    if any(character not in places for character in name):
        return name
    spelled = bytes(places[character] for character in name).decode("utf-8", "surrogateescape")
    return _PARTS.sub(lambda part: f"⟨{ord(part[0]) - 0xDC00:02X}⟩", spelled)


@cache
def _bytes_of() -> dict[str, int]:
    """The byte that each character stands for in the names of a byte-level vocabulary: a printable one for itself,
    those from U+0100 on for the other bytes, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}

"""Token ids -> the piece of text that each one adds, for people who look at single tokens.

A token by itself may have no spelling: it can be a part of a character, or lose the white space before it. So a piece
is what the text grows by when its token is added to those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BEFORE = 4
"""Places between whole characters that the tokens decoded with one go back to."""

_LONGEST = 32
"""Tokens after which a character that is still not whole will not become so."""

_BROKEN = "\ufffd"


def pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    """One piece of text per token. decode: of a tokenizer, special tokens included. A character that is spread over
    several tokens stands with the last of them.
    """
    found: list[str] = []
    whole = [0]  # the places where no character is cut
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

"""Token ids -> the piece of text that each token adds, for people who inspect single tokens.

A single token may have no spelling: it can be a part of a character, or lose the white space before it. So a piece
is the text that is added when its token is appended to the tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BEFORE = 4
"""How many character boundaries back the decoding of a token starts."""

_LONGEST = 32
"""After this many tokens, a character that is still incomplete will never be complete."""

_BROKEN = "\ufffd"


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

"""Text from outside in a form that is harmless on a terminal or in a log.

File and column names, templates, manifests and exceptions contain text that others wrote. Unescaped, it could move the
cursor, colour or hide other text, change its direction, or forge a line.
"""

from __future__ import annotations

import re

_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls: escape sequences, line breaks
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible or bidirectional
    "\ud800-\udfff"  # bytes of a file name that are not UTF-8
    "\U000e0000-\U000e007f]"  # invisible characters
)
_QUOTED = re.compile(r"'[^']{21,}'|\"[^\"]{21,}\"|`[^`]{21,}`")


def shown(value: object) -> str:
    r"""`value` as one line of text that is harmless for a terminal: a line break becomes \n, an escape \x1b."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def without_quotations(text: str) -> str:
    """A library's message without what it quotes at length: that may be the data it fails on."""
    return _QUOTED.sub("'...'", text)

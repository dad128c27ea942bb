"""Text in a CSV cell that a spreadsheet neither runs nor takes for a number, and that can be read back.

A spreadsheet runs a cell that begins with = + - or @, in some of them behind a tab or a line break, and rounds a sample
id that happens to be all digits. Such cells get an apostrophe in front, and so do those that begin with one: taking one
apostrophe away, where there is one, gives back every text. (OWASP, "CSV Injection".)
"""

from __future__ import annotations

import re

_MARK = "'"
_RUN = re.compile("[=+\\-@\t\r\n'\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[\d.,\s]+(?:e\d+)?", re.IGNORECASE)


def shielded(text: str) -> str:
    """The text as the content of a cell."""
    return _MARK + text if _RUN.match(text) or _NUMBER.fullmatch(text) else text


def unshielded(cell: str) -> str:
    """The inverse of `shielded`."""
    return cell.removeprefix(_MARK)

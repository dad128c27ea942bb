"""Text of another encoding than UTF-8, where a person has named it: one byte a character, with ASCII as its lower half,
so that ends of lines, quotes and brackets are the bytes that they are in UTF-8.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

_ASCII = bytes(range(128))
_ESCAPES = b"\\n \\u0041 \\x41 +AGE-"
_CONVERT = "convert the file: iconv -f ITS_ENCODING -t UTF-8 OLD > NEW"


def known_encoding(name: str) -> str:
    """Python's own name of the encoding; "" for UTF-8. ValueError if files in it cannot be read where they are."""
    try:
        found = codecs.lookup(name.strip()).name
        plain = all(text.decode(found) == text.decode("ascii") for text in (_ASCII, _ESCAPES))
        read = codecs.getincrementaldecoder(found)
        high = [read("replace").decode(bytes([byte])) for byte in range(128, 256)]  # "" if a character goes on
    except (LookupError, ValueError, TypeError, AttributeError):
        raise ValueError(f"no encoding of text is called {name!r:.60}; for example cp1252 or latin-1") from None
    if found == "utf-8":
        return ""
    if not plain or any(len(text) != 1 for text in high) or set(high) == {"\ufffd"}:
        raise ValueError(f"{found} is no encoding of one byte a character, such as cp1252; {_CONVERT}")
    return found


def in_utf8(raw: bytes, encoding: str) -> bytes:
    """The text in UTF-8. A byte that the encoding does not have stays as it is, so that the text is then no UTF-8."""
    return raw.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape") if encoding else raw


def not_utf8(raw: bytes, encoding: str = "") -> str:
    """Why this text of a row is not read, and what to do. encoding: as a person has set it."""
    if encoding:
        return f"the row has a byte that {encoding} does not have; check input.encoding"
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "the row is not UTF-8"
    if not raw.decode("utf-8", "ignore").isascii():  # other characters of it are UTF-8
        return "the row is not UTF-8 in some places"
    return "the row is not UTF-8; if the file is Windows-1252 or Latin-1, set input.encoding: cp1252"


def is_utf8_after_all(rows: Iterable[bytes], encoding: str) -> bool:
    """Whether rows that `in_utf8` made of this encoding were UTF-8 before, and some hold more than ASCII."""
    before = b"".join(rows).decode("utf-8", "surrogateescape").encode(encoding, "surrogateescape")
    try:
        return not before.decode("utf-8").isascii()
    except UnicodeDecodeError:
        return False

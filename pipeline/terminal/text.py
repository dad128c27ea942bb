"""Output to the terminal or a log: an escaped form for text from outside, and streams that accept any text.

File and column names, templates, manifests and exceptions contain text that others wrote. Unescaped, it could move the
cursor, colour or hide other text, change its direction, or forge a line.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import TextIO

_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls: escape sequences, line breaks
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible or bidirectional
    "\ud800-\udfff"  # bytes of a file name that are not UTF-8
    "\U000e0000-\U000e007f]"  # invisible characters
)


def shown(value: object) -> str:
    r"""`value` as one line of text that is harmless for a terminal: a line break becomes \n, an escape \x1b."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def prepare() -> None:
    """For a command: do not fail for a stream that is closed or has a small character set. Print logs and warnings of
    libraries as one line in the form of `shown`, without a traceback."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: another file would get its number, and the printed text
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # otherwise a log that cannot be written (full disk) prints a traceback
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {shown(message)}", file=sys.stderr)


def flush(stream: TextIO) -> None:
    """Write buffered text. Raises OSError if that fails; the text is then discarded, because Python would otherwise try
    again at exit and print its own error."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(record.getMessage())

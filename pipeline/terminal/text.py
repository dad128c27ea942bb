"""What goes to the terminal or a log: one form for text from outside, and streams that can take it.

File and column names, templates, manifests and exceptions bring text that others wrote. Raw, it could move the cursor,
colour or hide what stands there, turn its direction, or forge a line of its own.
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
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # unseen, or turn directions
    "\ud800-\udfff"  # bytes of a file name that are no UTF-8
    "\U000e0000-\U000e007f]"  # unseen letters
)


def shown(value: object) -> str:
    r"""`value` as text of one line that does nothing to a terminal: a line break in it becomes \n, an escape \x1b."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def prepare() -> None:
    """For a command: a stream that is closed or knows few letters is no reason to fail, and what libraries log or warn
    of is one line in the form of `shown`, without a traceback."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: another file would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # of a log that cannot be written, as on a full disk, it prints a traceback
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {shown(message)}", file=sys.stderr)


def flush(stream: TextIO) -> None:
    """Write what is left. Raises OSError where that fails; the rest is given up then, or Python would try again at its
    end and say so in its own way."""
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

"""Checks file names from a manifest, a plan or a receipt, because someone else may have written that file."""

from __future__ import annotations

import re
from typing import Any

from tamis.pipeline.errors import ConfigError

_LONGEST = 1024
_UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def safe_name(name: Any, told_by: str) -> str:
    """The name, if it stays below the folder that it is relative to. Raises ConfigError for anything else.

    told_by: the file that contains the name, for the message. Absolute paths, drives and addresses, `..`, `.` and empty
    parts, backslashes, control and direction characters are refused. The file itself may still be a link.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{told_by}: a file has no name there; was it written by tamis?")
    parts = name.split("/")
    if (
        len(name) > _LONGEST
        or _UNWANTED.search(name)
        or ":" in parts[0]
        or parts[0].startswith("~")
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise ConfigError(f"{told_by}: {name[:80]!a} is no name of a file of this folder; was it written by tamis?")
    return name

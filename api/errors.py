"""What the functions of tamis raise: the errors of the command, in the same words, sorted by what you must do.

All are TamisError; `exit_code` is that of the command.
"""

from __future__ import annotations

from tamis.pipeline.errors import (
    ClusterError,
    ConfigError,
    DamagedError,
    DriftError,
    IncompleteError,
    InputError,
    InternalError,
    StorageError,
    TamisError,
    TooLargeError,
)

__all__ = [
    "ClusterError",
    "ConfigError",
    "DamagedError",
    "DriftError",
    "IncompleteError",
    "InputError",
    "InternalError",
    "StorageError",
    "TamisError",
    "TooLargeError",
]

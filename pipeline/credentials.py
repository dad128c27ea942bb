"""What looks like a credential among the options of a storage: such options are refused, and never repeated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tamis.pipeline.addresses import has_credentials

_SECRET = re.compile(
    r"secret|passw|passphrase|(?<![a-z])(pass|pwd|pat|sig)(?![a-z])|token|credential|sas|conn(ection)?[_-]?str"
    r"|(account|shared|access|api)[_-]?key|key$|signature(?![_-]?version)|authorization|bearer|cookie",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(account|shared|access)[_-]?key\s*=|sharedaccesssignature|(password|pwd|secret|token)\s*=|(?<![a-z])sig="
    r"|x-(amz|goog)-(signature|credential|security-token)|^\s*(bearer|basic)\s+\S|-----BEGIN",
    re.IGNORECASE,
)


def secret_in(options: Mapping[str, Any]) -> str | None:
    """A complaint about the first option that looks like a credential, by its name or its value."""
    for key, value in _flat(options):
        if _SECRET.search(key) or _SECRET_VALUE.search(value) or has_credentials(value):
            return (
                f"storage_options.{key} looks like a credential; put it in the environment or the provider's own "
                "config file instead (job files and manifests are copied around)"
            )
    return None


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value as text) of everything in nested mappings and lists."""
    if not isinstance(value, Mapping | list | tuple):
        return [(path, str(value))]
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    pairs = [(path, "")] if path else []
    for key, inner in items:
        pairs.extend(_flat(inner, f"{path}.{key}" if path else str(key)))
    return pairs

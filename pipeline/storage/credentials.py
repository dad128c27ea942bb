"""Finds storage options that look like credentials. They are refused, and messages never repeat their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tamis.pipeline.storage.addresses import has_credentials

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


_TOKEN = re.compile(
    r"(hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[a-z]-|pypi-|npm_|ya29\.|AIza|AKIA|ASIA|eyJ|dop_v1_|dapi)[\w.~+/=-]{8,}"
)
"""Prefixes of the tokens of hubs and clouds."""

_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[\w+=~-][\w+/=~-]{19,}|[0-9a-fA-F]{32,}")
"""Text that is unlikely to be a name: 20 characters with both cases and digits, or 32 hex digits."""

_NAMES = {
    *("endpoint_url", "region", "region_name", "addressing_style", "signature_version", "project", "profile", "path"),
    *("account_name", "account_host", "tenant_id", "client_id", "SSEKMSKeyId", "user_agent", "user_agent_extra"),
    *("verify", "cert", "ca_certs", "ca_bundle"),
}
"""Options whose value is a name, even if it looks random."""


def looks_secret(name: str, value: str) -> bool:
    """Whether the option looks like a credential, by its name or by its value."""
    return bool(
        _SECRET.search(name) or _SECRET_VALUE.search(value) or _TOKEN.match(value.strip()) or has_credentials(value)
    )


def _looks_random(name: str, value: str) -> bool:
    return name.rpartition(".")[2] not in _NAMES and _RANDOM.fullmatch(value.strip()) is not None


def secret_in(options: Mapping[str, Any]) -> str | None:
    """A message about the first option that looks like a credential, by its name or its value."""
    for key, value in _flat(options):
        if looks_secret(key, value) or _looks_random(key, value):
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

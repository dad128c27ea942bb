"""JSON that can be checked for changes: an extra key holds the digest of all others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` with their seal. Raises ValueError for values that JSON cannot represent."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(facts), allow_nan=False))
    plain.pop(SEAL, None)
    return {**plain, SEAL: _digest(plain)}


def opened(tree: Any) -> dict[str, Any]:
    """The facts, without the seal. Raises ValueError if the seal is missing or does not match the facts."""
    if not isinstance(tree, dict) or SEAL not in tree:
        raise ValueError("it has no seal")
    facts = {name: value for name, value in tree.items() if name != SEAL}
    if tree[SEAL] != _digest(facts):
        raise ValueError("it is not as it was written")
    return facts


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

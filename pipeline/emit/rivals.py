"""Two drivers may finish the same run. Then they must still agree on whose report stays.

The tables and artifacts of both are byte-identical. The report and the card contain seconds and dates, so each driver's
manifest names its own. The last driver to check makes sure that manifest, report and card come from one driver.
"""

from __future__ import annotations

import hashlib
from typing import Any

from tamis.pipeline.emit.redraw import rewrite_report
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import CARD, MANIFEST, REPORT
from tamis.pipeline.storage.store import Store

_DRAWN = (CARD, REPORT)
_ROUNDS = 5


def agree(store: Store) -> dict[str, Any]:
    """The manifest of the finished run. README.md and report.html are drawn from it again if they belong to another
    driver's manifest.

    The function ends with a check, and checks after every write: whoever writes last also checks after that write.
    """
    for _ in range(_ROUNDS):
        manifest: dict[str, Any] = facts_in(store, MANIFEST)
        listed = {file["name"]: file["sha256"] for file in manifest["files"]}
        if all(hashlib.sha256(store.read(name)).hexdigest() == listed[name] for name in _DRAWN):
            break
        rewrite_report(store)
    return manifest

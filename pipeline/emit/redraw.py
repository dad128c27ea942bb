"""Report and card of a finished run, drawn again from its manifest and its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.pipeline.emit import publish
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.report import render_card
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import CARD, MANIFEST, REPORT
from tamis.pipeline.storage.store import Store


def rewrite_report(store: Store) -> dict[str, Any]:
    """Draw report.html and README.md of a finished run again, and return its manifest. ConfigError if the run is not
    finished."""
    if not store.exists(MANIFEST):
        raise ConfigError(f"{store.path()}: no finished run here (there is no {MANIFEST}); see `tamis status`")
    manifest = facts_in(store, MANIFEST)
    try:
        page, card = _draw(store, manifest).encode(), render_card(manifest).encode()
        listed = {file["name"]: file for file in manifest["files"]}
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{store.path(MANIFEST)}: no report can be drawn from it ({type(error).__name__}); it, or a file that it "
            "lists, is damaged or of another version of tamis (see `tamis verify`)"
        ) from None
    for written in (store.write(CARD, card), store.write(REPORT, page)):
        listed[written.name] = written.to_dict()
    manifest["files"] = list(listed.values())
    store.write_facts(MANIFEST, manifest)
    return manifest


def _draw(store: Store, manifest: Mapping[str, Any]) -> str:
    if manifest.get("kind") != "tokens":
        return publish.draw(store, manifest)
    # It imports what trains, which takes 5 seconds; every run asks for this module.
    from tamis.pipeline.emit import token_publish

    return token_publish.draw(store, manifest)

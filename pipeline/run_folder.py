"""The output folder of a run: whose it is, how far it is, and whether this job may go on in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.receipts import WORK
from tamis.pipeline.store import Store

MANIFEST = "manifest.json"
RUN = f"{WORK}/run.json"
State = Literal["new", "started", "complete"]

_MEANING = {
    "input": "the files, their content, the way they are read or shard_rows",
    "model": "the model's files",
    "tokenizer and template": "the tokenizer or the chat template",
    "references.unsafe": "the content of the unsafe references",
    "references.safe": "the content of the safe references",
}


def key_of(fingerprint: Mapping[str, Any]) -> str:
    """A short digest of the fingerprint, borne by every receipt."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def state_of(store: Store, fingerprint: Mapping[str, Any]) -> State:
    """Whether this job was finished here, was begun here, or may begin here.

    Raises ConfigError when the folder belongs to another job (the differing keys are named) or to something else.
    """
    if store.exists(MANIFEST):
        _compare(store, fingerprint, facts_in(store, MANIFEST)["fingerprint"], "holds the finished result")
        return "complete"
    if store.exists(RUN):
        _compare(store, fingerprint, facts_in(store, RUN)["fingerprint"], "belongs to an unfinished run")
        return "started"
    strangers = [name for name in store.list("") if name != WORK and not name.startswith(".")]
    if strangers:
        raise ConfigError(
            f"output: {store.path()} is not empty and was not written by tamis (it holds {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}); choose a new folder"
        )
    return "new"


def begin(store: Store, facts: Mapping[str, Any]) -> None:
    """Claim the folder for a job. ConfigError if it cannot be written."""
    store.check_writable()
    store.write_json(RUN, dict(facts))


def facts_in(store: Store, name: str) -> dict[str, Any]:
    """What MANIFEST or RUN holds. ConfigError if the file is not one of ours; manifest.json is a common name."""
    try:
        facts = store.read_json(name)
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("fingerprint"), dict):
        raise ConfigError(f"output: {store.path(name)} was not written by tamis, or is damaged; choose another folder")
    return facts


def _compare(store: Store, ours: Mapping[str, Any], theirs: Mapping[str, Any], holds: str) -> None:
    differing = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    if not differing:
        return
    lines = []
    for key in differing:
        if key in _MEANING:
            lines.append(f"  - {key}: {_MEANING[key]} changed")
        else:
            lines.append(f"  - {key}: {theirs.get(key)} there, {ours.get(key)} now")
    raise ConfigError(
        "\n".join(
            [
                f"output: {store.path()} {holds} of other settings:",
                *lines,
                "choose another output folder, go back to those settings, or delete the folder",
            ]
        )
    )

"""The output folder of a run: which job owns it, how far the job is, and whether this job may continue in it.

A folder may hold a layer search (`tamis layers`) before it holds a run, and both in the end. The file that names the
job is written twice, the second time under a name that contains the job's key: where one is damaged or missing, the
job continues with the other.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run.paths import (
    ARTIFACT,
    LAYERS,
    LAYERS_PAGE,
    LAYERS_RUN,
    MANIFEST,
    RECEIPTS,
    RUN,
    VECTORS_STAGE,
    WORK,
    stage_folder,
)
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.voice import say_damaged, warn_once

State = Literal["new", "started", "complete"]
_REMOVALS = 3
_FINISHED = "holds the finished result"

SELECTED_FROM = "selected from"
"""The key of a fingerprint that ties a selection (`tamis select`) to the scores it was made of."""
VECTORS_OF = "vectors of"
"""The key that ties a run (`tamis curate --from`) to the captures of another one, which it was fitted to."""
CERTIFICATE = "selection.certificate"
"""The key that ties a selection to the certificate of its threshold."""
SAMPLE_SEED = "sample seed"
"""The key that says by which seed rows of the corpus were drawn for a fit."""

MEANING = {
    "input": "the files, their content, the way they are read or shard_rows",
    "model": "the model's files",
    "tokenizer and template": "the tokenizer or the chat template",
    "larf.over_rejection_prompts": "the over-rejection prompts",
    "contrast.sample": "how many rows stand for the corpus (by contrast.sample; if that is auto, by keep_captures too)",
    "csa.models": "the further models of csa (their files, templates or blocks)",
    "sample_id": "which rows have their id (an output of an earlier tamis goes on with sample_id: none)",
    "file_size": "how large its files are (an output of an earlier tamis goes on with file_size: 0)",
    SAMPLE_SEED: "the seed by which these rows are drawn",
    SELECTED_FROM: "the finished run whose scores were cut anew, if any,",
    VECTORS_OF: "the finished run whose vectors were scored anew, if any,",
    CERTIFICATE: "the certificate of the cut, if any (its labels, the share that may be harmful, or how sure that is),",
}
"""Keys of a fingerprint whose values say nothing to people, in words."""


def key_of(fingerprint: Mapping[str, Any]) -> str:
    """A short digest of the fingerprint, which every receipt contains."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def captures_key(fingerprint: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The key of the receipts of captured vectors. columns: of the requests, which depend on a block that was found."""
    return key_of({**fingerprint, "requests": list(columns)})


def state_of(store: Store, fingerprint: Mapping[str, Any], changed: str | None = None) -> State:
    """Whether this job was finished here, was begun here, or may begin here.

    changed: digest of the times when its input files last changed in any way. A run that continues compares the rows
    themselves. For a finished run, only this digest tells that a file was replaced by another one of the same size and
    modification time. Raises ConfigError when the folder belongs to another job (the differing keys are named) or to
    something else.
    """
    begun = _is_ours(store, RUN, fingerprint)
    if store.exists(MANIFEST) and not (begun and _is_damaged(store, MANIFEST)):
        manifest = facts_in(store, MANIFEST)
        _compare(store, fingerprint, manifest["fingerprint"], _FINISHED)
        if changed is not None and manifest.get("input", {}).get("changed", changed) != changed:
            raise ConfigError(
                f"output: {store.path()} holds a finished result, and its input files were changed, renamed or copied "
                "since, though their sizes and times of modification are the same; choose another output folder to "
                "curate them as they are now"
            )
        return "complete"
    if begun:
        return "started"
    if store.exists(RUN):
        _compare(store, fingerprint, facts_in(store, RUN)["fingerprint"], "belongs to an unfinished run")
        return "started"
    _beside_a_search(store, fingerprint)
    return "new"


def layers_state_of(store: Store, search_keys: Mapping[str, Any], fisher_keys: Mapping[str, Any]) -> State:
    """The same for a layer search, whose fingerprint is `search_keys`. It may share the folder with a run.

    Raises ConfigError also where the folder holds a complete run without a layer search: nothing may be added to it.
    """
    for name, holds in ((MANIFEST, _FINISHED), (RUN, "belongs to an unfinished run")):
        if store.exists(name) and not (name == RUN and _is_damaged(store, RUN)):
            theirs = facts_in(store, name)["fingerprint"]
            _compare(store, {**search_keys, **fisher_keys}, theirs, holds, shared_only=True)
            break
    else:
        _beside_a_search(store, search_keys)
    begun = dict(search_keys) if _is_ours(store, LAYERS_RUN, search_keys) else _search_in(store)
    if begun is not None:
        _compare(store, search_keys, begun, "holds a layer search")
    if _finished_search(store) is not None:
        return "complete"
    if store.exists(MANIFEST):
        raise ConfigError(
            f"output: {store.path()} holds a finished run without a layer search; choose another output folder"
        )
    return "new" if begun is None else "started"


def _beside_a_search(store: Store, fingerprint: Mapping[str, Any]) -> None:
    """ConfigError unless the folder is empty, except for a layer search that agrees with this job."""
    begun = _search_in(store)
    searched = begun is not None or store.exists(LAYERS)  # the file may be damaged
    ours = {WORK, ARTIFACT, LAYERS_PAGE} if searched else {WORK}
    strangers = [name for name in store.list("") if name not in ours and not name.startswith(".")]
    if strangers:
        raise ConfigError(
            f"output: {store.path()} is not empty and was not written by tamis (it holds {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}); choose a new folder"
        )
    if begun is not None:
        _compare(store, fingerprint, begun, "holds a layer search", shared_only=True)


def _search_in(store: Store) -> dict[str, Any] | None:
    """The fingerprint of the layer search that was finished or begun here."""
    finished = _finished_search(store)
    if finished is not None:
        return finished
    if not store.exists(LAYERS_RUN):
        return None
    fingerprint: dict[str, Any] = facts_in(store, LAYERS_RUN)["fingerprint"]
    return fingerprint


def _finished_search(store: Store) -> dict[str, Any] | None:
    found = read_layers(store)
    return None if found is None or found["search"] is None else dict(found["search"]["fingerprint"])


def layers_in(store: Store) -> dict[str, Any]:
    """The content of LAYERS. ConfigError if the file is not ours."""
    found = read_layers(store)
    if found is None:
        raise ConfigError(f"output: {store.path(LAYERS)} was not written by tamis, or is damaged; run again")
    return found


def read_layers(store: Store) -> dict[str, Any] | None:
    """The content of LAYERS; None if the file is missing or damaged: the search is then done again."""
    try:
        result = store.read_facts(LAYERS)
        if isinstance(result["blocks"], list) and isinstance(result["chosen"]["block"], int):
            _ = result["search"], result["fisher"]
            return result
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    warn_once(f"{store.path(LAYERS)} is damaged, and counts for nothing")
    return None


def finished(store: Store, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest, if exactly this run is complete: another driver may have finished it meanwhile."""
    try:
        manifest = store.read_facts(MANIFEST)
    except (FileNotFoundError, ValueError):
        return None
    return manifest if manifest.get("fingerprint") == dict(fingerprint) else None


def remove_work(store: Store, *, shared: bool = False) -> None:
    """Remove the files that a finished run no longer needs. shared: another driver may still write there; it removes
    its own leftovers.

    Raises OSError if they cannot be removed.
    """
    _remove(store, WORK, shared=shared)


def _remove(store: Store, name: str, *, shared: bool) -> None:
    for attempt in range(_REMOVALS):
        try:
            store.remove(name)
            return
        except OSError:  # a file was written while its folder was being emptied
            if attempt + 1 == _REMOVALS and not shared:
                raise


def clear_work(store: Store, kept: str | bool, *, shared: bool = False) -> None:
    """Remove what a finished run need not keep. kept: keep_captures of its job, also as earlier versions wrote it.
    shared: as for `remove_work`."""
    if kept in ("none", False):
        remove_work(store, shared=shared)
    elif kept == "scores":
        further = {name for name in [*store.list(WORK), *store.list(RECEIPTS)] if name.startswith(f"{VECTORS_STAGE}-")}
        for stage in (VECTORS_STAGE, *sorted(further)):
            for name in (stage_folder(stage), f"{RECEIPTS}/{stage}"):
                _remove(store, name, shared=shared)


def begin(store: Store, facts: Mapping[str, Any], name: str = RUN) -> str:
    """Claim the folder for a job, unless that is done. ConfigError if the folder cannot be written to.

    facts: include the fingerprint of the job. Returns the run's id, a UUID that is made once: who goes on finds it.
    """
    twin = _twin(name, facts["fingerprint"])
    known = run_id(store, facts["fingerprint"], name)
    missing = [file for file in (twin, name) if known is None or _is_damaged(store, file)]
    if known is not None and not missing:
        return known
    made = known or str(uuid.uuid4())
    store.check_writable(WORK)
    for file in missing:
        if store.exists(file) and _is_damaged(store, file):
            say_damaged(f"damaged: {file}; it is written again")
        store.write_facts(file, {**facts, "run_id": made})
    # Another driver may have begun at the same moment: the id that stays is the one that is read from now on.
    return run_id(store, facts["fingerprint"], name) or made


def run_id(store: Store, fingerprint: Mapping[str, Any], name: str = RUN) -> str | None:
    """The id of the run (or of the layer search) that was begun here; None if there is none, as in a folder that an
    earlier tamis has begun."""
    for file in (name, _twin(name, fingerprint)):
        if not _is_damaged(store, file):
            found = store.read_facts(file).get("run_id")
            if isinstance(found, str):
                return found
    return None


def begun_by(store: Store, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the run that was begun here wrote of itself (`begin`), if it is there and whole, and of this run."""
    for file in (RUN, _twin(RUN, fingerprint)):
        if not _is_damaged(store, file):
            facts = store.read_facts(file)
            if facts.get("fingerprint") == dict(fingerprint):
                return facts
    return None


def _twin(name: str, fingerprint: Mapping[str, Any]) -> str:
    return f"{name.removesuffix('.json')}-{key_of(fingerprint)}.json"


def _is_ours(store: Store, name: str, fingerprint: Mapping[str, Any]) -> bool:
    """Whether exactly this job was begun here, even if the file `name`, which should say so, is damaged."""
    if not _is_damaged(store, name):
        return bool(store.read_facts(name).get("fingerprint") == dict(fingerprint))
    return store.exists(_twin(name, fingerprint))


def _is_damaged(store: Store, name: str) -> bool:
    """Whether the file is damaged or missing. ConfigError if it may not be accessed."""
    if not store.exists(name):
        return True
    try:
        store.read_facts(name)
    except (FileNotFoundError, ValueError):
        return True
    return False


def facts_in(store: Store, name: str) -> dict[str, Any]:
    """The content of MANIFEST or RUN. ConfigError if the file is not ours: manifest.json is a common name."""
    try:
        facts = store.read_facts(name)
    except ValueError:
        facts = {}
    if not isinstance(facts.get("fingerprint"), dict):
        raise ConfigError(
            f"output: {store.path(name)} was not written by tamis, or is damaged; put it back from a copy, choose "
            "another folder, or delete this one and run again"
        )
    return facts


def of_selection(key: str) -> bool:
    """Whether the key of a fingerprint says which samples fall, and nothing of how they score."""
    return key == "seed" or key.startswith("selection.")


def _compare(
    store: Store, ours: Mapping[str, Any], theirs: Mapping[str, Any], holds: str, *, shared_only: bool = False
) -> None:
    """ConfigError if the fingerprints differ. shared_only: compare a search with a run; settings that only one of them
    depends on may differ."""
    keys = [key for key in {**theirs, **ours} if not shared_only or (key in ours and key in theirs)]
    differing = [key for key in keys if ours.get(key) != theirs.get(key)]
    if not differing:
        return
    lines = []
    for key in differing:
        if key.startswith("references."):
            lines.append(f"  - {key}: the content of {key.removeprefix('references.')}_references changed")
        elif key in MEANING:
            lines.append(f"  - {key}: {MEANING[key]} changed")
        else:
            lines.append(f"  - {key}: {theirs.get(key)!s:.80} there, {ours.get(key)!s:.80} now")
    again = holds == _FINISHED and all(map(of_selection, differing))
    raise ConfigError(
        f"output: {store.path()} {holds} of other settings:",
        *lines,
        *([f"`tamis select {store.path()} --output NEW` makes another selection from its scores"] if again else []),
        "choose another output folder, go back to those settings, or delete the folder",
    )

"""The manifest of what was made of a finished run: what that run says of rows and model, and of methods that were not
fitted anew, and what follows from the new cut.

Only what is named here is taken over, so nothing that a run says of its own cut is said of another one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tamis.operators.methods import Method
from tamis.operators.methods.protocol import Artifact
from tamis.pipeline.emit.publish import ROUGH, cut_warnings, draw, finish, method_facts, selection_facts, versions
from tamis.pipeline.emit.samples import SampleSpec
from tamis.pipeline.emit.shard import empty_dropped
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.errors import InternalError
from tamis.pipeline.fit.scores import Selection
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.labels.certified import Certificate
from tamis.pipeline.planning.frozen_job import OTHER_DEVICE
from tamis.pipeline.report.drift import warnings as drift_warnings
from tamis.pipeline.report.verdict import verdict
from tamis.pipeline.run.incomplete import warning
from tamis.pipeline.run.parent import Parent
from tamis.pipeline.storage.store import Store

_OF_ROWS = ("input", "model", "quarantine_codes", "unscored")
_OF_METHODS = ("title", "methods")
"""Keys of a summary that do not depend on what falls."""


@dataclass(frozen=True, eq=False)
class Anew:
    """Methods that were fitted to the vectors of the run. artifacts: of these. of_run: the methods of the run itself,
    as they ran. searched: whether the run's search for LARF's block is theirs, too."""

    artifacts: Mapping[str, Artifact]
    of_run: Mapping[str, Method]
    searched: bool


def publish_again(
    store: Store,
    parent: Parent,
    job: Job,
    fingerprint: Mapping[str, Any],
    methods: Mapping[str, Method],
    shards: list[Shard],
    selection: Selection,
    spec: SampleSpec,
    emitted: EmitTotals,
    files: list[dict[str, Any]],
    timings: Mapping[str, Mapping[str, float]],
    notes: list[str],
    groups: list[dict[str, Any]],
    trust: Mapping[str, Any],
    certificate: Certificate | None = None,
    anew: Anew | None = None,
) -> dict[str, Any]:
    """Write the remaining files of a new selection and return its manifest. InternalError if a row is missing anywhere.

    files: entries of what was written beside the emitted tables. notes: warnings besides those of the run and the cut.
    groups: of rows that have cuts of their own. trust: the figures that test the filter; the verdict is added here.
    certificate: where the threshold comes from. anew: where the methods are not those of the run.
    """
    failed = list(emitted.failed)
    if not failed and emitted.counts["dropped"] != selection.dropped:
        raise InternalError(
            f"{emitted.counts['dropped']} rows were dropped where the cut says {selection.dropped}; please report this"
        )
    manifest, theirs = parent.manifest, parent.manifest["counts"]
    artifacts = parent.frozen.artifacts if anew is None else anew.artifacts
    counts = {name: emitted.counts[name] for name in ("kept", "dropped", "quarantined")}
    if failed:
        counts["failed"] = sum(item.rows for item in failed)
    if sum(counts.values()) != theirs["rows_in"]:
        raise InternalError(f"rows were lost or doubled: {counts}; nothing was published, please report this")
    said = [
        *warning(failed),
        *notes,
        *(certificate.warnings if certificate is not None else ()),
        *_of_the_rows(parent, methods, anew),
        *cut_warnings(methods, artifacts, job.selected_by, selection.dropped, spec.scored),
    ]
    summary = {
        **_of_the_methods(parent, job, methods, anew),
        **{key: manifest[key] for key in _OF_ROWS if key in manifest},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tamis_version": importlib.metadata.version("tamis"),
        "job": job.model_dump(mode="json"),
        "fingerprint": dict(fingerprint),
        "parent": {**parent.facts(), "reused": "scores" if anew is None else "vectors"},
        "versions": versions(),
        "counts": {"rows_in": theirs["rows_in"], **counts, "truncated": theirs["truncated"]},
        **selection_facts(job, shards, selection, spec, emitted, job.selection.in_words),
        "timings": {name: dict(timing) for name, timing in timings.items()},
        "warnings": list(dict.fromkeys(said)),
    }
    if groups:
        summary["selection"]["groups"] = groups
    if certificate is not None:
        summary["selection"]["certificate"] = certificate.to_dict()
    summary["trust"] = {**trust}
    drift = (manifest.get("trust") or {}).get("drift") if anew is None else None
    if drift is not None:
        # Where another cut falls changes nothing of how far the data lies from that of the artifact.
        summary["trust"]["drift"] = drift
    summary["trust"]["verdict"] = verdict(summary).to_dict()
    empty = empty_dropped(spec.opened_schema(), with_quantile=True, with_ids=spec.with_ids)
    return finish(store, summary, [*emitted.files, *files], failed, spec.key, empty=empty, draw=draw)


def _of_the_methods(parent: Parent, job: Job, methods: Mapping[str, Method], anew: Anew | None) -> dict[str, Any]:
    manifest = parent.manifest
    layers = {"layers": manifest["layers"]} if "layers" in manifest and (anew is None or anew.searched) else {}
    if anew is None:
        return {**{key: manifest[key] for key in _OF_METHODS}, **layers}
    title = f"tamis · {', '.join(job.method)} on {manifest['counts']['rows_in']:,} rows"
    return {"title": title, "methods": method_facts(methods, anew.artifacts), **layers}


def _of_the_rows(parent: Parent, methods: Mapping[str, Method], anew: Anew | None) -> list[str]:
    """The run's warnings but for those about its own cut, and about its own methods where others are fitted."""
    manifest = parent.manifest
    methods = methods if anew is None else anew.of_run
    dropped, quarantined = manifest["counts"]["dropped"], manifest["counts"]["quarantined"]
    scored = manifest["counts"]["rows_in"] - quarantined - int(manifest.get("unscored") or 0)
    gone = {
        *cut_warnings(methods, parent.frozen.artifacts, manifest["selected_by"], dropped, scored),
        *(drift_warnings(manifest["drift"]) if manifest.get("drift") is not None else ()),
        *(manifest["selection"].get("certificate") or {}).get("warnings", ()),
        *((manifest.get("layers") or {}).get("warnings", ()) if anew is not None and not anew.searched else ()),
    }
    begins = (ROUGH,) if anew is None else (ROUGH, OTHER_DEVICE)
    return [said for said in manifest["warnings"] if said not in gone and not said.startswith(begins)]
